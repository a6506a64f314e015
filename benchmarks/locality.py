"""Which placement of the same buffers misses the caches least: callgrind's caches under real replays.

Each model is recorded once and replayed from plans that differ in nothing but where buffers lie. What is counted is one
call after another one, so that the caches hold what that left. Counts do not depend on what else the machine does.
Needs valgrind (``apt-get install valgrind``):

    python benchmarks/locality.py --json build/locality.json      # half an hour
    python benchmarks/locality.py --models mobilenet_v2 --last-level 33554432   # the last one of a server
    python benchmarks/locality.py --smoke

Cycles are estimated as callgrind does: one for an instruction, 10 for a miss of the first level, 100 for one of the
last that is simulated, which is as large as a core's own second level unless another size is given.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from memomalloc.bench.locality import AGAIN, REFERENCE, Locality, LocalityResults
from memomalloc.data.plan import Plan

#: Suite and size of each model: small enough to be simulated, with tensors larger than the caches.
MODELS = {
    "mobilenet_v2": ("demo", 96),
    "linear_attention": ("modern", 256),
    "bert_small": ("demo", 64),
    "unet_step": ("modern", 192),
    "resnet_50": ("demo", 96),
}
PLANNERS = ("skyline", "greedy_by_size", "greedy_by_duration", "linear_scan", "next_fit", "bump")
FIRST_LEVEL_BYTES = 2**15
_L1_CYCLES, _LAST_LEVEL_CYCLES = 10, 100


def hottest_first(plan: Plan) -> np.ndarray[Any, Any]:
    """Offsets: in order of birth, each buffer where the bytes lie that were freed last."""
    problem = plan.problem
    offsets = np.zeros(len(plan), dtype=np.int64)
    # Of bytes that are free: where they begin and end, and when they were freed. The last has never been used.
    free: list[tuple[int, int, int]] = [(0, 1 << 60, -1)]
    events = sorted(
        [(int(tick), 1, number) for number, tick in enumerate(problem.starts)]
        + [(int(tick), 0, number) for number, tick in enumerate(problem.ends)]
    )
    for tick, is_birth, number in events:
        size = int(problem.sizes[number])
        if not size:
            continue
        if not is_birth:
            begin = int(offsets[number])
            free = sorted([*free, (begin, begin + size, tick)])
            continue
        heat = {
            begin: sum(
                (min(end, begin + size) - max(first, begin)) * freed
                for first, end, freed in free
                if first < begin + size and end > begin
            )
            for begin, _, _ in free
            if _is_free(free, begin, begin + size)
        }
        begin = max(heat, key=lambda place: (heat[place], -place))
        offsets[number] = begin
        rest = []
        for first, end, freed in free:
            rest += [(first, min(end, begin), freed)] if first < begin else []
            rest += [(max(first, begin + size), end, freed)] if end > begin + size else []
        free = sorted(rest)
    return offsets


def _is_free(free: list[tuple[int, int, int]], begin: int, end: int) -> bool:
    """Whether free pieces, in order, cover all from ``begin`` to ``end``."""
    for first, last, _ in free:
        if first <= begin < last:
            begin = last
        if begin >= end:
            return True
    return False


def small_apart(plan: Plan) -> np.ndarray[Any, Any]:
    """Offsets: what is larger than 32 KiB lies above all that is not."""
    import memomalloc

    problem, offsets, base = plan.problem, np.zeros(len(plan), dtype=np.int64), 0
    for is_chosen in (problem.sizes <= 2**15, problem.sizes > 2**15):
        chosen = np.flatnonzero(is_chosen)
        part = memomalloc.plan(
            memomalloc.data.Problem.from_arrays(
                problem.sizes[chosen], problem.starts[chosen], problem.ends[chosen], alignment_bytes=64
            )
        )
        offsets[chosen] = base + part.offsets
        base += -(-part.arena_bytes // 4096) * 4096
    return offsets


def coloured(plan: Plan) -> np.ndarray[Any, Any]:
    """Offsets: neighbours in time begin at different places of a page, 13 lines apart, with a page between buffers."""
    import memomalloc

    problem = plan.problem
    shifts = np.arange(len(plan), dtype=np.int64) * 13 * 64 % 4096
    pages = -(-(problem.sizes + shifts) // 4096) * 4096
    wide = memomalloc.data.Problem.from_arrays(pages, problem.starts, problem.ends, alignment_bytes=4096)
    return memomalloc.plan(wide).offsets + shifts  # type: ignore[no-any-return]


#: Placements that are no planner's, made of a plan's buffers.
PLACEMENTS: dict[str, Callable[[Plan], np.ndarray[Any, Any]]] = {
    "hottest first": hottest_first,
    "small apart": small_apart,
    "coloured": coloured,
}


def placed(plan: Plan, name: str) -> Plan:
    """The same buffers elsewhere, checked."""
    from memomalloc.data.checker import check

    offsets = PLACEMENTS[name](plan)
    moved = dataclasses.replace(
        plan, offsets=offsets, arena_bytes=int((offsets + plan.sizes).max()), planner=name, proven_optimal=False
    )
    check(moved.problem, moved.offsets)
    return moved


# --- In the process that valgrind runs


def count(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The counts of one model's calls, placement by placement."""
    import torch

    import memomalloc
    from memomalloc.bench.suite import models_of

    torch.set_num_threads(1)
    torch.manual_seed(0)
    (name,) = arguments.models
    suite, size = MODELS[name]
    size = 32 if arguments.smoke else size
    workload = models_of(suite)[name].build(1, size)
    call = workload.caller(workload.model)
    rows = []
    with torch.inference_mode():
        for _ in range(2):
            call()
        with memomalloc.record() as recording:
            call()
        reference = memomalloc.plan(recording.trace)
        plans = {planner: memomalloc.plan(recording.trace, planner=planner) for planner in PLANNERS}
        plans |= {placement: placed(reference, placement) for placement in PLACEMENTS}
        # The first one is simulated for nothing: what callgrind itself meets for the first time counts there, too.
        for label, plan in {"": reference, REFERENCE: reference, **plans, AGAIN: reference}.items():
            _replayed(plan, call)
            _control("--instr=on")
            _replayed(plan, call)  # what it leaves in the caches counts, and not what the simulation begins with
            _control("--zero")
            _replayed(plan, call)
            _control("--dump=counted")
            _control("--instr=off")
            counts = _last_dump(arguments.dumps)
            if not label:
                continue
            rows.append(
                {
                    **{"model": name, "input_size": size, "placement": label, "arena_bytes": plan.arena_bytes},
                    **{"num_buffers": len(plan), **counts},
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _replayed(plan: Plan, call: Callable[[], Any]) -> None:
    import memomalloc

    with memomalloc.replay(plan) as replay:
        outputs = call()
    assert replay.num_deviations == 0
    del outputs


def _control(order: str) -> None:
    """Tell callgrind, which runs this process."""
    subprocess.run(["callgrind_control", order, str(os.getpid())], check=True, capture_output=True)


def _last_dump(dumps: Path) -> dict[str, int]:
    """The events of the dump that was written last, and cycles."""
    path = max(dumps.parent.glob(f"{dumps.name}*"), key=lambda path: path.stat().st_mtime_ns)
    text = path.read_text()
    (names,), values = (
        re.findall(r"^events: (.*)$", text, re.MULTILINE),
        re.findall(r"^(?:totals|summary): (.*)$", text, re.MULTILINE),
    )
    path.unlink()
    counts = dict(zip(names.split(), map(int, values[-1].split()), strict=True))
    first = counts["I1mr"] + counts["D1mr"] + counts["D1mw"]
    last = counts["ILmr"] + counts["DLmr"] + counts["DLmw"]
    return {
        "instructions": counts["Ir"],
        "first_level_misses": first,
        "last_level_misses": last,
        "cycles": counts["Ir"] + _L1_CYCLES * first + _LAST_LEVEL_CYCLES * last,
    }


# --- The parent


def simulated(model: str, arguments: argparse.Namespace) -> list[Locality]:
    """Run this file under callgrind; what it counted."""
    with tempfile.TemporaryDirectory() as folder:
        dumps, counted = Path(folder, "dump"), Path(folder, "counted.json")
        command = [
            "valgrind",
            "--tool=callgrind",
            "--cache-sim=yes",
            "--instr-atstart=no",
            f"--D1={FIRST_LEVEL_BYTES},8,64",
        ]
        command += [f"--LL={arguments.last_level},16,64", f"--callgrind-out-file={dumps}"]
        command += [sys.executable, __file__, "--child", "--models", model, "--last-level", str(arguments.last_level)]
        command += ["--dumps", str(dumps), "--json", str(counted), *(["--smoke"] if arguments.smoke else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
        finished = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        if finished.returncode:
            sys.exit(f"{model}: {finished.stderr[-2000:]}")
        return [Locality(**row) for row in json.loads(counted.read_text())]


def main() -> None:
    """Simulate, print the table, keep the counts where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--last-level", type=int, default=2**20, help="bytes, a power of two (default: 1 MiB)")
    parser.add_argument("--json", type=Path, help="write all that was counted there")
    parser.add_argument("--smoke", action="store_true", help="one small model: does it run at all?")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dumps", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        arguments.json.write_text(json.dumps(count(arguments)))
        return
    if shutil.which("valgrind") is None:
        sys.exit("no valgrind here: apt-get install valgrind")
    results = LocalityResults.here(first_level_bytes=FIRST_LEVEL_BYTES, last_level_bytes=arguments.last_level)
    print(f"over {REFERENCE}:")
    print(f"{'model':18}{'placement':20}{'arena MiB':>10}{'L1 misses':>12}{'last misses':>12}{'cycles':>9}")
    for model in arguments.models[: 1 if arguments.smoke else None]:
        for row in simulated(model, arguments):
            results.rows.append(row)
            ratios = [
                results.over_reference(row, figure) or 0.0
                for figure in ("first_level_misses", "last_level_misses", "cycles")
            ]
            print(
                f"{model:18}{row.placement:20}{row.arena_bytes / 2**20:10.2f}"
                f"{ratios[0]:12.4f}{ratios[1]:12.4f}{ratios[2]:9.4f}",
                flush=True,
            )
        if arguments.json:
            results.save(arguments.json)
    print()
    for placement in dict.fromkeys(row.placement for row in results.rows):
        print(f"{'mean':18}{placement:20}{'':34}{results.mean_cycles(placement) or 0.0:9.4f}")


if __name__ == "__main__":
    main()
