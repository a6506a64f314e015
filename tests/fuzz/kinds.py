"""The kinds of files that are fuzzed: how one begins, how it is sealed again, how it is read, and when it may be."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import io
import json
import pickle
import random
import re
import sys
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutations import mutated

import memomalloc
from caching_allocator import CachingAllocator, snapshot, train
from memomalloc.bench.results_file import load_results
from memomalloc.data.any_file import read_any
from memomalloc.data.calls import Calls
from memomalloc.data.device_files import read_device_plan, read_device_problem
from memomalloc.data.device_plan import DevicePlan
from memomalloc.data.device_problem import DeviceBuffer, DeviceMemory, DeviceProblem, Place
from memomalloc.data.minimalloc_csv import read_minimalloc_csv
from memomalloc.data.plan import Plan
from memomalloc.data.problem import Problem
from memomalloc.data.snapshot_file import read_snapshot
from memomalloc.data.trace import Trace
from memomalloc.runtime.learning.learned_calls import LearnedCalls
from memomalloc.runtime.shipping.plan_archive import PlanArchive
from sample_traces import large_trace, small_trace

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


class Kind(ABC):
    """One kind of file.

    Attributes:
        suffix: what its names end in.
        seeds: good files of the kind.
        commands: of the command line, which take such a file in place of FILE.
        command_share: of all inputs, those that commands are tried on as well, which takes a hundred times longer; five
            times as many of those that are accepted.
    """

    suffix: str
    commands: tuple[str, ...]
    command_share = 0.01

    def __init__(self) -> None:
        self.seeds = self._seeds()

    def input(self, choose: random.Random) -> bytes:
        """A changed file. Most have their checksums right again: else no reader would look further."""
        content = self.change(choose.choice(self.seeds), choose)
        if choose.random() < 0.8:
            content = self.sealed(content)
        if self.is_compressible and choose.random() < 0.1:
            content = gzip.compress(content, 1)
            if choose.random() < 0.3:
                content = mutated(content, choose, [content])
        return content

    is_compressible = True

    def change(self, content: bytes, choose: random.Random) -> bytes:
        """A file with some changes."""
        return mutated(content, choose, self.seeds)

    def sealed(self, content: bytes) -> bytes:
        """The file with its checksums made right, where it still has any."""
        return content

    @abstractmethod
    def _seeds(self) -> list[bytes]: ...

    @abstractmethod
    def read(self, path: Path) -> Any:
        """Read a file as a user would.

        Raises:
            MemomallocError: it is refused.
        """

    @abstractmethod
    def verify(self, content: bytes, found: Any) -> None:
        """See, by means that share nothing with the reader, that a file was rightly accepted."""


def _unpacked(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def _lines(content: bytes) -> list[bytes]:
    """With their ends. A carriage return ends none: in JSON it is a space."""
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def _saved(value: Plan | Trace | DeviceProblem | DevicePlan, suffix: str) -> bytes:
    path = Path(f"/dev/shm/memomalloc-seed-{id(value)}{suffix}")
    value.save(path)
    try:
        return path.read_bytes()
    finally:
        path.unlink()


def _planned(subject: Trace | Problem) -> Plan:
    # Equal plans in every process: else no input could be made again.
    return dataclasses.replace(memomalloc.plan(subject, planner="skyline"), elapsed_s=0.25)


def _tiny_trace(num_buffers: int) -> Trace:
    trace = large_trace(num_buffers)
    escapes = np.arange(num_buffers) % 7 == 3
    return Trace.from_arrays(trace.sizes, trace.starts, trace.ends, escapes, origins=trace.origins)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _verify_plan(plan: Plan, payload: dict[str, Any]) -> None:
    columns = ("sizes", "starts", "ends", "offsets", "smallest_sizes")
    for name in columns:
        assert getattr(plan, name).tolist() == payload[name], name
    for name in ("arena_bytes", "lower_bound_bytes", "alignment_bytes", "planner", "proven_optimal"):
        assert getattr(plan, name) == payload[name], name
    assert plan.elapsed_s == float(payload["elapsed_s"])
    assert np.flatnonzero(plan.escapes).tolist() == payload["escapes"]
    rows = list(zip(*(payload[name] for name in columns), strict=True))
    first, last = min((row[1] for row in rows), default=0), max((row[2] for row in rows), default=0)
    lives = [
        (first, last) if i in set(payload["escapes"]) else (start, end) for i, (_, start, end, *_) in enumerate(rows)
    ]
    for i, (size, _, _, offset, smallest) in enumerate(rows):
        assert size >= 0
        assert offset >= 0
        assert min(size, 1) <= smallest <= size
        assert offset % payload["alignment_bytes"] == 0
        for j in range(i):
            other_size, other_offset = rows[j][0], rows[j][3]
            together = lives[i][0] < lives[j][1] and lives[j][0] < lives[i][1]
            overlap = offset < other_offset + other_size and other_offset < offset + size
            assert not (together and overlap and size and other_size), f"buffers {j} and {i} share bytes"
    assert payload["arena_bytes"] == max((row[3] + row[0] for row in rows if row[0]), default=0)


class PlanKind(Kind):
    """Plan files."""

    suffix = ".json"
    commands = (
        "check FILE", "check FILE --json --max-bytes 1KiB", "show FILE", "show FILE --json", "diff FILE FILE --json",
        "export {trace} OUT --to chrome --plan FILE", "plan FILE --json",
    )  # fmt: skip

    def _seeds(self) -> list[bytes]:
        aligned = Problem.from_arrays(
            [100, 64, 200, 0], [0, 1, 2, 3], [2, 5, 4, 9], alignment_bytes=4, alignments=[4, 8, 16, 4],
            pinned_offsets=[-1, 64, -1, -1],
        )  # fmt: skip
        subjects = [small_trace(), _tiny_trace(12), aligned, Problem.from_arrays([], [], [])]
        return [_saved(_planned(subject), ".json") for subject in subjects]

    def sealed(self, content: bytes) -> bytes:
        start, end = content.find(b'"plan":'), content.rfind(b"}")
        if start < 0 or end < start:
            return content
        try:
            payload = json.loads(content[start + 7 : end])
            digest = hashlib.sha256(_canonical(payload)).hexdigest()
        except (ValueError, RecursionError):
            return content
        return re.sub(rb"sha256:[0-9a-f]{64}", b"sha256:" + digest.encode(), content, count=1)

    def read(self, path: Path) -> Any:
        return memomalloc.Plan.load(path)

    def verify(self, content: bytes, found: Any) -> None:
        document = json.loads(_unpacked(content))
        assert document["checksum"] == "sha256:" + hashlib.sha256(_canonical(document["plan"])).hexdigest()
        _verify_plan(found, document["plan"])


class TraceKind(Kind):
    """Trace files."""

    suffix = ".jsonl"
    commands = (
        "show FILE", "show FILE --json --depth 2", "diff FILE FILE", "diff FILE {trace} --json", "plan FILE --json",
        "advise FILE --json", "advise FILE", "export FILE OUT --to snapshot", "export FILE OUT --to csv",
        "bench planners FILE --planners bump --json OUT",
    )  # fmt: skip

    def _seeds(self) -> list[bytes]:
        traces = (small_trace(), _tiny_trace(20), Trace.from_arrays([], [], []), _with_calls(_tiny_trace(16)))
        return [_saved(trace, ".jsonl") for trace in traces]

    def sealed(self, content: bytes) -> bytes:
        lines = _lines(content)
        if len(lines) < 2 or b"sha256" not in lines[-1]:
            return content
        body = b"".join(lines[:-1])
        num_calls = sum(line.startswith(b"[[") for line in lines[:-1])
        num_buffers = sum(line.startswith(b"[") for line in lines[:-1]) - num_calls
        footer = {"buffers": num_buffers, "sha256": hashlib.sha256(body).hexdigest()}
        if b'"calls"' in lines[-1]:
            footer["calls"] = num_calls
        return body + json.dumps(footer, separators=(",", ":")).encode() + b"\n"

    def read(self, path: Path) -> Any:
        return memomalloc.Trace.load(path)

    def verify(self, content: bytes, found: Any) -> None:
        header, *lines, _ = [json.loads(line) for line in _lines(_unpacked(content))]
        lists = [line for line in lines if isinstance(line, list)]
        rows = [line for line in lists if not isinstance(line[0], list)]
        called = [line for line in lists if isinstance(line[0], list)]
        texts = [line for line in lines if isinstance(line, str)]
        origins = [line for line in lines if isinstance(line, dict)]
        assert found.end_tick == header["end_tick"]
        assert found.sizes.tolist() == [row[0] for row in rows]
        assert found.smallest_sizes.tolist() == [row[1] for row in rows]
        assert found.starts.tolist() == [row[2] for row in rows]
        assert found.ends.tolist() == [header["end_tick"] if row[4] else row[3] for row in rows]
        assert (np.diff(found.starts) > 0).all()
        assert (found.starts < found.ends).all()
        for buffer, row in zip(found.buffers, rows, strict=True):
            assert (buffer.origin is None) == (row[5] < 0)
            if buffer.origin is not None:
                assert buffer.origin.module_path == texts[origins[row[5]]["module_path"]]
                assert buffer.origin.operators == tuple(texts[index] for index in origins[row[5]]["operators"])
        if found.calls is not None:
            _verify_calls(found, called)


def _with_calls(trace: Trace) -> Trace:
    """Each buffer is made by a call, which reads those that live and takes a weight."""
    n = len(trace)
    reads = [[i for i in range(max(call - 3, 0), call) if trace.ends[i] > trace.starts[call]] for call in range(n)]
    calls = Calls.from_arrays(
        trace.starts, trace.starts + 1, origins=trace.origins, frames=np.arange(n) % 3, tracked=np.arange(n) % 5 == 0,
        read_counts=[len(buffers) for buffers in reads], read_buffers=[i for buffers in reads for i in buffers],
        outside_counts=np.ones(n, np.int64), outside_bytes=trace.sizes,
    )  # fmt: skip
    return dataclasses.replace(trace, calls=calls)


def _verify_calls(found: Trace, rows: list[Any]) -> None:
    calls = found.calls
    assert calls is not None
    assert calls.begins.tolist() == [row[0][0] for row in rows]
    assert calls.ends.tolist() == [row[0][1] for row in rows]
    assert calls.read_counts.tolist() == [len(row[1]) for row in rows]
    assert calls.read_buffers.tolist() == [buffer for row in rows for buffer in row[1]]
    assert calls.outside_bytes.tolist() == [num_bytes for row in rows for num_bytes in row[2]]
    for (begin, *_), buffers, num_bytes in rows:
        # Nothing is read before it is there.
        assert all(0 <= buffer < len(found) and found.starts[buffer] < begin for buffer in buffers)
        assert all(size >= 0 for size in num_bytes)


class CsvKind(Kind):
    """CSV files of MiniMalloc."""

    suffix = ".csv"
    commands = (
        "plan FILE", "plan FILE --json --planner linear_scan", "plan FILE -o OUT.csv", "plan FILE -o OUT.json",
        "show FILE", "show FILE --json", "diff FILE FILE",
        "bench planners FILE --planners bump,greedy_by_size --markdown OUT",
    )  # fmt: skip

    def _seeds(self) -> list[bytes]:
        return [
            b"id,lower,upper,size\n0,0,3,64\n1,1,5,100\n2,3,9,64\n",
            b"id,lower,upper,size,alignment,offset\n0,0,3,64,4,0\n1,1,5,100,1,-1\n2,3,9,64,64,\n",
            b'\xef\xbb\xbfsize, upper ,id,LOWER\r\n10,5,"a, b",0\r\n20,7,"quote ""x""",2\r\n\r\n30,9,c,-4\r\n',
            b"id,lower,upper,size\n"
            + b"".join(b"%d,%d,%d,%d\n" % (i, i, i + i % 9 + 1, i * 37 + 1) for i in range(60)),
            b"id,lower,upper,size\n",
        ]

    def read(self, path: Path) -> Any:
        return read_minimalloc_csv(path)

    def verify(self, content: bytes, found: Any) -> None:
        text = _unpacked(content).decode("utf-8-sig")
        header, *rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row and row != [""]]
        names = [name.strip().lower() for name in header]
        rows = [row for row in rows if len(row) > 1 or row[0].strip()]
        table = [dict(zip(names, (field.strip() for field in row), strict=True)) for row in rows]
        assert found.sizes.tolist() == [int(row["size"]) for row in table]
        assert found.starts.tolist() == [int(row["lower"]) for row in table]
        assert found.ends.tolist() == [int(row["upper"]) for row in table]
        assert len({row["id"] for row in table}) == len(table)
        assert (found.sizes >= 0).all()
        assert (found.starts < found.ends).all()


