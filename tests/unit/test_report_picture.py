from __future__ import annotations

from pathlib import Path

import pytest

import memomalloc
from memomalloc.data import Trace
from memomalloc.report.placement import Placement
from sample_traces import large_trace, small_trace

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install 'memomalloc[plot]'")

from memomalloc.report.picture import draw, save_picture


def placed(trace: Trace, *, with_origins: bool = True, planner: str = "skyline") -> Placement:
    return Placement.of_plan(memomalloc.plan(trace, planner=planner), trace=trace if with_origins else None)


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_are_written_in_the_format_of_their_name(tmp_path: Path, suffix: str, begins: bytes) -> None:
    path = tmp_path / f"picture.{suffix}"
    save_picture([placed(small_trace())], path)
    assert path.read_bytes().startswith(begins)


def test_placements_stand_side_by_side_on_one_scale() -> None:
    figure = draw([placed(small_trace()), placed(small_trace(), planner="bump")])
    assert len(figure.axes) == 4
    left, right = figure.axes[2:]
    assert left.get_ylim() == right.get_ylim()


def test_the_legend_names_the_modules() -> None:
    (legend,) = draw([placed(small_trace())], depth=1).legends
    assert {text.get_text() for text in legend.get_texts()} == {"stem", "body", "head"}


def test_plans_alone_are_coloured_by_size() -> None:
    (legend,) = draw([placed(small_trace(), with_origins=False)]).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "16 to 64 KiB", "256 KiB to 1 MiB", "1 to 4 MiB",
    ]  # fmt: skip


def test_many_groups_are_counted_in_the_legend() -> None:
    (legend,) = draw([placed(large_trace(2000))]).legends
    assert legend.get_texts()[-1].get_text() == "31 more"


def test_nothing_can_be_drawn(tmp_path: Path) -> None:
    save_picture([placed(Trace.from_arrays([], [], []))], tmp_path / "empty.png")
