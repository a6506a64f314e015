"""Workers that call one model at once, beside each allocator: latency, throughput, faults, futex calls, memory.

Both sides, the model as it is and the wrapper, are measured in turns inside one process for each allocator, model and
number of workers, so that whatever else the machine does happens to both. Memory is measured in processes of its own.

    python benchmarks/contention.py                          # all of it: some ten minutes
    python benchmarks/contention.py --upstreams glibc jemalloc --workers 2 --models toy
    python benchmarks/contention.py --models mlp_50us cnn_5ms --workers 1 2 4 8 16 --quick
    python benchmarks/contention.py --smoke                  # a few seconds

Ratios are upstream to planned: above 1 the plan is better. Faults, voluntary context switches and futex calls (of the
whole process, the interpreter's lock included) are per inference. ``peak`` is what the process grew by at its fullest
since before the first call, ``x bound`` that in times of the workers' lower bounds. ``--quick`` measures neither futex
calls nor memory, and all numbers of workers in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODELS = ("mobilenet_v2", "toy", "mlp_50us", "cnn_5ms")
DEFAULT_MODELS = MODELS[:2]
DEFAULT_UPSTREAMS = ("glibc", "jemalloc", "tcmalloc", "mimalloc")


def build(name: str, smoke: bool) -> tuple[Any, tuple[Any, ...]]:
    """A model and its inputs."""
    import torch

    torch.manual_seed(0)
    if name == "mobilenet_v2":
        import transformers

        config = transformers.MobileNetV2Config(**({"depth_multiplier": 0.35} if smoke else {}))
        batch, size = (1, 64) if smoke else (8, 224)
        return transformers.MobileNetV2ForImageClassification(config).eval(), (torch.randn(batch, 3, size, size),)

    if name == "mlp_50us":  # about so long on one core of today
        layers = [layer for _ in range(4) for layer in (torch.nn.Linear(128, 128), torch.nn.ReLU())]
        return torch.nn.Sequential(*layers).eval(), (torch.randn(8, 128),)

    if name == "cnn_5ms":
        convolutions: list[torch.nn.Module] = []
        for incoming, outgoing in ((3, 32), (32, 32), (32, 32), (32, 16)):
            convolutions += [torch.nn.Conv2d(incoming, outgoing, 3, padding=1), torch.nn.ReLU()]
        side = 32 if smoke else 112
        return torch.nn.Sequential(*convolutions).eval(), (torch.randn(1, 3, side, side),)

    class Toy(torch.nn.Module):
        """Cheap operators on tensors from 4 KiB to 4 MiB, of which some live on for a while: nearly all allocation."""

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            alive = [values]
            for step in range(20 if smoke else 200):
                size = 1024 << (step * 7 % 11)
                alive.append(torch.neg(values[:size]))
                if len(alive) > 6:
                    del alive[step % 5 + 1]
            return sum(part[:8] for part in alive)  # type: ignore[return-value]

    return Toy(), (torch.randn(1 << 20),)


# --- In a process that was started with an allocator


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Both sides in turns, for each number of workers."""
    import torch

    import memomalloc

    torch.set_num_threads(1)
    model, inputs = build(arguments.models[0], arguments.smoke)
    wrapper = memomalloc.optimize(model, example_inputs=None)
    sides = {"upstream": lambda: model(*inputs), "planned": lambda: wrapper(*inputs)}
    with torch.inference_mode():
        for _ in range(6):
            wrapper(*inputs)
    return [measure_workers(workers, wrapper, sides, arguments) for workers in arguments.workers]


