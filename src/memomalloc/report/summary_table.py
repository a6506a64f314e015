"""What a terminal shows of a placement. Needs rich."""

from __future__ import annotations

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from memomalloc.data.byte_text import byte_text
from memomalloc.harmless_text import harmless
from memomalloc.report.groups import Group, default_depth, groups
from memomalloc.report.placement import Placement
from memomalloc.report.terminal import bar, name_text

_BAR_CELLS = 12


def summary_table(placement: Placement, *, depth: int | None = None, top: int = 12) -> RenderableType:
    """The figures of a placement, and its buffers by module, by operator and at the peak.

    Args:
        placement: the buffers.
        depth: how many parts of module paths count; None: as many as tell something.
        top: at most so many rows in each table.
    """
    parts: list[RenderableType] = [_headline(placement)]
    if placement.has_origins:
        chosen_depth = depth or default_depth(placement)
        parts.append(
            _group_table(placement, f"By module, depth {chosen_depth}", groups(placement, "module", chosen_depth), top)
        )
        parts.append(_group_table(placement, "By operator", groups(placement, "operator"), top))
        if placement.lanes:
            parts.append(_group_table(placement, "By thread", groups(placement, "thread"), top))
    parts.append(_peak_table(placement, top))
    return Lines(*parts)


def _headline(placement: Placement) -> Text:
    peak = placement.live_bytes
    text = Text.assemble((harmless(placement.title), "bold"), f": {len(placement):,} buffers, ")
    if placement.lower_bound_bytes is None:
        text.append(f"extent {byte_text(placement.extent_bytes)}")
    else:
        bound = placement.lower_bound_bytes
        gap = placement.extent_bytes / bound - 1 if bound else 0.0
        text.append(f"arena {byte_text(placement.extent_bytes)}, lower bound {byte_text(bound)} (gap {gap:.1%}")
        text.append(", proven optimal)" if placement.proven_optimal else ")")
    text.append(
        f", peak {byte_text(peak.peak_live_bytes)} alive at tick {peak.peak_tick:,}, "
        f"without reuse {byte_text(int(placement.sizes.sum()))}"
    )
    if placement.elsewhere_bytes:
        text.append(
            f"; not shown: {placement.elsewhere_requests:,} allocations of other threads, "
            f"{byte_text(placement.elsewhere_bytes)} in all",
            "bold",
        )
    return text


def _group_table(placement: Placement, title: str, rows: list[Group], top: int) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("buffers", "total", "largest", "at the peak"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    peak = max(placement.live_bytes.peak_live_bytes, 1)
    for row in rows[:top]:
        table.add_row(
            name_text(row.name),
            f"{row.num_buffers:,}",
            byte_text(row.total_bytes),
            byte_text(row.largest_bytes),
            byte_text(row.peak_bytes),
            bar(round(_BAR_CELLS * row.peak_bytes / peak)),
        )
    _count_rest(table, len(rows) - top)
    return table


def _peak_table(placement: Placement, top: int) -> Table:
    table = Table(title="Alive at the peak", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, justify in (("size", "right"), ("ticks", "right"), ("operator", "left"), ("module", "left")):
        table.add_column(name, justify=justify, no_wrap=justify == "right", overflow="fold")  # type: ignore[arg-type]
    for index in placement.alive_at_peak[:top].tolist():
        origin = placement.origins[index]
        table.add_row(
            byte_text(int(placement.sizes[index])),
            Text(f"[{placement.starts[index]}, {placement.ends[index]})"),
            name_text("" if origin is None else origin.operator),
            name_text(f"buffer {index}" if origin is None else origin.module_path),
        )
    _count_rest(table, len(placement.alive_at_peak) - top)
    return table


def _count_rest(table: Table, num_more: int) -> None:
    if num_more > 0:
        table.add_row(Text(f"and {num_more:,} more", style="dim"))
