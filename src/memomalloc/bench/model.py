"""A named model of a suite: how to build it, and at which sizes it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memomalloc.bench.workload import Workload


@dataclass(frozen=True)
class Model:
    """A definition with random weights.

    Attributes:
        name: as rows call it.
        build: makes the model and inputs for a batch and an input size.
        input_sizes: at which it is measured unless told otherwise.
        size_unit: what an input size counts: "px" (side of a square image), "tokens" or "frames".
    """

    name: str
    build: Callable[[int, int], Workload]
    input_sizes: tuple[int, ...]
    size_unit: str = "px"
