"""A change of a program, before anybody asked what it leads to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from memomalloc.advice.subject import Edit
from memomalloc.data.origin import Origin, SourceLine

_Line = TypeVar("_Line", bound=Hashable)

SAME_RESULTS = "results stay the same, bit for bit"
ROUNDED_RESULTS = "results may differ in their last bits"


@dataclass(frozen=True)
class Proposal:
    """One change: of one line, or of some of the modules that one line calls.

    Attributes:
        kind: what is done.
        text: what to do, in a sentence.
        source: the line to change; None where it is not known.
        modules: paths of the modules that it is done in, where it is not all that the line calls.
        alters: what it does to results and speed.
        edit: what it does to the trace.
        is_exact: the changed program asks for exactly what the edited trace says; otherwise for at least that.
    """

    kind: str
    text: str
    source: SourceLine | None
    modules: tuple[str, ...]
    alters: str
    edit: Edit
    is_exact: bool = True

    @property
    def buffers(self) -> set[int]:
        """The buffers that it changes something about."""
        edit = self.edit
        return {
            *(buffer for buffer, _ in edit.freed),
            *(buffer for pair in edit.merged for buffer in pair),
            *edit.removed,
        }


def by_line(found: Iterable[tuple[_Line, Edit | None]]) -> list[tuple[_Line, Edit]]:
    """Put the executions of one line together: who changes the line changes them all.

    Args:
        found: executions: what tells the line from others, and what is to be done; None where that must not be done.

    Returns:
        The lines of which every execution may be changed, and what is done in them.
    """
    lines: dict[_Line, list[Edit | None]] = defaultdict(list)
    for line, edit in found:
        lines[line].append(edit)
    return [
        (line, together(edit for edit in edits if edit is not None))
        for line, edits in lines.items()
        if None not in edits
    ]


def together(edits: Iterable[Edit]) -> Edit:
    """All of them as one."""
    edits = tuple(edits)
    return Edit(
        freed=tuple(free for edit in edits for free in edit.freed),
        merged=tuple(pair for edit in edits for pair in edit.merged),
        removed=tuple(buffer for edit in edits for buffer in edit.removed),
        moved=tuple(dict.fromkeys(move for edit in edits for move in edit.moved)),
    )


def place(source: SourceLine | None) -> str:
    """A line of a program in a sentence, its file by the end of its path."""
    return "a line that is not known" if source is None else f"{'/'.join(source.file.split('/')[-2:])}:{source.line}"


def outermost(origin: Origin) -> str:
    """The operator that the program called."""
    return origin.operators[0] if origin.operators else "an operator that is not known"
