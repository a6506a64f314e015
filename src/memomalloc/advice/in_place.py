"""Operators that may write their result over an input that nobody reads again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from memomalloc.advice.proposal import SAME_RESULTS, Proposal, by_line, outermost, place, together
from memomalloc.advice.subject import Edit, Subject
from memomalloc.data.origin import SourceLine

KIND = "in place"

#: Operators that have a form in place, and how it is written; first those that are modules with an option for it.
_OF_MODULES = {
    "aten::relu": "nn.ReLU(inplace=True), F.relu(x, inplace=True) or x.relu_()",
    "aten::relu6": "nn.ReLU6(inplace=True) or F.relu6(x, inplace=True)",
    "aten::hardtanh": "nn.Hardtanh(inplace=True), nn.ReLU6(inplace=True) or F.hardtanh(x, inplace=True)",
    "aten::hardswish": "nn.Hardswish(inplace=True) or F.hardswish(x, inplace=True)",
    "aten::hardsigmoid": "nn.Hardsigmoid(inplace=True) or F.hardsigmoid(x, inplace=True)",
    "aten::silu": "nn.SiLU(inplace=True) or F.silu(x, inplace=True)",
    "aten::mish": "nn.Mish(inplace=True) or F.mish(x, inplace=True)",
    "aten::elu": "nn.ELU(inplace=True) or F.elu(x, inplace=True)",
    "aten::celu": "nn.CELU(inplace=True) or F.celu(x, inplace=True)",
    "aten::selu": "nn.SELU(inplace=True) or F.selu(x, inplace=True)",
    "aten::leaky_relu": "nn.LeakyReLU(inplace=True) or F.leaky_relu(x, inplace=True)",
    "aten::threshold": "nn.Threshold(inplace=True) or F.threshold(x, inplace=True)",
}
#: Of two inputs, of which either may take the result.
_SUMS = {"aten::add": "x += y", "aten::mul": "x *= y"}
_METHODS = ("abs", "clamp", "clamp_min", "cos", "exp", "neg", "rsqrt", "sigmoid", "sin", "sqrt", "square", "tanh")
_WAYS = {
    **_OF_MODULES,
    "aten::gelu": "torch.ops.aten.gelu_(x)",
    **{f"aten::{name}": f"x.{name}_()" for name in _METHODS},
    **_SUMS,
}


#: A line: the operator, where it is called, and which of the buffers that it reads is written over.
_Line = tuple[str, SourceLine | None, int]


def in_place(subject: Subject) -> list[Proposal]:
    """Proposals to let operators write over their input.

    What must hold of every execution: the input is a buffer of the trace that has the size of the result, no operator
    reads it again, it does not outlive the run, and autograd does not keep it.
    """
    executions = list(_executions(subject))
    whole = by_line((line, edit) for line, _, edit in executions)
    lines = {line for line, _ in whole}
    proposals = [_proposal(subject, line, (), edit) for line, edit in whole]
    # Modules have an option for it: some may get it where others that the same line calls must not.
    some = by_line(
        ((line, module), edit)
        for line, module, edit in executions
        if line[0] in _OF_MODULES and module and line not in lines
    )
    modules: dict[_Line, dict[str, Edit]] = defaultdict(dict)
    for (line, module), edit in some:
        modules[line][module] = edit
    for line, edits in modules.items():
        proposals.append(_proposal(subject, line, tuple(edits), together(edits.values())))
    return proposals


def _proposal(subject: Subject, line: _Line, modules: tuple[str, ...], edit: Edit) -> Proposal:
    operator, source, which = line
    makers = {int(subject.makers[written]) for written, _ in edit.merged}
    origins = [subject.origin(maker) for maker in makers if maker >= 0]
    made = {f"the result of {outermost(origin)} at {place(origin.source)}" for origin in origins}
    which_input = ("first input", "second input")[which] if operator in _SUMS else "input"
    over = made.pop() if len(made) == 1 else f"its {which_input}"
    return Proposal(
        KIND,
        f"let {operator} at {place(source)} write over {over}, which nothing reads after it: {_WAYS[operator]}",
        source,
        modules,
        f"{SAME_RESULTS}, unless something that is no operator of torch reads the input later; speed gains",
        edit,
    )


def _executions(subject: Subject) -> Iterator[tuple[_Line, str, Edit | None]]:
    for call in range(len(subject.calls)):
        origin = subject.origin(call)
        operator = outermost(origin)
        if operator in _WAYS and subject.made[call]:
            for which in range(2 if operator in _SUMS else 1):
                yield (operator, origin.source, which), origin.module_path, _over_input(subject, call, which)


def _over_input(subject: Subject, call: int, which: int) -> Edit | None:
    """Let the result of a call have the memory of one of the buffers that it reads; None where that must not be."""
    if len(subject.made[call]) != 1 or which >= len(subject.reads[call]) or subject.calls.tracked[call]:
        return None
    (result,), source, trace = subject.made[call], subject.reads[call][which], subject.trace
    may_be = (
        trace.sizes[source] == trace.sizes[result]
        and not trace.escapes[source]
        and subject.last_call(source) == call
        and not subject.is_kept_by_autograd(source)
    )
    return Edit(merged=((source, result),)) if may_be else None
