"""Run a program with a change of how it calls its modules, and record it: ``python -m memomalloc.trial``.

``memomalloc advise PROGRAM`` starts it, once for each change, in a process of its own. The change is made to each
outermost call of a module, as somebody would make it who edits the program where it calls its model.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from memomalloc.advice.trials import AS_IT_IS, CHANNELS_LAST, HALF_BATCH, INFERENCE_MODE, PACKED_WEIGHTS
from memomalloc.cli.subjects import record_script
from memomalloc.errors import MemomallocError, RecordingError

_Call = Callable[..., Any]


def in_inference_mode(call: _Call, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a module without autograd."""
    with torch.inference_mode():
        return call(module, *args, **kwargs)


def in_channels_last(call: _Call, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a module in channels last, with its images so."""
    if module not in _prepared:
        _prepared.add(module)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    args, kwargs = pytree.tree_map_only(torch.Tensor, _channels_last, (args, kwargs))
    return call(module, *args, **kwargs)


def in_halves(call: _Call, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a module with each half of its batch: what all tensors have in their first dimension.

    Raises:
        RecordingError: there is no batch that can be cut in two.
    """
    leaves = pytree.tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.dim()]
    batch = tensors[0].shape[0] if tensors else 0
    if batch < 2 or any(tensor.shape[0] not in (1, batch) for tensor in tensors):
        raise RecordingError(f"{type(module).__name__} is called with no batch that can be cut in two")

    def part(which: int) -> Any:
        def cut(value: Any) -> Any:
            is_batch = isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == batch
            return value.tensor_split(2)[which] if is_batch else value

        part_args, part_kwargs = pytree.tree_map(cut, (args, kwargs))
        return call(module, *part_args, **part_kwargs)

    return pytree.tree_map(
        lambda first, second: torch.cat([first, second]) if isinstance(first, torch.Tensor) and first.dim() else first,
        part(0),
        part(1),
    )


def with_packed_weights(call: _Call, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a module in channels last, with the weights of its convolutions packed once for oneDNN."""
    if module not in _prepared:
        for inner in module.modules():
            if type(inner) is torch.nn.Conv2d and not isinstance(inner.padding, str) and inner.padding_mode == "zeros":
                inner._conv_forward = functools.partial(_PackedConvolution(), inner)  # type: ignore[method-assign]
    return in_channels_last(call, module, *args, **kwargs)


class _PackedConvolution:
    """What a convolution does with weights that it packs at its first call; the plain ones are let go then."""

    def __init__(self) -> None:
        self._packed: torch.Tensor | None = None

    def __call__(
        self, module: torch.nn.Conv2d, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        onednn = torch.ops.mkldnn
        settings = (module.padding, module.stride, module.dilation, module.groups)
        with torch.no_grad():
            if self._packed is None:
                self._packed = onednn._reorder_convolution_weight(weight, *settings, list(images.shape))
                module.weight = torch.nn.Parameter(weight.new_empty(0), requires_grad=False)
            return onednn._convolution_pointwise(images, self._packed, bias, *settings, "none", [], "")  # type: ignore[no-any-return]


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


#: What is done to the outermost calls of modules, by the name of the trial.
CALLS: dict[str, _Call] = {
    INFERENCE_MODE: in_inference_mode,
    CHANNELS_LAST: in_channels_last,
    PACKED_WEIGHTS: with_packed_weights,
    HALF_BATCH: in_halves,
}

_prepared: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
_thread = threading.local()


def change_outermost_calls(changed: _Call) -> None:
    """Let ``changed`` make each call of a module that no other module makes, in this process from now on."""
    original = torch.nn.Module.__call__

    def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if getattr(_thread, "is_inside", False):
            return original(module, *args, **kwargs)
        _thread.is_inside = True
        try:
            return changed(original, module, *args, **kwargs)
        finally:
            _thread.is_inside = False

    torch.nn.Module.__call__ = call  # type: ignore[method-assign]


def main(arguments: Sequence[str]) -> int:
    """Run a program with a change, and write what was recorded.

    Args:
        arguments: the name of the trial, or `AS_IT_IS`; the trace file to write; the program; its own arguments.

    Returns:
        0; or 1, with the reason on stderr, where the program does not run through with the change.
    """
    name, out, program, *own = arguments
    if name != AS_IT_IS:
        change_outermost_calls(CALLS[name])
    try:
        record_script(Path(program), own).save(out)
    except MemomallocError as error:
        # A call that cannot be changed says so itself; the program is not at fault.
        print(error.__cause__ if isinstance(error.__cause__, RecordingError) else error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
