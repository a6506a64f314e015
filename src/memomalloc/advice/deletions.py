"""Tensors that a function holds on to after they were read for the last time."""

from __future__ import annotations

from collections.abc import Iterator

from memomalloc.advice.proposal import SAME_RESULTS, Proposal, by_line, outermost, place
from memomalloc.advice.subject import Edit, Subject
from memomalloc.data.origin import SourceLine

KIND = "del"

#: Who made a tensor, who read it, and whether the same frame did both.
_Line = tuple[tuple[str, SourceLine | None], tuple[str, SourceLine | None], bool]


def deletions(subject: Subject) -> list[Proposal]:
    """Proposals to let go of tensors right after their last use.

    What one frame of the program both got and used last it can delete. What was read last by a function further inside
    is held by those that called it, until they return: they would have to pass it on without keeping it, and how soon
    it goes then is not known. What autograd keeps is kept whoever lets go of it.
    """
    proposals = []
    for (made_at, read_at, is_local), edit in by_line(_executions(subject)):
        if not edit.freed:
            continue
        made, read = (f"{operator} at {place(source)}" for operator, source in (made_at, read_at))
        text = (
            f"`del` the result of {made} as soon as {read} has read it, the last to do so"
            if is_local
            else f"let go of the result of {made} as soon as {read} has read it, the last to do so: callers hold it"
        )
        alters = f"{SAME_RESULTS}, unless something that is no operator of torch reads it later"
        proposals.append(Proposal(KIND, text, read_at[1], (), alters, edit, is_exact=is_local))
    return proposals


def _executions(subject: Subject) -> Iterator[tuple[_Line, Edit | None]]:
    trace = subject.trace
    for buffer in range(len(trace)):
        maker = int(subject.makers[buffer])
        if maker < 0 or not subject.readers[buffer]:
            continue
        *others, last = subject.readers[buffer]
        if not subject.origin(maker).module_path and subject.origin(last).module_path:
            continue  # the input of a module, or its weights: whoever calls it may want to call it again
        line = _line(subject, maker, last)
        # Deleted there it would be missed later.
        yield from ((other, None) for other in {_line(subject, maker, reader) for reader in others} - {line})
        if trace.escapes[buffer]:
            yield line, None
        elif trace.ends[buffer] > subject.end(last) and not subject.is_kept_by_autograd(buffer):
            yield line, Edit(freed=((buffer, subject.end(last)),))


def _line(subject: Subject, maker: int, reader: int) -> _Line:
    made, read, frames = subject.origin(maker), subject.origin(reader), subject.calls.frames
    is_local = bool(frames[maker] != 0 and frames[maker] == frames[reader])
    return (outermost(made), made.source), (outermost(read), read.source), is_local
