"""What is said of whole services: lines, tables and pictures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from memomalloc.bench import row_text as text
from memomalloc.bench.plots import pyplot, rendered
from memomalloc.bench.report_tables import Report, ReportTable, conditions_table, environment_entries
from memomalloc.bench.service_results import Point, ServiceResults, ServiceRow, highest_rate
from memomalloc.bench.upstream import UPSTREAMS
from memomalloc.harmless_text import harmless, markdown_text

#: A service is called good up to a p99 of so many times the least that any service without plans has when it is calm.
LIMIT_FACTOR = 2.0
#: Whose highest rate the others are compared with.
RIVAL = "tcmalloc"

_UNKNOWN = text.UNKNOWN
_COLORS = ("#4c566a", "#8a6d3b", "#b5446e", "#d08770", "#2a9d8f", "#1f6feb", "#7b5ea7")


@dataclass(frozen=True)
class Spread:
    """A figure over repetitions: the median, the least, the most; in brackets where there are several."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """That of the figures there are; None: of none."""
        known = sorted(value for value in values if value is not None)
        return cls(statistics.median(known), known[0], known[-1]) if known else None


def _shown(spread: Spread | None, show: Callable[[float], str]) -> str:
    if spread is None:
        return _UNKNOWN
    around = "" if spread.low == spread.high else f" ({show(spread.low)} to {show(spread.high)})"
    return show(spread.median) + around


class ServiceGroup:
    """The rows of one mix and way.

    Args:
        mix: what was asked.
        way: how workers stand beside each other.
        results: with rows of it.
    """

    def __init__(self, mix: str, way: str, results: ServiceResults) -> None:
        self.mix, self.way = mix, way
        self.rows = [row for row in results.rows if (row.mix, row.way) == (mix, way)]
        self.measured = [row for row in self.rows if not row.error]
        self.rates = results.rates.get(f"{mix}, {way}", [])
        order = list(UPSTREAMS)
        #: Upstream and side of each service, in the order of reports.
        self.services = sorted(
            dict.fromkeys((row.upstream, row.side) for row in self.rows),
            key=lambda service: order.index(service[0]) if service[0] in order else len(order),
        )

    def of(self, upstream: str, side: str) -> list[ServiceRow]:
        """The repetitions of one service."""
        return [row for row in self.measured if (row.upstream, row.side) == (upstream, side)]

    @property
    def plain(self) -> list[str]:
        """The upstreams over which a service without plans, and not compiled, was measured."""
        return [upstream for upstream, side in self.services if side == "plain" and self.of(upstream, side)]

    @property
    def limit_ms(self) -> float | None:
        """The p99 up to which a service is called good: of all the same."""
        calm = [
            statistics.median(row.points[0].p99_ms for row in rows)
            for rows in (self.of(upstream, "plain") for upstream in self.plain)
            if all(row.points for row in rows)
        ]
        return LIMIT_FACTOR * min(calm) if calm else None

    def highest(self, row: ServiceRow) -> float | None:
        """The highest rate at which a row is within the limit."""
        return None if self.limit_ms is None else highest_rate(row.points, self.limit_ms)

    def over_rival(self, upstream: str, side: str) -> Spread | None:
        """A service's highest rate over the rival's without plans, repetition by repetition."""
        rivals = {row.repetition: self.highest(row) for row in self.of(RIVAL, "plain")}
        pairs = [(self.highest(row), rivals.get(row.repetition)) for row in self.of(upstream, side)]
        return Spread.of(mine / theirs for mine, theirs in pairs if mine is not None and theirs)

    def p99_ms(self, upstream: str, side: str, rate: float) -> Spread | None:
        """p99 at a rate, as far as the service kept up there."""
        points = (_point(row, rate) for row in self.of(upstream, side))
        return Spread.of(point.p99_ms for point in points if point is not None and point.keeps_up)

    def beside_best_p99(self, upstream: str, side: str) -> list[float | None]:
        """For each rate: p99 over the least that a service without plans has there; None: unknown."""
        ratios: list[float | None] = []
        for rate in self.rates:
            mine = self.p99_ms(upstream, side, rate)
            others = [found.median for name in self.plain if (found := self.p99_ms(name, "plain", rate))]
            ratios.append(mine.median / min(others) if mine is not None and others and min(others) else None)
        return ratios

    def beside_best(self, upstream: str, side: str, figure: str) -> float | None:
        """A figure of memory over the least that a service without plans has; None: unknown."""
        mine = self.spread(upstream, side, figure)
        others = [found.median for name in self.plain if (found := self.spread(name, "plain", figure))]
        return mine.median / min(others) if mine is not None and others and min(others) else None

    def spread(self, upstream: str, side: str, figure: str) -> Spread | None:
        """A figure of rows over the repetitions of a service."""
        return Spread.of(getattr(row, figure) for row in self.of(upstream, side))


def groups_of(results: ServiceResults) -> list[ServiceGroup]:
    """All mixes and ways."""
    return [ServiceGroup(mix, way, results) for mix, way in dict.fromkeys((row.mix, row.way) for row in results.rows)]


def _point(row: ServiceRow, rate: float) -> Point | None:
    return next((point for point in row.points if point.rate_per_s == rate), None)


def row_text(row: ServiceRow) -> str:
    """One row in a line."""
    if row.error:
        return f"{row.case}: {row.error}"
    line = f"{row.case}: {text.count(row.saturated_per_s)} requests/s at most"
    kept_up = [point for point in row.points if point.keeps_up]
    if kept_up:
        line += f", p99 {text.milliseconds(kept_up[-1].p99_ms)} ms at {kept_up[-1].rate_per_s:g}/s"
    line += f"; peak {text.mebibytes(row.peak_bytes)}, at rest {text.mebibytes(row.rest_bytes)} MiB"
    return line + ("; DIFFERENT RESULTS" if row.results_equal is False else "")


def service_report(results: ServiceResults) -> Report:
    """The page: what services can take, planned ones beside the best others, and each mix by itself."""
    groups = groups_of(results)
    return Report(
        "Whole services",
        summary=[_highest_table(groups), _beside_table(groups)],
        tables=[
            *(table for group in groups for table in (_latency_table(group, results), _cost_table(group))),
            _conditions(results),
        ],
        without_gain=[row_text(row) for row in results.rows if row.error or row.results_equal is False],
    )


def _highest_table(groups: Sequence[ServiceGroup]) -> ReportTable:
    rows = []
    for group in groups:
        for upstream, side in group.services:
            repetitions = group.of(upstream, side)
            if repetitions:
                by_own = Spread.of(_rate_within_twice_p50(row) for row in repetitions)
                rows.append(
                    (
                        *(group.mix, group.way, upstream, side),
                        text.milliseconds(group.limit_ms),
                        _shown(Spread.of(group.highest(row) for row in repetitions), text.milliseconds),
                        _shown(group.over_rival(upstream, side), text.ratio),
                        _shown(by_own, text.milliseconds),
                        _shown(group.spread(upstream, side, "saturated_per_s"), text.milliseconds),
                    )
                )
    return ReportTable(
        "What services can take",
        f"Requests a second. Limit: {LIMIT_FACTOR:g} times the least p99 that a service without plans has at the "
        "lowest rate, in milliseconds; highest: the highest rate whose p99 is within the limit, between measured "
        f"rates by the logarithm of p99; over {RIVAL}: that over the highest rate of {RIVAL} without plans, of the "
        "same repetition; p99 up to 2 p50: the highest measured rate at which a service's p99 is at most twice its own "
        "p50; saturated: answered when there are always more. The median of the repetitions, and in brackets the least "
        "and the most.",
        (
            *("mix", "workers as", "upstream", "side", "limit", "highest", f"over {RIVAL}"),
            *("p99 up to 2 p50", "saturated"),
        ),
        tuple(rows),
        ("mix", "workers as", "upstream", "side"),
    )


def _rate_within_twice_p50(row: ServiceRow) -> float | None:
    return max(
        (point.rate_per_s for point in row.points if point.keeps_up and point.p99_ms <= 2 * point.p50_ms), default=None
    )


def _beside_table(groups: Sequence[ServiceGroup]) -> ReportTable:
    rows = []
    for group in groups:
        for upstream, side in group.services:
            if side == "planned" and group.of(upstream, side):
                rows.append(
                    (
                        *(group.mix, group.way, upstream),
                        ", ".join(_bold_above_1(value) for value in group.beside_best_p99(upstream, side)),
                        *(
                            _bold_above_1(group.beside_best(upstream, side, figure))
                            for figure in ("peak_bytes", "steady_bytes", "rest_bytes")
                        ),
                    )
                )
    return ReportTable(
        "Planned, beside the best without plans",
        "p99: at each measured rate, from the lowest, over the least that any allocator without plans has there (-: it "
        "did not keep up). Memory: over the least of any. Bold: more.",
        ("mix", "workers as", "upstream", "p99", "peak", "steady", "at rest"),
        tuple(rows),
        ("mix", "workers as", "upstream"),
    )


def _bold_above_1(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"**{value:.2f}**" if round(value, 2) > 1 else f"{value:.2f}"


def _latency_table(group: ServiceGroup, results: ServiceResults) -> ReportTable:
    what = markdown_text(results.mixes.get(group.mix, group.mix))
    rows = []
    for upstream, side in group.services:
        repetitions = group.of(upstream, side)
        cells = []
        for rate in group.rates:
            points = [point for row in repetitions if (point := _point(row, rate)) is not None and point.keeps_up]
            latencies = (
                Spread.of(getattr(point, name) for point in points) for name in ("p50_ms", "p99_ms", "p999_ms")
            )
            cells.append(" / ".join(_UNKNOWN if each is None else text.milliseconds(each.median) for each in latencies))
        rows.append((upstream, side, *cells))
    return ReportTable(
        f"{group.mix}, workers as {group.way}: latency",
        f"{what[:1].upper()}{what[1:]}. Milliseconds from when a request was to come, p50 / p99 / p99.9, at so many "
        "requests a second; the medians of the repetitions. -: it did not keep up; p99.9: fewer than 1,000 requests.",
        ("upstream", "side", *(f"{rate:g}/s" for rate in group.rates)),
        tuple(rows),
        ("upstream", "side"),
    )


def _cost_table(group: ServiceGroup) -> ReportTable:
    rate = group.rates[min(1, len(group.rates) - 1)] if group.rates else 0.0
    rows = []
    for upstream, side in group.services:
        points = [point for row in group.of(upstream, side) if (point := _point(row, rate)) is not None]
        figures = {
            name: group.spread(upstream, side, name)
            for name in ("peak_bytes", "steady_bytes", "rest_bytes", "first_request_ms", "first_planned_s")
        }
        requests = group.spread(upstream, side, "first_planned_requests")
        served = group.spread(upstream, side, "served_share")
        rows.append(
            (
                upstream,
                side,
                *(
                    _shown(figures[name], lambda value: text.mebibytes(round(value)))
                    for name in ("peak_bytes", "steady_bytes", "rest_bytes")
                ),
                _shown(Spread.of(point.faults for point in points), text.count),
                _shown(Spread.of(point.cpu_s for point in points), lambda value: f"{value:.3g}"),
                _shown(figures["first_request_ms"], text.milliseconds),
                _shown(figures["first_planned_s"], lambda value: f"{value:.2f}"),
                _UNKNOWN if requests is None else f"{requests.median:.0f}",
                text.share(None if served is None else served.low),
            )
        )
    return ReportTable(
        f"{group.mix}, workers as {group.way}: memory and cost",
        "MiB by which physical memory has grown over the service that had loaded its models: at the most (with "
        "learning and saturation), steady (under load), at rest (idle for 12 seconds). "
        f"At {rate:g} requests a second: page faults of a request, seconds of processor of a thousand. "
        "First: the mean latency of the first request to each model, in milliseconds. Planned after: seconds, and "
        "requests, until the first one was replayed. Served: of the requests for tensors in replayed calls, by their "
        "plans; the least.",
        (
            *("upstream", "side", "peak", "steady", "at rest", "faults", "CPU, s/1,000", "first, ms"),
            *("planned after, s", "requests", "served"),
        ),
        tuple(rows),
        ("upstream", "side"),
    )


def _conditions(results: ServiceResults) -> ReportTable:
    others = {
        "workers": str(results.workers),
        "intra-op threads": "1",
        "seconds of a rate": f"{results.seconds:g}",
        "repetitions": str(max((row.repetition for row in results.rows), default=0)),
        "seed": str(results.seed),
        **environment_entries(results.environment),
    }
    if results.smoke:
        others["smoke"] = "yes: small inputs, whose figures mean nothing"
    return conditions_table(results.machine, results.versions, others)


def draw_service(results: ServiceResults) -> dict[str, dict[str, bytes]]:
    """For each mix and way: p99 over the rate, and memory over time, as PNG and SVG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = pyplot()
    pictures = {}
    for group in groups_of(results):
        name = harmless(f"{group.mix}, {group.way}")
        if any(row.points for row in group.measured):
            pictures[f"Latency over rate, {name}"] = _latencies(plt, group)
        if any(row.curve for row in group.measured):
            pictures[f"Memory over time, {name}"] = _memory(plt, group)
    return pictures


