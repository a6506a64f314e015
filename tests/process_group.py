"""Whether all processes that a command has started are gone."""

from __future__ import annotations

import time
from pathlib import Path

TIMEOUT_S = 30


def wait_until_ended(group: int) -> None:
    """Fail if a process of the group still runs; one that has ended and that nobody has waited for is gone."""
    deadline = time.monotonic() + TIMEOUT_S
    while running := [folder.name for folder in Path("/proc").glob("[0-9]*") if _runs_in(folder, group)]:
        assert time.monotonic() < deadline, f"still running: {', '.join(running)}"
        time.sleep(0.1)


def _runs_in(folder: Path, group: int) -> bool:
    try:
        # The name, in parentheses, may hold anything; after it come state, parent and group.
        state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
    except (OSError, ValueError):  # it ended just now
        return False
    return int(its_group) == group and state != "Z"
