"""Plain frozen data: traces, problems and plans, their files, their validation, and the independent checker.

May import ``memomalloc.errors`` and ``memomalloc._planner`` (for the checker's sweep), and nothing else of the
package. Never imports torch.
"""

from __future__ import annotations

from memomalloc.data.checker import check
from memomalloc.data.origin import Origin, SourceLine
from memomalloc.data.plan import Plan
from memomalloc.data.problem import Problem
from memomalloc.data.trace import Trace, TracedBuffer

__all__ = ["Origin", "Plan", "Problem", "SourceLine", "Trace", "TracedBuffer", "check"]