class ArchiveKind(Kind):
    """Saved plans."""

    suffix = ".plans"
    commands = ("show FILE", "check FILE", "plan FILE --json")
    is_compressible = False

    def _seeds(self) -> list[bytes]:
        learned = {}
        for number, trace in enumerate((small_trace(), _tiny_trace(9))):
            learned[f"{number:064x}"] = LearnedCalls(_planned(trace), trace, (1, 2), (3, 4), 1000, 2, bool(number))
        archive = PlanArchive({"model": "a", "torch": "b", "python": "c", "cpu": "d"}, learned).to_bytes()
        return [archive, PlanArchive({"model": "a"}, {}).to_bytes()]

    def change(self, content: bytes, choose: random.Random) -> bytes:
        if choose.random() < 0.3:
            return mutated(content, choose, self.seeds)
        # Inside: a zip file that is only damaged is told by its own checksums.
        files = {
            name: zipfile.ZipFile(io.BytesIO(content)).read(name)
            for name in zipfile.ZipFile(io.BytesIO(content)).namelist()
        }
        name = choose.choice(list(files))
        files[name] = mutated(files[name], choose, list(files.values()))
        inner = {".json": _PLAN, "jsonl": _TRACE}.get(name[-5:])
        if inner is not None and name != "manifest.json" and choose.random() < 0.8:
            files[name] = inner.sealed(files[name])
        if choose.random() < 0.8:
            files["manifest.json"] = _sealed_manifest(files)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in files.items():
                archive.writestr(zipfile.ZipInfo(member), data, zipfile.ZIP_DEFLATED)
        return packed.getvalue()

    def read(self, path: Path) -> Any:
        return PlanArchive.from_bytes(path.read_bytes(), path)

    def verify(self, content: bytes, found: Any) -> None:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for number, (_, learned) in enumerate(found.learned.items()):
                assert learned.plan.alignment_bytes % 64 == 0
                assert learned.plan.starts.tolist() == learned.trace.starts.tolist()
                _verify_plan(learned.plan, json.loads(archive.read(f"{number}.plan.json"))["plan"])


