"""The result of one case."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memomalloc.bench.case import Case
from memomalloc.bench.document import checked

#: What can become of a case. "ok" is a measurement; "deviated" one in which not every request was served from the
#: plan; the others have no ratio that means anything.
STATUSES = ("ok", "deviated", "different_results", "unplanned", "failed", "out_of_memory", "timed_out")

#: A median ratio above this, with its whole interval above 1, is called a gain; below the second, a loss.
GAIN_RATIO = 1.01
LOSS_RATIO = 0.99
#: With fewer pairs no interval reaches 95 % confidence.
PAIRS_FOR_A_VERDICT = 6


@dataclass(frozen=True)
class Row:
    """One case, measured. Figures are None where they were not measured.

    Latencies are in milliseconds, of one call. Counters are per call. ``upstream`` means the allocator underneath,
    ``planned`` the same calls replayed.

    Attributes:
        status: see :data:`STATUSES`.
        error: what went wrong; empty where nothing did.
        ratio_median: median of upstream's latency over the planned one, pair by pair; above 1 the plan is faster.
        ratio_p10: a tenth of the pairs had a lower ratio.
        ratio_p90: a tenth of the pairs had a higher ratio.
        ratio_low: with 95 % confidence the median ratio is at least this.
        ratio_high: with 95 % confidence the median ratio is at most this.
        upstream_calls_per_s: throughput of all workers together.
        upstream_cpu_ms: processor time of one call, the kernel's included.
        upstream_kernel_ms: the kernel's part of it.
        upstream_futex_calls: system calls that wait for or wake a thread; counted in a run of its own.
        upstream_peak_bytes: growth of the process's physical memory at the fullest moment of some calls, in a process
            in which upstream has not served a tensor before.
        upstream_steady_bytes: what of it was still there after these calls.
        planned_peak_bytes: the same, replayed, arenas included.
        planned_steady_bytes: the same, replayed, arenas included.
        arena_bytes: of one arena of the plan.
        num_arenas: arenas in use at once.
        lower_bound_bytes: the largest sum of tensors alive at once; no arena can be smaller.
        requests_per_call: tensor allocations that the plan foresees.
        requests_served_share: requests served from the plan, of all requests in the replayed calls; 0 to 1.
        requests_upstream: requests that were not, by reason, over all replayed calls.
        results_equal: outputs with and without the plan were equal bit for bit.
        planner: who planned.
        plan_s: how long planning took.
        num_processes: in so many processes the pairs were taken.
        elapsed_s: how long the whole row took, with building and compiling the model.
        samples: the latencies in milliseconds, ``upstream_ms`` and ``planned_ms``, in the order of the pairs, process
            by process; ``pairs_of_process`` has their numbers.
    """

    suite: str
    model: str
    batch: int
    input_size: int
    workers: int
    intra_op_threads: int
    mode: str
    upstream: str
    status: str
    error: str = ""
    ratio_median: float | None = None
    ratio_p10: float | None = None
    ratio_p90: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    num_pairs: int = 0
    upstream_p50_ms: float | None = None
    planned_p50_ms: float | None = None
    upstream_p90_ms: float | None = None
    planned_p90_ms: float | None = None
    upstream_p99_ms: float | None = None
    planned_p99_ms: float | None = None
    upstream_calls_per_s: float | None = None
    planned_calls_per_s: float | None = None
    upstream_cpu_ms: float | None = None
    planned_cpu_ms: float | None = None
    upstream_kernel_ms: float | None = None
    planned_kernel_ms: float | None = None
    upstream_minor_faults: float | None = None
    planned_minor_faults: float | None = None
    upstream_voluntary_switches: float | None = None
    planned_voluntary_switches: float | None = None
    upstream_futex_calls: float | None = None
    planned_futex_calls: float | None = None
    upstream_peak_bytes: int | None = None
    planned_peak_bytes: int | None = None
    upstream_steady_bytes: int | None = None
    planned_steady_bytes: int | None = None
    arena_bytes: int | None = None
    num_arenas: int | None = None
    lower_bound_bytes: int | None = None
    requests_per_call: int | None = None
    requests_served_share: float | None = None
    requests_upstream: Mapping[str, int] = field(default_factory=dict)
    results_equal: bool | None = None
    planner: str = ""
    plan_s: float | None = None
    num_processes: int = 0
    elapsed_s: float | None = None
    samples: Mapping[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of_case(cls, case: Case, *, status: str, **figures: Any) -> Row:
        """A row of ``case``."""
        return cls(**case.as_dict(), status=status, **figures)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """A row from a results file; fields of a later version are left out.

        Raises:
            ValueError: a field that says which case it is, or its status, is missing, or a figure is none.
        """
        row = checked(cls, values, where="row")
        if any(ratio is not None and ratio <= 0 for ratio in (row.ratio_median, row.ratio_low, row.ratio_high)):
            raise ValueError("a ratio of latencies is above 0")
        if row.requests_served_share is not None and row.requests_served_share > 1:
            raise ValueError("a share is at most 1")
        return row

    @property
    def case(self) -> Case:
        """What was measured."""
        return Case(**{entry.name: getattr(self, entry.name) for entry in dataclasses.fields(Case)})

    @property
    def verdict(self) -> str:
        """One of gain, none, loss and too_few_pairs where a ratio was measured, else the status."""
        if self.ratio_median is None or self.ratio_low is None or self.ratio_high is None:
            return self.status
        if self.num_pairs < PAIRS_FOR_A_VERDICT:
            return "too_few_pairs"
        if self.ratio_median >= GAIN_RATIO and self.ratio_low > 1:
            return "gain"
        if self.ratio_median < LOSS_RATIO and self.ratio_high < 1:
            return "loss"
        return "none"

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return dataclasses.asdict(self)


#: Figures of pooled rows: the middle one for memory (an amount is never a mean), the sum, else the mean over pairs.
_MEDIANS = tuple(f"{side}_{what}_bytes" for side in ("upstream", "planned") for what in ("peak", "steady"))
_SUMS = ("num_processes", "elapsed_s")
_MEANS = (
    *(
        f"{side}_{what}"
        for side in ("upstream", "planned")
        for what in ("calls_per_s", "cpu_ms", "kernel_ms", "minor_faults", "voluntary_switches", "futex_calls")
    ),
    "requests_served_share",
)


def latency_figures(upstream_ms: Sequence[float], planned_ms: Sequence[float]) -> dict[str, Any]:
    """What a row says about paired latencies: sample ``i`` of one side belongs to sample ``i`` of the other."""
    ratios = np.asarray(upstream_ms, dtype=np.float64) / np.asarray(planned_ms, dtype=np.float64)
    low, high = median_interval(ratios)
    figures: dict[str, Any] = {
        "num_pairs": len(ratios),
        "ratio_median": float(np.median(ratios)),
        "ratio_p10": float(np.percentile(ratios, 10)),
        "ratio_p90": float(np.percentile(ratios, 90)),
        "ratio_low": low,
        "ratio_high": high,
    }
    for side, samples in (("upstream", upstream_ms), ("planned", planned_ms)):
        for percent in (50, 90, 99):
            figures[f"{side}_p{percent}_ms"] = float(np.percentile(samples, percent))
    return figures


def median_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Between these two lies the true median, with 95 % confidence.

    From order statistics, so it assumes no distribution: ranks n/2 -+ 0.98 sqrt(n) (Conover, Practical Nonparametric
    Statistics, 1999, section 3.2), at worst the smallest and the largest value.
    """
    ordered = np.sort(values)
    half_width = 0.98 * np.sqrt(len(ordered))
    low = max(int(np.floor(len(ordered) / 2 - half_width)), 0)
    high = min(int(np.ceil(len(ordered) / 2 + half_width)), len(ordered) - 1)
    return float(ordered[low]), float(ordered[high])


