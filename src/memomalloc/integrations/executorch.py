"""ExecuTorch programs whose memory is planned by memomalloc.

One line::

    from memomalloc.integrations.executorch import memory_planning_pass

    program = edge_program.to_executorch(ExecutorchBackendConfig(memory_planning_pass=memory_planning_pass()))

What the program computes stays the same; the sizes of its planned buffers are smaller, or as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from memomalloc.data.plan import Plan
from memomalloc.data.problem import Problem
from memomalloc.errors import CapacityError, InvalidProblemError
from memomalloc.extras import require
from memomalloc.planners import plan

_DEFAULT_BANK = 1  # what ExecuTorch gives a tensor that no pass has put elsewhere
_FEATURE = "planning for ExecuTorch"


@dataclass(frozen=True, slots=True)
class Bank:
    """One planned buffer of one graph: what ExecuTorch calls a ``mem_id``.

    Attributes:
        mem_id: the number of the bank, from 1.
        start_bytes: where this graph's tensors begin; what lies below is used by the subgraphs that it calls.
        padding_bytes: after the last tensor, for kernels that read past the end of one.
        plan: of the tensors that have bytes of their own; offsets count from ``start_bytes``, ticks are nodes of the
            graph.
    """

    mem_id: int
    start_bytes: int
    padding_bytes: int
    plan: Plan

    @property
    def size_bytes(self) -> int:
        """What the program asks for at run time."""
        return self.start_bytes + self.plan.arena_bytes + self.padding_bytes


class PlanningAlgorithm:
    """An algorithm for ExecuTorch's ``MemoryPlanningAlgorithmSuite``.

    Every bank is a problem of its own: tensors with the lifetimes that ExecuTorch found, mutable buffers among them,
    which live throughout. Tensors that lie in the storage of another (``storage_base``) take their place in it.

    Attributes:
        banks: of every graph that was planned, in the order in which ExecuTorch asked: a subgraph of control flow
            comes before the graph that calls it.
    """

    #: How a suite tells its algorithms apart.
    __name__ = "memomalloc"

    def __init__(
        self,
        *,
        planner: str = "auto",
        time_limit_s: float = 1.0,
        seed: int = 0,
        capacities: Mapping[int, int] | None = None,
    ) -> None:
        """Remember how to plan.

        Args:
            planner: a registered name; see ``memomalloc.planners.available()``.
            time_limit_s: for each bank of each graph; most are planned within milliseconds.
            seed: equal seeds give equal random choices.
            capacities: by bank, the bytes that it has. The first plan within them is taken.
        """
        self.banks: list[Bank] = []
        self._planner = planner
        self._time_limit_s = time_limit_s
        self._seed = seed
        self._capacities = dict(capacities or {})

    def __call__(
        self,
        alignment: int,
        specs: Iterable[Any],
        graph_module: Any,
        graph_signature: Any,
        extra_padding: int = 0,
    ) -> Any:
        """Plan one graph, as ExecuTorch asks for it.

        Args:
            alignment: bytes, of every tensor.
            specs: the tensors (``TensorSpec``) to place; what the caller of the program provides is not among them.
            graph_module: whose tensors these are.
            graph_signature: unused.
            extra_padding: bytes to add to each bank.

        Returns:
            A ``MemoryAlgoResult``: bank and offset of each tensor, and the size of each bank.

        Raises:
            CapacityError: a bank is too small.
            InvalidProblemError: a tensor lies outside the storage that it is said to share.
        """
        exir: Any = require("executorch.exir.memory_planning", extra="executorch", feature=_FEATURE)
        specs = list(specs)
        for spec in specs:
            spec.realign(alignment)
        members: dict[int, list[Any]] = {}
        for spec in specs:
            if spec.storage_base is None:
                members.setdefault(_DEFAULT_BANK if spec.mem_id is None else spec.mem_id, []).append(spec)
        # What the subgraphs use stays theirs: a branch hands its result over where it lies.
        reserved = list(getattr(graph_module, "input_mem_buffer_sizes", None) or [])
        sizes = [0] * max(2, len(reserved), *(mem_id + 1 for mem_id in members))
        sizes[: len(reserved)] = reserved
        places: dict[Any, tuple[int, int]] = {}
        for mem_id, tensors in members.items():
            bank = self._plan_bank(mem_id, tensors, alignment, sizes[mem_id], extra_padding)
            self.banks.append(bank)
            sizes[mem_id] = bank.size_bytes
            for spec, offset in zip(tensors, bank.plan.offsets.tolist(), strict=True):
                places[spec] = (mem_id, bank.start_bytes + offset)
        for spec in specs:
            if spec.storage_base is not None:
                places[spec] = _place_in_storage(spec, places, alignment)
        # One object for all: to ExecuTorch, tensors that share bytes are parts of one object.
        return exir.MemoryAlgoResult(
            {spec: exir.SpecAllocResult(places[spec][0], 0, places[spec][1]) for spec in specs}, sizes
        )

    def _plan_bank(self, mem_id: int, tensors: list[Any], alignment: int, reserved: int, padding: int) -> Bank:
        # ExecuTorch's lifetimes have the last node in them.
        problem = Problem.from_arrays(
            [spec.allocated_memory for spec in tensors],
            [spec.lifetime[0] for spec in tensors],
            [spec.lifetime[1] + 1 for spec in tensors],
            alignment_bytes=alignment,
        )
        # The padding of a subgraph need not be a multiple.
        start = -(-reserved // alignment) * alignment
        room = None
        if mem_id in self._capacities:
            room = max(0, self._capacities[mem_id] - start - padding)
        try:
            made = plan(
                problem,
                planner=self._planner,
                time_limit_s=self._time_limit_s,
                seed=self._seed,
                capacity_bytes=room,
            )
        except CapacityError as error:
            beside = f", beside {start + padding} bytes of subgraphs and padding" if start + padding else ""
            message = f"bank {mem_id} of {self._capacities[mem_id]} bytes is too small{beside}: {error}"
            raise CapacityError(message, proven=error.proven) from None
        return Bank(mem_id, start, padding, made)


def memory_planning_pass(algorithm: PlanningAlgorithm | None = None, **options: Any) -> Any:
    """A pass for ``ExecutorchBackendConfig(memory_planning_pass=...)``.

    Args:
        algorithm: how to plan; None: as `PlanningAlgorithm` does by default.
        options: of ExecuTorch's ``MemoryPlanningPass``, such as ``alloc_graph_input=False`` or ``alignment=64``.

    Returns:
        ExecuTorch's own ``MemoryPlanningPass`` with this algorithm.

    Raises:
        MissingDependencyError: executorch is not installed.
    """
    passes: Any = require("executorch.exir.passes", extra="executorch", feature=_FEATURE)
    exir: Any = require("executorch.exir.memory_planning", extra="executorch", feature=_FEATURE)
    suite = exir.MemoryPlanningAlgorithmSuite([PlanningAlgorithm() if algorithm is None else algorithm])
    return passes.MemoryPlanningPass(memory_planning_algo=suite, **options)


def _place_in_storage(spec: Any, places: Mapping[Any, tuple[int, int]], alignment: int) -> tuple[int, int]:
    """Bank and offset of a tensor in the storage of another, which may lie in a third one's, and so on."""
    offset = 0
    inner = spec
    seen = {spec}
    while inner.storage_base is not None:
        outer = inner.storage_base
        if outer in seen:
            raise InvalidProblemError(f"{spec}: the storage that it shares (storage_base) leads back to itself")
        seen.add(outer)
        begin = inner.storage_base_offset
        if begin < 0 or begin + inner.allocated_memory > outer.allocated_memory:
            raise InvalidProblemError(
                f"{spec}: bytes [{begin}, {begin + inner.allocated_memory}) are not within the "
                f"{outer.allocated_memory} bytes of the storage that it shares (storage_base)"
            )
        offset += begin
        inner = outer
    if inner not in places:
        raise InvalidProblemError(
            f"{spec}: the storage that it shares (storage_base) is not planned; is it an input or output that the "
            "caller allocates (alloc_graph_input=False)?"
        )
    if offset % alignment != 0:
        raise InvalidProblemError(
            f"{spec}: offset {offset} in the storage that it shares is not a multiple of the alignment {alignment}"
        )
    mem_id, base = places[inner]
    return mem_id, base + offset
