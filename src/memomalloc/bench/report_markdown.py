"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from memomalloc.bench.report_tables import Report, ReportTable


def markdown(report: Report, *, command: str, pictures: Mapping[str, str]) -> str:
    """A report as text.

    Args:
        report: what it says.
        command: what made this report, so that a reader can make it again.
        pictures: titles and paths of images, relative to where the text will be.
    """
    parts = [f"# {report.title}", f"Made by `{command}`; do not edit."]
    for table in report.summary:
        parts += _section(table)
    if pictures:
        parts += ["## Pictures", *(f"![{title}]({path})" for title, path in pictures.items())]
    if report.without_gain:
        parts += ["## Where there is no gain", "\n".join(f"- {line}" for line in report.without_gain)]
    for table in report.tables:
        parts += _section(table)
    return "\n\n".join(parts) + "\n"


def _section(table: ReportTable) -> list[str]:
    return [f"## {table.title}", *([table.note] if table.note else []), _table(table)]


def _table(table: ReportTable) -> str:
    rules = tuple("---" if table.is_text(column) else "--:" for column in table.columns)
    lines = [table.columns, rules, *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
