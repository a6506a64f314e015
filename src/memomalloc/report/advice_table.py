"""What a terminal shows of advice. Needs rich."""

from __future__ import annotations

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from memomalloc.advice import Advice, Change
from memomalloc.data.byte_text import byte_text
from memomalloc.harmless_text import harmless
from memomalloc.report.terminal import name_text

_MAX_MODULES = 3


def advice_table(advice: Advice) -> RenderableType:
    """The peak and why it is there, the three changes that give most together, and each change alone."""
    before = advice.before
    parts: list[RenderableType] = [
        Text(harmless(advice.peak.text)),
        Text(f"arena {byte_text(before.arena_bytes)}, lower bound {byte_text(before.lower_bound_bytes)}", style="dim"),
        Text(),
    ]
    if not advice.together:
        parts.append(Text("nothing that is known lowers it", style="bold"))
    else:
        after = advice.after_together
        peaks = f"{byte_text(before.peak_bytes)} → {_after(advice, after.peak_bytes)}"
        text = f"{_one_or_more(len(advice.together))}: {peaks}"
        parts.append(Text(f"{text}, arena {byte_text(after.arena_bytes)}", style="bold"))
        for number, change in enumerate(advice.together, 1):
            parts.append(Text(f"  {number}. {_what(change)}"))
            parts.append(Text(f"     {harmless(change.alters)}", style="dim"))
        if not advice.is_complete:
            parts.append(Text("  (the time was spent before all were looked at: see --time-limit)", style="dim"))
    if advice.changes:
        parts += [Text(), _change_table(advice)]
    if not all(change.is_exact for change in advice.changes):
        parts.append(Text("≥: the least that is left; the trace does not tell how much is", style="dim"))
    return Lines(*parts)


def _one_or_more(num_changes: int) -> str:
    return "the one that gives most" if num_changes == 1 else f"the {num_changes} that give most together"


def _after(advice: Advice, peak_bytes: int) -> str:
    before = advice.before.peak_bytes
    return f"{byte_text(peak_bytes)} ({1 - peak_bytes / before:.0%} less)"


def _what(change: Change) -> str:
    text = harmless(change.text)
    if change.num_places > 1:
        text += f" ({change.num_places} times)"
    if change.modules:
        more = len(change.modules) - _MAX_MODULES
        named = ", ".join(harmless(module) for module in change.modules[:_MAX_MODULES])
        text += f", only in {named}{f' and {more} more' if more > 0 else ''}"
    return text


def _change_table(advice: Advice) -> Table:
    table = Table(title="Each alone", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("peak after", justify="right", no_wrap=True)
    table.add_column("arena", justify="right", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("", overflow="fold")
    for change in advice.changes:
        at_least = "" if change.is_exact else "≥ "
        table.add_row(
            f"{at_least}{byte_text(change.after.peak_bytes)}",
            f"{at_least}{byte_text(change.after.arena_bytes)}",
            name_text(change.kind),
            Text(f"{_what(change)}; {harmless(change.alters)}"),
        )
    return table
