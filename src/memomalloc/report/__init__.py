"""Make memory visible: tables, pictures, the offline HTML memory map, and exports for other viewers.

Takes traces and plans, writes files or text. May import ``memomalloc.errors``, ``memomalloc.extras`` and
``memomalloc.data``, and nothing else of the package; never torch.

Example::

    placement = Placement.of_plan(memomalloc.plan(trace), trace=trace)
    write_page([placement], "map.html", title="my model")
"""

from __future__ import annotations

from memomalloc.report.chrome_export import write_chrome_trace
from memomalloc.report.difference import Difference, difference
from memomalloc.report.groups import Group, groups
from memomalloc.report.html_page import write_page
from memomalloc.report.picture import draw, save_picture
from memomalloc.report.placement import Placement
from memomalloc.report.snapshot_export import write_snapshot

__all__ = [
    "Difference",
    "Group",
    "Placement",
    "difference",
    "draw",
    "groups",
    "save_picture",
    "write_chrome_trace",
    "write_page",
    "write_snapshot",
]
