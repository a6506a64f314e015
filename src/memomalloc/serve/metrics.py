"""Metrics of the process for Prometheus, through its official client.

===================================================== ======= =========================================================
metric                                                type    what it says
===================================================== ======= =========================================================
``memomalloc_runs_replayed_total``                    counter calls served from a plan
``memomalloc_runs_recorded_total``                    counter calls recorded
``memomalloc_runs_unplanned_total{reason}``           counter calls that ran as if unwrapped
``memomalloc_requests_served_total``                  counter requests of replayed calls served from a plan
``memomalloc_requests_upstream_total{reason}``        counter requests of replayed calls that went upstream
``memomalloc_requests_missing_total``                 counter planned requests that did not come
``memomalloc_bad_frees_total``                        counter frees in an arena at which nothing lived; 0 unless the
                                                              program is at fault
``memomalloc_plans``                                  gauge   plans armed
``memomalloc_plan_age_seconds{which}``                gauge   since the ``oldest`` and the ``newest`` plan was armed; a
                                                              newest one that stays young means plans that do not settle
``memomalloc_regions``, ``memomalloc_regions_in_use`` gauge   regions with memory, and those that a call runs on
``memomalloc_regions_kept``                           gauge   regions in which tensors live on, other than outputs
``memomalloc_regions_evicted_total``                  counter idle regions unmapped to stay within the limit
``memomalloc_memory_refused_total``                   counter requests for memory that the limit refused
``memomalloc_memory_limit_bytes``                     gauge   of regions and outputs together
``memomalloc_mapped_bytes``                           gauge   of them, resident at most
``memomalloc_peak_mapped_bytes``                      gauge   the most there ever was
``memomalloc_outputs``, ``memomalloc_output_bytes``   gauge   outputs that live
``memomalloc_released_bytes_total``                   counter given back to the system as it lay idle
``memomalloc_arena_bytes``                            gauge   of the arenas of all plans, summed
``memomalloc_lower_bound_bytes``                      gauge   the least that those could have
``memomalloc_page_faults_total{kind}``                counter of the process: ``minor``, ``major``
===================================================== ======= =========================================================

Reasons are those of :class:`memomalloc.Stats`.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Mapping
from typing import Any

from memomalloc.extras import require
from memomalloc.runtime.memory import armed_plan, process_memory


class MetricsCollector:
    """Reads the counters of the process when a scraper asks; costs nothing in between."""

    def __init__(self) -> None:
        self._core: Any = require("prometheus_client.core", extra="metrics", feature="memomalloc.serve.metrics")

    def describe(self) -> Iterable[Any]:
        """Nothing to look at before the first scrape: registering a collector reads no counter."""
        return []

    def collect(self) -> Iterable[Any]:
        """The metrics, as the client wants them."""
        stats, armed = armed_plan.stats(), armed_plan.alive()
        yield self._counter("runs_replayed", "Calls served from a plan.", stats.runs_replayed)
        yield self._counter("runs_recorded", "Calls recorded.", stats.runs_recorded)
        yield self._by_label("runs_unplanned", "Calls that ran as if unwrapped.", "reason", stats.runs_unplanned)
        yield self._counter("requests_served", "Requests served from a plan.", stats.requests_served)
        yield self._by_label(
            "requests_upstream", "Requests of replayed calls sent upstream.", "reason", stats.requests_upstream
        )
        yield self._counter("requests_missing", "Planned requests that did not come.", stats.requests_missing)
        yield self._counter("bad_frees", "Frees in an arena at which nothing lived.", stats.num_bad_frees)
        yield self._gauge("plans", "Plans armed.", stats.num_plans)
        ages = self._core.GaugeMetricFamily(
            "memomalloc_plan_age_seconds", "Since the oldest and the newest plan was armed.", labels=["which"]
        )
        if armed:
            now, armed_at = time.time(), [plan.armed_at_s for plan in armed]
            ages.add_metric(["oldest"], now - min(armed_at))
            ages.add_metric(["newest"], now - max(armed_at))
        yield ages
        # Without a plan there is no planned memory, and the extension may not be there to ask.
        yield from self._memory(process_memory.memory_stats() if armed else process_memory.MemoryStats())
        yield self._gauge("arena_bytes", "Of the arenas of all plans, summed.", stats.arena_bytes)
        yield self._gauge("lower_bound_bytes", "The least that one arena of each plan needs.", stats.lower_bound_bytes)
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield self._by_label(
            "page_faults", "Of the process.", "kind", {"minor": used.ru_minflt, "major": used.ru_majflt}
        )

    def _memory(self, memory: process_memory.MemoryStats) -> Iterable[Any]:
        regions = memory.regions
        yield self._gauge("regions", "Regions with memory.", len(regions))
        yield self._gauge("regions_in_use", "That a call runs on.", sum(region.is_running for region in regions))
        kept = sum(region.num_kept != 0 for region in regions)
        yield self._gauge("regions_kept", "In which tensors live on, other than outputs.", kept)
        yield self._counter("regions_evicted", "Idle regions unmapped to stay within the limit.", memory.num_evicted)
        yield self._counter("memory_refused", "Requests for memory that the limit refused.", memory.num_over_limit)
        yield self._gauge("memory_limit_bytes", "Of regions and outputs together.", memory.limit_bytes)
        yield self._gauge("mapped_bytes", "Of regions and outputs, resident at most.", memory.mapped_bytes)
        yield self._gauge("peak_mapped_bytes", "The most there ever was.", memory.peak_mapped_bytes)
        outputs = sum(region.num_outputs for region in regions)
        yield self._gauge("outputs", "Outputs that live.", outputs)
        yield self._gauge("output_bytes", "Of them.", sum(region.output_bytes for region in regions))
        yield self._counter("released_bytes", "Given back as it lay idle.", memory.released_bytes)

    def _counter(self, name: str, text: str, value: int) -> Any:
        return self._core.CounterMetricFamily(f"memomalloc_{name}", text, value=value)

    def _gauge(self, name: str, text: str, value: int) -> Any:
        return self._core.GaugeMetricFamily(f"memomalloc_{name}", text, value=value)

    def _by_label(self, name: str, text: str, label: str, values: Mapping[str, int]) -> Any:
        family = self._core.CounterMetricFamily(f"memomalloc_{name}", text, labels=[label])
        for value, count in values.items():
            family.add_metric([value], count)
        return family


def register(registry: Any = None) -> MetricsCollector:
    """Let a registry of the Prometheus client export memomalloc's metrics.

    Args:
        registry: a ``prometheus_client.CollectorRegistry``; None: the client's default one.

    Returns:
        What was registered, for ``registry.unregister``.

    Raises:
        MissingDependencyError: the Prometheus client is not installed.
        ValueError: the registry has these metrics already.
    """
    client = require("prometheus_client", extra="metrics", feature="memomalloc.serve.metrics")
    collector = MetricsCollector()
    (registry or client.REGISTRY).register(collector)
    return collector
