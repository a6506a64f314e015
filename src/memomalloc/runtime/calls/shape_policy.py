"""Which calls share a plan when shapes vary."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from memomalloc.runtime.calls.signatures import Kind, Signature, Sizes, family

#: What ``optimize(shapes=...)`` takes.
POLICIES = ("exact", "bucketed", "merged", "auto")


#: Under ``auto``, calls that differ in sizes only share a plan once there are more kinds of them than this.
MAX_EXACT_OF_FAMILY = 4


class ExactKinds:
    """Under ``auto``: the kinds of calls of one family, as long as each has a plan of its own.

    They have so while there are few, and each came again before there was another: a few fixed shapes. Where a new one
    comes before the last came again, shapes vary.

    Attributes:
        sizes: of the calls, by kind.
    """

    def __init__(self) -> None:
        self.sizes: dict[Kind, list[int]] = {}
        self._came_once: Kind | None = None

    def add(self, key: Kind, sizes: list[int]) -> bool:
        """A call of a kind came; whether kinds still have plans of their own."""
        if key in self.sizes:
            if key == self._came_once:
                self._came_once = None
            return True
        is_varying = self._came_once is not None or len(self.sizes) >= MAX_EXACT_OF_FAMILY
        self.sizes[key] = sizes
        self._came_once = key
        return not is_varying

    def remove(self, key: Kind) -> bool:
        """A kind was forgotten, if it was known; whether none is left."""
        known = self.sizes.pop(key, None) is not None
        if key == self._came_once:
            self._came_once = None
        return known and not self.sizes


def bucket_of(size: int) -> int:
    """The next larger of 1, 2, 3, 4, 6, 8, 12, 16, ...: buckets at most 1.5 times apart."""
    if size <= 2:
        return size
    power = 1 << (size - 1).bit_length()  # the next power of two
    return power * 3 // 4 if size <= power * 3 // 4 else power


def family_of(policy: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Signature, list[int]]:
    """The key that calls of one plan have in common under a policy other than ``exact``, and the call's sizes."""
    sizes = Sizes(bucket_of if policy == "bucketed" else _nothing)
    return family(args, kwargs, sizes), sizes.values


def _nothing(size: int) -> Hashable:
    return None
