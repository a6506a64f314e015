"""A name for a kind of call that is the same in every process."""

from __future__ import annotations

import enum
import hashlib
from typing import Any

import torch

from memomalloc.runtime.calls.signatures import Kind

_BY_REPR = (bool, int, float, complex, str, bytes, type(None))
_BY_STR = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.qscheme)


class UnnamedCallError(ValueError):
    """A call has an argument whose value means nothing outside its process."""


def digest_of(kind: Kind) -> str:
    """A digest of a kind of call, equal in two processes exactly if a plan of one serves the other.

    Raises:
        UnnamedCallError: the signature holds an object of a user's class by value.
    """
    return hashlib.sha256(text_of(kind.signature).encode()).hexdigest()


def text_of(value: Any) -> str:
    """The signature as text that a person can read.

    Raises:
        UnnamedCallError: as :func:`digest_of`.
    """
    if type(value) in _BY_REPR:
        return repr(value)
    if isinstance(value, tuple):  # torch.Size equals the tuple of its numbers, and so it must here
        return f"({' '.join(map(text_of, value))})"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, _BY_STR):
        return str(value)
    if isinstance(value, enum.Enum):
        return f"{text_of(type(value))}.{value.name}"
    raise UnnamedCallError(f"an argument of class {text_of(type(value))} is told apart by its value, which has no name")
