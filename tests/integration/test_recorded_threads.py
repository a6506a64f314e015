"""``record(threads="all")``, and reports of programs: with threads, arguments and several models."""

from __future__ import annotations

import inspect
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import memomalloc
from memomalloc.cli import main
from memomalloc.errors import OptionError
from memomalloc.report.lanes import threads_of

PROGRAM = """
    import sys, threading, torch
    torch.set_num_threads(1)
    detect = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
    class Service:
        def __init__(self): self.rank = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()).eval()
    service = Service()
    def request():
        with torch.inference_mode():
            detect(torch.ones(int(sys.argv[1]), 3, 16, 16)); service.rank(torch.ones(4, 8))
    threads = [threading.Thread(target=request, name=f"worker-{n}") for n in range(2)]
    for thread in threads: thread.start(); thread.join()
    request()
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(inspect.cleandoc(PROGRAM))
    return str(path)


def test_every_thread_that_begins_is_recorded() -> None:
    def work(kept: list[torch.Tensor]) -> None:
        kept.append(torch.ones(1000) * 2)

    kept: list[torch.Tensor] = []
    with memomalloc.record(threads="all") as recording:
        mine = torch.ones(500)
        for _ in range(3):  # one after the other: they have one lane
            thread = threading.Thread(target=work, args=(kept,))
            thread.start()
            thread.join()
        del kept[1:]  # what a thread that is gone has made
        with ThreadPoolExecutor(2, thread_name_prefix="pool") as pool:
            barrier = threading.Barrier(2)
            list(pool.map(lambda n: (barrier.wait(), torch.ones(n), None)[-1], (100, 200)))
    trace = recording.trace
    assert threading.getprofile() is None
    assert trace.elsewhere_bytes == 0
    mine_is = threading.current_thread().name
    lanes = {name.partition(" #")[0] for name in threads_of(trace)}  # one may begin before the other is quite gone
    assert lanes == {mine_is, "Thread (work)", "pool_0", "pool_1"}
    large = sorted(buffer.size_bytes for buffer in trace.buffers if buffer.size_bytes >= 400)  # and no scalar
    assert large == [400, 800, 2000, *6 * [4000]]
    assert (trace.starts[1:] > trace.starts[:-1]).all()
    assert len(set(trace.origins)) == len(trace)
    escapes = [buffer.origin for buffer in trace.buffers if buffer.escape]
    assert [origin.thread.partition(" #")[0] for origin in escapes if origin] == [mine_is, "Thread (work)"]
    operators = {buffer.origin.operator for buffer in trace.buffers if buffer.origin}
    assert "aten::mul" in operators
    del mine


def test_a_program_of_one_thread_has_a_trace_as_before() -> None:
    with memomalloc.record(threads="all") as recording:
        torch.ones(500)
    assert threads_of(recording.trace) == ("",)


def test_profilers_of_threads_go_on_and_recordings_nest() -> None:
    heard = []

    def profiler(frame: object, event: str, argument: object) -> None:
        heard.append(event)

    threading.setprofile(profiler)
    try:
        with memomalloc.record(threads="all") as outer, memomalloc.record(threads="all") as inner:
            thread = threading.Thread(target=lambda: torch.ones(100))
            thread.start()
            thread.join()
        assert threading.getprofile() is profiler
    finally:
        threading.setprofile(None)
    assert len(outer.trace) == len(inner.trace) >= 1
    assert "call" in heard


def test_a_thread_that_goes_on_after_the_recording_is_left_alone() -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        torch.ones(100)
        done.set()
        go.wait()
        torch.ones(200)

    thread = threading.Thread(target=work)
    with memomalloc.record(threads="all") as recording:
        thread.start()
        done.wait()
    go.set()
    thread.join()
    assert max(buffer.size_bytes for buffer in recording.trace.buffers) == 400


def test_there_are_two_choices_of_threads() -> None:
    with pytest.raises(OptionError, match='threads must be "this" or "all"'):
        memomalloc.record(threads="some")


def test_threads_and_models_are_told_apart_in_reports(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(program).parent
    saved, page = folder / "saved.jsonl.gz", folder / "map.html"
    assert main(["show", "--json", "--save", str(saved), "--html", str(page), program, "--", "2"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["placements"]
    assert [lane["thread"] for lane in found["lanes"]] == ["MainThread", "worker-0", "worker-1"]
    assert found["elsewhere_bytes"] == 0
    trace = memomalloc.Trace.load(saved)
    assert set(threads_of(trace)) == {"MainThread", "worker-0", "worker-1"}
    paths = {origin.module_path for origin in trace.origins if origin is not None}
    assert paths == {"", "detect.0", "detect.1", "Service.rank.0", "Service.rank.1"}
    assert '"lanes":[["MainThread",0],["worker-0",' in page.read_text()
    # No two buffers share a byte, and none is outside its thread's lane.
    for lane in found["lanes"]:
        assert lane["size_bytes"] > 0
    assert main(["show", "--table", "--by", "thread", "--json", str(saved)]) == 0


def test_programs_are_compared_and_exported(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "--json", "--by", "module", f"{program} 1", f"{program} 4"]) == 0
    changes = {change["name"]: change for change in json.loads(capsys.readouterr().out)["changes"]}
    conv = changes["detect.0"]
    # Three requests, each with the results of three samples more; how much scratch there is depends on the processor.
    assert conv["bytes_after"] - conv["bytes_before"] >= 3 * 3 * (8 * 14 * 14 * 4)
    assert main(["diff", "--json", program, program, "--", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"] == []
    out = Path(program).parent / "out.json"
    assert main(["export", program, "--to", "chrome", str(out), "--", "2"]) == 0
    assert json.loads(out.read_text())["traceEvents"]


def test_what_was_recorded_until_a_program_was_ended_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "service.py"
    path.write_text("import torch\nkept = torch.ones(1000)\nraise KeyboardInterrupt\n")
    assert main(["show", "--json", str(path)]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["placements"][0]["num_escapes"] == 1
    assert "recorded until then" in told.err


def test_what_was_allocated_by_threads_that_were_not_recorded_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    from rich.console import Console

    from memomalloc.report.placement import Placement
    from memomalloc.report.summary import summary
    from memomalloc.report.summary_table import summary_table

    with memomalloc.record() as recording:
        torch.ones(10)
        thread = threading.Thread(target=lambda: torch.ones(1000))
        thread.start()
        thread.join()
    trace = recording.trace
    placement = Placement.of_plan(memomalloc.plan(trace), trace=trace)
    assert 4000 <= summary(placement)["elsewhere_bytes"] < 4100
    Console(width=200).print(summary_table(placement))
    assert "allocations of other threads, 3.9" in capsys.readouterr().out
