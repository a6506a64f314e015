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
``memomalloc_arenas``, ``memomalloc_arenas_in_use``   gauge   arenas that exist, and those that a call runs on
``memomalloc_arenas_evicted_total``                   counter idle arenas unmapped to stay within ``max_bytes``
``memomalloc_mapped_bytes``                           gauge   of all arenas, resident as far as they were used
``memomalloc_arena_bytes``                            gauge   of one arena of each plan
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
from memomalloc.runtime.memory import armed_plan


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
        yield self._gauge("arenas", "Arenas that exist.", stats.num_arenas)
        yield self._gauge("arenas_in_use", "Arenas that a call runs on.", stats.num_arenas_in_use)
        yield self._counter("arenas_evicted", "Idle arenas unmapped to stay within a budget.", stats.arenas_evicted)
        yield self._gauge("mapped_bytes", "Of all arenas, resident as far as they were used.", stats.mapped_bytes)
        yield self._gauge("arena_bytes", "Of one arena of each plan.", stats.arena_bytes)
        yield self._gauge("lower_bound_bytes", "The least that one arena of each plan needs.", stats.lower_bound_bytes)
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield self._by_label(
            "page_faults", "Of the process.", "kind", {"minor": used.ru_minflt, "major": used.ru_majflt}
        )

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
