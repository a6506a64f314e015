"""Offsets for a problem: the planners, their registry, ``plan``, and ``plan_device``.

May import ``memomalloc.errors``, ``memomalloc.data`` and ``memomalloc._planner``. Never imports torch.
"""

from __future__ import annotations

from memomalloc.planners.device_planning import plan_device
from memomalloc.planners.planning import Progress, plan
from memomalloc.planners.registry import Planner, available

__all__ = ["Planner", "Progress", "available", "plan", "plan_device"]
