"""What a terminal shows of a snapshot's account. Needs rich."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from memomalloc.data.byte_text import byte_text
from memomalloc.harmless_text import harmless
from memomalloc.report.snapshot_account import Account, Alive, Moment
from memomalloc.report.snapshot_period import Period
from memomalloc.report.terminal import bar, name_text

_BAR_CELLS = 12
_MAX_OOMS = 3
_SINCE_US = 1_000_000_000_000_000
"""September 2001: what is before is no time, but counts something."""
_ODDITIES = {
    "unseen_frees": "addresses were allocated again without a free: those events are not in the file",
    "extra_frees": "frees were of what was not allocated",
    "not_at_the_end": "buffers are alive by the events, but no block of the last state",
    "unknown_events": "events are of kinds that this memomalloc does not know",
}


def account_table(account: Account, *, top: int = 12) -> RenderableType:
    """The figures of one memory, who was alive at the peak, and what was never freed.

    Args:
        account: of a memory of a snapshot.
        top: at most so many rows in each table.
    """
    peak = account.peak
    head = Text.assemble((harmless(account.name), "bold"), f": {account.num_buffers:,} buffers, peak ")
    head.append(f"{byte_text(peak.allocated_bytes)} allocated at tick {peak.tick:,}{_time(peak)}, ")
    head.append(f"{byte_text(account.peak_reserved_bytes)} reserved at most")
    parts: list[RenderableType] = [head, *_beginning(account), _moments(account)]
    parts += [Text(line) for line in _lines(account)]
    if account.period is not None:
        parts += [Text(), _period(account.period)]
    if len(account.streams) > 1:
        parts += [Text(), _streams(account)]
    for by, rows in account.alive_at_peak.items():
        if any(not row.name.startswith("(") for row in rows):
            parts += [Text(), _alive(f"Alive at the peak, by {by}", rows, peak.allocated_bytes, top)]
    if account.never_freed:
        parts += [Text(), _alive("Never freed, by source", account.never_freed, account.end.allocated_bytes, top)]
    return Lines(*parts)


def _beginning(account: Account) -> list[RenderableType]:
    if not account.num_from_before:
        return []
    text = f"{account.num_from_before:,} of the buffers ({byte_text(account.from_before_bytes)}) were there before "
    text += "the first event"
    if account.num_lost:
        text += (
            f"; {account.num_lost:,} of them were recorded: the beginning is lost, a larger max_entries would keep it"
        )
    return [Text(text + ".", style="yellow")]


def _moments(account: Account) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in (
        "at the peak",
        "at the end",
        *(f"out of memory {i + 1}" for i in range(min(len(account.ooms), _MAX_OOMS))),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    moments = [account.peak, account.end, *(event.moment for event in account.ooms[:_MAX_OOMS])]
    for name, attribute in (
        ("reserved", "reserved_bytes"),
        ("allocated", "allocated_bytes"),
        ("fragmentation (reserved - allocated)", "fragmentation_bytes"),
        ("  free inside segments in use", "free_in_used_bytes"),
        ("  free segments, kept for later", "free_segments_bytes"),
    ):
        table.add_row(name, *(byte_text(getattr(moment, attribute)) for moment in moments))
    return table


def _lines(account: Account) -> list[str]:
    found = [
        f"lower bound {byte_text(account.lower_bound_bytes)}: no way to place these buffers needs less",
        f"at the end: {account.num_inactive_split:,} inactive split blocks, {byte_text(account.inactive_split_bytes)}; "
        f"rounding {byte_text(account.rounding_bytes)}; awaiting another stream {byte_text(account.awaiting_bytes)}",
    ]
    for event in account.ooms[:_MAX_OOMS]:
        found.append(
            f"out of memory at tick {event.moment.tick:,}{_time(event.moment)}: {byte_text(event.requested_bytes)} "
            f"asked for by {harmless(event.source)}, {byte_text(event.device_free_bytes)} free on the device, "
            f"{byte_text(event.moment.fragmentation_bytes)} reserved and not allocated"
        )
    if account.num_ooms > _MAX_OOMS:
        found.append(f"and {account.num_ooms - _MAX_OOMS:,} more times out of memory")
    found += [f"odd: {count:,} {_ODDITIES[name]}" for name, count in account.oddities.items()]
    return found


def _period(period: Period) -> Text:
    text = Text.assemble(
        ("What repeats", "bold"), f": {_allocations(period.num_allocations)}, {period.num_repetitions:,} times "
    )
    text.append(f"({period.covered_share:.0%} of all{', sizes vary' if period.sizes_vary else ''}")
    text.append("" if period.duration_us is None else f", {period.duration_us / 1000:,.1f} ms each")
    text.append(f"). A static plan of one needs {byte_text(period.needed_bytes)}: ")
    text.append(f"{byte_text(period.lasting_bytes)} lasting + {byte_text(period.arena_bytes)} arena")
    if period.kept_bytes:
        text.append(f" + {byte_text(period.kept_bytes)} that each keeps for ever")
    text.append(f" (lower bound of the arena {byte_text(period.lower_bound_bytes)}). ")
    text.append(f"Reserved for it are {byte_text(period.reserved_bytes)}: ")
    verb = "saves" if period.saved_bytes >= 0 else "costs"
    text.append(f"the plan {verb} {byte_text(abs(period.saved_bytes))}.", style="bold")
    return text


def _allocations(number: int) -> str:
    return f"{number:,} allocation{'' if number == 1 else 's'}"


def _streams(account: Account) -> Table:
    table = Table(title="Streams", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("stream", "buffers", "allocated, peak", "reserved, peak", "allocated, end", "reserved, end"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in account.streams:
        table.add_row(
            str(one.stream),
            f"{one.num_buffers:,}",
            byte_text(one.peak_allocated_bytes),
            byte_text(one.peak_reserved_bytes),
            byte_text(one.end_allocated_bytes),
            byte_text(one.end_reserved_bytes),
        )
    return table


def _alive(title: str, rows: Sequence[Alive], whole: int, top: int) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("buffers", "bytes"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows[:top]:
        cells = bar(round(_BAR_CELLS * row.num_bytes / max(whole, 1)))
        table.add_row(name_text(row.name), f"{row.num_buffers:,}", byte_text(row.num_bytes), cells)
    if len(rows) > top:
        table.add_row(Text(f"and {len(rows) - top:,} more", style="dim"))
    return table


def _time(moment: Moment) -> str:
    if moment.time_us is None or not _SINCE_US < moment.time_us < 3 * _SINCE_US:
        return ""
    return f" ({datetime.fromtimestamp(moment.time_us / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC)"
