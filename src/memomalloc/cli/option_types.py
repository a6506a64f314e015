"""What the texts of arguments are read as; ``-`` is standard input or output everywhere. No command of its own."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from memomalloc.data.atomic_file import STANDARD_OUTPUT
from memomalloc.data.byte_text import parse_bytes
from memomalloc.data.columns import INT64_MAX
from memomalloc.data.input_file import STANDARD_INPUT
from memomalloc.harmless_text import harmless

_WHOLE = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_MAX_SECONDS = 1e9


def input_file(text: str) -> Path:
    """A file to read. A file that is really called ``-`` is ``./-``."""
    return STANDARD_INPUT if text == "-" else _path(text)


def output_file(text: str) -> Path:
    """A file to write."""
    return STANDARD_OUTPUT if text == "-" else _path(text)


def named(path: Path) -> str:
    """A path in a sentence for a person."""
    return {STANDARD_INPUT: "standard input", STANDARD_OUTPUT: "standard output"}.get(path) or harmless(path)


def file_name(path: Path) -> str:
    """The last part of a path in a title for a person."""
    return named(path).rpartition("/")[2]


def whole(lowest: int = 0, highest: int = INT64_MAX) -> Callable[[str], int]:
    """A whole number between two others."""

    def parse(text: str) -> int:
        value = int(text) if _WHOLE.fullmatch(text) else None
        if value is None or not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text!r:.60} is no whole number between {lowest} and {highest}")
        return value

    return parse


def byte_count(text: str) -> int:
    """A number of bytes, such as 64MiB or 4096."""
    try:
        value = parse_bytes(text) if len(text) < 60 else math.inf
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if value > INT64_MAX:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is more than 64 bits can count")
    return int(value)


def plain_bytes(text: str) -> int:
    """A number of bytes, in figures."""
    if not text.removeprefix("-").isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a whole number of bytes")
    return whole()(text)


def alignment(text: str) -> int:
    """A number of bytes that offsets are multiples of."""
    value = plain_bytes(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is no alignment: 1 takes any offset")
    return value


def seconds(text: str) -> float:
    """A number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a number of seconds")
    if value > _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is more than {_MAX_SECONDS:g} seconds")
    return value


def time_limit(text: str) -> float:
    """A number of seconds that is not negative."""
    value = seconds(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is negative")
    return value


def names(text: str) -> list[str]:
    """Names, separated by commas."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r:.60} has an empty name: separate names by single commas")
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r:.60} has a name more than once")
    return found


def some_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Some of the names there are, separated by commas."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(names(text))
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return parse


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("an empty text names no file")
    return Path(text)
