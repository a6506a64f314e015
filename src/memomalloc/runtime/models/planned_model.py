"""All that is planned of one module: its call, methods of it by name, and calls of modules inside it."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from memomalloc.data.trace import Trace
from memomalloc.runtime.calls.call_digest import UnnamedCallError, digest_of
from memomalloc.runtime.calls.planned_function import PlannedFunction
from memomalloc.runtime.calls.signatures import Kind
from memomalloc.runtime.learning.learned_calls import LearnedCalls
from memomalloc.runtime.memory.armed_plan import ArmedPlan
from memomalloc.runtime.memory.statistics import Stats, add_counts
from memomalloc.runtime.models.usage import Usage

if TYPE_CHECKING:
    from memomalloc._runtime import Call


class MethodOf:
    """A method of a module that does not keep the module alive: who calls it does."""

    __slots__ = ("_function", "_reference")

    def __init__(self, module: torch.nn.Module, function: Callable[..., Any]) -> None:
        self._reference = weakref.ref(module)
        self._function = function

    @property
    def __self__(self) -> torch.nn.Module | None:
        return self._reference()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        module = self._reference()
        if module is None:
            raise ReferenceError("the module of this call is gone")
        return self._function(module, *args, **kwargs)


def call_of(module: torch.nn.Module, kind: Any) -> Callable[..., Any]:
    """The call of a module, as the class ``kind`` defines it then: tools that trace modules replace it for a while.

    Its ``module`` is a weak reference to the module. (A function: an object would take longer to call, and a compiler
    looks into no function that has a ``__self__``.)
    """
    reference = weakref.ref(module)

    def call(*args: Any, **kwargs: Any) -> Any:
        module = reference()
        if module is None:
            raise ReferenceError("the module of this call is gone")
        return kind.__call__(module, *args, **kwargs)

    call.module = reference  # type: ignore[attr-defined]
    return call


def variant_of(module: Any) -> Any:
    """What the plans of a module depend on besides its inputs."""
    return getattr(module, "training", False)


class PlannedModel(PlannedFunction):
    """Plans the calls of a module, and knows its parts that are planned by themselves.

    What it says of plans and counters is said of the parts, too. When it goes, the modules inside it are called as they
    were before. A copy starts with the plans there are, as far as they fit, and is counted with what it was copied
    from: some libraries copy a model and call the copy.

    Attributes:
        methods: parts, by the name of the method.
        inner: parts, by the path of the module inside.
        usage: whether calls come at all.
    """

    def __init__(
        self, module: torch.nn.Module, kind: type, *, copy_of: PlannedModel | None = None, **options: Any
    ) -> None:
        self._module, self._kind = weakref.ref(module), kind
        self._name = kind.__qualname__
        super().__init__(call_of(module, kind), **options)
        self.methods: dict[str, PlannedPart] = {}
        self.inner: dict[str, PlannedPart] = {}
        self._ends: list[Callable[[], None]] = []
        self._copies: weakref.WeakSet[PlannedModel] = weakref.WeakSet()
        if copy_of is None:
            self.usage = Usage(self.name, shapes=self.shapes)
        else:
            self.usage = copy_of.usage
            copy_of._copies.add(self)
            self._adopt_from(copy_of)

    @property
    def name(self) -> str:
        """The name of the module's class, for people."""
        return self._name

    def become(self, kind: type) -> None:
        """Let the calls be those of another class: the module has become an instance of it."""
        module = self._module()
        if module is not None:
            self._kind = kind
            self.set_function(call_of(module, kind))

    def _module_call(self) -> tuple[weakref.ref[torch.nn.Module], type]:
        return self._module, self._kind

    def is_of(self, module: object) -> bool:
        """Whether it plans the calls of this module, not of one that has its attributes."""
        return self._module() is module

    def add_method(self, name: str, function: Callable[..., Any]) -> None:
        """Plan a method by itself."""
        part = self.methods[name] = PlannedPart(self, name, function)
        part.adopt(self._shipped)

    def add_inner(self, path: str, function: Callable[..., Any], at_end: Callable[[], None]) -> PlannedPart:
        """Plan calls of a module inside by themselves; ``at_end`` is called when this model's plans are gone."""
        part = self.inner[path] = PlannedPart(self, path, function)
        part.adopt(self._shipped)
        self._ends.append(at_end)
        return part

    def __del__(self) -> None:
        for end in getattr(self, "_ends", ()):
            end()

    def _parts(self) -> Iterator[PlannedPart]:
        return chain(list(self.methods.values()), list(self.inner.values()))

    def _run_unplanned(self, reason: str, call: Call) -> Any:
        self.usage.ran_unplanned(reason, self)
        return super()._run_unplanned(reason, call)

    # --- What is said and done of all parts ------------------------------------------------------------------------

    def forget(self) -> None:
        """Drop all plans: the model has changed. Runs in progress and tensors that live are not touched."""
        super().forget()
        for part in self._parts():
            part.forget()

    def learned(self) -> dict[Kind, LearnedCalls]:
        """What was learned of each kind of call whose plan is armed."""
        learned = super().learned()
        for part in self._parts():
            learned |= part.learned()
        return learned

    def adopt(self, learned: Mapping[str, LearnedCalls]) -> None:
        """Drop all plans; calls of the kinds in ``learned``, by their digests, are replayed from the first one on."""
        super().adopt(learned)
        for part in self._parts():
            part.adopt(learned)

    def _adopt_from(self, original: PlannedModel) -> None:
        learned = dict(original._shipped)
        for key, calls in original.learned().items():
            try:
                learned[digest_of(key)] = calls
            except UnnamedCallError:  # of an argument of a user's class
                continue
        self.adopt(learned)

    def stats(self) -> Stats:
        """The counters of this model and of its copies, since they were made."""
        return _sum_of([super().stats(), *(copied.stats() for copied in list(self._copies))])

    def traces(self) -> tuple[Trace, ...]:
        """The traces that the armed plans were made of."""
        return tuple(chain(super().traces(), *(part.traces() for part in self._parts())))

    def armed_plans(self) -> list[ArmedPlan]:
        """The plans that are armed, with their arenas."""
        return list(chain(super().armed_plans(), *(part.armed_plans() for part in self._parts())))


