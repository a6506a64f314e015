"""A report as one HTML page that needs no other file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memomalloc.bench.report_tables import Report
from memomalloc.extras import require
from memomalloc.harmless_text import harmless

#: A figure that stands out; reports are written for Markdown.
_BOLD = re.compile(r"\*\*([\d.]+)\*\*")
_TEMPLATE = Path(__file__).with_name("report_page.html.jinja")


def page(report: Report, *, command: str, pictures: Mapping[str, str]) -> str:
    """The page as text.

    Args:
        report: what it says.
        command: what made this report.
        pictures: titles and SVG documents, which are put into the page.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="bench", feature="memomalloc bench report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figures"] = _figures
    text: str = environment.from_string(_TEMPLATE.read_text()).render(
        command=command,
        report=report,
        # From the tag on: a page has no place for the XML declaration before it.
        pictures={title: svg[svg.index("<svg") :] for title, svg in pictures.items()},
    )
    return harmless(text, lines=True)


def _figures(cell: str) -> Any:
    """A cell of figures as HTML."""
    markupsafe = require("markupsafe", extra="bench", feature="memomalloc bench report")
    return markupsafe.Markup(_BOLD.sub(r"<b>\1</b>", str(markupsafe.escape(cell))))
