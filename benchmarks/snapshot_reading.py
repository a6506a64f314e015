"""Time and memory of `memomalloc show` on a GPU's snapshot of a gigabyte: five million events, 34 frames each.

Writes the file as Python's pickler would, but piece by piece, and reads it in a process of its own:

    python benchmarks/snapshot_reading.py --json build/snapshot_reading.json
"""

import argparse
import json
import os
import statistics
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memomalloc.bench.machine import describe_machine, describe_versions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import caching_allocator

DEPTH = 34


class Emitter:
    """Writes values as pickle's protocol 4 does: texts and frames once, then by number."""

    def __init__(self) -> None:
        self.num_remembered = 0
        self._texts: dict[str, int] = {}
        self._frames: dict[int, int] = {}

    def value(self, value: Any) -> bytes:
        if isinstance(value, bool) or value is None:
            return {True: b"\x88", False: b"\x89", None: b"N"}[value]
        if isinstance(value, int):
            return self._number(value)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, tuple):
            return b"".join(map(self.value, value)) + b"\x86" + self._remember()
        if isinstance(value, list):
            return b"]" + self._remember() + b"(" + b"".join(map(self.value, value)) + b"e"
        if "filename" in value and id(value) in self._frames:
            return self._recall(self._frames[id(value)])
        number = self.num_remembered
        written = b"}" + self._remember() + b"("
        for key, item in value.items():
            written += self.value(key) + self.value(item)
        if "filename" in value:
            self._frames[id(value)] = number
        return written + b"u"

    def _number(self, value: int) -> bytes:
        if 0 <= value < 256:
            return b"K" + bytes([value])
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        size = (value.bit_length() + 8) // 8
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)

    def _text(self, text: str) -> bytes:
        if text in self._texts:
            return self._recall(self._texts[text])
        self._texts[text] = self.num_remembered
        encoded = text.encode()
        return b"\x8c" + bytes([len(encoded)]) + encoded + self._remember()

    def _remember(self) -> bytes:
        self.num_remembered += 1
        return b"\x94"

    def _recall(self, number: int) -> bytes:
        return b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number)


def write_large(path: Path, num_events: int) -> None:
    """A training of some steps, of which the last is written again and again, at later and later times."""
    allocator = caching_allocator.CachingAllocator()
    caching_allocator.train(allocator, num_steps=3, num_layers=48)
    made = caching_allocator.snapshot(allocator)
    (entries,) = made["device_traces"]
    library = [
        {"filename": f"/home/me/library/part{i}.py", "line": 10 + i, "name": f"call_{i}"} for i in range(DEPTH - 4)
    ]
    for entry in entries:
        entry["frames"] = [*entry["frames"], *library]
    times = [entry["time_us"] for entry in entries]
    step = next(n for n in range(100, len(entries)) if _same(entries[-n:], entries[-2 * n : -n]))
    emitter = Emitter()
    with path.open("wb") as file:
        file.write(b"\x80\x04}" + emitter._remember() + b"(")
        for key in ("segments", "allocator_settings", "external_annotations"):
            file.write(emitter.value(key) + emitter.value(made[key]))
        file.write(emitter.value("device_traces") + b"]" + emitter._remember() + b"(]" + emitter._remember() + b"(")
        file.write(b"".join(emitter.value(entry) for entry in entries))
        for piece in _repeated(emitter, entries[-step:], times[-1] - times[-1 - step], num_events - len(entries)):
            file.write(b"e(" + piece)
        file.write(b"ee" + b"u.")


def _same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    keys = ("action", "addr", "size")
    return [[entry[key] for key in keys] for entry in one] == [[entry[key] for key in keys] for entry in other]


def _repeated(emitter: Emitter, step: list[dict[str, Any]], duration_us: int, num_events: int) -> Iterator[bytes]:
    """Everything that the events have is known to the pickler by now: the times are all that changes."""
    heads = []
    for entry in step:
        later = {key: value for key, value in entry.items() if key != "time_us"}
        heads.append(emitter.value(later)[:-1])
    time_key = emitter.value("time_us")
    for repetition in range(1, -(-num_events // len(step)) + 1):
        shift = repetition * duration_us
        yield b"".join(
            head + time_key + b"\x8a\x07" + (entry["time_us"] + shift).to_bytes(7, "little") + b"u"
            for head, entry in zip(heads, step, strict=True)
        )


def read_once(path: Path) -> dict[str, Any]:
    """Seconds, and MiB at the peak, of the command line in a process of its own; and what it found."""
    output = path.with_suffix(".json")
    began = time.perf_counter()
    process = os.fork()
    if process == 0:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.execv(sys.executable, [sys.executable, "-m", "memomalloc", "show", str(path), "--json"])
    _, status, usage = os.wait4(process, 0)
    elapsed_s = time.perf_counter() - began
    if status:
        raise SystemExit(f"memomalloc show ended with status {os.waitstatus_to_exitcode(status)}")
    (found,) = json.loads(output.read_text())["snapshots"]
    period = found["memories"][0]["period"]
    return {
        "elapsed_s": elapsed_s,
        "processor_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
        "num_events": found["num_events"],
        "num_repetitions": period and period["num_repetitions"],
    }


def main() -> None:
    """Write, read, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5_000_000, metavar="N", help="default: 5,000,000")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument(
        "--file", type=Path, default=Path("build/large_snapshot.pickle"), help="written if it is not there"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args()
    args.file.parent.mkdir(parents=True, exist_ok=True)
    if not args.file.exists():
        write_large(args.file, args.events)
    rows = [read_once(args.file) for _ in range(args.repetitions)]
    seconds, peaks = [row["elapsed_s"] for row in rows], [row["peak_mib"] for row in rows]
    processor_s = statistics.median(row["processor_s"] for row in rows)
    print(
        f"{args.file.stat().st_size / 2**20:,.0f} MiB, {rows[0]['num_events']:,} events: "
        f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
        f"of the processor {processor_s:.1f} s, peak {max(peaks):,.0f} MiB"
    )
    if args.json is not None:
        result = {
            "machine": describe_machine(),
            "versions": describe_versions(),
            "file_bytes": args.file.stat().st_size,
        }
        args.json.write_text(json.dumps(result | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
