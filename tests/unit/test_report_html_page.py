from __future__ import annotations

import json
import re

import memomalloc
from memomalloc.data import Origin, Trace
from memomalloc.report.html_page import page_text
from memomalloc.report.placement import Placement
from sample_traces import small_trace


def payload(page: str) -> dict[str, object]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    data: dict[str, object] = json.loads(match[1])
    return data


def placed(planner: str = "auto", trace: Trace | None = None) -> Placement:
    trace = trace or small_trace()
    return Placement.of_plan(memomalloc.plan(trace, planner=planner), trace=trace)


def test_two_plans_of_one_trace_share_its_buffers() -> None:
    data = payload(page_text([placed("skyline"), placed("bump")], title="two"))
    assert len(data["tables"]) == 1  # type: ignore[arg-type]
    assert [layout["planner"] for layout in data["layouts"]] == ["skyline", "bump"]  # type: ignore[attr-defined]


def test_plans_of_two_traces_do_not() -> None:
    data = payload(page_text([placed(), placed(trace=small_trace(scale=2))], title="two"))
    assert len(data["tables"]) == 2  # type: ignore[arg-type]


def test_names_cannot_end_the_script() -> None:
    evil = "</script><script>alert(1)</script><!--"
    trace = Trace.from_arrays([8], [0], [1], origins=[Origin((evil,), evil)])
    page = page_text([placed(trace=trace)], title=evil)
    assert page.count("<script") == page.count("</script>") == 2
    assert payload(page)["texts"][0] == evil  # type: ignore[index]


def test_the_page_asks_nobody_for_anything() -> None:
    page = page_text([placed()], title="offline")
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "MIT License" in page  # of the library that is in the file
