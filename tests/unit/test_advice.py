"""What would lower a peak, of traces that no torch is needed for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pytest

import memomalloc
from memomalloc.advice.advising import _FINDERS, Memory
from memomalloc.advice.proposal import Proposal
from memomalloc.advice.subject import Edit, Subject
from memomalloc.data import Calls, Origin, SourceLine, Trace
from memomalloc.errors import AdviceError


class Program:
    """A program written down event by event: operators that read and make buffers, and what is freed between them."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.starts: list[int] = []
        self.ends: dict[int, int] = {}
        self.origins: list[Origin] = []
        self.calls: list[tuple[int, int, Origin, int, list[int], list[int], bool]] = []
        self.tick = 0

    def _make(self, size: int, origin: Origin) -> int:
        self.sizes.append(size)
        self.starts.append(self.tick)
        self.origins.append(origin)
        self.tick += 1
        return len(self.sizes) - 1

    def call(
        self,
        operator: str,
        line: int,
        reads: Sequence[int] = (),
        makes: int | None = None,
        scratch: Sequence[int] = (),
        outside: Sequence[int] = (),
        frame: int = 1,
        module: str = "",
        inner: str | None = None,
        tracked: bool = False,
        result_first: bool = False,
    ) -> int:
        """An operator runs; its result, or -1."""
        source = SourceLine("/code/net.py", line, "forward")
        begin = self.tick
        operators = (f"aten::{operator}", f"aten::{inner or operator}")
        result = self._make(makes, Origin(operators, module, source)) if makes and result_first else -1
        taken = [self._make(size, Origin(operators, module, source, "scratch")) for size in scratch]
        for buffer in taken:
            self.free(buffer)
        if makes and not result_first:
            result = self._make(makes, Origin(operators, module, source))
        origin = Origin(operators[:1], module, source, "call")
        self.calls.append((begin, self.tick, origin, frame, list(reads), list(outside), tracked))
        return result

    def free(self, *buffers: int) -> None:
        for buffer in buffers:
            self.ends[buffer] = self.tick
            self.tick += 1

    def trace(self) -> Trace:
        n = len(self.sizes)
        begins, ends, origins, frames, reads, outside, tracked = zip(*self.calls, strict=True)
        return Trace.from_arrays(
            self.sizes,
            self.starts,
            [self.ends.get(i, 0) for i in range(n)],
            [i not in self.ends for i in range(n)],
            end_tick=self.tick,
            origins=self.origins,
            calls=Calls.from_arrays(
                begins,
                ends,
                origins=origins,
                frames=frames,
                tracked=tracked,
                read_counts=[len(read) for read in reads],
                read_buffers=list(itertools.chain(*reads)),
                outside_counts=[len(sizes) for sizes in outside],
                outside_bytes=list(itertools.chain(*outside)),
            ),
        )


def kinds(trace: Trace) -> list[tuple[str, int, bool]]:
    """What is advised: kind, peak after it, whether that is exact."""
    return [(change.kind, change.after.peak_bytes, change.is_exact) for change in memomalloc.advise(trace).changes]


def chain(*, read_later: bool = False, escapes: bool = False, tracked: bool = False, size: int = 1000) -> Trace:
    """A convolution, an activation of its result, and a small result of that."""
    program = Program()
    hidden = program.call("conv2d", 1, makes=1000, outside=[50], tracked=tracked)
    active = program.call("relu", 2, [hidden], makes=size)
    if read_later:
        program.call("sum", 3, [hidden], makes=4)
    if not escapes:
        program.free(hidden)
    program.call("linear", 4, [active], makes=10)
    program.free(active)
    return program.trace()


def test_an_activation_may_write_over_its_input() -> None:
    advice = memomalloc.advise(chain())
    assert advice.before == Memory(2000, 2112, 2112)
    (change,) = advice.changes
    assert (change.kind, change.num_places, change.source.line) == ("in place", 1, 2)
    assert change.after.peak_bytes == 1010
    assert "nn.ReLU(inplace=True)" in change.text
    assert "bit for bit" in change.alters
    assert advice.together == (change,)
    assert advice.after_together == change.after


@pytest.mark.parametrize(
    "trace",
    [chain(read_later=True), chain(escapes=True), chain(tracked=True), chain(size=999)],
    ids=["read later", "escapes", "kept by autograd", "of another size"],
)
def test_an_input_that_is_needed_is_not_written_over(trace: Trace) -> None:
    assert "in place" not in [kind for kind, _, _ in kinds(trace)]


def test_a_line_is_changed_in_all_its_executions_or_not_at_all() -> None:
    """The sum may not be made in place in one of two calls; the activations are modules, of which one may be."""
    program = Program()
    for module in ("first", "second"):
        hidden = program.call("conv2d", 1, makes=1000, module=module)
        other = program.call("conv2d", 2, makes=1000, module=module)
        total = program.call("add", 3, [hidden, other], makes=1000, module=module)
        active = program.call("relu", 4, [total], makes=1000, module=f"{module}.act")
        if module == "second":
            program.call("sum", 5, [hidden, other, total], makes=4)
        program.free(hidden, other, total, active)
    found = [proposal for find in _FINDERS for proposal in find(Subject(program.trace()))]
    assert [(one.kind, one.modules) for one in found if one.kind == "in place"] == [("in place", ("first.act",))]


