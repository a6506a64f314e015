"""Time one allocate-and-free pair: replayed, passed through, and by four allocators.

Runs the native benchmark once under each allocator found (glibc, and jemalloc, tcmalloc, mimalloc preloaded) and
prints a table of medians in nanoseconds a pair. Build it first:

    cmake -S . -B build/native-release -G Ninja -DMEMOMALLOC_NATIVE_TESTS=ON
    cmake --build build/native-release --target fast_path_benchmark
    python benchmarks/fast_path.py --json benchmarks/results/fast_path.json
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from memomalloc.bench.machine import describe_machine, describe_versions

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_BINARY = ROOT / "build" / "native-release" / "tests" / "native" / "fast_path_benchmark"
PRELOADS = {
    "glibc": None,
    "jemalloc": "libjemalloc.so.2",
    "tcmalloc": "libtcmalloc_minimal.so.4",
    "mimalloc": "libmimalloc.so.2",
}


def find_library(name: str) -> Path | None:
    """The first library of that file name in the usual folders."""
    folders = [Path("/usr/lib"), Path("/usr/local/lib"), *Path("/usr/lib").glob("*-linux-gnu")]
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def run_under(allocator: str, binary: Path, rounds: int) -> dict[str, Any] | None:
    """Raw samples of the benchmark with `allocator` as the upstream; None where that is not installed."""
    environment = dict(os.environ)
    environment.pop("LD_PRELOAD", None)
    file_name = PRELOADS[allocator]
    if file_name is not None:
        library = find_library(file_name)
        if library is None:
            return None
        environment["LD_PRELOAD"] = str(library)
    finished = subprocess.run([str(binary), str(rounds)], env=environment, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(finished.stdout)
    if result["upstream"] != allocator:
        raise RuntimeError(f"{allocator} was preloaded, but {result['upstream']} served")
    return result


def table_rows(results: list[dict[str, Any]]) -> list[tuple[str, str, float, float, float]]:
    """(workload, allocator, upstream ns, pass-through minus upstream ns, replay ns), medians over the rounds."""
    rows = []
    for index in range(len(results[0]["workloads"])):
        for result in results:
            samples = result["workloads"][index]
            added_ns = [
                ours - theirs for ours, theirs in zip(samples["pass_through_ns"], samples["upstream_ns"], strict=True)
            ]
            rows.append(
                (
                    samples["name"],
                    result["upstream"],
                    statistics.median(samples["upstream_ns"]),
                    statistics.median(added_ns),
                    statistics.median(samples["replay_ns"]),
                )
            )
    return rows


def rounded(workloads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples of each workload to hundredths of a nanosecond: more digits say nothing."""
    return [
        {name: [round(ns, 2) for ns in value] if isinstance(value, list) else value for name, value in workload.items()}
        for workload in workloads
    ]


def main() -> None:
    """Measure, print the table, and keep the raw samples where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=DEFAULT_BINARY)
    parser.add_argument("--rounds", type=int, default=201)
    parser.add_argument("--smoke", action="store_true", help="a few rounds, to see that it runs")
    parser.add_argument("--json", type=Path, help="where to write machine, versions and raw samples")
    arguments = parser.parse_args()
    if not arguments.binary.exists():
        sys.exit(f"{arguments.binary} is not built; see --help")
    rounds = 3 if arguments.smoke else arguments.rounds

    results = []
    for allocator in PRELOADS:
        result = run_under(allocator, arguments.binary, rounds)
        if result is None:
            print(f"{allocator} is not installed: left out", file=sys.stderr)
        else:
            results.append(result)

    print(f"ns per allocate+free pair, median of {rounds} rounds, one thread")
    print(f"{'workload':10}{'upstream':12}{'upstream ns':>12}{'pass-through adds':>19}{'replay ns':>11}")
    for name, allocator, upstream_ns, added_ns, replay_ns in table_rows(results):
        print(f"{name:10}{allocator:12}{upstream_ns:12.1f}{added_ns:19.1f}{replay_ns:11.1f}")
    print("ns for a run's begin and end together, of one plan and of two in turn")
    for result in results:
        one, two = (statistics.median(result[name]) for name in ("run_ns", "run_of_two_in_turn_ns"))
        print(f"{'':10}{result['upstream']:12}{one:12.1f}{two:19.1f}")
    if arguments.json is not None:
        document = {
            "machine": describe_machine(),
            "versions": describe_versions(),
            "rounds": rounds,
            "results": [{**result, "workloads": rounded(result["workloads"])} for result in results],
        }
        # Samples in one line: one below the other they would make thousands.
        text = re.sub(r"\[[^][{}]*\]", lambda samples: " ".join(samples[0].split()), json.dumps(document, indent=1))
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
