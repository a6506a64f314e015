"""Plain frozen data: traces, problems and plans, their files, their validation, and the independent checker.

May import ``memomalloc.errors``, ``memomalloc.harmless_text`` and ``memomalloc._planner`` (for the checker's sweep),
and nothing else of the package. Never imports torch.

Data does not know what is made of it: ``origin``, ``problem``, ``trace`` and ``plan`` import no format, no notebook and
no checker. Those import the data, and are put together here (see `forms`).
"""

from __future__ import annotations

from memomalloc.data.checker import check
from memomalloc.data.forms import Form, register
from memomalloc.data.notebook import plan_html, trace_html
from memomalloc.data.origin import Origin, SourceLine
from memomalloc.data.plan import Plan
from memomalloc.data.plan_file import read_plan, write_plan
from memomalloc.data.problem import Problem
from memomalloc.data.trace import Trace, TracedBuffer
from memomalloc.data.trace_file import read_trace, write_trace

__all__ = ["Origin", "Plan", "Problem", "SourceLine", "Trace", "TracedBuffer", "check"]

register(Plan, Form(write_plan, read_plan, plan_html))
register(Trace, Form(write_trace, read_trace, trace_html))
