"""ExecuTorch programs of one model, planned by ExecuTorch and by memomalloc."""

from __future__ import annotations

import copy
import time
import warnings
from typing import Any

import torch

from memomalloc.bench.executorch_report import ExecutorchRow
from memomalloc.bench.model import Model
from memomalloc.bench.workload import same_bits
from memomalloc.extras import require
from memomalloc.integrations.executorch import PlanningAlgorithm, memory_planning_pass

_FEATURE = "memomalloc bench executorch"


class _TimedAlgorithm(PlanningAlgorithm):
    """Adds up the processor time that planning takes."""

    elapsed_s = 0.0

    def place(self, *args: Any, **kwargs: Any) -> list[int]:
        start_s = time.process_time()
        try:
            return super().place(*args, **kwargs)
        finally:
            self.elapsed_s += time.process_time() - start_s


def measure(model: Model, *, input_size: int | None = None, run: bool = True) -> ExecutorchRow:
    """Make two programs of one model, which differ in their plans only, and compare them.

    Args:
        model: with random weights.
        input_size: of a sample; None: the model's own.
        run: both programs, to compare what they compute; kernels for any machine are slow.

    Raises:
        MissingDependencyError: executorch is not installed.
    """
    exir: Any = require("executorch.exir", extra="executorch", feature=_FEATURE)
    size = model.input_sizes[0] if input_size is None else input_size
    module, inputs = model.build(1, size).exportable()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        edge = exir.to_edge(torch.export.export(module, inputs, strict=False))
        own = copy.deepcopy(edge).to_executorch(exir.ExecutorchBackendConfig())
        algorithm = _TimedAlgorithm()
        config = exir.ExecutorchBackendConfig(memory_planning_pass=memory_planning_pass(algorithm))
        planned = edge.to_executorch(config)
    same = same_bits(_outputs(own, inputs), _outputs(planned, inputs)) if run else None
    return ExecutorchRow(
        model=model.name,
        input_size=size,
        size_unit=model.size_unit,
        num_tensors=sum(len(bank.plan) for bank in algorithm.banks),
        own_bytes=_planned_bytes(own),
        planned_bytes=_planned_bytes(planned),
        lower_bound_bytes=sum(
            bank.start_bytes + bank.plan.lower_bound_bytes + bank.padding_bytes for bank in algorithm.banks
        ),
        planning_ms=algorithm.elapsed_s * 1e3,
        same_bits=same,
    )


def _planned_bytes(program: Any) -> int:
    (plan,) = program.executorch_program.execution_plan
    return sum(plan.non_const_buffer_sizes)


def _outputs(program: Any, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    runtime: Any = require("executorch.runtime", extra="executorch", feature=_FEATURE)
    method = runtime.Runtime.get().load_program(program.buffer).load_method("forward")
    return [output.clone() for output in method.execute(list(inputs))]
