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
from weakref import WeakKeyDictionary

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
        start_bytes: where what is planned begins; 0 but in a suite of algorithms, where the subgraphs lie below.
        padding_bytes: after the last tensor, for kernels that read past the end of one.
        plan: of the tensors that have bytes of their own, then of the subgraphs; offsets count from ``start_bytes``,
            ticks are nodes of the graph.
    """

    mem_id: int
    start_bytes: int
    padding_bytes: int
    plan: Plan

    @property
    def size_bytes(self) -> int:
        """What the program asks for at run time."""
        return self.start_bytes + self.plan.arena_bytes + self.padding_bytes


@dataclass
class _Region:
    """What the subgraphs of one node of control flow use: branches, of which one runs, use the same bytes.

    A branch hands its result over where it lies, so that a region lives for as long as the results of its node.

    Attributes:
        subgraphs: the graph modules.
        first: the node.
        last: the last node that reads a result.
    """

    subgraphs: list[Any]
    first: int
    last: int

    def size_bytes(self, mem_id: int) -> int:
        sizes = [subgraph.meta["non_const_buffer_sizes"] for subgraph in self.subgraphs]
        return max((int(banks[mem_id]) for banks in sizes if mem_id < len(banks)), default=0)


class PlanningAlgorithm:
    """How memomalloc plans an ExecuTorch program; `memory_planning_pass` takes one.

    Every bank is a problem of its own: tensors with the lifetimes that ExecuTorch found, mutable buffers among them,
    which live throughout. Tensors that lie in the storage of another (``storage_base``) take their place in it. What
    the subgraphs of control flow use is a buffer of the graph that calls them.

    It is an algorithm for ExecuTorch's ``MemoryPlanningAlgorithmSuite`` too, beside others. There subgraphs lie below
    the graph that calls them, as all algorithms of a suite have it.

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
        # By subgraph that was planned: its tensors and those of the subgraphs that it calls.
        self._tensors: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()

    def __call__(
        self,
        alignment: int,
        specs: Iterable[Any],
        graph_module: Any,
        graph_signature: Any,
        extra_padding: int = 0,
    ) -> Any:
        """Plan one graph, as a suite of algorithms asks for it.

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
        reserved = list(getattr(graph_module, "input_mem_buffer_sizes", None) or [])
        places, sizes, _ = self._plan(alignment, specs, reserved, [], extra_padding)
        # One object for all: to ExecuTorch, tensors that share bytes are parts of one object.
        result = {spec: exir.SpecAllocResult(mem_id, 0, offset) for spec, (mem_id, offset) in places.items()}
        return exir.MemoryAlgoResult(result, sizes)

    def place(
        self,
        alignment: int,
        specs: Iterable[Any],
        graph_module: Any,
        graph_signature: Any,
        extra_padding: int = 0,
    ) -> list[int]:
        """Plan one graph and tell its tensors, as ExecuTorch's ``MemoryPlanningPass`` asks for it.

        Args:
            alignment: bytes, of every tensor.
            specs: the tensors (``TensorSpec``) to place.
            graph_module: whose tensors these are. Those of its subgraphs were placed before, and are moved.
            graph_signature: unused.
            extra_padding: bytes to add to each bank.

        Returns:
            The size of each bank.

        Raises:
            CapacityError, InvalidProblemError: as when it is called in a suite.
        """
        specs = list(specs)
        # ExecuTorch plans each device for itself; subgraphs run on the first.
        regions = self._regions(graph_module) if getattr(graph_module, "input_mem_buffer_sizes", None) else []
        places, sizes, offsets = self._plan(alignment, specs, [], regions, extra_padding)
        for spec, (mem_id, offset) in places.items():
            spec.mem_id, spec.mem_obj_id, spec.mem_offset = mem_id, 0, offset
        tensors = specs
        for region, by_bank in zip(regions, offsets, strict=True):
            for subgraph in region.subgraphs:
                for spec in self._tensors[subgraph]:
                    spec.mem_offset += by_bank.get(spec.mem_id, 0)
                tensors = tensors + self._tensors[subgraph]
        self._tensors[graph_module] = tensors
        return sizes

    def _regions(self, graph_module: Any) -> list[_Region]:
        regions: list[_Region] = []
        for tick, node in enumerate(graph_module.graph.nodes):
            names = [argument.target for argument in node.args if getattr(argument, "op", None) == "get_attr"]
            called = dict.fromkeys(getattr(graph_module, name) for name in names)
            # What is called is a delegate, or a graph that was planned before.
            subgraphs = [subgraph for subgraph in called if subgraph in self._tensors]
            if not subgraphs:
                continue
            results = node.meta.get("spec")
            results = results if isinstance(results, (list, tuple)) else [results]
            ends = [spec.lifetime[1] for spec in results if getattr(spec, "lifetime", None)]
            region = _Region(subgraphs, tick, max([tick, *(end for end in ends if end is not None)]))
            # A subgraph that two nodes call has one place.
            for other in [other for other in regions if any(one in other.subgraphs for one in subgraphs)]:
                regions.remove(other)
                region.subgraphs += [one for one in other.subgraphs if one not in region.subgraphs]
                region.first, region.last = min(region.first, other.first), max(region.last, other.last)
            regions.append(region)
        return regions

    def _plan(
        self, alignment: int, specs: list[Any], reserved: list[int], regions: list[_Region], padding: int
    ) -> tuple[dict[Any, tuple[int, int]], list[int], list[dict[int, int]]]:
        """Bank and offset of each tensor, the size of each bank, and of each region its offset by bank."""
        for spec in specs:
            spec.realign(alignment)
        members: dict[int, list[Any]] = {}
        for spec in specs:
            if spec.storage_base is None:
                members.setdefault(_DEFAULT_BANK if spec.mem_id is None else spec.mem_id, []).append(spec)
        used = {mem_id for region in regions for graph in region.subgraphs for mem_id in _used_banks(graph)}
        sizes = [0] * max(2, len(reserved), *(mem_id + 1 for mem_id in members | dict.fromkeys(used)))
        sizes[: len(reserved)] = reserved
        places: dict[Any, tuple[int, int]] = {}
        offsets_of_regions: list[dict[int, int]] = [{} for _ in regions]
        for mem_id in [*members, *sorted(used - set(members))]:
            tensors = members.get(mem_id, [])
            bank = self._plan_bank(mem_id, tensors, regions, alignment, sizes[mem_id], padding if tensors else 0)
            self.banks.append(bank)
            sizes[mem_id] = bank.size_bytes
            offsets = [bank.start_bytes + offset for offset in bank.plan.offsets.tolist()]
            places |= {spec: (mem_id, offset) for spec, offset in zip(tensors, offsets, strict=False)}
            for by_bank, offset in zip(offsets_of_regions, offsets[len(tensors) :], strict=True):
                by_bank[mem_id] = offset
        for spec in specs:
            if spec.storage_base is not None:
                places[spec] = _place_in_storage(spec, places, alignment)
        return places, sizes, offsets_of_regions

    def _plan_bank(
        self, mem_id: int, tensors: list[Any], regions: list[_Region], alignment: int, reserved: int, padding: int
    ) -> Bank:
        # ExecuTorch's lifetimes have the last node in them.
        problem = Problem.from_arrays(
            [*(spec.allocated_memory for spec in tensors), *(region.size_bytes(mem_id) for region in regions)],
            [*(spec.lifetime[0] for spec in tensors), *(region.first for region in regions)],
            [*(spec.lifetime[1] + 1 for spec in tensors), *(region.last + 1 for region in regions)],
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
    algorithm = PlanningAlgorithm() if algorithm is None else algorithm
    return passes.MemoryPlanningPass(memory_planning_algo=algorithm.place, **options)


def _used_banks(graph_module: Any) -> list[int]:
    return [mem_id for mem_id, size in enumerate(graph_module.meta["non_const_buffer_sizes"]) if size > 0]


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
