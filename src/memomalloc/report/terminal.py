"""Where tables are printed. Needs rich."""

from __future__ import annotations

from rich.console import Console

#: A file or a pipe has no width of its own.
_WIDTH = 120


def console_for_tables() -> Console:
    """Standard output, wide enough for a table where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)
