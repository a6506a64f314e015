"""Large results that wait for an operator which makes something small of them."""

from __future__ import annotations

from collections.abc import Iterator

from memomalloc.advice.proposal import SAME_RESULTS, Proposal, by_line, outermost, place
from memomalloc.advice.subject import Edit, Subject
from memomalloc.data.origin import SourceLine

KIND = "earlier"

_CASTS = {"to", "_to_copy", "type_as", "clone", "contiguous", "quantize_per_tensor"}
_REDUCTIONS = {
    "all", "amax", "amin", "any", "argmax", "argmin", "count_nonzero", "index_select", "linalg_vector_norm",
    "logsumexp", "max", "mean", "median", "min", "norm", "nansum", "nanmean", "prod", "std", "sum", "take", "topk",
    "var",
}  # fmt: skip

_Line = tuple[str, SourceLine | None, str, SourceLine | None]


def earlier(subject: Subject) -> list[Proposal]:
    """Proposals to cast or reduce a result as soon as it is there, and to let go of it then.

    What must hold of every execution: the operator reads one buffer of the trace, nothing reads that afterwards, and
    what is made of it is smaller.
    """
    return [
        Proposal(
            KIND,
            f"make {reader} of {place(read_at)} right after {before} at {place(ready_at)}, and keep only what it gives",
            ready_at,
            (),
            f"{SAME_RESULTS}, unless something that is no operator of torch reads the large result in between",
            edit,
        )
        for (reader, read_at, before, ready_at), edit in by_line(_executions(subject))
    ]


def _executions(subject: Subject) -> Iterator[tuple[_Line, Edit]]:
    trace = subject.trace
    for call in range(len(subject.calls)):
        origin = subject.origin(call)
        name = outermost(origin).removeprefix("aten::")
        if name not in _CASTS and name not in _REDUCTIONS:
            continue
        if len(subject.reads[call]) != 1 or not subject.made[call] or subject.calls.tracked[call]:
            continue
        (large,) = subject.reads[call]
        uses = [use for use in (int(subject.makers[large]), *subject.readers[large]) if use >= 0]
        is_last = uses[-1] == call and len(uses) > 1
        is_smaller = int(trace.sizes[subject.made[call]].sum()) < int(trace.sizes[large])
        if not is_last or not is_smaller or trace.escapes[large] or subject.is_kept_by_autograd(large):
            continue
        before, begin = uses[-2], int(subject.calls.begins[call])
        to = subject.end(before)
        if to >= begin:
            continue  # it is made right then
        ready = subject.origin(before)
        line = (outermost(origin), origin.source, outermost(ready), ready.source)
        edit = Edit(freed=((large, to),), moved=((begin, subject.end(call), to),))
        yield line, edit
