"""memomalloc memorizes the memory of an inference.

The planner half (``plan``, ``Problem``, ``Plan``, ``Trace``, ``planners``) needs numpy only. The runtime half
(``optimize``, ``record``, ``replay``, ``stats`` and so on) needs torch, which is imported when one of its names is
first used. Importing this package installs no allocator and starts no thread.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from memomalloc import errors, planners
from memomalloc.data.origin import Origin
from memomalloc.data.plan import Plan
from memomalloc.data.problem import Problem
from memomalloc.data.trace import Trace
from memomalloc.errors import MemomallocError
from memomalloc.planners import plan
from memomalloc.planners.merging import merge

if TYPE_CHECKING:
    from memomalloc.runtime.learning.recorder import Recording, record
    from memomalloc.runtime.memory.armed_plan import ArenaSettings
    from memomalloc.runtime.memory.deviations import Deviation
    from memomalloc.runtime.memory.process_memory import (
        MemoryStats,
        RegionStats,
        memory_stats,
        release,
        set_memory_limit,
        set_release_after,
    )
    from memomalloc.runtime.memory.replayer import Replay, replay
    from memomalloc.runtime.memory.statistics import Stats
    from memomalloc.runtime.models.summary_text import memory_summary
    from memomalloc.runtime.models.wrapper import OptimizedFunction, OptimizedModule, optimize, stats
    from memomalloc.runtime.switch import disable, enable, is_enabled

__version__ = "0.1.0"

_RUNTIME = {
    "ArenaSettings": "memory.armed_plan",
    "Deviation": "memory.deviations",
    "OptimizedFunction": "models.wrapper",
    "OptimizedModule": "models.wrapper",
    "Recording": "learning.recorder",
    "Replay": "memory.replayer",
    "Stats": "memory.statistics",
    "disable": "switch",
    "enable": "switch",
    "is_enabled": "switch",
    "memory_summary": "models.summary_text",
    "optimize": "models.wrapper",
    "record": "learning.recorder",
    "replay": "memory.replayer",
    "MemoryStats": "memory.process_memory",
    "RegionStats": "memory.process_memory",
    "memory_stats": "memory.process_memory",
    "release": "memory.process_memory",
    "set_memory_limit": "memory.process_memory",
    "set_release_after": "memory.process_memory",
    "stats": "models.wrapper",
}

__all__ = [
    "ArenaSettings",
    "Deviation",
    "MemomallocError",
    "MemoryStats",
    "OptimizedFunction",
    "OptimizedModule",
    "Origin",
    "Plan",
    "Problem",
    "Recording",
    "RegionStats",
    "Replay",
    "Stats",
    "Trace",
    "disable",
    "enable",
    "errors",
    "is_enabled",
    "memory_stats",
    "memory_summary",
    "merge",
    "optimize",
    "plan",
    "planners",
    "record",
    "release",
    "replay",
    "set_memory_limit",
    "set_release_after",
    "stats",
]


def __getattr__(name: str) -> Any:
    """Import the runtime when one of its names is first used (PEP 562)."""
    if name not in _RUNTIME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    is_off = not importlib.import_module("memomalloc.runtime.switch").is_enabled()
    if name not in ("Stats", "disable", "enable", "is_enabled") and not is_off:
        # Says what is missing, before an import inside the runtime fails for lack of torch.
        importlib.import_module("memomalloc.runtime.extension").load()
    value = getattr(importlib.import_module(f"memomalloc.runtime.{_RUNTIME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
