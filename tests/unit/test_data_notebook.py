from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import memomalloc
from memomalloc.data import Trace
from sample_traces import large_trace, small_trace


def test_a_plan_shows_a_rectangle_for_each_buffer() -> None:
    figure = ElementTree.fromstring(memomalloc.plan(small_trace())._repr_html_())
    assert len(figure.findall(".//rect")) == 5
    assert "Plan of 5 buffers in 7.00 MiB" in "".join(figure.itertext())


def test_a_plan_of_many_buffers_stays_small() -> None:
    text = memomalloc.plan(large_trace(20_000), planner="skyline")._repr_html_()
    assert len(text) < 200_000
    assert "largest rectangles are shown" in text


def test_the_curve_of_a_trace_reaches_the_top_exactly_where_the_peak_is() -> None:
    figure = ElementTree.fromstring(small_trace()._repr_html_())
    path = figure.find(".//path")
    assert path is not None
    heights = [float(step.partition("H")[0]) for step in path.attrib["d"].split("V")[1:-1]]
    at_the_top = np.flatnonzero(np.array(heights) == 0.0) / len(heights)
    assert 3 / 12 <= at_the_top.min() < at_the_top.max() <= 4.1 / 12


@pytest.mark.parametrize("subject", [Trace.from_arrays([], [], []), memomalloc.plan(Trace.from_arrays([], [], []))])
def test_nothing_can_be_shown(subject: Trace | memomalloc.Plan) -> None:
    assert "0 buffers" in "".join(ElementTree.fromstring(subject._repr_html_()).itertext())


def test_what_a_session_prints_is_one_line() -> None:
    assert repr(small_trace()) == "Trace(num_buffers=5, num_escapes=1, end_tick=12, peak_live_bytes=5242880)"
    assert repr(memomalloc.plan(small_trace(), planner="skyline")) == (
        "Plan(num_buffers=5, arena_bytes=7340032, lower_bound_bytes=7340032, planner='skyline', proven_optimal=True)"
    )
