"""Pictures of placements for papers and notebooks. Needs matplotlib."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memomalloc.data.atomic_file import STANDARD_OUTPUT, atomic_file
from memomalloc.data.byte_text import byte_mark, byte_text
from memomalloc.data.columns import Int64Array
from memomalloc.extras import require
from memomalloc.harmless_text import harmless
from memomalloc.report.groups import SIZE_CLASSES, default_by, default_depth, group_names, groups
from memomalloc.report.placement import Placement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol's "muted": people with any colour vision can tell them apart. What is beyond is grey.
PALETTE = ("#332288", "#ddcc77", "#44aa99", "#cc6677", "#88ccee", "#882255", "#117733", "#aa4499", "#999933")
_REST = "#bbbbbb"
_MAX_LABEL = 60
SUFFIXES = (".png", ".svg", ".pdf")
"""What the name of a picture may end in."""
# Sizes have an order, and so have the colours of viridis.
_SIZE_COLOURS = dict(
    zip(
        SIZE_CLASSES,
        ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"),
        strict=True,
    )
)


def draw(
    placements: Sequence[Placement], *, by: str | None = None, depth: int | None = None, width_in: float = 7.0
) -> Figure:
    """A figure of one placement, or of several side by side, each below its curve of live bytes.

    Args:
        placements: at least one.
        by: what colours the buffers: one of `groups.BY`. None: the module where it is known, else the size.
        depth: with ``by="module"``, how many parts of the path count; None: as many as tell something.
        width_in: inches of each map.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure_class = require("matplotlib.figure", extra="plot", feature="a picture of memory").Figure
    columns = len(placements)
    # No pyplot: a library does not decide where figures are shown.
    figure: Figure = figure_class(figsize=(width_in * columns, 5.0), layout="constrained")
    axes = figure.subplots(
        2, columns, sharex="col", sharey="row", squeeze=False, gridspec_kw={"height_ratios": (1, 3.2)}
    )
    by = by or default_by(placements)
    colours = _colours(placements, by, depth)
    highest = max(
        1, *(placement.extent_bytes for placement in placements), *(p.live_bytes.peak_live_bytes for p in placements)
    )
    for (curve, memory_map), placement in zip(axes.T, placements, strict=True):
        _draw_curve(curve, placement)
        _draw_map(memory_map, placement, colours, by, depth or default_depth(placement))
        memory_map.set_xlim(placement.first_tick, int(placement.ends.max(initial=placement.first_tick + 1)))
        memory_map.set_xlabel("tick")
        _style(curve, highest, num_marks=3)
        _style(memory_map, highest, num_marks=8)
    axes[0][0].set_ylabel("live")
    axes[1][0].set_ylabel("offset")
    _draw_legend(figure, colours)
    return figure


def save_picture(placements: Sequence[Placement], path: str | Path, **options: Any) -> None:
    """Write a picture, atomically; its format is what the name ends in (png, svg, pdf). Options are those of `draw`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OSError: the folder cannot be written to.
        ValueError: the name ends in none of `SUFFIXES`.
    """
    suffix = ".png" if Path(path) == STANDARD_OUTPUT else Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: a picture is written as one of {', '.join(SUFFIXES)}: end the name in one of them")
    figure = draw(placements, **options)
    with warnings.catch_warnings(), atomic_file(path) as file:
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        figure.savefig(file, format=suffix[1:], dpi=160)


def _colours(placements: Sequence[Placement], by: str, depth: int | None) -> dict[str, str]:
    ranked: dict[str, int] = {}
    for placement in placements:
        for group in groups(placement, by, depth or default_depth(placement)):
            ranked[group.name] = max(ranked.get(group.name, 0), group.peak_bytes * 2**20 + group.total_bytes)
    if by == "size":
        return {name: colour for name, colour in _SIZE_COLOURS.items() if name in ranked}
    names = sorted(ranked, key=lambda name: -ranked[name])
    return {name: PALETTE[rank] if rank < len(PALETTE) else _REST for rank, name in enumerate(names)}


