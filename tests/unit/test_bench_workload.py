"""Workloads: inputs in every form, modes, and comparing results bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")

from memomalloc.bench.workload import Workload, same_bits, tensors_in  # noqa: E402


class Sum(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": a + b, "product": a * b}


@pytest.mark.parametrize(
    "inputs", [(torch.ones(2), torch.full((2,), 3.0)), {"b": torch.full((2,), 3.0), "a": torch.ones(2)}]
)
@pytest.mark.parametrize("mode", ["eager", "torchscript"])
def test_inputs_by_position_and_by_name_in_every_mode(inputs: object, mode: str) -> None:
    workload = Workload(Sum().eval(), inputs)
    result = workload.caller(workload.in_mode(mode))()
    assert [tensor.tolist() for tensor in tensors_in(result)] == [[4.0, 4.0], [3.0, 3.0]]


def test_one_tensor_is_an_input() -> None:
    workload = Workload(torch.nn.ReLU(), torch.tensor([-1.0, 1.0]))
    assert workload.caller(workload.model)().tolist() == [0.0, 1.0]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="eager"):
        Workload(torch.nn.ReLU(), torch.ones(1)).in_mode("tpu")


def test_a_function_cannot_be_traced() -> None:
    with pytest.raises(ValueError, match="module"):
        Workload(lambda x: x, torch.ones(1)).in_mode("torchscript")


def test_tensors_are_found_in_any_output() -> None:
    @dataclass
    class Output:
        first: torch.Tensor
        rest: list[torch.Tensor]

    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    assert [len(tensor) for tensor in tensors_in((Output(a, [b]), {"c": c}, None, 3))] == [1, 2, 3]


def test_same_bits_is_stricter_than_equal() -> None:
    nan = torch.tensor([float("nan"), 1.0])
    assert same_bits([nan], [nan.clone()])
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64))
    assert not same_bits(torch.ones(2), torch.ones(2, 1))
    assert not same_bits([torch.ones(1)], [torch.ones(1), torch.ones(1)])
    assert same_bits(torch.ones(3, 2).t(), torch.ones(2, 3))
