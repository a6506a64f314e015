from __future__ import annotations

import json
import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest

import memomalloc
from memomalloc.data import Trace
from memomalloc.report.chrome_export import chrome_trace, write_chrome_trace
from memomalloc.report.placement import Placement
from memomalloc.report.snapshot_export import BASE_ADDRESS, snapshot, write_snapshot
from sample_traces import MIB, large_trace, small_trace


def placed(trace: Trace) -> Placement:
    return Placement.of_plan(memomalloc.plan(trace, planner="skyline"), trace=trace)


def replayed_peak(entries: list[dict[str, Any]]) -> int:
    """The most bytes that the events of a snapshot leave alive; fails where they contradict themselves."""
    live: dict[int, int] = {}
    peak = 0
    for entry in entries:
        if entry["action"] == "alloc":
            assert entry["addr"] not in live
            live[entry["addr"]] = entry["size"]
        elif entry["action"] == "free_completed":
            assert live.pop(entry["addr"]) == entry["size"]
        peak = max(peak, sum(live.values()))
    return peak


@pytest.mark.parametrize("trace", [small_trace(), large_trace(300)], ids=["small", "large"])
def test_a_snapshot_replays_to_the_same_peak(trace: Trace) -> None:
    placement = placed(trace)
    (entries,) = snapshot(placement)["device_traces"]
    assert replayed_peak(entries) == placement.live_bytes.peak_live_bytes
    assert [entry["time_us"] for entry in entries] == sorted(entry["time_us"] for entry in entries)


def test_the_blocks_of_a_segment_have_no_hole_and_hold_the_escapes() -> None:
    (segment,) = snapshot(placed(small_trace()))["segments"]
    address = BASE_ADDRESS
    for block in segment["blocks"]:
        assert block["address"] == address
        address += block["size"]
    assert address == BASE_ADDRESS + segment["total_size"]
    (escape,) = (block for block in segment["blocks"] if block["state"] == "active_allocated")
    assert escape["size"] == segment["active_size"] == 2 * MIB
    assert [frame["name"] for frame in escape["frames"]] == ["aten::linear", "aten::outer", "forward"]


def test_torch_reads_the_snapshot(tmp_path: Path) -> None:
    viewer = pytest.importorskip("torch.cuda._memory_viz")
    write_snapshot(placed(small_trace()), tmp_path / "snapshot.pickle")
    read = pickle.loads((tmp_path / "snapshot.pickle").read_bytes())
    assert "13 entries" in viewer.trace(read)
    assert "stream_0" in viewer.memory(read, format_flamegraph=lambda lines: lines)
    assert "total_allocated: 2.0MiB" in viewer.segsum(read)
    assert "snapshot.pickle" in viewer.trace_plot(read)


def test_a_chrome_trace_has_a_counter_and_a_slice_for_each_buffer(tmp_path: Path) -> None:
    placement = placed(small_trace())
    write_chrome_trace(placement, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_bytes())["traceEvents"]
    assert events == json.loads(json.dumps(chrome_trace(placement)["traceEvents"]))
    counted = [event["args"]["bytes"] for event in events if event["ph"] == "C"]
    assert max(counted) == 5 * MIB
    begins = {event["id"]: event for event in events if event["ph"] == "b"}
    ends = {event["id"]: event for event in events if event["ph"] == "e"}
    assert begins.keys() == ends.keys() == set(range(5))
    assert begins[1]["name"] == "aten::scratch"
    assert begins[1]["args"]["origin"]["module_path"] == "stem.conv"
    assert (begins[1]["ts"], ends[1]["ts"]) == (1, 5)


def test_the_viewer_in_the_browser_knows_every_opcode(tmp_path: Path) -> None:
    # Those that the unpickler of PyTorch's MemoryViz.js implements.
    known = {
        "APPEND", "APPENDS", "BINFLOAT", "BINGET", "BININT", "BININT1", "BININT2", "BINPUT", "BINUNICODE", "EMPTY_DICT",
        "EMPTY_LIST", "EMPTY_TUPLE", "FRAME", "LONG1", "LONG_BINGET", "LONG_BINPUT", "MARK", "MEMOIZE", "NEWFALSE",
        "NEWTRUE", "NONE", "PROTO", "SETITEM", "SETITEMS", "SHORT_BINUNICODE", "STOP", "TUPLE", "TUPLE1", "TUPLE2",
        "TUPLE3",
    }  # fmt: skip
    write_snapshot(placed(large_trace(3000)), tmp_path / "snapshot.pickle")
    used = {opcode.name for opcode, _, _ in pickletools.genops((tmp_path / "snapshot.pickle").read_bytes())}
    assert used <= known