def _draw_curve(axes: Axes, placement: Placement) -> None:
    live = placement.live_bytes
    axes.fill_between(live.ticks, live.live_bytes, step="post", color="#4477aa", alpha=0.25, linewidth=0)
    axes.step(live.ticks, live.live_bytes, where="post", color="#4477aa", linewidth=0.8)
    axes.plot(live.peak_tick, live.peak_live_bytes, "o", color="#b3261e", markersize=4)
    axes.annotate(
        f"peak {byte_text(live.peak_live_bytes)}",
        (live.peak_tick, live.peak_live_bytes),
        xytext=(6, -3),
        textcoords="offset points",
        fontsize=8,
        color="#b3261e",
        va="top",
        bbox={"facecolor": "white", "alpha": 0.8, "pad": 1, "edgecolor": "none"},
    )
    axes.axhline(placement.extent_bytes, color="0.4", linewidth=0.8, linestyle="--")
    bound = placement.lower_bound_bytes
    axes.set_title(
        f"{_label(placement.title)}: {byte_text(placement.extent_bytes)}"
        + ("" if bound is None else f" (lower bound {byte_text(bound)})"),
        fontsize=9,
        loc="left",
        parse_math=False,
    )


def _draw_map(axes: Axes, placement: Placement, colours: dict[str, str], by: str, depth: int) -> None:
    # Collections draw 100,000 buffers; one patch each would not.
    polygons = require("matplotlib.collections", extra="plot", feature="a picture of memory").PolyCollection
    if placement.lower_bound_bytes is not None:
        # In a plan the place of an escape is nobody else's, even before it is alive.
        reserved = _rectangles(placement, np.full_like(placement.starts, placement.first_tick), placement.starts)[
            placement.escapes
        ]
        axes.add_collection(polygons(reserved, facecolors="none", edgecolors="0.7", linewidths=0, hatch="////"))
    faces = [colours[name] for name in group_names(placement, by, depth)]
    boxes = _rectangles(placement, placement.starts, placement.ends)
    axes.add_collection(polygons(boxes, facecolors=faces, edgecolors="white", linewidths=0.25, rasterized=True))
    axes.axvline(placement.live_bytes.peak_tick, color="#b3261e", linewidth=0.8, linestyle=":")
    axes.axhline(placement.extent_bytes, color="0.4", linewidth=0.8, linestyle="--")


def _rectangles(placement: Placement, starts: Int64Array, ends: Int64Array) -> Int64Array:
    """Corners of each buffer between two ticks: n by 4 by (tick, offset)."""
    lows, highs = placement.offsets, placement.offsets + placement.sizes
    return np.stack(
        [np.stack([starts, starts, ends, ends], axis=1), np.stack([lows, highs, highs, lows], axis=1)], axis=2
    )


def _style(axes: Axes, highest_bytes: int, *, num_marks: int) -> None:
    ticker = require("matplotlib.ticker", extra="plot", feature="a picture of memory")
    axes.set_ylim(0, highest_bytes * 1.04)
    # Marks at powers of two: "4 MiB", not "3.81 MiB".
    axes.yaxis.set_major_locator(ticker.MultipleLocator(2 ** math.ceil(math.log2(highest_bytes / num_marks))))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: byte_mark(int(value))))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_legend(figure: Figure, colours: dict[str, str]) -> None:
    patches = require("matplotlib.patches", extra="plot", feature="a picture of memory")
    shown = list(colours.items())[: len(PALETTE)]
    handles = [patches.Patch(color=colour, label=_label(name)) for name, colour in shown]
    if len(colours) > len(shown):
        handles.append(patches.Patch(color=_REST, label=f"{len(colours) - len(shown)} more"))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _label(name: str) -> str:
    """A name in a picture: not too long for one, and none that matplotlib takes for its own."""
    name = harmless(name)
    shown = name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…"
    # What begins with an underline is left out of a legend.
    return f" {shown}" if shown.startswith("_") else shown
