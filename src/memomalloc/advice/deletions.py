"""Tensors that a function holds on to after they were read for the last time."""

from __future__ import annotations

from collections.abc import Iterator

from memomalloc.advice.proposal import SAME_RESULTS, Proposal, by_line, outermost, place
from memomalloc.advice.subject import Edit, Subject
from memomalloc.data.origin import SourceLine

KIND = "del"

#: Who made a tensor, and who read it.
_Line = tuple[str, SourceLine | None, str, SourceLine | None]


def deletions(subject: Subject) -> list[Proposal]:
    """Proposals to delete tensors right after their last use.

    Only what one frame of the program both got and used last: what came from a caller is held by the caller, and
    what autograd keeps is kept whoever deletes it.
    """
    return [
        Proposal(
            KIND,
            f"`del` the result of {maker} at {place(made_at)} after {place(read_at)}, where {reader} reads it last",
            read_at,
            (),
            f"{SAME_RESULTS}, unless something that is no operator of torch reads it later",
            edit,
        )
        for (maker, made_at, reader, read_at), edit in by_line(_executions(subject))
        if edit.freed
    ]


def _executions(subject: Subject) -> Iterator[tuple[_Line, Edit | None]]:
    trace, frames = subject.trace, subject.calls.frames
    for buffer in range(len(trace)):
        maker = int(subject.makers[buffer])
        if maker < 0 or not subject.readers[buffer]:
            continue
        *others, last = subject.readers[buffer]
        line = _line(subject, maker, last)
        # Deleted there it would be missed later.
        earlier = {_line(subject, maker, reader) for reader in others} - {line}
        yield from ((other, None) for other in earlier)
        if trace.escapes[buffer]:
            yield line, None
            continue
        is_local = frames[maker] != 0 and frames[maker] == frames[last]
        is_held = trace.ends[buffer] > subject.end(last) and not subject.is_kept_by_autograd(buffer)
        yield line, Edit(freed=((buffer, subject.end(last)),)) if is_local and is_held else Edit()


def _line(subject: Subject, maker: int, reader: int) -> _Line:
    made, read = subject.origin(maker), subject.origin(reader)
    return outermost(made), made.source, outermost(read), read.source
