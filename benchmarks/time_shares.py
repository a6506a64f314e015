"""Where the time of a planned inference goes: what a better plan could still save, and what it could not.

    python benchmarks/time_shares.py --json benchmarks/results/time_shares.json

The page of the documents is made from that file: ``memomalloc bench report`` knows it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import memomalloc
from memomalloc.bench.process import Usage
from memomalloc.bench.suite import models_of
from memomalloc.bench.time_shares import TimeShare, TimeShares

#: Calls over which processor time is counted, and again as many under the profiler.
CALLS = 10


def measure(model: Any, batch: int, size: int) -> TimeShare:
    """The kernel's share of the processor time of replayed calls, and that of each operator (its own time)."""
    workload = model.build(batch, size)
    with torch.inference_mode():
        wrapper = memomalloc.optimize(workload.model)
        call = workload.caller(wrapper)
        while not wrapper.plans:
            call()
        call()
        before = Usage.now()
        for _ in range(CALLS):
            call()
        used = Usage.now() - before
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(CALLS):
                call()
    times: Counter[str] = Counter()
    for event in profile.key_averages():
        times[event.key.removeprefix("aten::")] += event.self_cpu_time_total
    total = sum(times.values())
    shares = {name: time / total for name, time in times.most_common() if time / total >= 0.001}
    return TimeShare(model.name, batch, size, used.cpu_s / CALLS * 1e3, used.kernel_s / used.cpu_s, shares)


def main() -> None:
    """Measure, print, and keep the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="demo")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--json", type=Path, help="where to write machine, versions and figures")
    parser.add_argument("--smoke", action="store_true", help="small inputs")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    results = TimeShares.here(calls=CALLS)
    for model in models_of(args.suite).values():
        for batch in map(int, args.batch.split(",")):
            row = measure(model, batch, 32 if args.smoke else model.input_sizes[0])
            results.rows.append(row)
            print(
                f"{row.model} at batch {batch}: kernel {100 * row.kernel_share:.1f} %, {row.operators_text()}",
                flush=True,
            )
    if args.json is not None:
        results.save(args.json)


if __name__ == "__main__":
    main()