def _sealed_manifest(files: dict[str, bytes]) -> bytes:
    try:
        document = json.loads(files["manifest.json"])
        for number, entry in enumerate(document["manifest"]["plans"]):
            for part, suffix in (("plan", "plan.json"), ("trace", "trace.jsonl")):
                entry[f"{part}_sha256"] = hashlib.sha256(files[f"{number}.{suffix}"]).hexdigest()
        document["checksum"] = "sha256:" + hashlib.sha256(_canonical(document["manifest"])).hexdigest()
        return json.dumps(document).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return files["manifest.json"]


class ResultsKind(Kind):
    """Results files of ``memomalloc bench``."""

    suffix = ".json"
    commands = ("bench report FILE -o OUT",)
    command_share = 0.002  # it draws

    def _seeds(self) -> list[bytes]:
        seeds = []
        for name, num_rows in (("demo", 3), ("planners", 12), ("time_shares", 2)):
            document = json.loads((RESULTS / f"{name}.json").read_text())
            document["rows"] = document["rows"][:num_rows]
            for row in document["rows"]:
                if "samples" in row:
                    row["samples"] = {side: samples[:4] for side, samples in row["samples"].items()}
            seeds.append(json.dumps(document, indent=1).encode())
        return seeds

    def read(self, path: Path) -> Any:
        return load_results(path)

    def verify(self, content: bytes, found: Any) -> None:
        from memomalloc.bench.planner_report import planner_report
        from memomalloc.bench.planner_results import PlannerResults
        from memomalloc.bench.report_markdown import markdown
        from memomalloc.bench.report_page import page
        from memomalloc.bench.report_tables import model_report
        from memomalloc.bench.results import Results
        from memomalloc.bench.time_shares import time_report

        assert len(found.rows) == len(json.loads(_unpacked(content))["rows"])
        kinds = ((Results, model_report), (PlannerResults, planner_report), (object, time_report))
        report = next(make for kind, make in kinds if isinstance(found, kind))(found)
        for text in (markdown(report, command="fuzz", pictures={}), page(report, command="fuzz", pictures={})):
            assert "\x1b" not in text
            assert not re.search(r"(?<!\\)<script", text.lower())
            text.encode()


