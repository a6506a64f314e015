"""Where tables are printed. Needs rich."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from memomalloc.harmless_text import harmless

#: A file or a pipe has no width of its own.
_WIDTH = 120


def console_for_tables() -> Console:
    """Standard output, wide enough for a table where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)


def name_text(name: object) -> Text:
    """A name as it is, for a table: what looks like markup is none, and no terminal obeys it."""
    return Text(harmless(name))


def bar(num_cells: int) -> Text:
    """A bar of full cells, or of signs that any encoding has."""
    return Text(_cell() * num_cells, style="cyan")


def _cell() -> str:
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except (AttributeError, UnicodeEncodeError, LookupError):
        return "#"
    return "█"