def test_either_input_of_a_sum_may_take_the_result() -> None:
    program = Program()
    kept = program.call("conv2d", 1, makes=1000)
    added = program.call("conv2d", 2, makes=1000)
    total = program.call("add", 3, [kept, added], makes=1000)
    program.free(added)
    program.call("cat", 4, [kept, total], makes=10)
    program.free(kept, total)
    assert kinds(program.trace()) == [("in place", 2010, True)]


def held(*, reader_frame: int = 1, tracked: bool = False, branch: bool = False) -> Trace:
    """A buffer that is read early and freed late, and a larger one beside it in between."""
    program = Program()
    for number in range(2 if branch else 1):
        early = program.call("conv2d", 1, makes=1000, tracked=tracked)
        program.call("mean", 2, [early], makes=8, frame=reader_frame)
        large = program.call("conv2d", 3, makes=5000)
        program.call("max", 4, [large], makes=8)
        if number:
            program.call("mean", 5, [early], makes=8)
        program.free(early, large)
    return program.trace()


def test_a_tensor_may_be_deleted_after_its_last_use() -> None:
    (change,) = [change for change in memomalloc.advise(held()).changes if change.kind == "del"]
    assert change.is_exact
    assert change.source.line == 2
    assert change.after.peak_bytes == 5016
    assert (
        "`del` the result of aten::conv2d at code/net.py:1 as soon as aten::mean at code/net.py:2 has read it"
        in change.text
    )


def test_what_a_caller_holds_cannot_simply_be_deleted() -> None:
    assert ("del", 5016, False) in kinds(held(reader_frame=2))
    assert not memomalloc.advise(held(reader_frame=2)).together


@pytest.mark.parametrize("trace", [held(tracked=True), held(branch=True)], ids=["kept by autograd", "read in a branch"])
def test_what_is_needed_or_kept_is_not_deleted(trace: Trace) -> None:
    assert "del" not in [kind for kind, _, _ in kinds(trace)]


def test_a_reduction_may_be_made_earlier() -> None:
    program = Program()
    logits = [program.call("linear", 1, makes=4000, scratch=[100]) for _ in range(3)]
    for buffer in logits:
        program.call("argmax", 2, [buffer], makes=40, scratch=[500])
    program.free(*logits)
    advice = memomalloc.advise(program.trace())
    assert advice.before.peak_bytes == 12_000 + 40 + 40 + 500
    change = next(change for change in advice.changes if change.kind == "earlier")
    # Two results, the logits of which the third is made, and the scratch of the argmax.
    assert change.after.peak_bytes == 80 + 4000 + 500
    assert change.num_places == 3


def test_a_reduction_that_is_made_at_once_cannot_be_made_earlier() -> None:
    program = Program()
    for _ in range(3):
        logits = program.call("linear", 1, makes=4000)
        program.call("argmax", 2, [logits], makes=40)
        program.free(logits)
    assert kinds(program.trace()) == []


def convolution(*, channels_last: bool, weight: int = 7000) -> Trace:
    program = Program()
    program.call(
        "conv2d", 1, makes=1000, scratch=[30, 7000] if channels_last else [1000, 7000, 990], outside=[weight, 28, 0],
        inner="mkldnn_convolution", result_first=channels_last,
    )  # fmt: skip
    return program.trace()


def test_reordered_weights_are_known_by_their_size() -> None:
    assert kinds(convolution(channels_last=True)) == [("packed weights", 1030, True)]
    # What a packed convolution asks for instead is not known in another layout: no peak is claimed, but a bound.
    assert ("packed weights", 1000, False) in kinds(convolution(channels_last=False))


@pytest.mark.parametrize(("weight", "is_known"), [(6125, True), (5000, False), (3000, False)])
def test_reordered_weights_may_have_some_channels_more(weight: int, is_known: bool) -> None:
    # 7000 bytes are 24 channels for 21. Rounded up to a multiple of 24, no channels are 7 for 5, or 7 for 3.
    expected = [("packed weights", 1030, True)] if is_known else []
    assert kinds(convolution(channels_last=True, weight=weight)) == expected


def test_three_are_found_where_no_one_helps_alone() -> None:
    """Three lines each make the same peak."""
    program = Program()
    for line in (10, 20, 30):
        hidden = program.call("conv2d", line, makes=1000)
        active = program.call("relu", line + 1, [hidden], makes=1000)
        program.free(hidden, active)
    advice = memomalloc.advise(program.trace())
    assert advice.changes == ()
    assert [change.source.line for change in advice.together] == [11, 21, 31]
    assert (advice.before.peak_bytes, advice.after_together.peak_bytes) == (2000, 1000)
    assert "falls to 1000 B (50% less)" in advice.headline


