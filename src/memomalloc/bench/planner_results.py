"""What a comparison of planners found, and what it was taken on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memomalloc.bench.document import checked, results_from
from memomalloc.bench.machine import describe_machine, describe_versions
from memomalloc.bench.planners import Measurement
from memomalloc.data.atomic_file import atomic_file

FORMAT = "memomalloc-planner-results"
VERSION = 1


@dataclass
class PlannerResults:
    """Every measurement of one comparison.

    Attributes:
        machine: processor, memory, kernel.
        versions: of Python and the packages.
        time_limit_s: of each search, in seconds.
        seed: of the random choices.
        rows: in the order in which they were measured: all planners on one instance, then the next.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    time_limit_s: float
    seed: int
    rows: list[Measurement] = field(default_factory=list)

    @classmethod
    def here(cls, *, time_limit_s: float, seed: int) -> PlannerResults:
        """Results without rows, of this machine."""
        return cls(describe_machine(), describe_versions(), time_limit_s, seed)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> PlannerResults:
        """The inverse of :meth:`save`.

        Raises:
            ValueError, KeyError: it is none.
        """
        return results_from(cls, document, lambda row: checked(Measurement, row, where="row"))

    def by_instance(self) -> dict[str, list[Measurement]]:
        """The measurements of each instance, by its name."""
        groups: dict[str, list[Measurement]] = {}
        for row in self.rows:
            groups.setdefault(row.instance, []).append(row)
        return groups

    def save(self, path: str | Path) -> None:
        """Write the file; it appears whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        with atomic_file(path) as file:
            file.write(self.as_text().encode())

    def as_text(self) -> str:
        """What the file has."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "machine": self.machine,
            "versions": self.versions,
            "time_limit_s": self.time_limit_s,
            "seed": self.seed,
            "rows": [asdict(row) | {"ratio": row.ratio} for row in self.rows],
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"