class AnyKind(Kind):
    """Files of any kind under a name that says nothing."""

    suffix = ""
    commands = ("show FILE --json", "plan FILE --json", "diff FILE FILE --json")

    def _seeds(self) -> list[bytes]:
        return [seed for kind in (_PLAN, _TRACE, _CSV) for seed in kind.seeds]

    def sealed(self, content: bytes) -> bytes:
        return _PLAN.sealed(content) if b"memomalloc-plan" in content[:200] else _TRACE.sealed(content)

    def read(self, path: Path) -> Any:
        return read_any(path)

    def verify(self, content: bytes, found: Any) -> None:
        kind = _PLAN if isinstance(found, Plan) else _TRACE if isinstance(found, Trace) else _CSV
        kind.verify(content, found)


class _PlainUnpickler(pickle.Unpickler):
    """Python's own, which builds no objects here."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


class SnapshotKind(Kind):
    """Snapshots of GPUs: pickles."""

    suffix = ".pickle"
    commands = (
        "show FILE", "show FILE --json", "show FILE --html OUT", "plan FILE --json", "plan FILE --period", "check FILE",
        "diff FILE FILE --json", "export FILE OUT --to chrome", "export FILE OUT --to trace",
    )  # fmt: skip

    def _seeds(self) -> list[bytes]:
        allocator, growing = (
            CachingAllocator(max_entries=60),
            CachingAllocator(device=1, expandable=True, with_pools=False),
        )
        train(allocator, num_steps=2, num_layers=2)
        with growing.private_pool((1, 0)):
            train(growing, num_steps=1, num_layers=1)
        return [
            pickle.dumps(snapshot(*allocators), protocol=protocol)
            for allocators in ((allocator,), (allocator, growing))
            for protocol in (0, 2, 4)
        ]

    def read(self, path: Path) -> Any:
        return read_snapshot(path)

    def verify(self, content: bytes, found: Any) -> None:
        for memory in found.memories:
            assert (memory.starts[1:] > memory.starts[:-1]).all()
            assert (memory.ends > memory.starts).all()
            assert memory.escapes[memory.ends == memory.end_tick].all()
            assert len(memory.trace) == len(memory)
        try:
            plain = _PlainUnpickler(io.BytesIO(_unpacked(content))).load()
        except Exception:
            return  # it is stricter with what says nothing of values, such as the lengths of frames
        if isinstance(plain, dict):
            traces = [*plain.get("device_traces", []), *plain.get("host_traces", [])]
            lists = [trace for trace in traces if isinstance(trace, list)] or [traces]
            assert found.num_events == sum(map(len, lists))


def _device_problems() -> list[DeviceProblem]:
    memories = [
        DeviceMemory("tcm", capacity_bytes=192, bank_bytes=64, chunk_bytes=96),
        DeviceMemory("sram", capacity_bytes=500, cost_per_byte=2),
        DeviceMemory("dram", cost_per_byte=10),
    ]
    buffers = [
        DeviceBuffer("a", 64, [(0, 3)], alignment=16),
        DeviceBuffer("b", 100, [(1, 2), (4, 9)]),
        DeviceBuffer("c", 48, [(2, 5, 0, 32), (5, 6, 16, 48)], costs={"tcm": 0, "dram": 7}),
        DeviceBuffer("d", 32, [(0, 9)], pin=Place("sram", 128)),
        DeviceBuffer("é\ud800", 0, [(3, 4)]),
    ]
    return [
        DeviceProblem.of(memories, buffers, aliases=[{"a": 0, "c": 8}], disjoint=[("a", "b")]),
        DeviceProblem.of(memories[1:], buffers[:2], different_banks=[("a", "b")]),
        DeviceProblem.of(memories[2:], []),
    ]


class ProblemKind(Kind):
    """Problems for the memories of a device."""

    suffix = ".json"
    commands = (
        "plan FILE --time-limit 0.2", "plan FILE --json --time-limit 0.2", "plan FILE -o OUT.json --time-limit 0.2",
        "check FILE", "show FILE --json", "diff FILE FILE --json",
    )  # fmt: skip

    def _seeds(self) -> list[bytes]:
        return [_saved(problem, ".json") for problem in _device_problems()]

    def read(self, path: Path) -> Any:
        return read_device_problem(path)

    def verify(self, content: bytes, found: Any) -> None:
        document = json.loads(_unpacked(content))
        assert [memory.name for memory in found.memories] == [entry["name"] for entry in document["memories"]]
        assert [memory.capacity_bytes for memory in found.memories] == [
            entry.get("capacity_bytes") for entry in document["memories"]
        ]
        assert [buffer.id for buffer in found.buffers] == [entry["id"] for entry in document["buffers"]]
        assert [buffer.size for buffer in found.buffers] == [entry["size"] for entry in document["buffers"]]
        for buffer, entry in zip(found.buffers, document["buffers"], strict=True):
            assert [list(lifetime) for lifetime in buffer.lifetimes] == entry["lifetimes"]
            assert all(lifetime[0] < lifetime[1] for lifetime in buffer.lifetimes)
        assert len(found.aliases) == len(document.get("aliases", []))


class DevicePlanKind(Kind):
    """Plans for the memories of a device, of one problem."""

    suffix = ".json"
    commands = ("check FILE", "show FILE", "plan FILE --json", "diff FILE FILE --json")

    def __init__(self) -> None:
        self._problem = _device_problems()[0]
        super().__init__()

    def _seeds(self) -> list[bytes]:
        plan = dataclasses.replace(memomalloc.plan_device(self._problem), elapsed_s=0.25)
        return [_saved(plan, ".json")]

    def read(self, path: Path) -> Any:
        return read_device_plan(path, self._problem)

    def verify(self, content: bytes, found: Any) -> None:
        document = json.loads(_unpacked(content))
        places = {name: [place.memory, place.offset, place.chunk] for name, place in found.by_id().items()}
        assert places == {name: [*entry, 0][:3] for name, entry in document["places"].items()}
        capacities = {memory.name: memory.capacity_bytes for memory in self._problem.memories}
        for buffer in self._problem.buffers:
            memory, offset, chunk = places[buffer.id]
            begin = offset + chunk * (96 if memory == "tcm" else 0)
            assert begin % buffer.alignment == 0 or memory == "tcm"
            capacity = capacities[memory]
            assert begin >= 0
            # What has no bytes lies anywhere.
            assert capacity is None or begin + buffer.size <= capacity or not buffer.size
            for other in self._problem.buffers:
                if other is buffer or {buffer.id, other.id} == {"a", "c"} or places[other.id][0] != memory:
                    continue
                low = places[other.id][1] + places[other.id][2] * (96 if memory == "tcm" else 0)
                shares = begin < low + other.size and low < begin + buffer.size
                for start, end, *_ in buffer.lifetimes:
                    for other_start, other_end, *_ in other.lifetimes:
                        together = start < other_end and other_start < end
                        # Of "c" only a part is in use at a time, which the checker knows.
                        assert not (shares and together) or "c" in (buffer.id, other.id)


_PLAN, _TRACE, _CSV = PlanKind(), TraceKind(), CsvKind()
KINDS: dict[str, Kind] = {
    "plan": _PLAN,
    "trace": _TRACE,
    "csv": _CSV,
    "archive": ArchiveKind(),
    "results": ResultsKind(),
    "snapshot": SnapshotKind(),
    "problem": ProblemKind(),
    "device-plan": DevicePlanKind(),
    "any": AnyKind(),
}
