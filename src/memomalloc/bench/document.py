"""Results as documents of JSON, which come from outside when they are read.

Each field of a dataclass has the type that it is declared with, or all is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from memomalloc.data.atomic_file import atomic_file

MAX_FIGURE = 1e18
"""Nothing that is measured is larger, in any unit; sums and products of figures stay finite."""

_Kind = TypeVar("_Kind")

_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


def checked(kind: type[_Kind], values: Any, *, where: str) -> _Kind:
    """An instance of a dataclass of plain values; keys that it has no field for are left out.

    Args:
        kind: the dataclass.
        values: what JSON has in its place.
        where: for messages, such as "rows[3]".

    Raises:
        ValueError: the values are none of the dataclass; the message says which.
    """
    hints = _hints(kind)
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    require(values, dict, where)
    for name, entry in fields.items():
        if name in values:
            require(values[name], hints[name], f"{where}.{name}")
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} has no {name}")
    return kind(**{name: value for name, value in values.items() if name in fields})


def require(value: Any, kind: Any, where: str) -> None:
    """See that a value of JSON is of a type: a class, a union, or a list or mapping of such.

    Raises:
        ValueError: it is not.
    """
    if not _is(value, kind):
        name = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
        name = name.replace("collections.abc.", "")
        raise ValueError(f"{where} must be {name}, with numbers from 0 to {MAX_FIGURE:g}, not {reprlib.repr(value)}")


def results_from(kind: type[_Kind], document: Mapping[str, Any], row: Callable[[Any], Any]) -> _Kind:
    """Results as they were saved: an instance of a dataclass whose every field is an entry of the document.

    Args:
        kind: the dataclass; one of its fields is ``rows``.
        document: what was read.
        row: makes one of its rows of what JSON has in its place.

    Raises:
        ValueError: an entry is of another type than its field; the message says which.
        KeyError: it is not there.
    """
    values = {entry.name: document[entry.name] for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, value in values.items():
        require(value, list[dict] if name == "rows" else _hints(kind)[name], name)  # type: ignore[type-arg]
    return kind(**values | {"rows": [row(entry) for entry in values["rows"]]})


def save_document(path: str | Path, results: Any, *, file_format: str, version: int) -> None:
    """Write a dataclass as a results file; it appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    document = {"format": file_format, "version": version, **dataclasses.asdict(results)}
    with atomic_file(path) as file:
        file.write(json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")


def text_by_row(header: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> str:
    """A document as JSON with one line for each row: samples one below the other would make thousands of lines."""
    lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
    return json.dumps(header, indent=1, allow_nan=False).removesuffix("\n}") + f',\n "rows": [\n{lines}\n ]\n}}\n'


def _is(value: Any, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value is None or isinstance(value, (str, bool)) or _is(value, float)
    if origin in (types.UnionType, typing.Union):
        return any(_is(value, argument) for argument in arguments)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(_is(entry, arguments[1]) for entry in value.values())
    if origin is list:
        return isinstance(value, list) and all(_is(entry, arguments[0]) for entry in value)
    if kind in (int, float):
        allowed = (int,) if kind is int else (int, float)
        return type(value) in allowed and 0 <= value <= MAX_FIGURE
    return isinstance(value, type(None) if kind is None else kind)
