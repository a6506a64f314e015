"""Memory that operators ask for and give back, and that another form of them does without."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

from memomalloc.advice.proposal import ROUNDED_RESULTS, Proposal, outermost, place, together
from memomalloc.advice.subject import Edit, Subject
from memomalloc.data.origin import SourceLine

KIND = "packed weights"
CHANNELS_LAST = "channels last"

#: What oneDNN's convolutions for AVX2 may round the number of output channels up to a multiple of.
_PADDED_TO = 24

_Key = tuple[str, SourceLine | None, bool]


def scratch(subject: Subject) -> list[Proposal]:
    """Proposals to spare what oneDNN reorders in every call: weights, and activations that are not in channels last.

    A reordered weight is scratch of an operator of oneDNN that has the bytes of one of its arguments, or somewhat more
    where channels were added to fill vectors. Where the result is asked for before it, the activations are in channels
    last already, and packing the weights spares that buffer and nothing else. Otherwise packed weights, and channels
    last, ask for scratch that this trace cannot know: what is foretold is the least that is left.
    """
    weights: dict[_Key, list[Edit]] = defaultdict(list)
    activations: dict[_Key, list[Edit]] = defaultdict(list)
    outside: dict[int, list[int]] = defaultdict(list)
    calls = subject.calls
    for call, num_bytes in zip(calls.outside_calls.tolist(), calls.outside_bytes.tolist(), strict=True):
        outside[call].append(num_bytes)
    for call in range(len(calls)):
        of_onednn = [buffer for buffer in subject.scratch[call] if _is_of_onednn(subject, buffer)]
        if not of_onednn:
            continue
        origin = subject.origin(call)
        is_last = bool(subject.made[call]) and subject.made[call][0] < of_onednn[0]  # channels last
        weight = _weight(subject, of_onednn, outside[call])
        key = (outermost(origin), origin.source, is_last)
        if weight is not None:
            weights[key].append(Edit(removed=(weight,) if is_last else tuple(of_onednn)))
        if not is_last:
            others = tuple(buffer for buffer in of_onednn if buffer != weight)
            activations[key[0], key[1], False].append(Edit(removed=others))
    proposals = []
    for (operator, source, is_last), edits in weights.items():
        proposals.append(
            Proposal(
                KIND,
                f"pack the weights of {operator} at {place(source)} once, which oneDNN reorders in every call "
                "(torch.compile with freezing, or mkldnn._convolution_pointwise)",
                source,
                (),
                f"{ROUNDED_RESULTS}; speed gains; weights must not change any more",
                together(edits),
                is_exact=is_last,
            )
        )
    if activations:
        proposals.append(
            Proposal(
                CHANNELS_LAST,
                "call the model in channels last, model.to(memory_format=torch.channels_last) and its images, too: "
                "oneDNN reorders them in every convolution",
                None,
                (),
                f"{ROUNDED_RESULTS}; speed gains as a rule",
                together(edit for edits in activations.values() for edit in edits),
                is_exact=False,
            )
        )
    return proposals


def _is_of_onednn(subject: Subject, buffer: int) -> bool:
    origin = subject.trace.origins[buffer]
    return origin is not None and origin.operator.removeprefix("aten::").startswith("mkldnn")


def _weight(subject: Subject, buffers: list[int], arguments: list[int]) -> int | None:
    """The scratch that has the bytes of an argument from outside, of several the one that goes first; else the largest
    that has those of a padded one."""
    sizes, ends = subject.trace.sizes, subject.trace.ends
    found = [buffer for buffer in buffers if int(sizes[buffer]) in arguments]
    if found:
        return min(found, key=lambda buffer: int(ends[buffer]))
    padded = [buffer for buffer in buffers if any(_is_padded(int(sizes[buffer]), size) for size in arguments)]
    return max(padded, key=lambda buffer: int(sizes[buffer]), default=None)


def _is_padded(num_bytes: int, weight_bytes: int) -> bool:
    """Whether a weight has so many bytes with its output channels rounded up to a multiple of `_PADDED_TO`."""
    if not 0 < weight_bytes < num_bytes:
        return False
    ratio = Fraction(num_bytes, weight_bytes)  # channels with those that are added, over channels
    added = ratio.numerator - ratio.denominator
    return any(ratio.numerator * times % _PADDED_TO == 0 for times in range(1, (_PADDED_TO - 1) // added + 1))
