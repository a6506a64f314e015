"""Small static pictures of traces and plans, for notebooks: HTML with one SVG, and no script."""

from __future__ import annotations

import html

import numpy as np

from memomalloc.data.byte_text import byte_text
from memomalloc.data.columns import Int64Array
from memomalloc.data.plan import Plan
from memomalloc.data.trace import Trace
from memomalloc.harmless_text import harmless

_WIDTH, _HEIGHT = 640, 180
#: A notebook keeps what it shows: the buffers with the largest rectangles stand for all.
_MAX_RECTANGLES = 1500
#: Paul Tol's "bright": people with any colour vision can tell neighbours apart, on light paper and on dark.
_PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")


def plan_html(plan: Plan) -> str:
    """Offset against time: a rectangle for each buffer, the largest for plans of many."""
    proven = ", proven optimal" if plan.proven_optimal else ""
    planner = html.escape(harmless(plan.planner))
    caption = (
        f"<b>Plan</b> of {len(plan):,} buffers in {byte_text(plan.arena_bytes)} by {planner}; "
        f"lower bound {byte_text(plan.lower_bound_bytes)}, gap {plan.gap:.2%}{proven}"
    )
    # As floats: the extremes of 64 bits are ticks as well, and their differences do not fit.
    starts, ends = plan.starts.astype(np.float64), plan.ends.astype(np.float64)
    largest = np.argsort(-(plan.sizes * (ends - starts)), kind="stable")[:_MAX_RECTANGLES]
    if len(largest) < len(plan):
        caption += f"; the {len(largest):,} largest rectangles are shown"
    x, y = _scale(plan.starts, plan.ends), _HEIGHT / max(plan.arena_bytes, 1)
    first_tick = float(starts.min()) if len(plan) else 0.0
    rectangles = []
    for i in sorted(largest.tolist()):
        left, width = (starts[i] - first_tick) * x, (ends[i] - starts[i]) * x
        bottom, height = plan.offsets[i] * y, plan.sizes[i] * y
        colour = _PALETTE[i % len(_PALETTE)]
        rectangles.append(
            f'<rect x="{left:.1f}" y="{_HEIGHT - bottom - height:.1f}" width="{max(width, 0.5):.1f}" '
            f'height="{max(height, 0.5):.1f}" fill="{colour}"/>'
        )
    return _figure(caption, "offset against time", rectangles)


def trace_html(trace: Trace) -> str:
    """The curve of live bytes against time."""
    caption = (
        f"<b>Trace</b> of {len(trace):,} buffers, {int(trace.escapes.sum()):,} of them escape; "
        f"{byte_text(trace.peak_live_bytes)} alive at the peak, {byte_text(int(trace.sizes.sum()))} in all"
    )
    if not len(trace):
        return _figure(caption, "live bytes against time", [])
    heights = _highest_per_pixel(trace.sizes, trace.starts, trace.ends) * (_HEIGHT / max(trace.peak_live_bytes, 1))
    steps = "".join(f"V{_HEIGHT - height:.1f}H{x + 1}" for x, height in enumerate(heights.tolist()))
    curve = f'<path d="M0 {_HEIGHT}{steps}V{_HEIGHT}Z" fill="{_PALETTE[0]}" fill-opacity="0.5" stroke="{_PALETTE[0]}"/>'
    return _figure(caption, "live bytes against time", [curve])


def _scale(starts: Int64Array, ends: Int64Array) -> float:
    """Pixels of a tick."""
    return _WIDTH / max(int(ends.max(initial=1)) - (int(starts.min()) if len(starts) else 0), 1)


def _highest_per_pixel(sizes: Int64Array, starts: Int64Array, ends: Int64Array) -> Int64Array:
    """The most bytes alive in each column of pixels."""
    events = np.concatenate([starts, ends])
    # What ends at a tick makes room for what starts there.
    order = np.lexsort((np.repeat([1, 0], len(starts)), events))
    live = np.cumsum(np.concatenate([sizes, -sizes])[order])
    ticks = events[order]
    columns = np.minimum((ticks - float(ticks[0])) * _scale(starts, ends), _WIDTH - 1).astype(np.int64)
    highest = np.zeros(_WIDTH, dtype=np.int64)
    np.maximum.at(highest, columns, live)
    # A column also shows what was alive when it began.
    last_before = np.searchsorted(columns, np.arange(_WIDTH)) - 1
    return np.maximum(highest, np.where(last_before >= 0, live[last_before], 0))


def _figure(caption: str, what: str, shapes: list[str]) -> str:
    return (
        f'<figure style="margin:0"><figcaption>{caption}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{what}" '
        f'style="border:1px solid #8888">{"".join(shapes)}</svg></figure>'
    )
