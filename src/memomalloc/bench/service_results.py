"""What a comparison of whole services found, and what it was taken on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memomalloc.bench.document import checked, require, results_from, text_by_row
from memomalloc.bench.machine import describe_machine, describe_versions, without_load
from memomalloc.data.atomic_file import atomic_file

FORMAT = "memomalloc-service-results"
VERSION = 1

#: How a service's models are dressed: as they are, optimized, compiled, and both.
SIDES = ("plain", "planned", "compiled", "compiled-planned")

#: A rate is too high where more than this share of its requests is left; see :data:`service_load.LATE_SHARE`.
MAX_UNANSWERED_SHARE = 0.01
#: With fewer requests their 99.9th percentile is the largest but one or two.
REQUESTS_FOR_P999 = 1000


@dataclass(frozen=True)
class ServiceCase:
    """A service in one situation.

    Attributes:
        mix: what it is asked for.
        way: how its workers stand beside each other.
        upstream: the allocator underneath.
        side: how its models are dressed; see :data:`SIDES`.
        repetition: from 1; each is a service that was started anew.
    """

    mix: str
    way: str
    upstream: str
    side: str
    repetition: int

    def __str__(self) -> str:
        return f"{self.mix}, {self.way}, {self.side} over {self.upstream}, repetition {self.repetition}"


@dataclass(frozen=True)
class Point:
    """A service at one rate.

    Attributes:
        rate_per_s: at which requests came.
        num_requests: that came.
        num_unanswered: of them; they count with the time that they waited.
        p50_ms, p90_ms, p99_ms, p999_ms, max_ms: latencies, from the moment at which a request was to arrive; None: of
            too few requests.
        slice_p99_ms: p99 of each slice; between them the other services had their turns.
        faults: page faults of a request.
        cpu_s: processor time of a thousand requests.
    """

    rate_per_s: float
    num_requests: int
    num_unanswered: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float | None
    max_ms: float
    slice_p99_ms: list[float]
    faults: float
    cpu_s: float

    @classmethod
    def of(
        cls,
        rate_per_s: float,
        slices_ms: Sequence[NDArray[np.float64]],
        *,
        num_unanswered: int,
        faults: int,
        cpu_s: float,
    ) -> Point:
        """The figures of all slices at one rate."""
        latencies = np.concatenate(slices_ms)
        p50, p90, p99, p999 = (round(float(value), 4) for value in np.quantile(latencies, (0.5, 0.9, 0.99, 0.999)))
        return cls(
            rate_per_s,
            num_requests=len(latencies),
            num_unanswered=num_unanswered,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            p999_ms=p999 if len(latencies) >= REQUESTS_FOR_P999 else None,
            max_ms=round(float(latencies.max()), 4),
            slice_p99_ms=[round(float(np.quantile(part, 0.99)), 4) for part in slices_ms],
            faults=faults / len(latencies),
            cpu_s=1000 * cpu_s / len(latencies),
        )

    @property
    def keeps_up(self) -> bool:
        """Whether requests were answered as fast as they came."""
        return self.num_unanswered <= MAX_UNANSWERED_SHARE * self.num_requests


@dataclass(frozen=True)
class ServiceRow:
    """A service, measured. Memory is the growth over the service that had loaded its models, of all its processes.

    Attributes:
        mix, way, upstream, side, repetition: as in :class:`ServiceCase`.
        saturated_per_s: requests answered in a second when there are always more.
        first_request_ms: the mean latency of the first request to each model.
        first_planned_s: from the first request until one was replayed; None: none was.
        first_planned_requests: so many were answered until then.
        peak_bytes: the most memory, with learning and saturation; of processes the sum of each one's most.
        steady_bytes: the median in the second half of the load of which ``curve`` is.
        rest_bytes: after idle seconds at the end of that load.
        curve: seconds and MiB, while that load came and afterwards.
        num_recordings: calls that were recorded.
        num_replayed: calls that were replayed.
        served_share: of the requests for tensors in replayed calls, those that plans served; None: none was replayed.
        results_equal: outputs with and without plans were equal bit for bit, as far as compared; None: without plans.
        points: at all rates, from the lowest; those above a rate at which it did not keep up are left out.
        error: why there are no figures; empty if there are.
    """

    mix: str
    way: str
    upstream: str
    side: str
    repetition: int
    saturated_per_s: float = 0.0
    first_request_ms: float = 0.0
    first_planned_s: float | None = None
    first_planned_requests: int | None = None
    peak_bytes: int = 0
    steady_bytes: int = 0
    rest_bytes: int = 0
    curve: list[list[float]] = field(default_factory=list)
    num_recordings: int = 0
    num_replayed: int = 0
    served_share: float | None = None
    results_equal: bool | None = None
    points: list[Point] = field(default_factory=list)
    error: str = ""

    @property
    def case(self) -> ServiceCase:
        """What was measured."""
        return ServiceCase(self.mix, self.way, self.upstream, self.side, self.repetition)

    @classmethod
    def from_dict(cls, values: Any) -> ServiceRow:
        """The row in a document.

        Raises:
            ValueError: it is none.
        """
        require(values, dict, "row")
        require(values.get("points", []), list[dict], "row.points")  # type: ignore[type-arg]
        points = [checked(Point, point, where="row.points") for point in values.get("points", [])]
        for point in values.get("curve", []) if isinstance(values.get("curve", []), list) else []:
            if not isinstance(point, list) or len(point) != 2:
                raise ValueError("each entry of row.curve must be two numbers")
        return dataclasses.replace(checked(cls, {**values, "points": []}, where="row"), points=points)


def highest_rate(points: Sequence[Point], limit_ms: float) -> float | None:
    """The highest rate at which p99 is at most ``limit_ms``, between the measured ones by the logarithm of p99.

    Returns:
        Requests a second: at least the highest measured rate where p99 is within the limit there; None where it is
        above the limit at the lowest.
    """
    below: Point | None = None
    for point in sorted(points, key=lambda point: point.rate_per_s):
        if point.p99_ms <= limit_ms and point.keeps_up:
            below = point
            continue
        if below is None:
            return None
        if point.p99_ms <= limit_ms or below.p99_ms == 0:
            break
        share = math.log(limit_ms / below.p99_ms) / math.log(point.p99_ms / below.p99_ms)
        return below.rate_per_s + share * (point.rate_per_s - below.rate_per_s)
    return None if below is None else below.rate_per_s


@dataclass
class ServiceResults:
    """All that one measuring session found.

    Attributes:
        machine: processor, memory, kernel.
        versions: of Python and the packages.
        seed: of weights, inputs and arrivals.
        workers: of each service.
        seconds: for which a rate was held, in slices.
        smoke: whether all was small, only to see that it works.
        mixes: what each is, by name.
        rates: requests a second, in order, by mix and way.
        environment: for each upstream, the variables that its processes ran with.
        rows: in the order in which they were measured.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    seed: int
    workers: int
    seconds: float
    smoke: bool
    mixes: dict[str, str] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    environment: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: list[ServiceRow] = field(default_factory=list)

    @classmethod
    def here(cls, *, seed: int, workers: int, seconds: float, smoke: bool) -> ServiceResults:
        """Results without rows, of this machine."""
        return cls(describe_machine(), describe_versions(), seed, workers, seconds, smoke)

    def conditions(self) -> dict[str, Any]:
        """What must be the same where rows of two sessions stand side by side: all but how busy the machine was."""
        return {
            "machine": without_load(self.machine),
            "versions": self.versions,
            "seed": self.seed,
            "workers": self.workers,
            "seconds": self.seconds,
            "smoke": self.smoke,
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> ServiceResults:
        """The inverse of :meth:`save`.

        Raises:
            ValueError, KeyError: it is none.
        """
        return results_from(cls, document, ServiceRow.from_dict)

    def save(self, path: str | Path) -> None:
        """Write the file; it appears whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        header = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        with atomic_file(path) as file:
            file.write(text_by_row(header, header.pop("rows")).encode())
