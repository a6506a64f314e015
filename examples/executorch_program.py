"""An ExecuTorch program planned by memomalloc: how many bytes it needs, and that it runs.

Needs executorch: `make executorch` makes .venv-executorch with it.
"""

import copy

import torch
from executorch.exir import ExecutorchBackendConfig, to_edge
from executorch.runtime import Runtime

from memomalloc.integrations.executorch import PlanningAlgorithm, memory_planning_pass


class Block(torch.nn.Module):
    """A block of a transformer: attention, then two layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (torch.nn.Linear(width, width) for _ in range(4))
        self.layers = torch.nn.Sequential(
            torch.nn.LayerNorm(width),
            torch.nn.Linear(width, 4 * width),
            torch.nn.GELU(),
            torch.nn.Linear(4 * width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend, then transform."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        x = x + self.out((weights @ value).transpose(1, 2).flatten(2))
        return x + self.layers(x)


def main() -> None:
    """Plan twice, compare."""
    tokens = torch.randn(1, 96, 64)
    with torch.no_grad():
        blocks = torch.nn.Sequential(*(Block(64, 4) for _ in range(3))).eval()
        edge = to_edge(torch.export.export(blocks, (tokens,)))
    own = copy.deepcopy(edge).to_executorch()
    algorithm = PlanningAlgorithm()
    planned = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=memory_planning_pass(algorithm)))

    outputs = []
    for name, program in (("ExecuTorch", own), ("memomalloc", planned)):
        (plan,) = program.executorch_program.execution_plan
        print(f"{name}: {sum(plan.non_const_buffer_sizes)} bytes")
        outputs += Runtime.get().load_program(program.buffer).load_method("forward").execute([tokens])
    (bank,) = algorithm.banks
    print(f"lower bound: {bank.plan.lower_bound_bytes} bytes; equal outputs: {torch.equal(*outputs)}")


if __name__ == "__main__":
    main()
