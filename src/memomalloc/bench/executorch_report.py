"""What a comparison with ExecuTorch's memory planning found, and its page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memomalloc.bench import row_text as text
from memomalloc.bench.document import checked, results_from, save_document
from memomalloc.bench.machine import describe_machine, describe_versions
from memomalloc.bench.report_tables import Report, ReportTable, conditions_table, geometric_mean

FORMAT = "memomalloc-executorch-results"
VERSION = 1


@dataclass(frozen=True)
class ExecutorchRow:
    """One model.

    Attributes:
        model: its name.
        input_size: of a sample.
        size_unit: what it counts.
        num_tensors: that were planned.
        own_bytes: all banks as ExecuTorch plans them.
        planned_bytes: all banks as memomalloc plans them.
        lower_bound_bytes: no plan can need less.
        planning_ms: processor time of memomalloc's planning.
        same_bits: the outputs of the two programs are equal bit for bit; None: not run.
    """

    model: str
    input_size: int
    size_unit: str
    num_tensors: int
    own_bytes: int
    planned_bytes: int
    lower_bound_bytes: int
    planning_ms: float
    same_bits: bool | None

    @property
    def ratio(self) -> float:
        """memomalloc's bytes for one of ExecuTorch's."""
        return self.planned_bytes / self.own_bytes


@dataclass
class ExecutorchResults:
    """Every row of one comparison, and what it was taken on.

    Attributes:
        machine: processor, memory, kernel.
        versions: of Python and the packages.
        rows: in the order in which they were measured.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    rows: list[ExecutorchRow] = field(default_factory=list)

    @classmethod
    def here(cls) -> ExecutorchResults:
        """Results without rows, of this machine."""
        return cls(describe_machine(), describe_versions())

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> ExecutorchResults:
        """The inverse of :meth:`save`.

        Raises:
            ValueError, KeyError: it is none.
        """
        return results_from(cls, document, lambda row: checked(ExecutorchRow, row, where="row"))

    def save(self, path: str | Path) -> None:
        """Write the file; it appears whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        save_document(path, self, file_format=FORMAT, version=VERSION)


def executorch_report(results: ExecutorchResults) -> Report:
    """The page: a table, and what it was taken on."""
    rows = tuple(
        (
            row.model,
            f"{row.input_size} {row.size_unit}",
            str(row.num_tensors),
            f"{row.own_bytes:,}",
            f"{row.planned_bytes:,}",
            f"{100 * (row.ratio - 1):+.1f} %",
            f"{100 * (row.planned_bytes / row.lower_bound_bytes - 1):.1f} %",
            text.milliseconds(row.planning_ms),
            {True: "yes", False: "**no**", None: text.UNKNOWN}[row.same_bits],
        )
        for row in results.rows
    )
    mean = geometric_mean(row.ratio for row in results.rows)
    return Report(
        "ExecuTorch's memory, planned by memomalloc",
        summary=[
            ReportTable(
                "Bytes beside ExecuTorch's own planner",
                "Programs made twice of one model with random weights, batch 1, for the portable kernels: with "
                "ExecuTorch's memory planning (greedy by size) and with `memory_planning_pass()`. Bytes are all "
                "planned buffers, inputs and outputs among them; the mean of the changes (geometric) is "
                f"{100 * (mean - 1):+.1f} %. No plan needs less than the bound. Planning is processor time. Equal: "
                "both programs were run by ExecuTorch's runtime on the same inputs, and their outputs compared bit "
                "for bit (-: not run).",
                (
                    *("model", "input", "tensors", "ExecuTorch", "memomalloc", "change", "above the bound"),
                    *("planning, ms", "equal"),
                ),
                rows,
                ("model", "input", "equal"),
            )
        ],
        tables=[conditions_table(results.machine, results.versions, {})],
    )
