"""Results that take their time: gone on with, never written over, printed where they cannot be saved. No command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from memomalloc.cli.option_types import named
from memomalloc.data.atomic_file import STANDARD_OUTPUT
from memomalloc.errors import FileFormatError
from memomalloc.harmless_text import harmless


class Measured(Protocol):
    """Results of a session, row by row."""

    @property
    def rows(self) -> Sequence[Any]:
        """In the order in which they were measured."""

    def conditions(self) -> dict[str, Any]:
        """What must be the same where rows of two sessions stand side by side."""

    def save(self, path: str | Path) -> None:
        """Write the file."""


_Results = TypeVar("_Results", bound=Measured)


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


def resumed(args: argparse.Namespace, new: _Results, *, of: str) -> _Results:
    """What the session adds its rows to: with ``--resume`` the results that OUT has, else new ones.

    Args:
        args: with ``output`` and ``resume``.
        new: without rows, as they are measured now.
        of: what was measured, in a message.

    Raises:
        FileFormatError: OUT has other results.
        SessionError: what is measured now may not stand beside what OUT has.
    """
    from memomalloc.bench.results_file import load_results
    from memomalloc.bench.session import require_same_conditions

    if not (args.resume and args.output.is_file()):
        return new
    old = load_results(args.output)
    if not isinstance(old, type(new)):
        raise FileFormatError(args.output, f"results of something else, not of {of}")
    require_same_conditions(old.conditions(), new.conditions())
    return old


def run_to_its_end(session: Callable[[Path | None], None], results: Measured, output: Path) -> bool:
    """Run a session; where it is interrupted, say how to go on.

    Args:
        session: measures, and writes the results to the path that it is given after each row. None: to nowhere, since
            a pipe or a terminal takes results once, at the end.
        results: get the rows.
        output: where they go.

    Returns:
        Whether it came to its end.
    """
    is_file = output != STANDARD_OUTPUT and (output.is_file() or not output.exists())
    try:
        session(output if is_file else None)
    except KeyboardInterrupt:
        how = f"{_where(results, output)}: go on with the same command and --resume"
        print(f"memomalloc: interrupted; {how if results.rows else 'no row was measured yet'}", file=sys.stderr)
        return False
    finally:
        if not is_file:
            results.save(output)
    return True


def how_to_see(results: Measured, output: Path) -> str:
    """What somebody whose session came to its end is told."""
    return f"{_where(results, output)}; memomalloc bench report {named(output)} shows them"


def _where(results: Measured, output: Path) -> str:
    return f"{len(results.rows)} rows are in {named(output)}"


class RowLines:
    """Rows in lines of their own, and on a terminal below them one that says what is being measured."""

    def __init__(self, output: Path) -> None:
        self._to = sys.stderr if output == STANDARD_OUTPUT else sys.stdout
        self._has_progress = self._to.isatty()

    def add(self, text: str) -> None:
        """Print a line that stays."""
        print(("\r\x1b[K" if self._has_progress else "") + harmless(text), file=self._to, flush=True)

    def progress(self, text: str) -> None:
        """Say what is being measured, in place of what was before."""
        if self._has_progress:
            print(f"\r\x1b[K{text}", end="", file=self._to, flush=True)


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
