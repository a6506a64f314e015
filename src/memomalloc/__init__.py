"""memomalloc memorizes the memory of an inference.

The planner half (``plan``, ``plan_device``, ``advise``, their data, ``planners``) needs numpy only. The runtime half
(``optimize``, ``record``, ``replay``, ``stats`` and so on) needs torch, which is imported when one of its names is
first used. Importing this package installs no allocator and starts no thread.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from memomalloc import errors, planners
from memomalloc.advice import Advice, advise
from memomalloc.data.device_plan import DevicePlan
from memomalloc.data.device_problem import DeviceBuffer, DeviceMemory, DeviceProblem, Place
from memomalloc.data.origin import Origin
from memomalloc.data.plan import Plan
from memomalloc.data.problem import Problem
from memomalloc.data.snapshot import Snapshot, SnapshotMemory
from memomalloc.data.trace import Trace
from memomalloc.errors import MemomallocError
from memomalloc.planners import plan, plan_device
from memomalloc.planners.merging import merge

if TYPE_CHECKING:
    from memomalloc.data.snapshot_file import read_snapshot
    from memomalloc.runtime.learning.recorder import Recording, record
    from memomalloc.runtime.memory.allocated_bytes import (
        max_memory_allocated,
        memory_allocated,
        reset_peak_memory_stats,
    )
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
    from memomalloc.runtime.models.offered import Plans
    from memomalloc.runtime.models.optimized_function import OptimizedFunction
    from memomalloc.runtime.models.optimized_module import OptimizedModule
    from memomalloc.runtime.models.optimizing import (
        deviations,
        forget,
        load_plans,
        optimize,
        plans,
        save_plans,
        stats,
        traces,
    )
    from memomalloc.runtime.models.summary_text import memory_summary
    from memomalloc.runtime.switch import disable, enable, is_enabled

__version__ = "0.1.0"

_RUNTIME = {
    "ArenaSettings": "memory.armed_plan",
    "Deviation": "memory.deviations",
    "OptimizedFunction": "models.optimized_function",
    "OptimizedModule": "models.optimized_module",
    "Plans": "models.offered",
    "Recording": "learning.recorder",
    "Replay": "memory.replayer",
    "Stats": "memory.statistics",
    "deviations": "models.optimizing",
    "disable": "switch",
    "enable": "switch",
    "forget": "models.optimizing",
    "is_enabled": "switch",
    "load_plans": "models.optimizing",
    "memory_summary": "models.summary_text",
    "optimize": "models.optimizing",
    "plans": "models.optimizing",
    "record": "learning.recorder",
    "replay": "memory.replayer",
    "MemoryStats": "memory.process_memory",
    "RegionStats": "memory.process_memory",
    "max_memory_allocated": "memory.allocated_bytes",
    "memory_allocated": "memory.allocated_bytes",
    "memory_stats": "memory.process_memory",
    "release": "memory.process_memory",
    "reset_peak_memory_stats": "memory.allocated_bytes",
    "save_plans": "models.optimizing",
    "set_memory_limit": "memory.process_memory",
    "set_release_after": "memory.process_memory",
    "stats": "models.optimizing",
    "traces": "models.optimizing",
}

__all__ = [
    "Advice",
    "ArenaSettings",
    "Deviation",
    "DeviceBuffer",
    "DeviceMemory",
    "DevicePlan",
    "DeviceProblem",
    "MemomallocError",
    "MemoryStats",
    "OptimizedFunction",
    "OptimizedModule",
    "Origin",
    "Place",
    "Plan",
    "Plans",
    "Problem",
    "Recording",
    "RegionStats",
    "Replay",
    "Snapshot",
    "SnapshotMemory",
    "Stats",
    "Trace",
    "advise",
    "deviations",
    "disable",
    "enable",
    "errors",
    "forget",
    "is_enabled",
    "load_plans",
    "max_memory_allocated",
    "memory_allocated",
    "memory_stats",
    "memory_summary",
    "merge",
    "optimize",
    "plan",
    "plan_device",
    "planners",
    "plans",
    "read_snapshot",
    "record",
    "release",
    "replay",
    "reset_peak_memory_stats",
    "save_plans",
    "set_memory_limit",
    "set_release_after",
    "stats",
    "traces",
]


def __getattr__(name: str) -> Any:
    """Import the runtime, or the reader of snapshots, when one of its names is first used (PEP 562)."""
    if name == "read_snapshot":
        value = globals()[name] = importlib.import_module("memomalloc.data.snapshot_file").read_snapshot
        return value
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
