"""What a terminal shows of a difference. Needs rich."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from memomalloc.data.byte_text import byte_text
from memomalloc.report.difference import Change, Difference
from memomalloc.report.terminal import name_text


def difference_table(found: Difference, *, top: int = 20) -> RenderableType:
    """The figures of the whole, and the groups that changed.

    Args:
        found: what changed.
        top: at most so many groups.
    """
    whole = Table(box=None, pad_edge=False)
    whole.add_column("")
    for name in ("before", "after", "change"):
        whole.add_column(name, justify="right", no_wrap=True)
    for figure in found.figures:
        text = str if figure.name == "buffers" else byte_text
        whole.add_row(figure.name, text(figure.before), text(figure.after), _change(figure.before, figure.after, text))
    if not found.changes:
        return Lines(whole, Text("Every group has as many buffers and bytes as before."))
    groups = Table(title="What changed", title_justify="left", title_style="bold", box=None, pad_edge=False)
    groups.add_column("", overflow="fold")
    for name in ("buffers", "before", "after", "change", "at the peak"):
        groups.add_column(name, justify="right", no_wrap=True)
    for change in found.changes[:top]:
        groups.add_row(*_row(change))
    if len(found.changes) > top:
        groups.add_row(Text(f"and {len(found.changes) - top:,} more", style="dim"))
    return Lines(whole, Text(), groups, Text(f"{found.num_unchanged:,} groups are as they were.", style="dim"))


def _row(change: Change) -> tuple[RenderableType, ...]:
    same = change.buffers_before == change.buffers_after
    return (
        name_text(change.name),
        str(change.buffers_after) if same else f"{change.buffers_before} > {change.buffers_after}",
        byte_text(change.bytes_before),
        byte_text(change.bytes_after),
        _change(change.bytes_before, change.bytes_after, byte_text),
        _change(change.peak_bytes_before, change.peak_bytes_after, byte_text),
    )


def _change(before: int, after: int, text: Callable[[int], str]) -> Text:
    if before == after:
        return Text("=", style="dim")
    share = f" ({after / before - 1:+.1%})" if before else ""
    return Text(
        f"{'+' if after > before else ''}{text(after - before)}{share}", style="red" if after > before else "green"
    )
