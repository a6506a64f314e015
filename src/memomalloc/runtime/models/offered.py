"""What everything that is optimized can be asked about its plans."""

from __future__ import annotations

from typing import Any

from memomalloc.data.plan import Plan
from memomalloc.data.trace import Trace
from memomalloc.runtime.calls.planned_function import PlannedFunction
from memomalloc.runtime.memory.deviations import Deviation
from memomalloc.runtime.memory.statistics import Stats
from memomalloc.runtime.models.planned_model import PlannedModel, planned_model_of
from memomalloc.runtime.shipping.plan_shipping import PlansFile, load_plans, save_plans


class Plans:
    """The plans of a model or function, with what is known of them."""

    _planned: PlannedFunction

    def __init__(self, planned: PlannedFunction, model: object = None) -> None:
        object.__setattr__(self, "_planned", planned)
        object.__setattr__(self, "_model", model)  # the plans alone do not keep it alive

    def stats(self) -> Stats:
        """The counters of this model and of its copies, since they were made."""
        return self._planned.stats()

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans that are armed."""
        return self._planned.plans

    @property
    def traces(self) -> tuple[Trace, ...]:
        """The traces that the plans were made of, in the order of ``plans``."""
        return self._planned.traces()

    def deviations(self) -> tuple[Deviation, ...]:
        """The requests that deviated in the last run that did, with who was expected to ask; at most 16 a plan."""
        return self._planned.deviations()

    def save_plans(self, file: PlansFile) -> int:
        """Save the plans that are armed, to be shipped with the model, for :func:`optimize` or :meth:`load_plans`.

        Args:
            file: a path, which is replaced atomically, or a binary file to write to.

        Returns:
            How many plans were saved.

        Raises:
            OSError: the file cannot be written.
        """
        self._is_used_for_its_plans()
        return save_plans(self._planned, file)

    def load_plans(self, file: PlansFile, *, strict: bool = False) -> int:
        """Replay from plans that were saved, from the first call on, in place of the plans there are.

        Args:
            file: a path, or a binary file to read from. Nothing in it is trusted: it is checked before it is used.
            strict: raise an error for plans that cannot be used. Otherwise the reason is logged, and calls are learned
                as if there were none.

        Returns:
            How many plans were loaded; 0 if they were refused.

        Raises:
            FileFormatError: strict, and it is not a whole, undamaged file of valid plans.
            StalePlansError: strict, and the plans were learned with another model, torch or processor.
        """
        self._is_used_for_its_plans()
        return load_plans(self._planned, file, strict=strict)

    def _is_used_for_its_plans(self) -> None:
        if isinstance(self._planned, PlannedModel):  # maybe only to make or check them
            self._planned.usage.came()

    def forget(self) -> None:
        """Drop all plans, for a model that was changed without its knowing."""
        self._planned.forget()


#: The names of what is offered.
OFFERED = (*(name for name in vars(Plans) if not name.startswith("_")), "_planned")


class Offer:
    """An attribute of :class:`Plans` as one of a module, where the module has none of that name.

    It has no ``__set__``: what the module is given under the name is found first.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.__doc__ = getattr(Plans, name, None).__doc__

    def __get__(self, module: Any, kind: Any = None) -> Any:
        if module is None:
            return self
        try:  # a module, parameter or buffer, or what else the model finds by itself
            return kind._dressed.__getattr__(module, self._name)
        except AttributeError:
            planned = planned_model_of(module)
            if planned is None:
                raise
        return getattr(Plans(planned, module), self._name)
