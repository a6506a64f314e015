"""Results that take their time: never written over, and printed where they cannot be saved. No command of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

from memomalloc.cli.option_types import named
from memomalloc.data.atomic_file import STANDARD_OUTPUT
from memomalloc.errors import FileFormatError


class Saved(Protocol):
    """Results of any kind."""

    def save(self, path: str | Path) -> None:
        """Write the file."""

    def as_text(self) -> str:
        """What the file would have."""


def require_new(path: Path) -> None:
    """See that no older results would be replaced; standard output takes them, also where it is a file.

    Raises:
        FileFormatError: the file is there.
    """
    if path.is_file() and path != STANDARD_OUTPUT:
        raise FileFormatError(path, "exists: go on with it with --resume, or name another file")


def is_stream(path: Path) -> bool:
    """Whether results can only be written there once, at the end."""
    return path == STANDARD_OUTPUT or (path.exists() and not path.is_file())


def how_to_go_on(num_rows: int, path: Path) -> str:
    """What somebody who interrupted a session is told."""
    if not num_rows:
        return "no row was measured yet"
    return f"{num_rows} rows are in {named(path)}: go on with the same command and --resume"


def save_results(results: Saved, path: Path) -> None:
    """Save results; where that fails now although it could be done before, print them, so that they are not lost.

    Raises:
        OSError: they were not saved, but printed.
    """
    try:
        results.save(path)
    except OSError:
        sys.stdout.write(results.as_text())
        sys.stdout.flush()
        raise
