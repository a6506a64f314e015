"""A report as Markdown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

from memomalloc.bench.report_tables import Report, ReportTable
from memomalloc.harmless_text import harmless, markdown_text

#: Numbers, signs between them, and short words; `<0.1` begins no tag.
_FIGURE = re.compile(r"(?:[\w ,.:%/*()-]|[<>](?![A-Za-z!/?]))*", re.ASCII)


def markdown(report: Report, *, command: str, pictures: Mapping[str, str]) -> str:
    """A report as text.

    Args:
        report: what it says.
        command: what made this report, so that a reader can make it again.
        pictures: titles and paths of images, relative to where the text will be.
    """
    parts = [f"# {markdown_text(report.title)}", f"Made by {_code(command)}; do not edit."]
    for table in report.summary:
        parts += _section(table)
    if pictures:
        parts += ["## Pictures", *(f"![{markdown_text(title)}]({_link(path)})" for title, path in pictures.items())]
    if report.without_gain:
        parts += ["## Where there is no gain", "\n".join(f"- {markdown_text(line)}" for line in report.without_gain)]
    for table in report.tables:
        parts += _section(table)
    return "\n\n".join(parts) + "\n"


def _section(table: ReportTable) -> list[str]:
    return [f"## {markdown_text(table.title)}", *([table.note] if table.note else []), table_text(table)]


def table_text(table: ReportTable) -> str:
    """A table without its heading."""
    rules = tuple("---" if table.is_text(column) else "--:" for column in table.columns)
    heads = tuple(markdown_text(column) for column in table.columns)
    lines = [heads, rules, *(_cells(table, row) for row in table.rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(table: ReportTable, row: tuple[str, ...]) -> Iterator[str]:
    """Words come from names, figures from us; but a figure may be the note of a row that has none."""
    for column, cell in zip(table.columns, row, strict=True):
        yield markdown_text(cell) if table.is_text(column) or not _FIGURE.fullmatch(cell) else cell


def _code(text: str) -> str:
    """Text as code: fenced by more backticks than it has in a row."""
    text = harmless(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _link(path: str) -> str:
    return quote(os.fsencode(path))
