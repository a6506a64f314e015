"""The switch that turns memomalloc off: every call then runs as if it were not wrapped."""

from __future__ import annotations

import os

#: Set to 1 (true, yes, on) before the program starts, nothing is ever recorded, planned or installed.
DISABLE_VARIABLE = "MEMOMALLOC_DISABLE"
#: What people set a variable to that shall not hold; all else that is not empty disables.
_NO = ("", "0", "false", "no", "off", "n", "f")


class Switch:
    """Whether calls are planned. One object a process, read at each call."""

    def __init__(self) -> None:
        self.on = os.environ.get(DISABLE_VARIABLE, "").strip().lower() in _NO


switch = Switch()


def disable() -> None:
    """Run every call unplanned from now on, on all threads.

    Runs in progress end as they began. What was learned is kept for :func:`enable`.
    """
    switch.on = False


def enable() -> None:
    """Undo :func:`disable`, and ``MEMOMALLOC_DISABLE=1``."""
    switch.on = True


def is_enabled() -> bool:
    """Whether calls are planned; see :func:`disable`."""
    return switch.on
