"""Which releases of torch the runtime works with. Read by the build as well: imports nothing of this package."""

from __future__ import annotations

import re

#: The first release that the runtime is built for, and the last that it was tested with, as (major, minor). A newer one
#: is tried, after a test of its own. ``pyproject.toml`` says the first to pip, docs/versions.md both to people.
FIRST_TORCH = (2, 9)
LAST_TESTED_TORCH = (2, 15)


def minor_version(version: str) -> tuple[int, int]:
    """(major, minor) of a version of torch.

    Raises:
        ValueError: it does not begin with two numbers.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise ValueError(f"torch has a version that cannot be read: {version!r}")
    return int(found.group(1)), int(found.group(2))


def is_newer_than_tested(version: str) -> bool:
    """Whether a version of torch came out after the last that was tested.

    Raises:
        ValueError: it does not begin with two numbers.
    """
    return minor_version(version) > LAST_TESTED_TORCH
