"""A callable that is no module, and whose calls are planned."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from memomalloc.runtime.calls.planned_function import PlannedFunction
from memomalloc.runtime.models.offered import Plans


class OptimizedFunction(Plans):
    """A callable whose calls are planned. Made by :func:`optimize`; attributes are the callable's."""

    def __init__(self, planned: PlannedFunction) -> None:
        super().__init__(planned)
        object.__setattr__(self, "__wrapped__", planned.function)
        # What the class has itself, and so does not ask the callable for.
        for name in ("__doc__", "__module__"):
            object.__setattr__(self, name, getattr(planned.function, name, None))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._planned(args, kwargs)

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        # As a function: in the body of a class it is a method.
        return self if owner is None else types.MethodType(self, owner)

    def __getattr__(self, name: str) -> Any:
        if name == "_planned":  # a copy under construction has none yet
            raise AttributeError(name)
        return getattr(self._planned.function, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._planned.function, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._planned.function, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._planned.function!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _optimized, (self._planned.function, self._planned.options())


def _optimized(function: Any, options: Mapping[str, Any]) -> OptimizedFunction:
    return OptimizedFunction(PlannedFunction(function, **options))
