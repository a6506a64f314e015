"""Programs that do something else than what was recorded: slower, never wrong, counted, and soon served again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import memomalloc
from memomalloc.runtime.learning.learner import DEVIATIONS_BEFORE_RESTART
from models import Steps, chain_values
from serving import assert_equal_bits, fully_served, learn

pytestmark = pytest.mark.usefixtures("poison")

VALUES = chain_values(0, 20_000)
SIZES = (1000, 5000, 300, 9000, 700, 2500)


def _run(wrapper: memomalloc.OptimizedModule, sizes: tuple[int, ...]) -> torch.Tensor:
    wrapper.sizes = sizes
    output = wrapper(VALUES)
    assert_equal_bits(output, Steps(sizes, keep=wrapper.keep)(VALUES))
    return output


@pytest.mark.parametrize("keep", [False, True], ids=["freed_in_the_step", "kept_to_the_end"])
@pytest.mark.parametrize(
    ("sizes", "reasons", "num_missing"),
    [
        pytest.param((1000, 5000, 400, 9000, 700, 2500), {"size": 1}, 1, id="larger"),
        pytest.param((1000, 5000, 200, 9000, 700, 2500), {"size": 1}, 1, id="smaller"),
        pytest.param((1000, 5000, 300, 9000, 700, 19000), {"size": 1}, 1, id="last_is_larger"),
        pytest.param((*SIZES, 1234), {"extra": 3}, 0, id="extra_at_the_end"),
        pytest.param((*SIZES, 1000), {"extra": 3}, 0, id="extra_at_the_end_of_a_known_size"),
        pytest.param(SIZES[:-1], {}, 3, id="missing_at_the_end"),
        pytest.param(SIZES[:3], {}, 9, id="half"),
        pytest.param(SIZES[:2] + SIZES[3:], None, None, id="missing_in_the_middle"),
        pytest.param((*SIZES[:3], 1234, *SIZES[3:]), None, None, id="extra_in_the_middle"),
        pytest.param((*SIZES[:2], 9000, 300, *SIZES[4:]), None, None, id="reordered"),
        pytest.param(SIZES[::-1], None, None, id="reversed"),
        pytest.param(SIZES * 3, None, None, id="three_times"),
        pytest.param((), None, None, id="nothing"),
    ],
)
def test_a_changed_program_is_right_counted_and_recovers(
    sizes: tuple[int, ...], reasons: dict[str, int] | None, num_missing: int | None, keep: bool
) -> None:
    wrapper = memomalloc.optimize(Steps(SIZES, keep))
    learn(wrapper, VALUES)
    before = wrapper.stats()
    _run(wrapper, sizes)
    after = wrapper.stats()
    upstream = {
        reason: count - before.requests_upstream[reason]
        for reason, count in after.requests_upstream.items()
        if count > before.requests_upstream[reason]
    }
    assert upstream or after.requests_missing > before.requests_missing
    if not keep and reasons is not None:
        assert upstream == reasons
        assert after.requests_missing - before.requests_missing == num_missing
    with fully_served(wrapper, runs=2):
        _run(wrapper, SIZES)
        _run(wrapper, SIZES)


def test_a_program_that_changed_for_good_is_learned_anew() -> None:
    wrapper = memomalloc.optimize(Steps(SIZES))
    learn(wrapper, VALUES)
    changed = tuple(2 * size for size in SIZES)
    for _ in range(3):
        _run(wrapper, changed)
    with fully_served(wrapper, runs=2):
        _run(wrapper, changed)
        _run(wrapper, changed)


def test_a_program_that_never_settles_is_still_right() -> None:
    wrapper = memomalloc.optimize(Steps(SIZES))
    for length in range(60):
        _run(wrapper, tuple(1000 + 37 * length + 100 * step for step in range(length % 7)))


def test_a_size_that_changes_with_the_values_is_right() -> None:
    """Equal signatures, different sizes: the output of ``nonzero`` depends on what is in the tensor."""

    def positives(values: torch.Tensor) -> torch.Tensor:
        return torch.sin(values[values > 0]) * 2

    wrapper = memomalloc.optimize(positives)
    for seed in range(40):
        values = chain_values(seed, 500)
        assert_equal_bits(wrapper(values), positives(values))
    assert wrapper.stats().runs_replayed > 0


_programs = st.lists(
    st.tuples(st.lists(st.sampled_from((100, 300, 1000, 2500, 5000)), max_size=8), st.booleans()),
    max_size=DEVIATIONS_BEFORE_RESTART - 1,
)


@settings(max_examples=60, deadline=None)
@given(recorded=st.lists(st.sampled_from((100, 300, 1000, 5000)), min_size=1, max_size=8), programs=_programs)
def test_any_programs_after_any_plan(recorded: list[int], programs: list[tuple[list[int], bool]]) -> None:
    wrapper = memomalloc.optimize(Steps(recorded), warm_up_calls=0, planner="greedy_by_size")
    learn(wrapper, VALUES)
    outputs = []
    for sizes, keep in programs:
        wrapper.keep = keep
        outputs.append((_run(wrapper, tuple(sizes)), Steps(sizes, keep)(VALUES)))
    for output, expected in outputs:
        assert_equal_bits(output, expected)
    outputs.clear()
    output = expected = None
    wrapper.keep = False
    wrapper.sizes = tuple(recorded)
    learn(wrapper, VALUES)
    # The plan has grown by what the programs did, so this one leaves some of it out; it asks for nothing else.
    assert wrapper.stats().requests_served > 0
    assert wrapper.stats().num_bad_frees == 0
