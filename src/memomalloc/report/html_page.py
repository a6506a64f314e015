"""The memory map: one HTML file with everything in it, which works offline and from ``file://``."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from memomalloc.advice import Change, advise
from memomalloc.data.atomic_file import atomic_file
from memomalloc.data.origin import Origin
from memomalloc.data.trace import Trace
from memomalloc.harmless_text import harmless
from memomalloc.report.groups import default_by, default_depth
from memomalloc.report.placement import Placement, Reserved
from memomalloc.report.resident_memory import ResidentMemory
from memomalloc.report.snapshot_map import corners

#: How long the page may wait for the three changes that give most together.
_ADVICE_S = 2.0
_STYLES = ("vendor/uPlot.min.css", "page.css")
_SCRIPTS = (
    "vendor/uPlot.iife.min.js",
    "bytes.js",
    "buffers.js",
    "colours.js",
    "view.js",
    "painter.js",
    "curve.js",
    "pane.js",
    "sidebar.js",
    "main.js",
)


def write_page(
    placements: Sequence[Placement],
    path: str | Path,
    *,
    title: str,
    by: str | None = None,
    resident: ResidentMemory | None = None,
) -> None:
    """Write the memory map of one placement, or of several side by side; atomically. Arguments as for `page_text`.

    Raises:
        OSError: the folder cannot be written to.
    """
    with atomic_file(path) as file:
        file.write(page_text(placements, title=title, by=by, resident=resident).encode())


def page_text(
    placements: Sequence[Placement], *, title: str, by: str | None = None, resident: ResidentMemory | None = None
) -> str:
    """The memory map as HTML. It asks the network for nothing, and forbids the browser to.

    Args:
        placements: at least one. Placements of the same buffers share their data, and what is selected in one is
            selected in all.
        title: of the page.
        by: what colours the buffers at first: one of `groups.BY`. None: the module where it is known, else the size.
        resident: the account of the process that the buffers are of; None: it is not known.
    """
    payload = _payload(placements, title, by or default_by(placements))
    payload["resident"] = None if resident is None else _resident(resident)
    return Template(_file("page.html")).substitute(
        title=html.escape(harmless(title)),
        style="\n".join(_file(name) for name in _STYLES),
        script="\n".join(_file(name) for name in _SCRIPTS),
        licence=_file("vendor/uPlot.LICENSE").strip(),
        # Inside <script> only "<" can end the data or begin a comment.
        data=json.dumps(payload, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _file(name: str) -> str:
    return resources.files(__package__).joinpath("page", *name.split("/")).read_text(encoding="utf-8")


def _payload(placements: Sequence[Placement], title: str, by: str) -> dict[str, Any]:
    texts: dict[str, int] = {}
    shown: list[Placement] = []
    tables, layouts = [], []
    for placement in placements:
        same = next((i for i, other in enumerate(shown) if _same_buffers(placement, other)), None)
        if same is None:
            same = len(shown)
            shown.append(placement)
            tables.append(_table(placement, texts))
        layouts.append(
            {
                "title": harmless(placement.title),
                "table": same,
                "offsets": placement.offsets.tolist(),
                "extentBytes": placement.extent_bytes,
                "lowerBoundBytes": placement.lower_bound_bytes,
                "planner": placement.planner,
                "provenOptimal": placement.proven_optimal,
                "note": harmless(placement.note),
                "reserved": _reserved(placement.reserved),
                "elsewhereRequests": placement.elsewhere_requests,
                "elsewhereBytes": placement.elsewhere_bytes,
                "lanes": [[harmless(lane.thread), lane.offset] for lane in placement.lanes],
                "marks": [
                    [harmless(mark.name), mark.start, mark.end, mark.depth, mark.is_moment, mark.is_failure]
                    for mark in placement.marks
                ],
            }
        )
    return {"title": harmless(title), "by": by, "texts": list(texts), "tables": tables, "layouts": layouts}


def _resident(resident: ResidentMemory) -> dict[str, Any]:
    return {
        "verdict": harmless(resident.verdict),
        "growth": harmless(resident.growth),
        "parts": [[part.name, part.num_bytes, part.growth_bytes, part.source] for part in resident.parts],
        "findings": [
            {
                "name": finding.name,
                "figures": [harmless(figure) for figure in finding.figures],
                "remedies": [harmless(remedy) for remedy in finding.remedies],
            }
            for finding in resident.findings
        ],
    }


def _reserved(reserved: Reserved | None) -> dict[str, Any] | None:
    """What was reserved, as columns."""
    names = ("offsets", "sizes", "starts", "ends")
    return None if reserved is None else {name: getattr(reserved, name).tolist() for name in names}


def _curve(placement: Placement) -> list[list[int]] | None:
    """The curve where it cannot be made of the buffers: what is alive, and what is reserved if that is known."""
    if placement.whole is None:
        return None
    reserved = None if placement.reserved is None else placement.reserved.bytes
    return [column.tolist() for column in corners(placement.whole, reserved) if column is not None]


def _same_buffers(one: Placement, other: Placement) -> bool:
    return one.origins == other.origins and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("sizes", "starts", "ends", "escapes")
    )


def _table(placement: Placement, texts: dict[str, int]) -> dict[str, Any]:
    """The buffers as columns; who asked for them as rows of a table of their own, each once."""

    def text(value: str) -> int:
        return texts.setdefault(harmless(value), len(texts))

    askers: dict[tuple[Any, ...], int] = {}

    def asker(origin: Origin | None) -> int:
        if origin is None:
            return -1
        source = origin.source
        row = (
            tuple(text(operator) for operator in origin.operators),
            text(origin.module_path),
            None if source is None else (text(source.file), source.line, text(source.function)),
            text(origin.role),
            text(origin.thread),
        )
        return askers.setdefault(row, len(askers))

    return {
        "sizes": placement.sizes.tolist(),
        "starts": placement.starts.tolist(),
        "ends": placement.ends.tolist(),
        "escapes": np.flatnonzero(placement.escapes).tolist(),
        "asker": [asker(origin) for origin in placement.origins],
        "occurrence": [0 if origin is None else origin.occurrence for origin in placement.origins],
        "askers": list(askers),
        "moduleDepth": default_depth(placement),
        "peakTick": placement.live_bytes.peak_tick,
        "peakLiveBytes": placement.live_bytes.peak_live_bytes,
        "curve": _curve(placement),
        "advice": _advice(placement.trace),
    }


def _advice(trace: Trace | None) -> dict[str, Any] | None:
    """Why the peak is there and what would lower it; None where the trace does not say who read its tensors."""
    if trace is None or trace.calls is None or not len(trace):
        return None
    advice = advise(trace, time_limit_s=_ADVICE_S)
    return {
        "peak": harmless(advice.peak.text),
        "peakBytes": advice.before.peak_bytes,
        "reasons": dict(advice.peak.reasons),
        "together": [_change(change) for change in advice.together],
        "togetherBytes": advice.after_together.peak_bytes,
        "changes": [_change(change) for change in advice.changes],
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "text": harmless(change.text),
        "modules": [harmless(module) for module in change.modules],
        "places": change.num_places,
        "alters": harmless(change.alters),
        "isExact": change.is_exact,
        "peakBytes": change.after.peak_bytes,
    }
