"""Which placement of the same buffers missed simulated caches least, and its page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memomalloc.bench import row_text as text
from memomalloc.bench.document import checked, results_from, save_document
from memomalloc.bench.machine import describe_machine, describe_versions
from memomalloc.bench.report_tables import Report, ReportTable, conditions_table, geometric_mean

FORMAT = "memomalloc-locality"
VERSION = 1

#: The placement that the others are held against, and its name where it is counted a second time.
REFERENCE = "auto"
AGAIN = f"{REFERENCE} again"
#: A placement is worth an objective of its own in the planner from this mean gain on.
WORTHWHILE_GAIN = 0.01


@dataclass(frozen=True)
class Locality:
    """One model's call, with its buffers in one placement.

    Attributes:
        model: its name.
        input_size: pixels or tokens.
        placement: a planner, or a rule of ``benchmarks/locality.py``.
        arena_bytes: from the first byte to the last.
        num_buffers: in it.
        instructions: of the call.
        first_level_misses: of instructions and data, read and written.
        last_level_misses: the same, of the last level that was simulated.
        cycles: as callgrind estimates them.
    """

    model: str
    input_size: int
    placement: str
    arena_bytes: int
    num_buffers: int
    instructions: int
    first_level_misses: int
    last_level_misses: int
    cycles: int


@dataclass
class LocalityResults:
    """All that one run of ``benchmarks/locality.py`` counted, and what it was taken on.

    Attributes:
        machine: on which the caches were simulated; its own do not matter.
        versions: of Python and the packages.
        first_level_bytes: of the simulated cache.
        last_level_bytes: of the simulated cache.
        rows: in the order in which they were counted.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    first_level_bytes: int
    last_level_bytes: int
    rows: list[Locality] = field(default_factory=list)

    @classmethod
    def here(cls, *, first_level_bytes: int, last_level_bytes: int) -> LocalityResults:
        """Results without rows, of this machine."""
        return cls(describe_machine(), describe_versions(), first_level_bytes, last_level_bytes)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> LocalityResults:
        """The inverse of :meth:`save`.

        Raises:
            ValueError, KeyError: it is none.
        """
        return results_from(cls, document, lambda row: checked(Locality, row, where="row"))

    def save(self, path: str | Path) -> None:
        """Write the file; it appears whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        save_document(path, self, file_format=FORMAT, version=VERSION)

    def over_reference(self, row: Locality, figure: str = "cycles") -> float | None:
        """A figure of a row over that of the reference for the same model; None: that was not counted."""
        of_reference = next(
            (getattr(other, figure) for other in self.rows if (other.model, other.placement) == (row.model, REFERENCE)),
            0,
        )
        return getattr(row, figure) / of_reference if of_reference else None

    def mean_cycles(self, placement: str) -> float | None:
        """The geometric mean of a placement's cycles over the reference's; None: nothing was counted."""
        ratios = [self.over_reference(row) for row in self.rows if row.placement == placement]
        known = [ratio for ratio in ratios if ratio]
        return geometric_mean(known) if known else None

    def best(self) -> tuple[str, float] | None:
        """The placement with the fewest cycles in the mean, and these over the reference's; None: of none."""
        means = {
            name: mean
            for name in dict.fromkeys(row.placement for row in self.rows)
            if name not in (REFERENCE, AGAIN) and (mean := self.mean_cycles(name)) is not None
        }
        return min(means.items(), key=lambda entry: entry[1]) if means else None


def locality_report(results: LocalityResults) -> Report:
    """The page: means, what follows from them, and every model."""
    placements = list(dict.fromkeys(row.placement for row in results.rows))
    models = list(dict.fromkeys(row.model for row in results.rows))
    means = tuple(
        (
            placement,
            _four(results.mean_cycles(placement)),
            *(
                _four(next((results.over_reference(row) for row in results.rows if _is(row, model, placement)), None))
                for model in models
            ),
        )
        for placement in placements
    )
    every = tuple(
        (
            row.model,
            row.placement,
            str(row.input_size),
            text.mebibytes(row.arena_bytes),
            *(_four(results.over_reference(row, f"{level}_level_misses")) for level in ("first", "last")),
            f"{row.last_level_misses:,}",
            f"{row.instructions / 1e6:,.0f}",
        )
        for row in results.rows
    )
    levels = {
        "simulated first level": f"{results.first_level_bytes >> 10} KiB",
        "simulated last level": f"{results.last_level_bytes >> 10} KiB",
    }
    return Report(
        "Where buffers lie, and the caches",
        summary=[
            ReportTable(
                "Estimated cycles",
                f"{_conclusion(results)} The same call, served from plans that differ in where buffers lie alone; "
                "instructions and misses are counted by callgrind's simulation, with one cycle for an instruction, 10 "
                "for a miss of the first level and 100 for one of the last. All figures are over those of "
                f"{REFERENCE}; {AGAIN} is the same plan, counted at the end: so far counts can be trusted.",
                ("placement", "mean", *models),
                means,
                ("placement",),
            )
        ],
        tables=[
            ReportTable(
                "Misses",
                f"Over those of {REFERENCE}; misses of the last level as they are, and instructions in millions.",
                ("model", "placement", "size", "arena, MiB", "first level", "last level", "misses", "instructions"),
                every,
                ("model", "placement"),
            ),
            conditions_table(results.machine, results.versions, levels),
        ],
    )


def _conclusion(results: LocalityResults) -> str:
    best = results.best()
    if best is None:
        return "Nothing was compared."
    name, mean = best
    if mean <= 1 - WORTHWHILE_GAIN:
        return f"The placement {name} costs {100 * (1 - mean):.1f} % fewer cycles in the mean."
    least = "none" if mean >= 1 else f"{100 * (1 - mean):.1f} % fewer cycles"
    return (
        f"No placement gains {100 * WORTHWHILE_GAIN:.0f} % in the mean (the best, {name}: {least}), so the planner has "
        "no second objective: what is packed tightly is as good as what is placed for the caches."
    )


def _is(row: Locality, model: str, placement: str) -> bool:
    return (row.model, row.placement) == (model, placement)


def _four(value: float | None) -> str:
    return text.UNKNOWN if value is None else f"{value:.4f}"