class PlannedPart(PlannedFunction):
    """A method of a model, or the call of a module inside: with plans of its own, and the model's budget and counters.

    Attributes:
        whole: the model. (Weak: it has its parts.)
    """

    def __init__(self, whole: PlannedModel, name: str, function: Callable[..., Any]) -> None:
        self._whole = weakref.ref(whole)
        self._part_of = whole.name
        self._part = name
        self.usage = whole.usage
        super().__init__(function, **whole.options())
        self._calls = whole._calls

    @property
    def name(self) -> str:
        """The model's name and the part's, for people."""
        return f"{self._part_of}.{self._part}"

    def variant(self, module: Any) -> tuple[Any, str]:
        """What its plans depend on besides its inputs. With its name: saved plans of all parts lie together."""
        return variant_of(module), self._part

    def _run_unplanned(self, reason: str, call: Call) -> Any:
        whole = self._whole()
        if whole is not None:
            self.usage.ran_unplanned(reason, whole)
        return super()._run_unplanned(reason, call)

    # A model has one budget, which the part that needs it first makes.
    @property
    def _budget(self) -> Any:
        whole = self._whole()
        return self._own_budget if whole is None else whole._budget

    @_budget.setter
    def _budget(self, budget: Any) -> None:
        self._own_budget = budget
        whole = self._whole()
        if whole is not None and budget is not None:
            whole._budget = budget


def planned_model_of(module: Any) -> PlannedModel | None:
    """What plans the calls of a module that was optimized, in place or as another object; None: it was not."""
    try:
        planned = object.__getattribute__(module, "_memomalloc_plans")
    except AttributeError:
        return None
    return planned if isinstance(planned, PlannedModel) and planned.is_of(module) else None


def _sum_of(counters: Sequence[Stats]) -> Stats:
    """The counters of several models together."""
    total, *others = counters
    for other in others:
        sums: dict[str, Any] = {}
        for entry in dataclasses.fields(Stats):
            one, more = getattr(total, entry.name), getattr(other, entry.name)
            sums[entry.name] = add_counts(one, more) if isinstance(one, Mapping) else one + more
        total = dataclasses.replace(Stats(**sums), num_bad_frees=total.num_bad_frees)  # of the process in each
    return total
