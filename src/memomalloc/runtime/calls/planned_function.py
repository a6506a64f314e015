"""A function that learns plans for its calls, and replays them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from memomalloc.data.plan import Plan
from memomalloc.data.trace import Trace
from memomalloc.errors import MemomallocError
from memomalloc.runtime import extension
from memomalloc.runtime.calls.call_digest import UnnamedCallError, digest_of
from memomalloc.runtime.calls.shape_policy import ExactKinds, family_of
from memomalloc.runtime.calls.signatures import Signature, only_on_cpu, signature
from memomalloc.runtime.events import report
from memomalloc.runtime.faults import is_of_the_program
from memomalloc.runtime.fork_safety import LockHolder
from memomalloc.runtime.learning.allowance import Cost
from memomalloc.runtime.learning.call_group import CallGroup, PlanSettings, timed
from memomalloc.runtime.learning.learned_calls import LearnedCalls
from memomalloc.runtime.learning.learner import Order
from memomalloc.runtime.learning.origins import call_of_the_program
from memomalloc.runtime.learning.recorder import Recording
from memomalloc.runtime.memory.armed_plan import ArmedPlan, process_calls, stats_of
from memomalloc.runtime.memory.deviations import Deviation
from memomalloc.runtime.memory.statistics import CallCounts, Stats
from memomalloc.runtime.switch import switch

#: Calls after those that warm up within which :meth:`PlannedFunction.learn` has a plan that is confirmed, or gives up.
MAX_CALLS_TO_LEARN = 6
#: Where no kind of call is served from a plan, nor may be, so many calls run straight before one is looked at again.
STRAIGHT_CALLS = 255
#: So many of the groups that are remembered may be learning before they make room for each other only.
MAX_LEARNING_SHARE = 0.25
#: Signatures remembered with the group they belong to; more than that, and they are looked up anew.
MAX_ROUTES = 65536

#: What may come of an argument whose class has an ``__eq__``, ``__hash__`` or iterator of its own, or of a module that
#: overrides what is asked of it, or of a fault of ours: none of these may end a call that is right in itself. Others,
#: such as a timeout, may come from a signal handler of the program, and are for the program.
_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemomallocError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)

_uses = itertools.count()


def default_max_bytes() -> int:
    """What the arenas of one function may take if nothing is said: a quarter of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


