"""Tensors that a program holds: found among the objects of Python."""

from __future__ import annotations

import gc
from typing import Any


def live_tensor_bytes() -> int:
    """Bytes of all tensors on the CPU that Python or autograd can reach, each storage counted once.

    Takes time in proportion to the number of Python objects.
    """
    import torch

    storages: dict[int, int] = {}
    nodes: list[Any] = []
    for thing in gc.get_objects():
        # Not isinstance(): a class may lie about its class, and run code to do it.
        if issubclass(type(thing), torch.Tensor):
            _add(storages, thing)
            if thing.grad_fn is not None:
                nodes.append(thing.grad_fn)
    _add_saved(storages, nodes)
    return sum(storages.values())


def _add(storages: dict[int, int], tensor: Any) -> None:
    import torch

    if tensor.device.type == "cpu" and tensor.layout is torch.strided:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()


def _add_saved(storages: dict[int, int], nodes: list[Any]) -> None:
    """Add what autograd keeps for a backward pass, which no Python object shows."""
    import torch

    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(node):
            if name.startswith("_saved_"):
                try:
                    saved = getattr(node, name)
                except RuntimeError:  # freed by a backward pass
                    continue
                for tensor in saved if isinstance(saved, tuple) else (saved,):
                    if isinstance(tensor, torch.Tensor):
                        _add(storages, tensor)
        nodes += [following for following, _ in node.next_functions]
