"""Whether the calls of a model are planned at all: nothing else would say that they are not."""

from __future__ import annotations

import atexit
import functools
import time
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from memomalloc.runtime.events import report
from memomalloc.runtime.switch import switch

#: A model that was not called is named if it lived for so long, or is there when the program ends.
MIN_LIFE_S = 1.0
#: So many calls run unplanned, and not one was planned: it is said.
MANY_CALLS = 100

#: What to do, by the reason for which most calls ran unplanned.
_REMEDIES = {
    "warm_up": "no two or three were of one kind (sizes, other arguments), which it takes to learn",
    "device": "tensors that are not on the CPU are not planned",
    "no_arena": "max_bytes leaves no room for an arena, or more calls run at once than max_arenas allows",
    "unplannable": "the log has the reason",
    "learning": "other threads learn the same calls: pass example_inputs, or saved plans",
}
_PROBABLY_EXACT = "; pass shapes='auto', so that they share a plan"


class _Learner(Protocol):
    def armed_plans(self) -> Sequence[object]: ...


class Usage:
    """What is known of the calls of a model, shared by its copies: one of them may be called instead of it.

    Reports once, when the last of them goes or the program ends, if none was ever called; and once, if many were called
    and no plan came of it.

    Attributes:
        called: a call came through something that is planned.
    """

    def __init__(self, name: str, *, shapes: str) -> None:
        self.called = False
        self._name = name
        self._shapes = shapes
        self._unplanned: Counter[str] = Counter()
        self._is_told = False
        self._state = _State()
        weakref.finalize(self, _report_unused, self._state, name)
        _notice_the_end()

    def came(self) -> None:
        """A call came."""
        self.called = self._state.was_called = True

    def ran_unplanned(self, reason: str, learner: _Learner) -> None:
        """A call ran unplanned; counts may be lost between threads, which does no harm."""
        if self._is_told or reason in ("disabled", "nested"):
            return
        self._unplanned[reason] += 1
        if self._unplanned.total() < MANY_CALLS:
            return
        self._is_told = True
        if not learner.armed_plans():
            text = unplanned_text(self._name, self._unplanned, shapes=self._shapes)
            report("never_armed", self._name, text, runs_unplanned=dict(self._unplanned))


def unplanned_text(name: str, runs_unplanned: Mapping[str, int], *, shapes: str) -> str:
    """Why no call of a model was planned, and what to do."""
    reason, _ = Counter(runs_unplanned).most_common(1)[0]
    text = f"{name}: {sum(runs_unplanned.values())} calls, and none was planned: {_REMEDIES.get(reason, reason)}"
    return text + (_PROBABLY_EXACT if reason == "warm_up" and shapes == "exact" else "")


class _State:
    """What is to be known when a model is gone."""

    is_the_end = False  # of the program

    def __init__(self) -> None:
        self.was_called = False
        self.made_at_s = time.monotonic()


@functools.cache
def _notice_the_end() -> None:
    # After the first finalizer, whose own handler was registered then, and is called after this one.
    atexit.register(lambda: setattr(_State, "is_the_end", True))


def _report_unused(state: _State, name: str) -> None:
    if state.was_called or not switch.on:
        return
    # What is dropped at once was not meant to be called.
    if not _State.is_the_end and time.monotonic() - state.made_at_s < MIN_LIFE_S:
        return
    text = (
        f"{name} was optimized and never called: calls of the object that optimize() was given run unplanned; call the "
        "one that it gave back, or pass inplace=True, or name the methods that are called, as in methods=['encode']"
    )
    report("unused", name, text)
