"""Replay: run a block of code with a plan."""

from __future__ import annotations

import dataclasses
import weakref
from types import TracebackType
from typing import TYPE_CHECKING

from memomalloc.data.plan import Plan
from memomalloc.errors import RecordingError
from memomalloc.runtime.fork_safety import LockHolder
from memomalloc.runtime.memory.armed_plan import ArmedPlan
from memomalloc.runtime.switch import switch

if TYPE_CHECKING:
    from memomalloc._runtime import Run

# Arenas live as long as their plan: replaying it again finds them mapped and resident.
_armed: weakref.WeakKeyDictionary[Plan, ArmedPlan] = weakref.WeakKeyDictionary()
_registry = LockHolder()


class Replay:
    """What :func:`replay` gives: a context manager that counts how the block deviated from the plan."""

    def __init__(self, armed: ArmedPlan | None) -> None:
        self._armed = armed
        self._run: Run | None = None
        self._is_begun = False
        self._num_deviations: int | None = None

    def __enter__(self) -> Replay:
        if self._is_begun:
            raise RecordingError("a Replay replays once; call memomalloc.replay(plan) for another run")
        self._is_begun = True
        self._run = self._armed.begin() if self._armed is not None else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._run is not None and self._run.started:
            num_upstream, num_missing, _, _ = self._run.end()
            self._num_deviations = num_upstream + num_missing

    @property
    def started(self) -> bool:
        """Whether the block runs on an arena: not nested in another replay, not switched off, and one was free."""
        return self._run is not None and self._run.started

    @property
    def num_deviations(self) -> int:
        """Requests that went upstream and planned requests that did not come.

        Raises:
            RecordingError: the block has not ended, or did not run on an arena.
        """
        if self._num_deviations is None:
            raise RecordingError("deviations are counted when a `with memomalloc.replay(plan)` block has ended")
        return self._num_deviations


def replay(plan: Plan) -> Replay:
    """Serve the tensors that this thread allocates in a ``with`` block from a plan.

    The block may do anything: a request that does not fit the plan is served upstream and counted. Inside another
    replay of the same thread the block changes nothing; the outer plan goes on. The first replay of a plan maps an
    arena, which later ones reuse for as long as the plan object lives.

    Example::

        with memomalloc.replay(plan):
            outputs = model(inputs)

    Raises:
        ArenaError: the plan's arena is larger than what can be mapped here.
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    if not switch.on:
        return Replay(None)
    with _registry.lock:
        armed = _armed.get(plan)
        if armed is None:
            # A copy, which shares the arrays: what the table holds must not keep its own key alive.
            armed = _armed[plan] = ArmedPlan(dataclasses.replace(plan))
    return Replay(armed)
