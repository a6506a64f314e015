"""What would lower the peak: changes of the program, each with the exact peak after it.

Takes traces that know who read what. May import ``memomalloc.errors``, ``memomalloc.harmless_text``,
``memomalloc.data`` and ``memomalloc.planners``, and nothing else of the package; never torch.

A kind of change is found by one file (`in_place`, `deletions`, `earlier`, `scratch`), which says what becomes of the
buffers: an `Edit`. `Subject` makes the edits in the trace, `advising` searches for those that lower the peak.
"""

from __future__ import annotations

from memomalloc.advice.advising import Advice, Change, advise
from memomalloc.advice.peak import Peak

__all__ = ["Advice", "Change", "Peak", "advise"]