def _style(group: ServiceGroup, upstream: str, side: str) -> dict[str, Any]:
    upstreams = list(dict.fromkeys(name for name, _ in group.services))
    return {
        "color": _COLORS[upstreams.index(upstream) % len(_COLORS)],
        "linestyle": {"plain": "--", "planned": "-", "compiled": ":"}.get(side, "-."),
        "linewidth": 1.6 if "planned" in side else 1.1,
        "label": harmless(f"{upstream}, {side}"),
    }


def _latencies(plt: Any, group: ServiceGroup) -> dict[str, bytes]:
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for upstream, side in group.services:
        known = [(rate, found) for rate in group.rates if (found := group.p99_ms(upstream, side, rate)) is not None]
        if known:
            rates = [rate for rate, _ in known]
            style = _style(group, upstream, side)
            axes.plot(rates, [found.median for _, found in known], marker="o", markersize=3, **style)
            low, high = [found.low for _, found in known], [found.high for _, found in known]
            axes.fill_between(rates, low, high, color=style["color"], alpha=0.08, linewidth=0)
    if group.limit_ms is not None:
        axes.axhline(group.limit_ms, color="black", lw=0.8)
    axes.set_yscale("log")
    # Numbers, not powers of ten; ticks between them have none.
    axes.yaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(plt.NullFormatter())
    axes.set_xlabel("requests a second, as far as the service kept up")
    axes.set_ylabel("p99, ms (line: the limit; shade: all repetitions)")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7)
    return rendered(plt, figure)


def _memory(plt: Any, group: ServiceGroup) -> dict[str, bytes]:
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for upstream, side in group.services:
        row = next((row for row in group.of(upstream, side) if row.curve), None)
        if row is not None:
            axes.plot(*zip(*row.curve, strict=True), **_style(group, upstream, side))
    most = max(mebibytes for row in group.measured for _, mebibytes in row.curve)
    axes.set_ylim(0, 1.05 * most or None)
    axes.set_xlabel("seconds: under load, then at rest (first repetition)")
    axes.set_ylabel("growth of physical memory, MiB")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7)
    return rendered(plt, figure)
