"""Wait for the program to import torch. This module imports nothing of torch itself."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def call_after_torch_import(function: Callable[[], None]) -> None:
    """Call ``function`` as soon as torch has been imported, which may be now.

    A program may set what torch reads when it is imported (``OMP_NUM_THREADS``), so it must not be imported before the
    program does it.
    """
    if "torch" in sys.modules:
        function()
    else:
        sys.meta_path.insert(0, _TorchFinder(function))


class _TorchFinder(MetaPathFinder):
    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")  # by the other finders
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_call(module: ModuleType) -> None:
            load(module)
            self._function()

        spec.loader.exec_module = load_and_call  # type: ignore[method-assign]
        return spec
