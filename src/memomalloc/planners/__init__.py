"""Offsets for a problem: the planners, their registry, and ``plan``.

May import ``memomalloc.errors``, ``memomalloc.data`` and ``memomalloc._planner``. Never imports torch.
"""

from __future__ import annotations

from memomalloc.planners.planning import Progress, plan
from memomalloc.planners.registry import Planner, available

__all__ = ["Planner", "Progress", "available", "plan"]
