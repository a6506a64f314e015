"""How far reading, or a search for a plan, has come, on a terminal. No command of its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from memomalloc.harmless_text import harmless

if TYPE_CHECKING:
    from memomalloc.planners.planning import Progress


@contextmanager
def spinner() -> Iterator[Callable[[str], object]]:
    """One line on stderr that says what is being done; it is gone when the block ends.

    Yields:
        Takes what is being done, in a few words. Says it nowhere where stderr is no terminal, or rich is not installed.
    """
    with _line("") as tell:
        yield (lambda _: None) if tell is None else lambda what: tell(f"{what}; Ctrl-C ends it")


@contextmanager
def planning_progress(what: str) -> Iterator[Callable[[Progress], None] | None]:
    """One line on stderr while a plan is searched for; it is gone when the block ends.

    Args:
        what: is planned; a file name.

    Yields:
        What ``memomalloc.plan`` takes as ``progress``; None where stderr is no terminal, or rich is not installed.
    """
    from memomalloc.data.byte_text import byte_text

    with _line(f"planning {what}") as tell:
        if tell is None:
            yield None
            return

        def show(progress: Progress) -> None:
            best = progress.best_arena_bytes
            found = "no plan yet" if best is None else f"{byte_text(best)} so far"
            bound = byte_text(progress.lower_bound_bytes)
            tell(f"planning {what}: {found}, lower bound {bound}, {progress.elapsed_s:.0f} s; Ctrl-C ends it")

        yield show


@contextmanager
def reading_progress(what: str) -> Iterator[Callable[[int], None] | None]:
    """One line on stderr while a large file is read.

    Args:
        what: is read; a file name.

    Yields:
        What ``memomalloc.read_snapshot`` takes as ``progress``; None as for `planning_progress`.
    """
    from memomalloc.data.byte_text import byte_text

    with _line(f"reading {what}") as tell:
        yield None if tell is None else lambda num_bytes: tell(f"reading {what}: {byte_text(num_bytes)}")


@contextmanager
def _line(text: str) -> Iterator[Callable[[str], None] | None]:
    """Takes what the line says next; None where stderr is no terminal, or rich is not installed."""
    if importlib.util.find_spec("rich") is None:
        yield None
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    # Text, not markup: a file name may have brackets.
    with console.status(Text(harmless(text))) as status:
        yield lambda text: status.update(Text(harmless(text)))
