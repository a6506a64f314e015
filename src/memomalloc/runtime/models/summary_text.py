"""What memomalloc does in this process, as text for people, in the manner of ``torch.cuda.memory_summary``."""

from __future__ import annotations

import resource
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from memomalloc.data.byte_text import byte_text
from memomalloc.runtime.memory import armed_plan
from memomalloc.runtime.memory.armed_plan import ArmedPlan
from memomalloc.runtime.memory.process_memory import MemoryStats, memory_stats
from memomalloc.runtime.memory.statistics import Stats
from memomalloc.runtime.models.optimizing import planned_function_of
from memomalloc.runtime.switch import switch

_WIDTH = 79
_MAX_PLANS = 20


def memory_summary(model: Any = None) -> str:
    """Describe calls, requests, memory and plans.

    Args:
        model: what was optimized, in place or not; None: all of the process.

    Returns:
        A table of some thirty lines. Its layout may change: read numbers from :func:`stats`.

    Raises:
        TypeError: the model is not optimized.
    """
    if model is None:
        return _table("memomalloc, all of this process", armed_plan.stats(), armed_plan.alive())
    planned = planned_function_of(model)
    return _table(f"memomalloc, {planned.name}", planned.stats(), planned.armed_plans())


def _table(title: str, stats: Stats, armed: Collection[ArmedPlan]) -> str:
    parts = (_head(title), _calls(stats), _requests(stats), _memory(stats))
    # Without a plan there is no planned memory, and the extension may not be there to ask.
    process = _process(memory_stats()) if armed else ()
    return "\n".join((*(line for part in parts for line in part), *process, *_plans(armed), _rule("=")))


def _rule(character: str = "-") -> str:
    return f"|{character * _WIDTH}|"


def _row(name: str, *values: str) -> str:
    cells = "|".join(f"{value:>14} " for value in values)
    return f"| {name:<{_WIDTH - 2 - 16 * len(values)}} |{cells}|"


def _head(title: str) -> Iterator[str]:
    yield _rule("=")
    yield f"|{title + ('' if switch.on else ' (switched off)'):^{_WIDTH}}|"
    yield _rule("=")


def _counts(name: str, total: int, reasons: Mapping[str, int]) -> Iterator[str]:
    yield _row(name, f"{total:,}")
    for reason, count in reasons.items():
        if count:
            yield _row(f"      {reason}", f"{count:,}")


def _calls(stats: Stats) -> Iterator[str]:
    yield _row("Calls replayed from a plan", f"{stats.runs_replayed:,}")
    yield _row("Calls recorded", f"{stats.runs_recorded:,}")
    yield from _counts("Calls that ran unplanned", sum(stats.runs_unplanned.values()), stats.runs_unplanned)
    yield _rule()


def _requests(stats: Stats) -> Iterator[str]:
    yield _row("Requests of replayed calls served from a plan", f"{stats.requests_served:,}")
    yield from _counts("Requests that went upstream", sum(stats.requests_upstream.values()), stats.requests_upstream)
    share = stats.served_share
    yield _row("Share served", "-" if share is None else f"{share:.4%}")
    if stats.num_bad_frees:
        yield _row("Bad frees (a fault of the program)", f"{stats.num_bad_frees:,}")
    yield _rule()


def _memory(stats: Stats) -> Iterator[str]:
    yield _row("Regions in use / with these plans", f"{stats.num_regions_in_use:,}", f"{stats.num_regions:,}")
    yield _row("Mapped for them, with outputs", byte_text(stats.mapped_bytes))
    yield _row("All arenas, summed / no plan needs less", *map(byte_text, (stats.arena_bytes, stats.lower_bound_bytes)))
    yield _row("The same calls took from upstream", byte_text(stats.upstream_peak_bytes))
    yield _row("Page faults of the process", f"{resource.getrusage(resource.RUSAGE_SELF).ru_minflt:,}")
    yield _rule()


def _process(memory: MemoryStats) -> Iterator[str]:
    regions = memory.regions
    yield _row("Planned memory of the process / limit", *map(byte_text, (memory.mapped_bytes, memory.limit_bytes)))
    yield _row("  at its peak", byte_text(memory.peak_mapped_bytes))
    yield _row("  in regions", byte_text(sum(region.mapped_bytes for region in regions)), f"{len(regions):,}")
    yield _row("  for outputs", byte_text(sum(region.output_mapped_bytes for region in regions)))
    outputs = sum(region.num_outputs for region in regions)
    yield _row("    of which live", byte_text(sum(region.output_bytes for region in regions)), f"{outputs:,}")
    kept = sum(region.num_kept for region in regions)
    if kept:
        yield _row("  regions kept by tensors that live on", f"{sum(region.num_kept != 0 for region in regions):,}")
        yield _row("    by so many", byte_text(sum(region.kept_bytes for region in regions)), f"{kept:,}")
    if memory.num_evicted or memory.num_over_limit:
        yield _row("Regions unmapped / memory refused", f"{memory.num_evicted:,}", f"{memory.num_over_limit:,}")
    if memory.released_bytes:
        yield _row("Given back as it lay idle", byte_text(memory.released_bytes), f"{memory.num_releases:,}")
    yield _rule()


def _plans(armed: Collection[ArmedPlan]) -> Iterator[str]:
    yield _row("Plan", "arena", "calls", "age")
    newest_first = sorted(armed, key=lambda plan: plan.armed_at_s, reverse=True)
    for plan in newest_first[:_MAX_PLANS]:
        yield _row(
            f"{plan.num_slots:,} slots by {plan.plan.planner}"[:30],
            byte_text(plan.plan.arena_bytes),
            f"{plan.replayed().runs:,}",
            _age(time.time() - plan.armed_at_s),
        )
    if len(armed) > _MAX_PLANS:
        yield _row(f"and {len(armed) - _MAX_PLANS:,} more")


def _age(seconds: float) -> str:
    units: Sequence[tuple[str, float]] = (("d", 86400), ("h", 3600), ("min", 60))
    for unit, size in units:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
