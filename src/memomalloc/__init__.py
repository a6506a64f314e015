"""memomalloc memorizes the memory of an inference.

The planner half (``plan``, ``plan_device``, ``advise``, their data, ``planners``) needs numpy only. The runtime half
(``optimize``, ``record``, ``replay``, ``stats`` and so on) needs torch. Both are imported when one of their names is
first used. Importing this package installs no allocator and starts no thread.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from memomalloc import errors
from memomalloc.errors import MemomallocError

if TYPE_CHECKING:
    from memomalloc import advice, data, planners
    from memomalloc.advice import Advice, advise
    from memomalloc.data.device_plan import DevicePlan
    from memomalloc.data.device_problem import DeviceBuffer, DeviceMemory, DeviceProblem, Place
    from memomalloc.data.origin import Origin
    from memomalloc.data.plan import Plan
    from memomalloc.data.problem import Problem
    from memomalloc.data.snapshot import Snapshot, SnapshotMemory
    from memomalloc.data.snapshot_file import read_snapshot
    from memomalloc.data.trace import Trace
    from memomalloc.planners import plan, plan_device
    from memomalloc.planners.merging import merge
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

#: Where a name comes from; imported when the name is first used (PEP 562), so that this package costs a program what it
#: uses.
_SOURCES = {
    "Advice": "advice",
    "DeviceBuffer": "data.device_problem",
    "DeviceMemory": "data.device_problem",
    "DevicePlan": "data.device_plan",
    "DeviceProblem": "data.device_problem",
    "Origin": "data.origin",
    "Place": "data.device_problem",
    "Plan": "data.plan",
    "Problem": "data.problem",
    "Snapshot": "data.snapshot",
    "SnapshotMemory": "data.snapshot",
    "Trace": "data.trace",
    "advise": "advice",
    "merge": "planners.merging",
    "plan": "planners",
    "plan_device": "planners",
    "read_snapshot": "data.snapshot_file",
    "ArenaSettings": "runtime.memory.armed_plan",
    "Deviation": "runtime.memory.deviations",
    "MemoryStats": "runtime.memory.process_memory",
    "OptimizedFunction": "runtime.models.optimized_function",
    "OptimizedModule": "runtime.models.optimized_module",
    "Plans": "runtime.models.offered",
    "Recording": "runtime.learning.recorder",
    "RegionStats": "runtime.memory.process_memory",
    "Replay": "runtime.memory.replayer",
    "Stats": "runtime.memory.statistics",
    "deviations": "runtime.models.optimizing",
    "disable": "runtime.switch",
    "enable": "runtime.switch",
    "forget": "runtime.models.optimizing",
    "is_enabled": "runtime.switch",
    "load_plans": "runtime.models.optimizing",
    "max_memory_allocated": "runtime.memory.allocated_bytes",
    "memory_allocated": "runtime.memory.allocated_bytes",
    "memory_stats": "runtime.memory.process_memory",
    "memory_summary": "runtime.models.summary_text",
    "optimize": "runtime.models.optimizing",
    "plans": "runtime.models.optimizing",
    "record": "runtime.learning.recorder",
    "release": "runtime.memory.process_memory",
    "replay": "runtime.memory.replayer",
    "reset_peak_memory_stats": "runtime.memory.allocated_bytes",
    "save_plans": "runtime.models.optimizing",
    "set_memory_limit": "runtime.memory.process_memory",
    "set_release_after": "runtime.memory.process_memory",
    "stats": "runtime.models.optimizing",
    "traces": "runtime.models.optimizing",
}
_FOLDERS = ("advice", "data", "planners")
#: These say something of the runtime, or switch it, also where it cannot run.
_WITHOUT_RUNTIME = ("Stats", "disable", "enable", "is_enabled")

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
    "advice",
    "advise",
    "data",
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
    if name in _FOLDERS:
        return importlib.import_module(f"memomalloc.{name}")
    source = _SOURCES.get(name)
    if source is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if source.startswith("runtime.") and name not in _WITHOUT_RUNTIME and _is_on():
        # Says what is missing, before an import inside the runtime fails for lack of torch.
        importlib.import_module("memomalloc.runtime.extension").load()
    value = globals()[name] = getattr(importlib.import_module(f"memomalloc.{source}"), name)
    return value


def _is_on() -> bool:
    is_on: bool = importlib.import_module("memomalloc.runtime.switch").is_enabled()
    return is_on


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
