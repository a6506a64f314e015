"""Whether the runtime works with the torch that is installed: ``python -m memomalloc.runtime.models.self_test``.

What is tried is all that the runtime takes from torch without a promise that it stays: the allocator and its one
deleter, the callbacks around operators, the state of a call. Run before a new runtime is kept.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

from memomalloc.errors import RuntimeNotAvailableError
from memomalloc.runtime import extension
from memomalloc.runtime.learning.recorder import record
from memomalloc.runtime.models.optimizing import optimize

_ALIGNMENT_BYTES = 64
_NUM_CALLS = 4


def main() -> None:
    """Try everything.

    Raises:
        RuntimeNotAvailableError: something does not work; the message says what.
    """
    before = torch.ones(1000)  # a block of the allocator that was there first
    native = extension.install()
    _allocates(native, before)
    with torch.inference_mode():
        _knows_who_asks()
        _replays(native)
    _expect(native.num_bad_frees() == 0, "a block came back that nobody had given out")


def _expect(fine: bool, otherwise: str) -> None:
    if not fine:
        raise RuntimeNotAvailableError(otherwise)


def _allocates(native: Any, before: torch.Tensor) -> None:
    tensor = before + 1
    _expect(tensor.data_ptr() % _ALIGNMENT_BYTES == 0, "a tensor is not aligned")
    _expect(torch.empty(0).data_ptr() == 0, "an empty tensor has memory")
    _expect(not native.is_reserved(tensor.data_ptr()), "a tensor outside of any plan lies in planned memory")
    _expect(float(tensor.sum()) == 2000.0, "a sum is wrong")


def _knows_who_asks() -> None:
    x, weight = torch.ones(16, 32), torch.ones(8, 32)
    with record() as recording:
        result = torch.nn.functional.linear(x, weight).sigmoid()
    sizes = [(buffer.size_bytes, buffer.origin.operator if buffer.origin else "") for buffer in recording.trace.buffers]
    wanted = result.numel() * result.element_size()
    operators = [operator for size, operator in sizes if size == wanted]
    _expect(len(operators) == 2, f"two tensors of {wanted} bytes were made, and these recorded: {sizes}")
    _expect("linear" in operators[0] or "mm" in operators[0], f"{operators[0]!r} is said to have made a product")
    _expect("sigmoid" in operators[1], f"{operators[1]!r} is said to have made the result of a sigmoid")


def _replays(native: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3),
        torch.nn.Flatten(),
        torch.nn.Linear(1152, 4),
    ).eval()
    inputs = [torch.randn(2, 3, 16, 16, generator=generator) for _ in range(_NUM_CALLS)]
    expected = [module(images) for images in inputs]
    planned: Any = optimize(module, example_inputs=inputs[0])
    for images, result in zip(inputs, expected, strict=True):
        outputs = planned(images)
        _expect(torch.equal(outputs, result), "a replayed call gave another result")
        _expect(native.is_reserved(outputs.data_ptr()), "an output does not lie in planned memory")
        # The last reference goes on another thread, whose name for it is the only one then.
        kept = [outputs]
        del outputs
        thread = threading.Thread(target=kept.clear)
        thread.start()
        thread.join()
    stats = planned.stats()
    _expect(stats.runs_replayed >= _NUM_CALLS, f"{stats.runs_replayed} of {_NUM_CALLS} calls were replayed")
    _expect(stats.served_share == 1.0, f"{stats.served_share:.0%} of the requests were served")


if __name__ == "__main__":
    main()
