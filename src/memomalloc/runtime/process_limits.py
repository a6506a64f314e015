"""How much planned memory a process may have if nothing is said, and when it gives back what lies idle."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from memomalloc.data.byte_text import parse_bytes
from memomalloc.errors import OptionError

_Number = TypeVar("_Number", int, float)

#: At most so many bytes of planned memory in the process: ``2GiB``, ``512M``, ``1000000`` or ``10%`` of what there is.
MEMORY_LIMIT_VARIABLE = "MEMOMALLOC_MEMORY_LIMIT"
#: Which calls share a plan where a program is planned that knows nothing of it, see ``optimize(shapes=...)``.
SHAPES_VARIABLE = "MEMOMALLOC_SHAPES"
#: Memory that lay idle for so many seconds goes back to the system; ``0`` or ``never``: it stays.
RELEASE_AFTER_VARIABLE = "MEMOMALLOC_RELEASE_AFTER"

MAX_BYTES = 2**64 - 1
#: Of the memory that the container may use, for planned memory.
DEFAULT_SHARE = 0.25
#: Seconds. Long enough that a service which is asked now and then finds its pages, short beside the life of one that is
#: not asked any more. What it costs is in docs/serving/memory.md.
DEFAULT_RELEASE_AFTER_S = 5.0

_CGROUPS = Path("/sys/fs/cgroup")


def container_bytes() -> int:
    """What the process may use: the machine's memory, or less where a control group says so."""
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine_bytes, *_cgroup_limits(Path("/proc/self/cgroup"), _CGROUPS)])


def _cgroup_limits(membership: Path, mounted_at: Path) -> list[int]:
    """The limits of the control groups that a process is in, of either version, and of those around them."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":  # version 2
            top, name = mounted_at, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = mounted_at / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be that of the host, which is not mounted: then the top is the group.
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(top):
                break
            try:
                found.append(int((group / name).read_text(encoding="ascii")))
            except (OSError, ValueError):  # there is no such file, or it says "max"
                continue
    return [limit for limit in found if limit > 0]


def parse_limit(text: str) -> int:
    """Read a number of bytes (``1000000``, ``512M``, ``1.5GiB``) or a share of what the container may use (``10%``).

    Raises:
        ValueError: the text is neither.
    """
    share = re.fullmatch(r"\s*(\d{1,3}(?:\.\d{1,9})?)\s*%\s*", text)
    if share is not None:
        return int(float(share[1]) / 100 * container_bytes())
    limit = parse_bytes(text) if len(text) < 60 else math.inf
    if limit > MAX_BYTES:
        raise ValueError(f"{text!r:.60} is more than 64 bits can count")
    return int(limit)


def parse_seconds(text: str) -> float:
    """Read a time in seconds; ``never`` and ``0`` are 0.

    Raises:
        ValueError: the text is no such number.
    """
    if text.strip().lower() == "never":
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 1e9:
        raise ValueError(f"not a number of seconds: {text[:40]!r}; write it as 5 or 0.5, or never")
    return seconds


def default_memory_limit() -> int:
    """The environment's limit on planned memory in bytes, else a quarter of what the container may use.

    Raises:
        OptionError: the environment's is no number of bytes.
    """
    text = os.environ.get(MEMORY_LIMIT_VARIABLE, "").strip()
    return _read(MEMORY_LIMIT_VARIABLE, parse_limit, text) if text else int(container_bytes() * DEFAULT_SHARE)


def default_release_after_s() -> float:
    """The environment's time after which idle memory goes back, in seconds, else the default.

    Raises:
        OptionError: the environment's is no number of seconds.
    """
    text = os.environ.get(RELEASE_AFTER_VARIABLE, "").strip()
    return _read(RELEASE_AFTER_VARIABLE, parse_seconds, text) if text else DEFAULT_RELEASE_AFTER_S


def _read(variable: str, parse: Callable[[str], _Number], text: str) -> _Number:
    try:
        return parse(text)
    except ValueError as error:
        raise OptionError(f"{variable}: {error}") from None
