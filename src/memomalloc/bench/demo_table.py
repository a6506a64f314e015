"""The table of the demo, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from memomalloc.bench import row_text as text
from memomalloc.bench.row import Row

_STYLES = {"gain": "green", "none": "default", "too_few_pairs": "dim", "loss": "bold red"}


def demo_table(rows: Iterable[Row]) -> Table:
    """A table with one entry for each row; latency and memory take two lines."""
    table = Table(title="Before: the upstream allocator. After: the same calls, replayed.", show_lines=True)
    table.add_column("model\nbatch", no_wrap=True)
    table.add_column("latency, ms\nbefore > after", justify="right", no_wrap=True)
    table.add_column("ratio (p10 to p90)\npairs", justify="right", no_wrap=True)
    table.add_column("page faults\nper inference", justify="right", no_wrap=True)
    table.add_column("peak memory, MiB\nbefore > after", justify="right", no_wrap=True)
    table.add_column("arena, MiB\nlower bound", justify="right", no_wrap=True)
    table.add_column("requests\nserved", justify="right", no_wrap=True)
    for row in rows:
        name = f"{row.model}\nbatch {row.batch}"
        if row.ratio_median is None:
            table.add_row(name, f"[bold red]{row.status.replace('_', ' ')}[/]", "", "", "", "", "")
            continue
        ms, mib = text.milliseconds, text.mebibytes
        table.add_row(
            name,
            f"p50 {ms(row.upstream_p50_ms)} > {ms(row.planned_p50_ms)}\n"
            f"p99 {ms(row.upstream_p99_ms)} > {ms(row.planned_p99_ms)}",
            f"[{_STYLES.get(row.verdict, 'bold red')}]{text.ratio(row.ratio_median)}[/] "
            f"({text.ratio(row.ratio_p10)} to {text.ratio(row.ratio_p90)})\n{row.num_pairs} pairs",
            f"{text.count(row.upstream_minor_faults)} > {text.count(row.planned_minor_faults)}",
            f"{mib(row.upstream_peak_bytes)} > {mib(row.planned_peak_bytes)}",
            f"{mib(row.arena_bytes)}\n{mib(row.lower_bound_bytes)}",
            text.served(row),
        )
    return table