def measure_workers(workers: int, wrapper: Any, sides: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turns, for one number of workers."""
    import torch

    from memomalloc.bench.paired import Side, Workers, take_pairs

    def prepare() -> Any:
        torch.set_num_threads(1)
        return torch.inference_mode()

    with Workers(workers, prepare) as threads, torch.inference_mode():
        for call in sides.values():
            threads.run(call, 3, Side())
        pairs = take_pairs(
            sides["upstream"],
            sides["planned"],
            threads,
            budget_s=arguments.seconds,
            min_pairs=2 * workers,
            max_pairs=100_000,
            calls_each=2,
        )
        futex: dict[str, int | None] = dict.fromkeys(sides)
        if not arguments.quick:
            for name, call in sides.items():
                futex[name] = _futex_calls(lambda call=call: threads.run(call, 2, Side()))
    stats = wrapper.stats()
    assert stats.requests_missing == 0, stats
    result: dict[str, Any] = {"workers": workers, "served_share": stats.served_share, "num_arenas": stats.num_regions}
    for name in sides:
        side = getattr(pairs, name)
        latencies = sorted(side.latencies_ms)
        result[name] = {
            "p50_ms": statistics.median(latencies),
            "p99_ms": latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)],
            "per_s": side.num_calls / side.wall_s,
            "faults": side.usage.minor_faults / side.num_calls,
            "switches": side.usage.voluntary_switches / side.num_calls,
            "futex": futex[name] and futex[name] / (2 * workers),
            "num_calls": side.num_calls,
        }
    result["p50_of_ratios"] = statistics.median(
        a / b for a, b in zip(pairs.upstream.latencies_ms, pairs.planned.latencies_ms, strict=True)
    )
    return result


def _futex_calls(run: Any) -> int | None:
    """The futex calls of all threads of this process while something runs; None where strace cannot look."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    with tempfile.NamedTemporaryFile("r") as counts:
        command = [strace, "-c", "-f", "-e", "trace=futex", "-o", counts.name, "-p", str(os.getpid())]
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        if "attached" not in (tracer.stderr.readline() if tracer.stderr else ""):
            return None
        time.sleep(0.5)  # it attaches to the threads one by one
        run()
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        found = re.search(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?futex$", counts.read(), re.MULTILINE)
    return int(found.group(1)) if found else 0


def measure_peak(arguments: argparse.Namespace) -> dict[str, Any]:
    """What one side takes at its fullest, beyond the weights."""
    import torch

    import memomalloc
    from memomalloc.bench.paired import Side, Workers
    from memomalloc.bench.process import peak_resident_bytes, reset_peak_resident, resident_bytes

    torch.set_num_threads(1)
    model, inputs = build(arguments.models[0], arguments.smoke)
    workers, side = arguments.workers[0], arguments.peak
    wrapper = memomalloc.optimize(model) if side == "planned" else model
    with torch.inference_mode():
        reset_peak_resident()
        before = resident_bytes()
        for _ in range(6 if side == "planned" else 2):
            wrapper(*inputs)
        if side == "planned":
            reset_peak_resident()  # recording is not serving; what is resident now still counts

        def prepare() -> Any:
            torch.set_num_threads(1)
            return torch.inference_mode()

        with Workers(workers, prepare) as threads:
            for _ in range(3):
                threads.run(lambda: wrapper(*inputs), 2, Side())
    result = {"peak_bytes": peak_resident_bytes() - before}
    if side == "planned":
        result["lower_bound_bytes"] = wrapper.stats().lower_bound_bytes
        result["arena_bytes"] = wrapper.stats().arena_bytes
        result["num_arenas"] = wrapper.stats().num_regions
    return result


# --- The parent


def in_process(upstream: str, options: list[str]) -> Any:
    """Run this file with an allocator; what it measured."""
    from memomalloc.bench.upstream import UPSTREAMS

    child = subprocess.run(
        [sys.executable, __file__, "--child", *options],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            **UPSTREAMS[upstream].environment(),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(child.stdout.splitlines()[-1])


def main() -> None:
    from memomalloc.bench.machine import describe_machine, describe_versions
    from memomalloc.bench.upstream import UPSTREAMS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(DEFAULT_MODELS), choices=MODELS)
    parser.add_argument("--workers", nargs="+", type=int, default=[2, 16])
    parser.add_argument("--upstreams", nargs="+", default=list(DEFAULT_UPSTREAMS), choices=UPSTREAMS)
    parser.add_argument("--seconds", type=float, default=15.0, help="for both sides of one case")
    parser.add_argument("--json", type=Path, help="write all that was measured there")
    parser.add_argument("--quick", action="store_true", help="latencies, faults and switches only")
    parser.add_argument("--smoke", action="store_true", help="the smallest size: does it run at all?")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peak", choices=("upstream", "planned"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure_peak(arguments) if arguments.peak else measure(arguments)))
        return
    if arguments.smoke:
        arguments.seconds, arguments.workers = 0.2, [2]

    results = []
    header = (
        f"{'model':13}{'upstream':>10}{'workers':>8}  {'side':9}{'p50 ms':>9}{'p99 ms':>9}{'calls/s':>10}{'faults':>9}"
    )
    print(header + f"{'switches':>9}{'futex':>7}{'peak MiB':>9}{'x bound':>8}", flush=True)
    # Of several numbers in one process each finds what the one before has left.
    groups = [arguments.workers] if arguments.quick else [[workers] for workers in arguments.workers]
    for model in arguments.models:
        for group in groups:
            for upstream in arguments.upstreams:
                options = ["--models", model, "--seconds", str(arguments.seconds)]
                options += ["--workers", *map(str, group)]
                options += [f"--{name}" for name in ("smoke", "quick") if getattr(arguments, name)]
                for row in in_process(upstream, options):
                    if not arguments.quick:
                        for side in ("upstream", "planned"):
                            row[side] |= in_process(upstream, [*options, "--peak", side])
                    results.append({"model": model, "upstream_name": upstream, **row})
                    _print(results[-1])
                if arguments.json:
                    document = {"machine": describe_machine(), "versions": describe_versions(), "results": results}
                    arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def _print(row: dict[str, Any]) -> None:
    plain, planned = row["upstream"], row["planned"]
    for side, values in (("upstream", plain), ("planned", planned)):
        futex = "-" if values["futex"] is None else f"{values['futex']:.1f}"
        line = (
            f"{row['model']:13}{row['upstream_name']:>10}{row['workers']:>8}  {side:9}{values['p50_ms']:9.3f}"
            f"{values['p99_ms']:9.3f}{values['per_s']:10.2f}{values['faults']:9.0f}{values['switches']:9.1f}{futex:>7}"
        )
        if "peak_bytes" in values:
            bound = row["workers"] * planned["lower_bound_bytes"]
            line += f"{values['peak_bytes'] / 2**20:9.1f}{values['peak_bytes'] / bound:8.2f}"
        print(line)
    line = (
        f"{'':31}  {'ratio':9}{row['p50_of_ratios']:9.2f}{plain['p99_ms'] / planned['p99_ms']:9.2f}"
        f"{planned['per_s'] / plain['per_s']:10.2f}"
    )
    if "peak_bytes" in plain:
        line += f"{'':25}{plain['peak_bytes'] / planned['peak_bytes']:9.2f}"
    print(line, flush=True)


if __name__ == "__main__":
    main()
