"""How the kinds of data are written, read and shown, for the methods that users call.

``Trace`` and ``Plan`` know neither files nor notebooks. Whoever knows those registers here how they are made of a
kind; ``memomalloc.data`` does so for its own when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Form:
    """What there is for one kind of data.

    Attributes:
        write: of a value and a path, writes a file.
        read: of a path and options, gives the value of a file.
        show: of a value, gives what a notebook shows: HTML.
    """

    write: Callable[..., None]
    read: Callable[..., Any]
    show: Callable[..., str]


_forms: dict[type, Form] = {}


def register(kind: type, form: Form) -> None:
    """Let the methods of ``kind`` use ``form``."""
    _forms[kind] = form


def form_of(kind: type) -> Form:
    """What was registered for a kind, or for what it is derived from.

    Raises:
        LookupError: nothing was.
    """
    for base in kind.__mro__:
        if base in _forms:
            return _forms[base]
    raise LookupError(f"no form of {kind.__name__} is registered: import memomalloc.data first")
