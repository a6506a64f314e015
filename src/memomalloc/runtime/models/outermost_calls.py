"""Plan a whole program without changing it: each outermost call of a module by itself."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import torch

from memomalloc.errors import OptionError
from memomalloc.runtime import extension
from memomalloc.runtime.calls.planned_function import PlannedFunction
from memomalloc.runtime.calls.shape_policy import POLICIES
from memomalloc.runtime.learning.allowance import Cost, Measurement
from memomalloc.runtime.learning.call_group import PlanSettings
from memomalloc.runtime.learning.learned_calls import LearnedCalls
from memomalloc.runtime.memory import armed_plan
from memomalloc.runtime.memory.deviations import Deviation
from memomalloc.runtime.memory.statistics import Stats
from memomalloc.runtime.models.optimized_module import OptimizedModule
from memomalloc.runtime.models.outside_calls import COMPILED_CALL, OutsideCall, own_call, replace_call, thread
from memomalloc.runtime.models.usage import unplanned_text
from memomalloc.runtime.process_limits import SHAPES_VARIABLE
from memomalloc.runtime.shipping.plans_folder import PlansFolder
from memomalloc.runtime.switch import switch

_original_call = torch.nn.Module.__call__
#: The share of the process's CPU time that learning may take at any moment.
LEARNING_SHARE = 0.02
# The first call of a module, before it is optimized, has warmed up.
_SETTINGS = PlanSettings(warm_up_calls=0, learning_share=LEARNING_SHARE)


def _shapes() -> str:
    shapes = os.environ.get(SHAPES_VARIABLE, "").strip() or "auto"
    if shapes not in POLICIES:
        raise OptionError(f"{SHAPES_VARIABLE} must be one of {', '.join(POLICIES)}, not {shapes[:40]!r}")
    return shapes


class _Ended:
    """What calls of modules that are gone had learned, if somebody will ask.

    Attributes:
        plans: where it is kept for the next start of the program; None: it is not.
        shapes: which calls share a plan.
    """

    def __init__(self) -> None:
        self.is_kept = False
        self.plans: PlansFolder | None = None
        self.shapes = "auto"
        self.learned: list[tuple[str, LearnedCalls]] = []
        self.deviations: list[Deviation] = []
        self.stats: list[tuple[str, Stats]] = []


_ended = _Ended()
# By id: a module need not be hashable. Of modules that are called once entries stay; they are few bytes, and bounded.
_cost_of_first_call: dict[int, Cost] = {}
_MAX_FIRST_CALLS = 4096
_alive: weakref.WeakSet[OutermostCall] = weakref.WeakSet()


class OutermostCall(OutsideCall):
    """The call of a module that was once the outermost one on its thread; planned whenever it is so again."""

    _is_finalizing = staticmethod(sys.is_finalizing)

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(module, PlannedFunction(own_call(module), shapes=_ended.shapes, settings=_SETTINGS))
        self._ended = _ended  # for __del__, which may run when globals are gone
        self._entry = _ended.plans.entry(module) if _ended.plans is not None else None
        if self._entry is not None:
            self._entry.load(self.planned)
        _alive.add(self)

    def learned(self) -> list[tuple[str, LearnedCalls]]:
        """What was learned, with the name of the module."""
        return [(self.planned.name, learned) for learned in self.planned.learned().values()]

    def save(self) -> int:
        """Keep what was learned for the next start of the program; how many plans that are.

        Raises:
            OSError: it cannot be written.
        """
        return self._entry.save(self.planned) if self._entry is not None else 0

    def __del__(self) -> None:
        # The module is gone, or was compiled or copied over.
        if self._entry is not None and not self._is_finalizing():  # what lives until the end is saved before
            with contextlib.suppress(OSError):
                self.save()
        if self._ended.is_kept:
            self._ended.learned += self.learned()
            self._ended.deviations += self.planned.deviations()
            self._ended.stats.append((self.planned.name, self.planned.stats()))


def _call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    # First of all, so that a compiler does not look at the rest.
    if torch.compiler.is_compiling() or thread.inside or torch._C._get_tracing_state() is not None:
        return _original_call(module, *args, **kwargs)
    if isinstance(module, OptimizedModule):  # by the program itself: as it says
        return _call_inside(module, args, kwargs)
    call = module._compiled_call_impl
    if not isinstance(call, OutsideCall) or not call.is_of(module):
        if isinstance(call, OutsideCall):  # copied over from another module, which it would call
            replace_call(module, None)
        elif COMPILED_CALL not in module.__dict__ and not _was_learned_before(module):
            return _call_unprepared(module, call, args, kwargs)
        prepared = OutermostCall(module)
        prepared.planned.cost_of_call = _cost_of_first_call.pop(id(module), None)
        replace_call(module, prepared)
    return _original_call(module, *args, **kwargs)


def _was_learned_before(module: torch.nn.Module) -> bool:
    return _ended.plans is not None and _ended.plans.entry(module).exists


def _call_unprepared(module: torch.nn.Module, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a module for the first time, perhaps for the last: programs make modules for one call."""
    replace_call(module, call)  # what it has already, but in its own dictionary: this was the first
    measurement = Measurement()
    try:
        with measurement:
            return _call_inside(module, args, kwargs)
    finally:
        if len(_cost_of_first_call) < _MAX_FIRST_CALLS:
            _cost_of_first_call[id(module)] = measurement.cost