def pooled(rows: Sequence[Row]) -> Row:
    """One row of several that measured the same case, each in a process of its own.

    The status is that of the first that is not "ok".
    """
    if len(rows) == 1:
        return rows[0]
    verdict = next((row for row in rows if row.status != "ok"), rows[0])
    samples: dict[str, list[float]] = {
        name: [sample for row in rows for sample in row.samples[name]] for name in rows[0].samples
    }
    weights = [row.num_pairs for row in rows]
    figures: dict[str, Any] = {}
    for name in (*_MEDIANS, *_MEANS, *_SUMS):
        values = [getattr(row, name) for row in rows]
        if any(value is None for value in values):
            figures[name] = None
        elif name in _MEDIANS:
            figures[name] = int(np.median(values))
        elif name in _SUMS:
            figures[name] = sum(values)
        else:
            figures[name] = float(np.average(values, weights=weights))
    reasons = {
        reason: sum(row.requests_upstream.get(reason, 0) for row in rows) for reason in rows[0].requests_upstream
    }
    return dataclasses.replace(
        rows[0],
        status=verdict.status,
        error=verdict.error,
        results_equal=None
        if any(row.results_equal is None for row in rows)
        else all(row.results_equal for row in rows),
        requests_upstream=reasons,
        samples=samples,
        **figures,
        **latency_figures(samples["upstream_ms"], samples["planned_ms"]),
    )
