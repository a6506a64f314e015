"""A results file: rows with their raw samples, and what they were taken on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memomalloc.bench.document import require, text_by_row
from memomalloc.bench.machine import describe_machine, describe_versions, without_load
from memomalloc.bench.row import Row
from memomalloc.data.atomic_file import atomic_file

FORMAT = "memomalloc-results"
VERSION = 1


@dataclass
class Results:
    """All that one measuring session found.

    Attributes:
        machine: processor, memory, kernel.
        versions: of Python and the packages.
        seed: of torch's generator.
        repetitions: how long each row was measured: ``budget_s``, ``min_pairs``, ``max_pairs``, ``calls_each``.
        environment: for each upstream, the variables that its process ran with.
        rows: in the order in which they were measured.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    seed: int
    repetitions: dict[str, Any]
    environment: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def here(cls, *, seed: int, repetitions: dict[str, Any]) -> Results:
        """Results without rows, of this machine."""
        return cls(describe_machine(), describe_versions(), seed, repetitions)

    def conditions(self) -> dict[str, Any]:
        """What must be the same where rows of two sessions stand side by side: all but how busy the machine was."""
        return {
            "machine": without_load(self.machine),
            "versions": self.versions,
            "seed": self.seed,
            "repetitions": self.repetitions,
        }

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
            "seed": self.seed,
            # JSON has no infinity: no limit is null.
            "repetitions": {name: None if value == math.inf else value for name, value in self.repetitions.items()},
            "environment": self.environment,
        }
        return text_by_row(document, (row.as_dict() for row in self.rows))

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Results:
        """The inverse of :meth:`save`.

        Raises:
            ValueError, KeyError: it is none.
        """
        for name, kind in (("machine", dict[str, Any]), ("versions", dict[str, str]), ("seed", int)):
            require(document[name], kind, name)
        require(document["repetitions"], dict[str, Any], "repetitions")
        require(document["environment"], dict[str, dict[str, str]], "environment")
        require(document["rows"], list[dict], "rows")  # type: ignore[type-arg]
        return cls(
            machine=document["machine"],
            versions=document["versions"],
            seed=document["seed"],
            repetitions={name: math.inf if value is None else value for name, value in document["repetitions"].items()},
            environment=document["environment"],
            rows=[Row.from_dict(row) for row in document["rows"]],
        )
