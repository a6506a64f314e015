"""JSON from outside, read strictly: no duplicate keys, no NaN, numbers of at most 64 bits, bounded size and depth."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from memomalloc.errors import FileFormatError

MAX_PARSED_BYTES = 2**27
"""What the values of a text may take in memory, as estimated before they are made."""

MAX_LINE_BYTES = 2**18
"""Of a text whose values are few enough, whatever they are."""

#: What a character stands for at most when the text is parsed. After each comma there is a value.
_COSTS = ((b"{", 256), (b"[", 96), (b",", 64), (b'"', 32))
#: Of 64 bits, with the sign.
_MAX_DIGITS = 20


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
            if len(text) > MAX_LINE_BYTES and estimated_bytes(text) > MAX_PARSED_BYTES:
                raise _RefusedError(f"values that take more than {MAX_PARSED_BYTES} bytes")
            text = text.decode("utf-8")
        return (_decoder if line is None else _line_decoder).decode(text)
    except UnicodeDecodeError as error:
        raise FileFormatError(path, f"not UTF-8 text, so not a {what}: {error}", line=line) from error
    except RecursionError:
        raise FileFormatError(path, f"nested too deeply for a {what}", line=line) from None
    except json.JSONDecodeError as error:
        message = f"not valid JSON ({error.msg} at character {error.pos}): the {what} is damaged or truncated"
        raise FileFormatError(path, message, line=error.lineno if line is None else line) from None
    except ValueError as error:  # _RefusedError, or a number of thousands of digits
        raise FileFormatError(path, f"{error}; a {what} has none", line=line) from None


def estimated_bytes(text: bytes) -> int:
    """What the values of a JSON text take in memory, rather too much than too little; found without parsing."""
    # A single character beyond the BMP makes four bytes of each in its string, and of the text while it is parsed.
    return len(text) * (1 if text.isascii() else 8) + sum(text.count(character) * cost for character, cost in _COSTS)


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


def _of_64_bits(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise _RefusedError(f"{text[:40]} is no whole number of 64 bits but has {len(text)} digits")
    return int(text)


_hooks = {"object_pairs_hook": _unique_keys, "parse_constant": _refuse_constant, "parse_float": _finite}
#: Made once: a decoder for each line of a trace would take longer than the line.
_decoder = json.JSONDecoder(**_hooks, parse_int=_of_64_bits)  # type: ignore[arg-type]
#: Whoever reads lines looks at each number: numbers of the interpreter's own making are enough there.
_line_decoder = json.JSONDecoder(**_hooks)  # type: ignore[arg-type]
