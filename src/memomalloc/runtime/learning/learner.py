"""The learner: what is to be done with the next call of a group. A table, and the few numbers its events are made of.

No torch, no clock, no lock, no native code: orders are carried out elsewhere, and what came of them is told here.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from types import MappingProxyType
from typing import Final

from memomalloc.runtime.learning.earnings import Earnings
from memomalloc.runtime.learning.reluctance import Reluctance


class State(Enum):
    """What the calls of a group are in for."""

    WARMING_UP = "The next call runs as it is: compilers and libraries prepare themselves in it."
    RECORDING = "The next call is recorded."
    RECORDED = "The next call finds a new plan, made as it comes."
    UNCONFIRMED = "The plan was made of one recording; its first run is the second opinion."
    ARMED = "Calls are replayed, and there is nothing to learn."
    GROWING = "Calls are replayed; the next one like those that deviated lets the plan grow."
    WATCHING = "The next call is replayed and recorded."
    RENEWING = "Earlier runs left too much behind: the next call finds fresh memory."
    CHANGED = "The program has changed: before the next call all is forgotten."
    TIMING = "The next calls are replayed and timed."
    PROBING = "The next calls run without the plan, and are timed."
    RETIRED = "The plan cost time and saved no memory: calls run as they are."
    UNPLANNABLE = "No plan can be made: calls run as they are."


class Event(Enum):
    """What happened."""

    CALL = "a call is about to begin"
    LARGER_CALL = "a call is about to begin that is larger than what was recorded"
    WARM = "the last call to warm up has run"
    SEEDED = "recordings made elsewhere are there"
    ADOPTED = "a plan made elsewhere is armed"
    NEW = "a recording showed something new"
    NOTHING_NEW = "a recording showed nothing new"
    MISSED = "a recording met none of the calls that deviate"
    PLANNED = "a new plan is armed"
    FAILED = "no plan can be made"
    AS_PLANNED = "a run asked for what the plan foresaw"
    UNFORESEEN = "runs asked for more than the plan foresaw, and it pays to learn from it"
    LEFT_BEHIND = "run after run only suffers from what earlier ones left behind"
    UNLIKE = "run after run has little in common with the plan"
    WIDENED = "the plan may grow without a recording"
    NOT_WIDENED = "the plan cannot grow without a recording"
    RENEWED = "the plan has fresh memory"
    FORGOTTEN = "all is forgotten"
    DUE = "it is time to see what the plan is worth"
    TIMED = "enough replayed calls were timed"
    EARNS = "the plan is kept for now"
    COSTS = "the plan costs time and saves no memory"


class Order(Enum):
    """What is to be done. The first five come before the call, and another order follows."""

    PLAN = "make a plan of what was recorded, and arm it"
    WIDEN = "let the plan grow by the sizes that the last run asked for"
    RENEW = "give the plan fresh memory"
    FORGET = "drop the plan and all that was recorded"
    RETIRE = "drop the plan"
    RUN = "run the call as it is"
    RECORD = "record the call; replay it as well where a plan is armed"
    REPLAY = "replay the call"
    TIME = "replay the call, and time it"
    PROBE = "run the call without the plan, and time it"


#: Orders after which the learner is asked again for the same call.
BEFORE_THE_CALL: Final = frozenset((Order.PLAN, Order.WIDEN, Order.RENEW, Order.FORGET, Order.RETIRE))

_S, _E, _O = State, Event, Order
_Row = tuple[State, Order | None]

#: What a run of a plan may report, in every state in which runs are replayed and nothing else is in hand.
_OF_RUNS: Final[dict[Event, _Row]] = {
    _E.UNFORESEEN: (_S.GROWING, None),
    _E.LEFT_BEHIND: (_S.RENEWING, None),
    _E.UNLIKE: (_S.CHANGED, None),
}
#: What may come of a recording.
_OF_RECORDINGS: Final[dict[Event, _Row]] = {
    _E.NEW: (_S.RECORDED, None),
    _E.NOTHING_NEW: (_S.ARMED, None),
    _E.MISSED: (_S.GROWING, None),
}
_FAILURE: Final[dict[Event, _Row]] = {_E.FAILED: (_S.UNPLANNABLE, _O.RETIRE)}


def _always(order: Order, state: State) -> dict[Event, _Row]:
    return {_E.CALL: (state, order), _E.LARGER_CALL: (state, order)}


#: State and event: the next state, and the order. What is not in it changes nothing.
TABLE: Final = MappingProxyType(
    {
        _S.WARMING_UP: {
            **_always(_O.RUN, _S.WARMING_UP),
            _E.WARM: (_S.RECORDING, None),
            _E.SEEDED: (_S.RECORDED, None),
            _E.ADOPTED: (_S.UNCONFIRMED, None),
            **_FAILURE,
        },
        _S.RECORDING: {
            **_always(_O.RECORD, _S.RECORDING),
            _E.NEW: (_S.RECORDED, None),
            _E.SEEDED: (_S.RECORDED, None),
            **_FAILURE,
        },
        _S.RECORDED: {**_always(_O.PLAN, _S.RECORDED), _E.PLANNED: (_S.UNCONFIRMED, None), **_FAILURE},
        _S.UNCONFIRMED: {
            _E.CALL: (_S.UNCONFIRMED, _O.REPLAY),
            _E.LARGER_CALL: (_S.WATCHING, _O.RECORD),
            _E.AS_PLANNED: (_S.ARMED, None),
            **_OF_RUNS,
            **_FAILURE,
        },
        _S.ARMED: {
            _E.CALL: (_S.ARMED, _O.REPLAY),
            _E.LARGER_CALL: (_S.WATCHING, _O.RECORD),
            **_OF_RUNS,
            **_FAILURE,
            _E.DUE: (_S.TIMING, None),
        },
        _S.GROWING: {
            _E.CALL: (_S.GROWING, _O.WIDEN),
            _E.LARGER_CALL: (_S.WATCHING, _O.RECORD),
            _E.WIDENED: (_S.RECORDED, None),
            _E.NOT_WIDENED: (_S.WATCHING, None),
            _E.UNLIKE: (_S.CHANGED, None),
            **_FAILURE,
        },
        _S.WATCHING: {**_always(_O.RECORD, _S.WATCHING), **_OF_RECORDINGS, _E.UNLIKE: (_S.CHANGED, None), **_FAILURE},
        _S.RENEWING: {**_always(_O.RENEW, _S.RENEWING), _E.RENEWED: (_S.ARMED, None), **_FAILURE},
        _S.CHANGED: {**_always(_O.FORGET, _S.CHANGED), _E.FORGOTTEN: (_S.RECORDING, None)},
        _S.TIMING: {
            _E.CALL: (_S.TIMING, _O.TIME),
            _E.LARGER_CALL: (_S.WATCHING, _O.RECORD),
            _E.TIMED: (_S.PROBING, None),
            **_OF_RUNS,
            **_FAILURE,
        },
        _S.PROBING: {
            _E.CALL: (_S.PROBING, _O.PROBE),
            _E.LARGER_CALL: (_S.WATCHING, _O.RECORD),
            _E.EARNS: (_S.ARMED, None),
            _E.COSTS: (_S.RETIRED, _O.RETIRE),
            **_OF_RUNS,
            **_FAILURE,
        },
        _S.RETIRED: _always(_O.RUN, _S.RETIRED),
        _S.UNPLANNABLE: _always(_O.RUN, _S.UNPLANNABLE),
    }
)


#: Learning from deviations: the first time at once; once it was done, only when this much of a plan's requests has
#: deviated, for each time it was done; after so many times never.
GROWTH_PRICE = 1 / 8
MAX_GROWTHS = 64
#: So many runs in a row that only suffer from what earlier runs left behind, and the plan gets fresh memory.
AFTERMATHS_BEFORE_RENEWAL = 4
#: So many runs in a row that deviate in more than this share of their requests, and it is learned from nothing.
DEVIATIONS_BEFORE_RESTART = 32
CHANGED_SHARE = 0.1
MAX_RESTARTS = 3
#: Calls of other kinds that pass before the plan grows by one of them instead of one like those that deviated; once
#: that was tried, so many more each time.
CALLS_TO_WAIT = 8
#: Recordings in a row that may meet none of those that deviate before they count as made in vain.
MAX_MISSES = 4
#: Kinds of calls that deviated are remembered, so many at most.
MAX_SUSPECTS = 256


class Learner:
    """Says what to do with each call of a group, and is told what came of it.

    One thread at a time asks for orders and reports on them. Runs that end on other threads may report at any time
    (:meth:`ran_as_planned`, :meth:`deviated`): the worst that may come of it is that a count is lost.

    Attributes:
        state: of the group.
    """

    def __init__(self, warm_up_calls: int, *, keep_plans: bool = False) -> None:
        """Start with nothing.

        Args:
            warm_up_calls: calls before the first recording.
            keep_plans: no plan is ever retired for what it costs, so none is compared.
        """
        self.state = State.WARMING_UP if warm_up_calls > 0 else State.RECORDING
        self._warm_up_left = warm_up_calls
        self._keep_plans = keep_plans
        self._restarts = Reluctance(DEVIATIONS_BEFORE_RESTART, most=MAX_RESTARTS)
        self._start()

    def _start(self) -> None:
        self._growths = Reluctance(0, dearer_by=GROWTH_PRICE, most=MAX_GROWTHS)
        self._renewals = Reluctance(AFTERMATHS_BEFORE_RENEWAL, dearer_by=AFTERMATHS_BEFORE_RENEWAL)
        self._waiting = Reluctance(CALLS_TO_WAIT, dearer_by=CALLS_TO_WAIT)
        self._misses = Reluctance(MAX_MISSES)
        self._suspects: set[Hashable] = set()
        self._earnings = Earnings()

    def _take(self, event: Event) -> Order | None:
        self.state, order = TABLE[self.state].get(event, (self.state, None))
        return order

    # --- Calls -----------------------------------------------------------------------------------------------------

    @property
    def wants_attention(self) -> bool:
        """Whether calls that are replayed should ask for orders."""
        return self.state is not State.ARMED

    @property
    def warms_up(self) -> bool:
        """Whether the next call runs as it is, since it is one of the first."""
        return self.state is State.WARMING_UP

    def is_due(self, kind: Hashable) -> bool:
        """Whether a call of this kind should ask for orders, where there is something to attend to."""
        if self.state is not State.GROWING or kind in self._suspects:
            return True
        return self._waiting.gather(1)

    def next_order(self, *, is_larger: bool = False) -> Order:
        """What to do with a call, or before it (see ``BEFORE_THE_CALL``), which is to be reported.

        Args:
            is_larger: the call may need more than what was recorded.
        """
        warms_up = self.warms_up
        order = self._take(Event.LARGER_CALL if is_larger and self._growths.are_left else Event.CALL)
        assert order is not None, self.state
        if warms_up:
            self._warm_up_left -= 1
            if self._warm_up_left <= 0:
                self._take(Event.WARM)
        return order

    # --- What came of orders ---------------------------------------------------------------------------------------

    def warmed_up_elsewhere(self) -> None:
        """Other calls have prepared everything."""
        self._take(Event.WARM)

    def seeded(self) -> None:
        """There are recordings of other calls to plan."""
        self._take(Event.SEEDED)

    def adopted(self) -> None:
        """A plan that was learned elsewhere is armed."""
        self._take(Event.ADOPTED)

    def recorded(self, *, is_new: bool, as_planned: bool = False) -> None:
        """A call was recorded.

        Args:
            is_new: it showed what no plan has yet.
            as_planned: it was replayed as well, and asked for nothing that the plan had not foreseen.
        """
        if self.state is State.WATCHING:
            if as_planned and self._suspects and not self._misses.gather(1):
                self._waiting.step()
                self._take(Event.MISSED)
                return
            self._misses.calm()
            self._growths.step(in_vain=not is_new and bool(self._suspects))
        self._suspects.clear()
        self._take(Event.NEW if is_new else Event.NOTHING_NEW)

    def planned(self) -> None:
        """A new plan is armed."""
        self._take(Event.PLANNED)
        self._earnings = Earnings()

    def widened(self, *, is_wider: bool) -> None:
        """It was tried to let the plan grow without a recording."""
        if is_wider:
            self._growths.step()
            self._suspects.clear()
        self._take(Event.WIDENED if is_wider else Event.NOT_WIDENED)

    def renewed(self) -> None:
        """The plan has fresh memory."""
        self._renewals.step(in_vain=True)
        self._take(Event.RENEWED)

    def forgotten(self) -> None:
        """Nothing that was learned is left."""
        self._restarts.step()
        self._start()
        self._take(Event.FORGOTTEN)

    def failed(self) -> None:
        """No plan can be made, now or later."""
        self._take(Event.FAILED)

    # --- What a plan is worth --------------------------------------------------------------------------------------

    @property
    def speed(self) -> float:
        """How many times as fast as without it calls are with the plan, as far as that was compared."""
        return self._earnings.ratio

    def timed(self, planned_s: float) -> None:
        """A call that was replayed as ordered took so long."""
        if self._earnings.timed(planned_s):
            self._take(Event.TIMED)

    def probed(self, unplanned_s: float, *, saves_memory: bool) -> Order | None:
        """A call without the plan took so long; it saves memory worth having, or it does not."""
        if not self._earnings.probed(unplanned_s):
            return None
        return self._take(Event.COSTS if self._earnings.is_loss and not saves_memory else Event.EARNS)

    # --- Runs ------------------------------------------------------------------------------------------------------

    def ran_as_planned(self, num_runs: int = 1) -> None:
        """So many runs asked upstream for nothing."""
        self._restarts.calm()
        self._renewals.calm()
        if self.state is State.UNCONFIRMED:
            self._take(Event.AS_PLANNED)
        elif not self._keep_plans and self._earnings.are_due(num_runs):
            self._take(Event.DUE)

    def deviated(self, kind: Hashable, unforeseen_share: float) -> None:
        """A run asked upstream for something.

        Args:
            kind: what calls that are likely to do the same have in common.
            unforeseen_share: requests that went upstream not only for what earlier ones had left behind, in those that
                the plan foresaw.
        """
        if unforeseen_share == 0:
            if self._renewals.gather(1):  # a tensor that lives on lies in a place that is not its own
                self._take(Event.LEFT_BEHIND)
        elif self._is_unlike(unforeseen_share):
            self._take(Event.UNLIKE)
        elif self._growths.gather(unforeseen_share):
            if len(self._suspects) < MAX_SUSPECTS:
                self._suspects.add(kind)
            if self.state is not State.GROWING:
                self._waiting.calm()
            self._take(Event.UNFORESEEN)
        if self.state is State.UNCONFIRMED:
            self._take(Event.AS_PLANNED)

    def _is_unlike(self, unforeseen_share: float) -> bool:
        if unforeseen_share <= CHANGED_SHARE:
            self._restarts.calm()
            return False
        # A first plan that fits so badly was made too early: of a call in which something still prepared itself.
        is_first = self.state is State.UNCONFIRMED and self._growths.is_untried and self._restarts.is_untried
        return self._restarts.gather(1) or is_first
