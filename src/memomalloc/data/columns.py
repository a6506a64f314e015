"""Columns of whole numbers from outside: what is accepted, and the largest sums."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memomalloc.errors import InvalidProblemError

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]
BoolArray = NDArray[np.bool_]

_Array = TypeVar("_Array", bound=NDArray[Any])

INT64_MAX = 2**63 - 1


def int64_column(name: str, values: ArrayLike) -> Int64Array:
    """A read-only one-dimensional int64 copy of ``values``; the same array where it is one already.

    Raises:
        InvalidProblemError: a value is not a whole number of 64 bits; the message has the first such index.
    """
    try:
        raw = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise InvalidProblemError(f"{name} must be a one-dimensional array of whole numbers: {error}") from error
    if raw.ndim != 1:
        raise InvalidProblemError(f"{name} must be one-dimensional, not of shape {raw.shape}")
    if raw.size == 0:
        column = np.zeros(0, dtype=np.int64)
    elif raw.dtype.kind == "i":
        # What nobody can write to need not be copied.
        column = raw if raw.dtype == np.int64 and not _is_writeable(raw) else raw.astype(np.int64)
    else:
        column = _convert_each(name, raw)
    return read_only(column)


def _is_writeable(array: NDArray[Any]) -> bool:
    # The owner of a view may write to it.
    return array.flags.writeable or array.base is not None


def read_only(array: _Array) -> _Array:
    """The same array, closed for writing."""
    array.flags.writeable = False
    return array


def exact_sum(values: Int64Array) -> int:
    """The sum of non-negative int64 values, without overflow."""
    high = int(np.sum(values >> 32))
    low = int(np.sum(values & 0xFFFFFFFF))
    return (high << 32) + low


def first_index(mask: BoolArray) -> int:
    """The index of the first true value; there must be one."""
    return int(np.argmax(mask))


def _convert_each(name: str, raw: NDArray[Any]) -> Int64Array:
    if raw.dtype.kind == "u":
        too_large = raw > np.uint64(INT64_MAX)
        if too_large.any():
            index = first_index(too_large)
            raise InvalidProblemError(f"{name}[{index}] = {raw[index]} does not fit into 64 bits")
        return raw.astype(np.int64)
    if raw.dtype.kind == "O":
        # Python integers beyond 64 bits arrive as objects.
        for index, value in enumerate(raw):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise InvalidProblemError(f"{name}[{index}] = {value!r:.60} is not a whole number")
            if not -INT64_MAX - 1 <= int(value) <= INT64_MAX:
                raise InvalidProblemError(f"{name}[{index}] = {value!s:.60} does not fit into 64 bits")
        return raw.astype(np.int64)
    raise InvalidProblemError(
        f"{name}[0] = {raw[0]!r:.60} is not a whole number ({name} has type {raw.dtype}, int64 is needed)"
    )
