"""Results that took their time: what cannot be saved is printed instead. No command of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol


class Saved(Protocol):
    """Results of any kind."""

    def save(self, path: str | Path) -> None:
        """Write the file."""

    def as_text(self) -> str:
        """What the file would have."""


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