def test_what_was_tried_counts_as_it_was_recorded() -> None:
    advice = memomalloc.advise(chain(), tried={"half batch": held(), "inference mode": convolution(channels_last=True)})
    assert [change.kind for change in advice.changes] == ["in place"]  # both need more
    small = Program()
    hidden = small.call("conv2d", 1, makes=400)
    active = small.call("relu", 2, [hidden], makes=400)
    small.free(hidden, active)
    advice = memomalloc.advise(chain(), tried={"half batch": small.trace()})
    assert [(change.kind, change.after.peak_bytes) for change in advice.changes] == [
        ("half batch", 800),
        ("in place", 1010),
    ]
    assert [change.kind for change in advice.together] == ["half batch", "in place"]
    assert advice.after_together.peak_bytes == 400


def test_traces_that_do_not_say_who_read_are_refused() -> None:
    with pytest.raises(AdviceError, match="record the program again"):
        memomalloc.advise(Trace.from_arrays([1], [0], [1]))
    with pytest.raises(AdviceError, match="use one of inference mode"):
        memomalloc.advise(chain(), tried={"magic": chain()})


def test_nothing_to_advise() -> None:
    empty = Trace.from_arrays([], [], [], calls=Calls.from_arrays([], [], read_counts=[], read_buffers=[]))
    advice = memomalloc.advise(empty)
    assert (advice.changes, advice.together, advice.before.peak_bytes) == ((), (), 0)
    assert "nothing" in advice.headline
    json.dumps(advice.as_json())


def test_the_peak_explains_itself() -> None:
    program = Program()
    idle = program.call("conv2d", 1, makes=100)
    program.call("sum", 2, [idle], makes=4)
    later = program.call("conv2d", 3, makes=200)
    read = program.call("conv2d", 4, makes=300)
    result = program.call("conv2d", 5, [read], makes=400, scratch=[500], result_first=True, module="layer.conv")
    program.call("cat", 6, [later, result])
    program.free(idle, later, read, result)
    peak = memomalloc.advise(program.trace()).peak
    assert peak.bytes_by_reason == {
        "scratch of the operator that runs": 500,
        "made by the operator that runs": 400,
        "read by the operator that runs": 300,
        "read later": 200,
        "kept until the end": 4,
        "read no more": 100,
    }
    assert peak.text.startswith(
        "1.47 KiB are alive while aten::conv2d runs at code/net.py:5 in layer.conv: 500 B scratch"
    )
    assert len(peak.reasons) == 6


def random_program(seed: int) -> Trace:
    random = np.random.default_rng(seed)
    program = Program()
    alive: list[int] = []
    for _ in range(30):
        reads = (
            [int(one) for one in random.choice(alive, min(len(alive), int(random.integers(1, 3))), replace=False)]
            if alive
            else []
        )
        operator = str(random.choice(["conv2d", "relu", "add", "argmax", "sum"]))
        size = int(random.choice([64, 100, 1000])) if operator != "relu" or not reads else program.sizes[reads[0]]
        scratch = [int(random.integers(1, 500))] if random.random() < 0.3 else []
        alive.append(program.call(operator, int(random.integers(1, 40)), reads, size, scratch))
        for buffer in [one for one in alive if random.random() < 0.15]:
            alive.remove(buffer)
            program.free(buffer)
    return program.trace()


@pytest.mark.parametrize("seed", range(20))
def test_three_that_give_most_are_those_of_all_there_are(seed: int) -> None:
    trace = random_program(seed)
    subject = Subject(trace)
    proposals: list[Proposal] = [proposal for find in _FINDERS for proposal in find(subject) if proposal.is_exact]
    sets = itertools.chain(*(itertools.combinations(proposals, size) for size in range(4)))
    lowest = min(subject.outcome([one.edit for one in chosen]).peak_bytes for chosen in sets)
    assert memomalloc.advise(trace).after_together.peak_bytes == lowest
    for proposal in proposals:
        outcome = subject.outcome([proposal.edit])
        assert outcome.trace().peak_live_bytes == outcome.peak_bytes
    assert subject.before.trace().peak_live_bytes == trace.peak_live_bytes


def test_edits_of_one_buffer_go_together() -> None:
    """A chain in place, of which the first input is deleted and the last call moved."""
    program = Program()
    first = program.call("conv2d", 1, makes=1000)
    second = program.call("relu", 2, [first], makes=1000)
    third = program.call("relu", 3, [second], makes=1000)
    program.call("conv2d", 4, makes=2000)
    program.call("sum", 5, [third], makes=8)
    program.free(first, second, third)
    subject = Subject(program.trace())
    merged = Edit(merged=((first, second), (second, third)))
    assert subject.outcome([merged]).peak_bytes == 3008
    freed = Edit(freed=((first, subject.end(1)), (second, subject.end(2))))
    assert subject.outcome([freed]).peak_bytes == 3008
    moved = Edit(freed=((third, subject.end(2)),), moved=((4, 5, subject.end(2)),))
    assert subject.outcome([freed, moved]).peak_bytes == 2008
    assert subject.outcome([merged, freed, moved]).peak_bytes == 2008
