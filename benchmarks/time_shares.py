"""Where the time of a planned inference goes: what a better plan could still save, and what it could not.

python benchmarks/time_shares.py [--suite demo] [--batch 1,8] [--markdown FILE]
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
from memomalloc.data.atomic_file import atomic_file

CALLS = 5
#: Operators that are worth a column of their own; all others are summed.
NUM_OPERATORS = 5


def shares(model: Any, batch: int, size: int) -> tuple[float, list[tuple[str, float]]]:
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
    top = [(name, value / total) for name, value in times.most_common(NUM_OPERATORS)]
    return used.kernel_s / used.cpu_s, top


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="demo")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--smoke", action="store_true", help="small inputs")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    lines = ["| model | batch | kernel | operators, of their own time |", "| --- | --- | --- | --- |"]
    print(*lines, sep="\n")
    for model in models_of(args.suite).values():
        for batch in map(int, args.batch.split(",")):
            kernel, top = shares(model, batch, 32 if args.smoke else model.input_sizes[0])
            operators = ", ".join(f"{name} {100 * share:.0f} %" for name, share in top)
            lines.append(f"| {model.name} | {batch} | {100 * kernel:.1f} % | {operators} |")
            print(lines[-1], flush=True)
    if args.markdown is not None:
        with atomic_file(args.markdown) as file:
            file.write(("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