def _call_inside(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a module so that what it calls is not planned by itself."""
    thread.inside = True
    try:
        return _original_call(module, *args, **kwargs)
    finally:
        thread.inside = False


def optimize_outermost_calls(*, keep_what_was_learned: bool = False, plans: Path | None = None) -> None:
    """From now on, optimize in place each module that is called from outside any other module.

    Shapes are handled as ``MEMOMALLOC_SHAPES`` says, by default as by ``optimize(shapes="auto")``. Does nothing where
    memomalloc is disabled.

    Args:
        keep_what_was_learned: also of modules that are gone, for :func:`learned`, :func:`deviations` and
            :func:`unplanned_texts`.
        plans: a folder with what was learned at earlier starts; :func:`save_plans` keeps what is learned now.

    Raises:
        OptionError: a variable of the environment is not what it should be.
        OSError: the folder cannot be made.
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    if not switch.on:
        return
    extension.install()
    _ended.is_kept = keep_what_was_learned
    _ended.shapes = _shapes()
    _ended.plans = PlansFolder(plans) if plans is not None else None
    torch.nn.Module.__call__ = _call  # type: ignore[method-assign]


def learned() -> list[tuple[str, LearnedCalls]]:
    """What was learned of all modules, with their names."""
    return [*_ended.learned, *(entry for call in list(_alive) for entry in call.learned())]


def save_plans() -> int:
    """Keep what was learned of the modules that are there in the folder; how many plans that are.

    Raises:
        OSError: it cannot be written.
    """
    return sum(call.save() for call in list(_alive))


def deviations() -> list[Deviation]:
    """The first deviating requests of the last run of each plan that had any."""
    return [*_ended.deviations, *(deviation for call in list(_alive) for deviation in call.planned.deviations())]


def unplanned_texts() -> list[str]:
    """Of each module that was called again and never from a plan, and of the program if none was: why, and what to do.

    Those called most come first.
    """
    stats = [*_ended.stats, *((call.planned.name, call.planned.stats()) for call in list(_alive))]
    if not stats and armed_plan.stats().runs_replayed == 0:
        return [_NOTHING_TEXT]
    texts = [
        (sum(one.runs_unplanned.values()), unplanned_text(name, one.runs_unplanned, shapes="auto"))
        for name, one in stats
        if one.runs_replayed == 0 and one.runs_unplanned
    ]
    return [text for _, text in sorted(texts, reverse=True)]


_NOTHING_TEXT = (
    "no module was called from outside any other more than once, so nothing was planned; modules are planned where "
    "they are called as module(...), not by their forward()"
)
