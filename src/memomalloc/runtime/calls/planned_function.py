"""A function that learns plans for its calls, and replays them."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from memomalloc.data.plan import Plan
from memomalloc.data.trace import Trace
from memomalloc.errors import MemomallocError
from memomalloc.runtime import extension
from memomalloc.runtime.calls.call_digest import UnnamedCallError, digest_of
from memomalloc.runtime.calls.dispatch import dispatcher_of
from memomalloc.runtime.calls.shape_policy import ExactKinds, family_of
from memomalloc.runtime.calls.signatures import Kind, only_on_cpu, signature
from memomalloc.runtime.events import report
from memomalloc.runtime.faults import is_of_the_program
from memomalloc.runtime.fork_safety import LockHolder
from memomalloc.runtime.learning.allowance import Cost
from memomalloc.runtime.learning.call_group import CallGroup, PlanSettings, timed
from memomalloc.runtime.learning.envelope import ROOM_TO_GROW
from memomalloc.runtime.learning.learned_calls import LearnedCalls
from memomalloc.runtime.learning.learner import Order
from memomalloc.runtime.learning.origins import call_of_the_program
from memomalloc.runtime.learning.recorder import Recording
from memomalloc.runtime.memory.armed_plan import ArmedPlan, process_calls, stats_of, unplanned_run
from memomalloc.runtime.memory.deviations import Deviation
from memomalloc.runtime.memory.statistics import CallCounts, Stats
from memomalloc.runtime.switch import switch

if TYPE_CHECKING:
    from memomalloc._runtime import Call, Dispatcher, Run

#: Calls after those that warm up within which :meth:`PlannedFunction.learn` has a plan that is confirmed, or gives up.
MAX_CALLS_TO_LEARN = 6
#: So many of the groups that are remembered may be learning before they make room for each other only.
MAX_LEARNING_SHARE = 0.25

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


def _unplanned_by(reference: weakref.ref[Dispatcher]) -> Mapping[str, int] | None:
    dispatcher = reference()
    return None if dispatcher is None else dispatcher.unplanned()


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
        """Plan calls of a function.

        Args:
            function: what is called.
            shapes: a policy, see ``shape_policy``.
            settings: how plans are made and armed.
            max_plans: groups of calls that are remembered.
            max_bytes: what calls that run at one time may use together; None: what the process may use.
        """
        super().__init__()
        self.function = function
        self.shapes = shapes
        self.settings = settings or PlanSettings()
        self.max_plans = max_plans
        self.max_bytes = max_bytes
        self._dispatcher: Dispatcher | None = None
        self._budget: Any = None
        self._groups: dict[Kind, CallGroup] = {}
        self._exact_of_family: dict[Kind, ExactKinds] = {}
        self._calls = CallCounts(process_calls)
        #: What a call is known to cost before any came here; see ``CallGroup.cost_of_call``.
        self.cost_of_call: Cost | None = None
        self._shipped: Mapping[str, LearnedCalls] = {}  # by digest of the call

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, variant: Any = None) -> Any:
        """Call the function with ``args`` and ``kwargs``.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            variant: what the plan depends on besides the call, such as a module's training mode; hashable.
        """
        if torch.compiler.is_compiling():
            # The compiler sees the function; what it makes of it is called later, and can be optimized itself.
            return self.function(*args, **kwargs)
        if self._dispatcher is None and not switch.on:  # the runtime need not be able to run
            self._calls.count_unplanned("disabled")
            return self.function(*args, **kwargs)
        return (self._dispatcher or self._dispatch()).call(args, kwargs, variant)

    def _dispatch(self) -> Dispatcher:
        with self.lock:
            if self._dispatcher is None:
                dispatcher = dispatcher_of(self, self.function, self.shapes, self._module_call())
                self._calls.count_natively(functools.partial(_unplanned_by, weakref.ref(dispatcher)))
                process_calls.count_natively(extension.load().unplanned_calls)
                self._dispatcher = dispatcher
            return self._dispatcher

    def _module_call(self) -> tuple[weakref.ref[torch.nn.Module], type] | None:
        """The module and the class, where :attr:`function` is the call of that module as the class has it."""
        return None

    def set_function(self, function: Callable[..., Any]) -> None:
        """Call another function from now on, and learn anew."""
        self.forget()
        with self.lock:
            self.function = function
            dispatcher, self._dispatcher = self._dispatcher, None
        for reason, num_calls in (dispatcher.unplanned() if dispatcher is not None else {}).items():
            self._calls.count_unplanned(reason, num_calls, in_process=False)

    def learn(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, variant: Any = None) -> None:
        """Call the function until calls like this are replayed, or cannot be."""
        for _ in range(self.settings.warm_up_calls + MAX_CALLS_TO_LEARN):
            # Held until the next one is there: that nobody else holds it says nothing about the program to come.
            _held = self(args, dict(kwargs), variant=variant)
            group = self._known_group(args, kwargs, variant)
            if group is not None and (group.resting or (group.armed is not None and not group.wants_attention)):
                return

    def _known_group(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], variant: Any) -> CallGroup | None:
        try:
            exact = self._groups.get(Kind((variant, *signature(args, kwargs))))
            if exact is not None or self.shapes == "exact":
                return exact
            family, _ = family_of(self.shapes, args, kwargs)
            return self._groups.get(Kind((variant, self.shapes, *family)))
        except _FAULTS:
            return None

    def forget(self) -> None:
        """Drop all plans: the function has changed. Runs in progress and tensors that live are not touched."""
        with self.lock:
            groups, self._groups = self._groups, {}
            self._exact_of_family = {}
            self._shipped = {}
        for group in groups.values():
            self._retire(group)

    def learned(self) -> dict[Kind, LearnedCalls]:
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

    def _run_unplanned(self, reason: str, call: Call) -> Any:
        self._calls.count_unplanned(reason)
        return call()

    def _run_until_planned(self, reason: str, call: Call) -> Any:
        """Make a call for which there is no plan yet; its large tensors come from spare memory of the process."""
        run = self._unplanned_run()
        try:
            return self._run_unplanned(reason, call)
        finally:
            if run is not None:
                run.end()

    def _unplanned_run(self) -> Run | None:
        return unplanned_run() if self.max_bytes is None else None  # which counts what plans take, and nothing else

    def _think(self, call: Call) -> Any:
        """Make a call that no armed group serves as it is; see ``dispatch`` for this and the next two."""
        if extension.install().is_running():
            return self._run_unplanned("nested", call)
        try:
            group, sizes, is_family = self._group_of(call)
        except _FAULTS:
            return self._run_unplanned("unplannable", call)
        try:
            return self._learn(group, call, sizes, is_family=is_family)
        finally:
            self._tell_dispatcher(group, call, is_family=is_family)

    def _ran(self, group: CallGroup, num_as_planned: int) -> bool:
        group.ran_as_planned(num_as_planned)
        return group.wants_attention

    def _deviated(self, group: CallGroup, kind: int, num_unforeseen: int, num_as_planned: int) -> bool:
        if num_as_planned:
            group.ran_as_planned(num_as_planned)
        group.deviated(kind, num_unforeseen)
        return group.wants_attention

    def _is_due(self, group: CallGroup, kind: int) -> bool:
        return group.is_due(kind)

    def _tell_dispatcher(self, group: CallGroup, call: Call, *, is_family: bool) -> None:
        """Say what calls of a group do from now on."""
        dispatcher = self._dispatch()
        with self.lock:
            armed = group.armed
            if group not in self._groups.values():  # dropped meanwhile
                return
            if group.resting:
                dispatcher.pass_on(call, group, group.resting, is_family)
            elif armed is None:
                dispatcher.disarm(group)
            else:
                lowest, highest = group.envelope.bounds
                dispatcher.arm(
                    call,
                    group,
                    armed.native,
                    armed.wait_s,
                    is_family,
                    list(lowest),
                    list(highest),
                    ROOM_TO_GROW,
                    group.wants_attention,
                )

    def _replay(self, group: CallGroup, call: Call, *, is_family: bool) -> Any:
        self._tell_dispatcher(group, call, is_family=is_family)
        return self._dispatch().replay(call, group)

    def _learn(self, group: CallGroup, call: Call, sizes: Sequence[int], *, is_family: bool) -> Any:
        """A call whose group has no plan, wants attention, or is not known yet."""
        group.last_use = extension.load().next_use()
        if num_as_planned := self._dispatch().take_num_as_planned(group):
            group.ran_as_planned(num_as_planned)
        if group.resting:
            return self._run_unplanned(group.resting, call)
        armed = group.armed
        if armed is not None and group.is_served(call.kind, sizes):
            return self._replay(group, call, is_family=is_family)
        with group.turn.attempt() as is_mine:
            if is_mine:
                return self._learn_in_turn(group, call, sizes, is_family=is_family)
        if armed is not None:
            return self._replay(group, call, is_family=is_family)
        return self._run_until_planned("learning", call)

    def _learn_in_turn(self, group: CallGroup, call: Call, sizes: Sequence[int], *, is_family: bool) -> Any:
        """Carry out what the learner says."""
        if not group.may_learn():
            if group.armed is not None:
                return self._replay(group, call, is_family=is_family)
            with group.running_as_it_is():
                return self._run_until_planned("postponed", call)
        order = group.prepare(sizes)
        if order is Order.RECORD:
            return self._record(group, call, sizes)
        if order is Order.PROBE:
            self._calls.count_unplanned("probe")
            with timed(group.probed):
                return call()
        if group.armed is None:  # also where another thread has just dropped it
            with group.running_as_it_is():
                if group.resting:
                    return self._run_unplanned(group.resting, call)
                return self._run_until_planned("warm_up", call)
        if order is Order.TIME:
            self._tell_dispatcher(group, call, is_family=is_family)
            with timed(group.timed):
                return self._dispatch().replay(call, group)
        return self._replay(group, call, is_family=is_family)

    def _record(self, group: CallGroup, call: Call, sizes: Sequence[int]) -> Any:
        """Record a call; one whose group is armed is replayed as well, unless it is larger than what the plan knows."""
        armed = group.armed if group.envelope.covers(sizes) else None
        recording = Recording()
        run = None
        as_planned = False
        with group.lesson():
            try:
                with recording:
                    # Without a plan tensors share pages, too: to fault in those of each costs as much as a call.
                    run = armed.begin() if armed is not None else self._unplanned_run()
                    result = call_of_the_program(call, call.args, call.kwargs)
            finally:
                if run is not None and run.started:
                    num_upstream, _, num_blocked, num_kept = run.end()
                    as_planned = armed is not None and num_upstream == num_blocked + num_kept
            try:  # the call itself is done, and its result is right
                self._calls.count_recorded()
                group.recorded(recording, sizes, as_planned=as_planned)
            except Exception as error:
                if is_of_the_program(error):
                    raise
                group.give_up(error)
        return result

    # --- Which group a call belongs to -----------------------------------------------------------------------------

    def _group_of(self, call: Call) -> tuple[CallGroup, list[int], bool]:
        """The group of a call, a new one if need be, the sizes of the call as far as they matter to it, and whether the
        group is a family, of calls of various sizes.
        """
        args, kwargs, variant = call.args, call.kwargs, call.variant
        key = Kind((variant, *signature(args, kwargs)))
        with self.lock:
            if self.shapes == "exact":
                return self._exact_group(key, args, kwargs), [], False
            family, sizes = family_of(self.shapes, args, kwargs)
            family_key = Kind((variant, self.shapes, *family))
            group = self._groups.get(family_key)
            if group is None and self.shapes == "auto" and self._shipped_for(family_key) is None:
                if self._shipped_for(key) is not None:  # one of a few fixed shapes, elsewhere
                    return self._exact_group(key, args, kwargs), [], False
                kinds = self._exact_of_family.setdefault(family_key, ExactKinds())
                if kinds.add(key, sizes):
                    return self._exact_group(key, args, kwargs), [], False
            if group is None:
                group = self._add_group(family_key, args, kwargs, num_sizes=len(sizes))
                if family_key in self._exact_of_family:
                    self._take_over(group, self._exact_of_family.pop(family_key).sizes)
            return group, sizes, True

    def _take_over(self, group: CallGroup, alike: Mapping[Kind, list[int]]) -> None:
        """Let a group of various shapes begin with what groups of single shapes have learned, and replace them."""
        learned = [(trace, sizes) for key, sizes in alike.items() if (trace := self._trace_of(key)) is not None]
        for key in alike:
            if key in self._groups:
                self._drop(key)
        group.seed([trace for trace, _ in learned], [sizes for _, sizes in learned])

    def _trace_of(self, key: Kind) -> Trace | None:
        group = self._groups.get(key)
        return group.trace if group is not None else None

    def _exact_group(self, key: Kind, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CallGroup:
        group = self._groups.get(key)
        return group if group is not None else self._add_group(key, args, kwargs)

    def _add_group(
        self,
        key: Kind,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        num_sizes: int = 0,
    ) -> CallGroup:
        while len(self._groups) >= self.max_plans:
            self._drop(self._least_wanted())
            text = f"evicted the plan of {self.name} that was not used for longest"
            report("evicted", self.name, text, num_plans=len(self._groups))
        if self._budget is None and self.max_bytes is not None:
            self._budget = extension.install().RunBudget(self.max_bytes)
        group = CallGroup(self.name, self.settings, self._budget, self._calls)
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

    def _least_wanted(self) -> Kind:
        """The group that makes room: not an armed one where many kinds of calls come once and never again."""
        entries = list(self._groups.items())
        learning = [entry for entry in entries if entry[1].armed is None]
        if len(learning) > self.max_plans * MAX_LEARNING_SHARE:
            entries = learning
        last_use = self._dispatch().last_use
        return min(entries, key=lambda entry: max(entry[1].last_use, last_use(entry[1])))[0]

    def _shipped_for(self, key: Kind) -> LearnedCalls | None:
        if not self._shipped:
            return None
        try:
            return self._shipped.get(digest_of(key))
        except UnnamedCallError:
            return None

    def _drop(self, key: Kind) -> None:
        group = self._groups.pop(key)
        for family_key, kinds in list(self._exact_of_family.items()):
            if kinds.remove(key):
                del self._exact_of_family[family_key]
        self._retire(group)

    def _retire(self, group: CallGroup) -> None:
        group.let_go()
        if self._dispatcher is not None:
            self._dispatcher.disarm(group)

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
