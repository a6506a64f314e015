"""Plain frozen data: traces, problems and plans, their files, their validation, and the independent checker.

May import ``memomalloc.errors``, ``memomalloc.harmless_text``, ``memomalloc._planner`` (for the checker's sweep) and
``memomalloc._snapshot`` (which reads pickles), and nothing else of the package. Never imports torch.

Data does not know what is made of it: ``origin``, ``calls``, ``problem``, ``trace``, ``plan`` and ``snapshot`` import
no format, no notebook and no checker. Those import the data, and are put together here (see `forms`); formats and
notebook only when first used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from memomalloc.data.calls import Calls
from memomalloc.data.checker import check
from memomalloc.data.device_checker import check_device
from memomalloc.data.device_plan import DevicePlan
from memomalloc.data.device_problem import DeviceBuffer, DeviceMemory, DeviceProblem, Place
from memomalloc.data.forms import Form, register
from memomalloc.data.origin import Origin, SourceLine
from memomalloc.data.plan import Plan
from memomalloc.data.problem import Problem
from memomalloc.data.trace import Trace, TracedBuffer

__all__ = [
    "Calls",
    "DeviceBuffer",
    "DeviceMemory",
    "DevicePlan",
    "DeviceProblem",
    "Origin",
    "Place",
    "Plan",
    "Problem",
    "SourceLine",
    "Trace",
    "TracedBuffer",
    "check",
    "check_device",
]


def _late(module: str, name: str) -> Callable[..., Any]:
    """A function of a module of this folder, imported at the first call: most programs save and show nothing."""

    def call(*args: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(f"memomalloc.data.{module}"), name)(*args, **options)

    return call


register(Plan, Form(_late("plan_file", "write_plan"), _late("plan_file", "read_plan"), _late("notebook", "plan_html")))
register(
    Trace, Form(_late("trace_file", "write_trace"), _late("trace_file", "read_trace"), _late("notebook", "trace_html"))
)
register(
    DeviceProblem,
    Form(
        _late("device_files", "write_device_problem"),
        _late("device_files", "read_device_problem"),
        repr,
    ),
)
register(
    DevicePlan,
    Form(_late("device_files", "write_device_plan"), _late("device_files", "read_device_plan"), repr),
)
