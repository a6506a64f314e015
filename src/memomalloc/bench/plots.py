"""Pictures of results, as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from memomalloc.bench.results import Results
from memomalloc.bench.row import Row
from memomalloc.bench.row_text import situation
from memomalloc.extras import require
from memomalloc.harmless_text import harmless

MAX_ROWS = 1000
"""Of a picture: with more of them it would be higher than pictures can be."""

UPSTREAM_COLOR = "#b0b7c3"
PLANNED_COLOR = "#1f6feb"


def draw(results: Results) -> dict[str, dict[str, bytes]]:
    """All pictures: for each title the bytes of the image by file suffix, ``png`` and ``svg``.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = pyplot()
    pictures = {}
    upstreams = list(dict.fromkeys(row.upstream for row in results.rows))
    for upstream in upstreams:
        rows = [row for row in results.rows if row.upstream == upstream and row.ratio_median is not None][:MAX_ROWS]
        if rows:
            pictures[f"Latency ratio over {upstream}"] = _ratios(plt, upstream, rows)
            pictures[f"Peak memory over {upstream}"] = _memory(plt, upstream, rows)
    return pictures


def pyplot() -> Any:
    """matplotlib's ``pyplot``, set to give equal files for equal results.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", extra="bench", feature="memomalloc bench report")
    matplotlib.use("Agg")
    # Text stays text, and equal results give equal files.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "memomalloc"})
    # Names are no formulas.
    matplotlib.rcParams.update({"text.parse_math": False, "text.usetex": False})
    return require("matplotlib.pyplot", extra="bench", feature="memomalloc bench report")


def _label(row: Row) -> str:
    return harmless(f"{row.model:.60}, b{row.batch}, {row.input_size}{situation(row)}")


def _ratios(plt: Any, upstream: str, rows: Sequence[Row]) -> dict[str, bytes]:
    rows = sorted(rows, key=lambda row: row.ratio_median or 0)
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.24 * len(rows)))
    places = range(len(rows))
    axes.hlines(places, [row.ratio_p10 for row in rows], [row.ratio_p90 for row in rows], color=UPSTREAM_COLOR, lw=5)
    axes.plot([row.ratio_median for row in rows], places, "o", color=PLANNED_COLOR, ms=5)
    axes.axvline(1.0, color="black", lw=0.8)
    axes.set_yticks(places, [_label(row) for row in rows], fontsize=7)
    axes.set_xlabel(
        f"latency of {harmless(upstream)} over planned: median, and p10 to p90 of the pairs (right of 1: faster)"
    )
    return rendered(plt, figure)


def _memory(plt: Any, upstream: str, rows: Sequence[Row]) -> dict[str, bytes]:
    rows = sorted(rows, key=lambda row: row.upstream_peak_bytes or 0)
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.24 * len(rows)))
    places = list(range(len(rows)))
    mib = 1 << 20
    axes.barh(
        places,
        [(row.upstream_peak_bytes or 0) / mib for row in rows],
        0.8,
        color=UPSTREAM_COLOR,
        label=harmless(upstream),
    )
    axes.barh(places, [(row.planned_peak_bytes or 0) / mib for row in rows], 0.4, color=PLANNED_COLOR, label="planned")
    axes.set_yticks(places, [_label(row) for row in rows], fontsize=7)
    axes.set_xlabel("growth of physical memory at the peak, MiB")
    axes.legend(loc="lower right")
    return rendered(plt, figure)


def rendered(plt: Any, figure: Any) -> dict[str, bytes]:
    """A figure as the bytes of an image by file suffix; it is closed."""
    images = {}
    for suffix in ("png", "svg"):
        buffer = io.BytesIO()
        # No date inside, so that equal results give equal files.
        metadata = {"Date": None} if suffix == "svg" else {}
        figure.savefig(buffer, format=suffix, bbox_inches="tight", dpi=130, metadata=metadata)
        images[suffix] = buffer.getvalue()
    plt.close(figure)
    return images
