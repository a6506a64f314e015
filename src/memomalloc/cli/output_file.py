"""Files that a command is told to write, looked at before the work begins. No command of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from memomalloc.cli.option_types import named
from memomalloc.data.atomic_file import STANDARD_OUTPUT, require_writable
from memomalloc.errors import FileFormatError
from memomalloc.harmless_text import harmless


def require_outputs(*outputs: Path | None, inputs: Iterable[Path] = (), prints: bool = False) -> None:
    """See that each output can be written, and say where that replaces an input.

    Args:
        outputs: what will be written; None stands for an option that was not given.
        inputs: what is read.
        prints: the command prints its result: standard output is taken.

    Raises:
        FileFormatError: an output is a folder, in a folder that is not there, or the same as another one.
        OSError: it cannot be written.
    """
    inputs, seen = list(inputs), [STANDARD_OUTPUT] if prints else []
    for path in outputs:
        if path is None:
            continue
        if path.is_dir():
            raise FileFormatError(path, "is a folder: name a file in it")
        if not path.parent.is_dir():
            raise FileFormatError(path, f"there is no folder {path.parent}: make it, or write elsewhere")
        if any(_is_same(path, other) for other in seen):
            raise FileFormatError(named(path), "two results would be written there: name a file for one of them")
        if any(_is_same(path, other) for other in inputs):
            print(f"memomalloc: warning: {harmless(path)} is read, and replaced by the result", file=sys.stderr)
        require_writable(path)
        seen.append(path)


def say_written(path: Path | None, *, quiet: bool = False) -> None:
    """Say on standard output that a file was written, unless it is standard output itself."""
    if path is not None and path != STANDARD_OUTPUT and not quiet:
        print(f"wrote {harmless(path)}")


def _is_same(one: Path, other: Path) -> bool:
    if one == other:
        return True
    try:
        # Not devices: a terminal or /dev/null takes more than one result.
        return os.path.samefile(one, other) and (one.is_file() or other.is_file())
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)
