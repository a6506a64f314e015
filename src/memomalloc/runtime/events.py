"""What happens to plans, for the log.

Each record of the logger ``memomalloc`` has, besides its text, a field ``memomalloc``: a dictionary with ``event``,
``model`` (the function's name) and what the table says. A formatter that writes JSON can take it as it is.

=================== ======= ===========================================================================================
event               level   more fields
=================== ======= ===========================================================================================
``armed``           INFO    ``num_buffers``, ``arena_bytes``, ``lower_bound_bytes``, ``planner``, ``elapsed_s``
``grew``            INFO    the same, of the new plan
``deviated``        INFO    ``num_runs`` (that deviated so far), ``first`` (the first such request, in words); for the
                            1st, 2nd, 4th, 8th ... run that deviates
``restarted``       INFO    (the program has changed: it is learned anew)
``retired``         INFO    ``speed``: how many times as fast calls were with the plan, as without it
``evicted``         INFO    ``num_plans`` (that remain)
``unplannable``     WARNING ``reason``
``fault``           WARNING ``reason``, ``num_faults`` (so far; the 1st, 2nd, 4th, 8th ... is logged): something of
                            memomalloc's failed around a call, which was made all the same
``plans_loaded``    INFO    ``num_plans``
``plans_refused``   WARNING
``plan_not_saved``  WARNING
``unused``          WARNING a model was optimized, and never called through what was optimized
``never_armed``     WARNING ``runs_unplanned`` (how many calls ran unplanned, by reason): of many, none was planned
=================== ======= ===========================================================================================
"""

from __future__ import annotations

import logging

log = logging.getLogger("memomalloc")

_WARNINGS = frozenset(("unplannable", "fault", "plans_refused", "plan_not_saved", "unused", "never_armed"))


def report(event: str, model: str, text: str, **fields: object) -> None:
    """Log an event."""
    level = logging.WARNING if event in _WARNINGS else logging.INFO
    log.log(level, text, extra={"memomalloc": {"event": event, "model": model, **fields}}, stacklevel=2)