class PlannedFunction(LockHolder):
    """Calls a function; calls of one group are warmed up, recorded, planned, and then replayed.

    Safe to call from several threads at once: while one thread learns a group the others run it unplanned.

    Attributes:
        function: what is called.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        shapes: str = "exact",
        settings: PlanSettings | None = None,
        max_plans: int = 64,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self.function = function
        self.shapes = shapes
        self.settings = settings or PlanSettings()
        self.max_plans = max_plans
        self.max_bytes = max_bytes
        self._budget: Any = None
        self._routes: dict[Signature, CallGroup] = {}
        self._groups: dict[Signature, CallGroup] = {}
        self._exact_of_family: dict[Signature, ExactKinds] = {}
        self._calls = CallCounts(process_calls)
        #: What a call is known to cost before any came here; see ``CallGroup.cost_of_call``.
        self.cost_of_call: Cost | None = None
        self._shipped: Mapping[str, LearnedCalls] = {}  # by digest of the call
        self._straight_left = 0  # calls that run without a look at their arguments
        self._straight_uncounted = 0  # how many of those there were when they were last counted
        self._straight_reason = ""

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, variant: Any = None) -> Any:
        """Call the function with ``args`` and ``kwargs``.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            variant: what the plan depends on besides the call, such as a module's training mode; hashable.
        """
        if torch.compiler.is_compiling():
            # The compiler sees the function; what it makes of it is called later, and can be optimized itself.
            return self.function(*args, **kwargs)
        if not switch.on:
            return self._run_unplanned("disabled", args, kwargs)
        if self._straight_left > 0:
            self._straight_left -= 1
            return self.function(*args, **kwargs)
        try:
            key = (variant, *signature(args, kwargs))
            group = self._routes.get(key)
        except _FAULTS:
            return self._run_unplanned("unplannable", args, kwargs)
        # Read once: another thread may retire the plan at any time.
        armed = group.armed if group is not None else None
        if group is None or armed is None or (group.wants_attention and group.is_due(key)):
            return self._learn(key, args, kwargs, variant)
        return self._replay(group, armed, key, args, kwargs)

    def _replay(
        self, group: CallGroup, armed: ArmedPlan, key: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        group.last_use = next(_uses)
        run = armed.begin()
        if not run.started:
            return self._run_unplanned(run.outcome, args, kwargs)
        try:
            return self.function(*args, **kwargs)
        finally:
            num_upstream, _, num_blocked, num_kept = run.end()
            if num_upstream > num_kept:
                group.deviated(key, num_upstream - num_blocked - num_kept)
            else:
                group.ran_as_planned()

    def learn(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, variant: Any = None) -> None:
        """Call the function until calls like this are replayed, or cannot be."""
        for _ in range(self.settings.warm_up_calls + MAX_CALLS_TO_LEARN):
            # Held until the next one is there: that nobody else holds it says nothing about the program to come.
            _held = self(args, kwargs, variant=variant)
            group = self._routes.get((variant, *signature(args, kwargs)))
            if group is not None and (group.resting or (group.armed is not None and not group.wants_attention)):
                return

    def forget(self) -> None:
        """Drop all plans: the function has changed. Runs in progress and tensors that live are not touched."""
        with self.lock:
            groups, self._groups, self._routes = self._groups, {}, {}
            self._exact_of_family = {}
            self._shipped = {}
            self._count_straight()
            self._straight_left = self._straight_uncounted = 0
        for group in groups.values():
            group.let_go()

    def learned(self) -> dict[Signature, LearnedCalls]:
        """What was learned of each kind of call whose plan is armed."""
        return {key: learned for key, group in list(self._groups.items()) if (learned := group.learned) is not None}

    def adopt(self, learned: Mapping[str, LearnedCalls]) -> None:
        """Drop all plans; calls of the kinds in ``learned``, by their digests, are replayed from the first one on."""
        self.forget()
        self._shipped = learned

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans that are armed."""
        return tuple(armed.plan for armed in self.armed_plans())

    # --- Calls that are not only replayed --------------------------------------------------------------------------

    def _run_unplanned(self, reason: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        self._calls.count_unplanned(reason)
        return self.function(*args, **kwargs)

    def _learn(self, key: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any], variant: Any) -> Any:
        """A call whose group has no plan, wants attention, or is not known yet."""
        if extension.install().is_running():
            return self._run_unplanned("nested", args, kwargs)
        try:
            group, sizes = self._group_of(key, args, kwargs, variant)
            group.last_use = next(_uses)
            if group.resting:
                self._go_straight(group.resting)
                return self._run_unplanned(group.resting, args, kwargs)
            armed = group.armed
            if armed is not None and group.is_served(key, sizes):
                self._remember_route(key, group)
                return self._replay(group, armed, key, args, kwargs)
        except _FAULTS:
            return self._run_unplanned("unplannable", args, kwargs)
        with group.turn.attempt() as is_mine:
            if is_mine:
                return self._learn_in_turn(group, key, args, kwargs, variant, sizes)
        if armed is not None:
            return self._replay(group, armed, key, args, kwargs)
        return self._run_unplanned("learning", args, kwargs)

    def _go_straight(self, reason: str) -> None:
        """Let the next calls run without a look at their arguments, if no kind of call is or may be served."""
        self._count_straight()
        if all(group.resting for group in list(self._groups.values())):
            self._straight_reason, self._straight_left = reason, STRAIGHT_CALLS
            self._straight_uncounted = STRAIGHT_CALLS

    def _count_straight(self) -> None:
        num_calls = self._straight_uncounted - self._straight_left
        self._straight_uncounted = self._straight_left
        if num_calls > 0:
            self._calls.count_unplanned(self._straight_reason, num_calls)

    def _learn_in_turn(
        self,
        group: CallGroup,
        key: Signature,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        variant: Any,
        sizes: Sequence[int],
    ) -> Any:
        """Carry out what the learner says."""
        if not group.may_learn():
            armed = group.armed
            if armed is not None:
                return self._replay(group, armed, key, args, kwargs)
            with group.running_as_it_is():
                return self._run_unplanned("postponed", args, kwargs)
        order = group.prepare(sizes)
        armed = group.armed
        if order is Order.RECORD:
            return self._record(group, key, args, kwargs, sizes)
        if order is Order.PROBE:
            self._calls.count_unplanned("probe")
            with timed(group.probed):
                return self.function(*args, **kwargs)
        if armed is None:  # also where another thread has just dropped it
            with group.running_as_it_is():
                return self._run_unplanned(group.resting or "warm_up", args, kwargs)
        self._remember_route(key, group)
        if order is Order.TIME:
            group.wants_attention = False  # as any other call, so that all is timed that such a call takes
            with timed(group.timed):
                return self(args, kwargs, variant=variant)
        return self._replay(group, armed, key, args, kwargs)

    def _record(
        self, group: CallGroup, key: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any], sizes: Sequence[int]
    ) -> Any:
        """Record a call; one whose group is armed is replayed as well, as far as its plan goes."""
        armed = group.armed
        recording = Recording()
        run = armed.begin() if armed is not None else None
        as_planned = False
        with group.lesson():
            try:
                with recording:
                    result = call_of_the_program(self.function, args, kwargs)
            finally:
                if run is not None and run.started:
                    num_upstream, _, num_blocked, num_kept = run.end()
                    as_planned = num_upstream == num_blocked + num_kept
            try:  # the call itself is done, and its result is right
                self._calls.count_recorded()
                group.recorded(recording, sizes, as_planned=as_planned)
                self._remember_route(key, group)
            except Exception as error:
                if is_of_the_program(error):
                    raise
                group.give_up(error)
        return result

    # --- Which group a call belongs to -----------------------------------------------------------------------------

    def _group_of(
        self, key: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any], variant: Any
    ) -> tuple[CallGroup, list[int]]:
        """The group of a call, a new one if need be, and the sizes of the call as far as they matter to it."""
        with self.lock:
            if self.shapes == "exact":
                return self._exact_group(key, args, kwargs), []
            family, sizes = family_of(self.shapes, args, kwargs)
            family_key = (variant, self.shapes, *family)
            group = self._groups.get(family_key)
            if group is None and self.shapes == "auto" and self._shipped_for(family_key) is None:
                kinds = self._exact_of_family.setdefault(family_key, ExactKinds())
                if kinds.add(key, sizes):
                    return self._exact_group(key, args, kwargs), []
            if group is None:
                group = self._add_group(family_key, args, kwargs, num_sizes=len(sizes), shapes_vary=True)
                if family_key in self._exact_of_family:
                    self._take_over(group, self._exact_of_family.pop(family_key).sizes)
            return group, sizes

    def _take_over(self, group: CallGroup, alike: Mapping[Signature, list[int]]) -> None:
        """Let a group of various shapes begin with what groups of single shapes have learned, and replace them."""
        learned = [(trace, sizes) for key, sizes in alike.items() if (trace := self._trace_of(key)) is not None]
        for key in alike:
            if key in self._groups:
                self._drop(key)
        group.seed([trace for trace, _ in learned], [sizes for _, sizes in learned])

    def _trace_of(self, key: Signature) -> Trace | None:
        group = self._groups.get(key)
        return group.trace if group is not None else None

    def _exact_group(self, key: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CallGroup:
        group = self._groups.get(key)
        return group if group is not None else self._add_group(key, args, kwargs, shapes_vary=False)

    def _add_group(
        self,
        key: Signature,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        num_sizes: int = 0,
        shapes_vary: bool,
    ) -> CallGroup:
        while len(self._groups) >= self.max_plans:
            self._drop(self._least_wanted())
            text = f"evicted the plan of {self.name} that was not used for longest"
            report("evicted", self.name, text, num_plans=len(self._groups))
        if self._budget is None:
            limit_bytes = default_max_bytes() if self.max_bytes is None else self.max_bytes
            self._budget = extension.install().ArenaBudget(limit_bytes)
        group = CallGroup(self.name, self.settings, self._budget, self._calls, shapes_vary=shapes_vary)
        group.cost_of_call = self.cost_of_call
        if not only_on_cpu(args, kwargs):
            group.rest("device")
        elif (shipped := self._shipped_for(key)) is not None and len(shipped.lowest) == num_sizes:
            try:
                group.adopt(shipped)
            except _FAULTS as error:  # it was checked when it was read, but not against this call
                group.give_up(error)
        self._groups[key] = group
        return group

    def _least_wanted(self) -> Signature:
        """The group that makes room: not an armed one where many kinds of calls come once and never again."""
        entries = list(self._groups.items())
        learning = [entry for entry in entries if entry[1].armed is None]
        if len(learning) > self.max_plans * MAX_LEARNING_SHARE:
            entries = learning
        return min(entries, key=lambda entry: entry[1].last_use)[0]

    def _shipped_for(self, key: Signature) -> LearnedCalls | None:
        if not self._shipped:
            return None
        try:
            return self._shipped.get(digest_of(key))
        except UnnamedCallError:
            return None

    def _drop(self, key: Signature) -> None:
        group = self._groups.pop(key)
        for family_key, kinds in list(self._exact_of_family.items()):
            if kinds.remove(key):
                del self._exact_of_family[family_key]
        self._routes = {known: other for known, other in self._routes.items() if other is not group}
        group.let_go()

    def _remember_route(self, key: Signature, group: CallGroup) -> None:
        with self.lock:
            if len(self._routes) >= MAX_ROUTES:
                self._routes = {}
            if group in self._groups.values():
                self._routes[key] = group

    # --- About this function ---------------------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """How it was made, for a copy."""
        return {
            "shapes": self.shapes,
            "settings": self.settings,
            "max_plans": self.max_plans,
            "max_bytes": self.max_bytes,
        }

    @property
    def name(self) -> str:
        """The function's name, for people."""
        owner = getattr(self.function, "__self__", None)
        if isinstance(owner, torch.nn.Module):  # optimized in place
            return type(owner).__qualname__
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    def stats(self) -> Stats:
        """The counters of this function since it was made."""
        self._count_straight()
        return stats_of(self._calls, self.armed_plans())

    def deviations(self) -> tuple[Deviation, ...]:
        """The first deviating requests of the last run of each plan that had any."""
        return tuple(deviation for armed in self.armed_plans() for deviation in armed.deviations())

    def traces(self) -> tuple[Trace, ...]:
        """The traces that the armed plans were made of."""
        return tuple(group.trace for group in list(self._groups.values()) if group.trace is not None)

    def armed_plans(self) -> list[ArmedPlan]:
        """The plans that are armed, with their arenas."""
        return [armed for group in list(self._groups.values()) if (armed := group.armed) is not None]
