"""Where a GPU's memory went: a short report of a snapshot.

python examples/gpu_snapshot.py snapshot.pickle    # on any machine
python examples/gpu_snapshot.py                    # where there is a GPU: records some training steps first
"""

from __future__ import annotations

import sys

import memomalloc
from memomalloc.data.byte_text import byte_text
from memomalloc.report.snapshot_account import accounts_of


def record(path: str) -> None:
    """Write the snapshot of a small training."""
    import torch

    torch.cuda.memory._record_memory_history(max_entries=100_000, stacks="python")
    model = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048) for _ in range(8))).cuda()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(5):
        model(torch.randn(512, 2048, device="cuda")).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.memory._dump_snapshot(path)


def report(path: str) -> None:
    """Print what a snapshot says."""
    snapshot = memomalloc.read_snapshot(path)
    for account in accounts_of(snapshot, snapshot.memories):
        peak = account.peak
        print(
            f"{account.name}: {byte_text(peak.reserved_bytes)} reserved for {byte_text(peak.allocated_bytes)} "
            f"at the peak, {byte_text(peak.fragmentation_bytes)} of it fragmentation"
        )
        for row in account.alive_at_peak["source"][:3]:
            print(f"  {byte_text(row.num_bytes):>8}  {row.name}")
        if account.period is not None:
            print(f"  a static plan of the step that repeats would save {byte_text(account.period.saved_bytes)}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        record("snapshot.pickle")
    report(*sys.argv[1:] or ["snapshot.pickle"])
