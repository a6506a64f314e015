"""JSON from outside, read strictly: one object, no duplicate keys, no NaN, bounded size and depth."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from memomalloc.errors import FileFormatError


class _RefusedError(ValueError):
    """A fault that json itself lets pass."""


def parse_json(text: str | bytes, path: str | Path, *, what: str, line: int | None = None) -> Any:
    """The value of a JSON text.

    Args:
        text: the JSON; bytes must be UTF-8.
        path: for messages.
        what: for messages, such as "plan file".
        line: where the text is in the file, if it is one line of it.

    Raises:
        FileFormatError: not JSON, or JSON that allows more than one reading.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise FileFormatError(path, f"not UTF-8 text, so not a {what}: {error}", line=line) from error
    except RecursionError:
        raise FileFormatError(path, f"nested too deeply for a {what}", line=line) from None
    except json.JSONDecodeError as error:
        message = f"not valid JSON ({error.msg} at character {error.pos}): the {what} is damaged or truncated"
        raise FileFormatError(path, message, line=error.lineno if line is None else line) from None
    except ValueError as error:  # _RefusedError, or a number of thousands of digits
        raise FileFormatError(path, f"{error}; a {what} has none", line=line) from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        duplicate = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _RefusedError(f"duplicate key {duplicate!r:.60}")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _RefusedError(f"{text[:60]} is too large a number")
    return value


def read_bounded(path: str | Path, max_bytes: int, *, what: str) -> bytes:
    """All bytes of a file.

    Raises:
        FileFormatError: missing, a folder, unreadable, or larger than ``max_bytes``.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise FileFormatError(path, f"there is no such file; a {what} was expected") from None
    except IsADirectoryError:
        raise FileFormatError(path, f"this is a folder; a {what} was expected") from None
    except OSError as error:
        raise FileFormatError(path, f"cannot be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise FileFormatError(path, f"larger than the {max_bytes} bytes that a {what} may have")
    return content
