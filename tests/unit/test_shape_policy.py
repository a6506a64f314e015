"""Buckets, and the envelope of sizes that a plan covers."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("torch")  # what the policy looks at are its tensors

from memomalloc.runtime.calls.shape_policy import MAX_EXACT_OF_FAMILY, ExactKinds, bucket_of
from memomalloc.runtime.learning.envelope import ROOM_TO_GROW, Envelope


def test_buckets_hold_what_is_in_them_and_are_at_most_half_as_large_again() -> None:
    assert [bucket_of(size) for size in (0, 1, 2, 3, 4, 5, 7, 9, 13, 17, 384, 385)] == [
        0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 384, 512,
    ]  # fmt: skip
    buckets = sorted({bucket_of(size) for size in range(1, 5000)})
    assert all(bucket_of(size) >= size for size in range(5000))
    assert all(after <= 1.5 * before for before, after in itertools.pairwise(buckets[1:]))
    assert [bucket_of(bucket) for bucket in buckets] == buckets


def _envelope(*calls: tuple[int, ...]) -> Envelope:
    envelope = Envelope()
    for call in calls:
        envelope.add(call)
    return envelope


@pytest.mark.parametrize(
    ("calls", "asked", "covered"),
    [
        pytest.param([], (3,), False, id="nothing_recorded"),
        pytest.param([(3,)], (3,), True, id="the_same"),
        pytest.param([(3,)], (2,), False, id="a_number_that_never_varied"),
        pytest.param([(3, 10), (3, 40)], (3, 20), True, id="between"),
        pytest.param([(3, 10), (3, 40)], (3, 5), True, id="smaller_than_any"),
        pytest.param([(3, 10), (3, 40)], (4, 20), False, id="the_other_number_varies"),
        pytest.param([(10,), (100,)], (110,), True, id="a_little_larger"),
        pytest.param([(10,), (100,)], (115,), False, id="its_square_is_larger_than_the_room"),
        pytest.param([(10, 10), (100, 100)], (108, 108), False, id="the_product_is_larger_than_the_room"),
        pytest.param([(0,), (0,)], (0,), True, id="zero"),
        pytest.param([(0,), (1,)], (2,), False, id="from_one_to_two"),
    ],
)
def test_what_an_envelope_covers(calls: list[tuple[int, ...]], asked: tuple[int, ...], covered: bool) -> None:
    assert ROOM_TO_GROW == 1.25
    assert _envelope(*calls).covers(asked) is covered


def test_bounds_are_the_smallest_and_largest_of_each_number() -> None:
    assert _envelope((1, 9), (5, 2)).bounds == ((1, 2), (5, 9))
    assert _envelope().bounds == ((), ())


def test_under_auto_a_few_fixed_shapes_have_plans_of_their_own() -> None:
    kinds = ExactKinds()
    for size in range(MAX_EXACT_OF_FAMILY):
        assert kinds.add((size,), [size])
        assert kinds.add((size,), [size])  # it came again
    assert not kinds.add(("one too many",), [9])


def test_under_auto_shapes_vary_that_do_not_come_again_before_the_next() -> None:
    kinds = ExactKinds()
    assert kinds.add(("a",), [1])
    assert kinds.add(("a",), [1])
    assert kinds.add(("b",), [2])
    assert kinds.add(("a",), [1])
    assert not kinds.add(("c",), [3])


def test_a_kind_that_was_forgotten_does_not_count() -> None:
    kinds = ExactKinds()
    assert kinds.add(("a",), [1])
    assert not kinds.remove(("b",))
    assert kinds.remove(("a",))
    assert kinds.add(("b",), [2])
