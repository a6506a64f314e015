"""Files that a command is told to write, looked at before the work begins. No command of its own."""

from __future__ import annotations

from pathlib import Path

from memomalloc.errors import FileFormatError


def require_folder_of(*paths: Path | None) -> None:
    """See that each path can be the name of a new file; None stands for an option that was not given.

    Raises:
        FileFormatError: a path is a folder, or in a folder that is not there.
    """
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise FileFormatError(path, "is a folder: name a file in it")
        if not path.parent.is_dir():
            raise FileFormatError(path, f"there is no folder {path.parent}: make it, or write elsewhere")
