"""Which calls share a plan when shapes vary."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from memomalloc.runtime.calls.signatures import Signature, Sizes, family

#: What ``optimize(shapes=...)`` takes.
POLICIES = ("exact", "bucketed", "merged", "auto")


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
