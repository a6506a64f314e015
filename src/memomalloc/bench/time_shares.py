"""Where the time of replayed calls went, and its page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memomalloc.bench import row_text as text
from memomalloc.bench.document import checked, results_from, save_document
from memomalloc.bench.machine import describe_machine, describe_versions
from memomalloc.bench.report_tables import Report, ReportTable, conditions_table

FORMAT = "memomalloc-time-shares"
VERSION = 1

#: Operators that are worth naming; all others are summed.
NUM_OPERATORS = 4


@dataclass(frozen=True)
class TimeShare:
    """One model in one situation.

    Attributes:
        model: its name.
        batch: samples of one call.
        input_size: of a sample.
        cpu_ms: processor time of one replayed call.
        kernel_share: of it, what the kernel took; 0 to 1.
        operator_shares: under the profiler, each operator's own time, of all of it; the largest first.
    """

    model: str
    batch: int
    input_size: int
    cpu_ms: float
    kernel_share: float
    operator_shares: dict[str, float]

    def operators_text(self) -> str:
        """The operators that take most, and the sum of the others."""
        top = list(self.operator_shares.items())[:NUM_OPERATORS]
        others = 1 - sum(share for _, share in top)
        return ", ".join(f"{name} {100 * share:.0f} %" for name, share in [*top, ("others", others)])


@dataclass
class TimeShares:
    """All that one run of ``benchmarks/time_shares.py`` found, and what it was taken on.

    Attributes:
        machine: processor, memory, kernel.
        versions: of Python and the packages.
        calls: over which the times were taken.
        rows: in the order in which they were measured.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    calls: int
    rows: list[TimeShare] = field(default_factory=list)

    @classmethod
    def here(cls, *, calls: int) -> TimeShares:
        """Results without rows, of this machine."""
        return cls(describe_machine(), describe_versions(), calls)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> TimeShares:
        """The inverse of :meth:`save`.

        Raises:
            ValueError, KeyError: it is none.
        """
        return results_from(cls, document, lambda row: checked(TimeShare, row, where="row"))

    def save(self, path: str | Path) -> None:
        """Write the file; it appears whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        save_document(path, self, file_format=FORMAT, version=VERSION)


def time_report(results: TimeShares) -> Report:
    """The page: a table, and what can be concluded from it."""
    rows = tuple(
        (
            row.model,
            str(row.batch),
            str(row.input_size),
            text.milliseconds(row.cpu_ms),
            "<0.1 %" if row.kernel_share < 0.0005 else f"{100 * row.kernel_share:.1f} %",
            row.operators_text(),
        )
        for row in results.rows
    )
    return Report(
        "Where the remaining time goes",
        summary=[
            ReportTable(
                "Time of a replayed call",
                "Processor time of one call that is served from its plan, one thread; the kernel's share of it, which "
                "is all that page faults and system calls can still cost; and the operators' own time under the "
                "profiler. What the kernel does not take is arithmetic and the dispatch of operators: no allocator "
                "and no plan can make that faster.",
                ("model", "batch", "size", "CPU, ms", "kernel", "operators, of their own time"),
                rows,
                ("model", "operators, of their own time"),
            )
        ],
        tables=[conditions_table(results.machine, results.versions, {"calls of a row": str(results.calls)})],
    )
