"""Suites: models that are measured together, and the dimensions they are measured in."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from memomalloc.bench.case import Case
from memomalloc.bench.model import Model
from memomalloc.errors import MemomallocError

#: Where the models of each suite are; imported when the suite is used, since it may need a package.
_SUITES = {
    "demo": ("memomalloc.bench.transformers_models", "DEMO"),
    "transformers": ("memomalloc.bench.transformers_models", "TRANSFORMERS"),
    "paper": ("memomalloc.bench.torchvision_models", "PAPER"),
    "modern": ("memomalloc.bench.modern_models", "MODERN"),
    "compilers": ("memomalloc.bench.compiler_models", "COMPILERS"),
}
USER_SUITE = "user"
SUITES = (*_SUITES, USER_SUITE)


class UnknownModelError(MemomallocError, LookupError):
    """No model of that name is in the suite."""


def models_of(suite: str, user_references: Sequence[str] = ()) -> dict[str, Model]:
    """The models of a suite by name.

    Args:
        suite: one of :data:`SUITES`.
        user_references: of the suite ``user``, each a ``module:function``.

    Raises:
        MissingDependencyError: the suite needs a package that is not installed.
        UserModelError: one of the user's functions cannot be found, or none is named.
    """
    if suite == USER_SUITE:
        from memomalloc.bench.user_model import user_models

        return user_models(user_references)
    module, name = _SUITES[suite]
    models: Sequence[Model] = getattr(importlib.import_module(module), name)
    return {model.name: model for model in models}


@dataclass(frozen=True)
class Dimensions:
    """In which situations every model of a suite is measured: all combinations.

    Attributes:
        models: names; empty: all of the suite.
        batches: samples of one call.
        input_sizes: empty: the model's own.
        workers: threads that call at once.
        intra_op_threads: threads inside one operator.
        modes: ways of running the model.
        upstreams: allocators underneath.
    """

    models: Sequence[str] = ()
    batches: Sequence[int] = (1, 8)
    input_sizes: Sequence[int] = ()
    workers: Sequence[int] = (1,)
    intra_op_threads: Sequence[int] = (1,)
    modes: Sequence[str] = ("eager",)
    upstreams: Sequence[str] = ("glibc",)

    def cases(self, suite: str, models: dict[str, Model]) -> list[Case]:
        """All cases, those of one upstream together.

        Raises:
            UnknownModelError: with the names that there are.
        """
        for name in self.models:
            if name not in models:
                raise UnknownModelError(f"no model {name!r} in the suite {suite}; there are {', '.join(models)}")
        return [
            Case(suite, name, batch, size, workers, threads, mode, upstream)
            for upstream in self.upstreams
            for name in self.models or models
            for size in self.input_sizes or models[name].input_sizes
            for mode in self.modes
            for workers in self.workers
            for threads in self.intra_op_threads
            for batch in self.batches
        ]


def workers_that_fit() -> list[int]:
    """1, 2, 4 ... up to the number of cores that this process may use."""
    num_cores = len(os.sched_getaffinity(0))
    counts = [1]
    while counts[-1] * 2 <= num_cores:
        counts.append(counts[-1] * 2)
    return counts
