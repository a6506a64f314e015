"""The native runtime, checked before it is loaded and installed at its first use."""

from __future__ import annotations

import functools
import importlib
import re
from typing import TYPE_CHECKING

from memomalloc.errors import RuntimeNotAvailableError
from memomalloc.runtime.process_limits import default_memory_limit, default_release_after_s

if TYPE_CHECKING:
    from types import ModuleType

#: The torch releases that the runtime is built and tested for, as (major, minor): first, and first unsupported.
#: ``pyproject.toml`` says the same to pip.
SUPPORTED_TORCH = ((2, 13), (2, 15))

_BUILD_COMMAND = "pip install --no-build-isolation --force-reinstall --no-deps memomalloc"


def _minor_version(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise RuntimeNotAvailableError(f"torch has a version that cannot be read: {version!r}")
    return int(found.group(1)), int(found.group(2))


def check_torch(running: str, built_for: str) -> None:
    """Refuse a torch that the runtime does not support or was not built for.

    Args:
        running: ``torch.__version__`` of this process.
        built_for: the version that the native runtime was built for; empty if it was built without torch.

    Raises:
        RuntimeNotAvailableError: with the command that mends it.
    """
    first, end = SUPPORTED_TORCH
    if not first <= _minor_version(running) < end:
        supported = f">={first[0]}.{first[1]},<{end[0]}.{end[1]}"
        raise RuntimeNotAvailableError(
            f"memomalloc's runtime supports torch{supported}, this is torch {running}. "
            f"Run: pip install 'torch{supported}', then: {_BUILD_COMMAND}"
        )
    if not built_for:
        raise RuntimeNotAvailableError(
            "memomalloc was built where torch was not installed, so it has its planner but no runtime. "
            f"Run: {_BUILD_COMMAND}"
        )
    if running != built_for:
        raise RuntimeNotAvailableError(
            f"memomalloc's runtime was built for torch {built_for}, this is torch {running}. Run: {_BUILD_COMMAND}"
        )


@functools.cache
def load() -> ModuleType:
    """The native module, loaded but not installed.

    Raises:
        RuntimeNotAvailableError: torch is missing, not supported, or not the one that the module was built for.
    """
    try:
        import torch
    except ImportError as error:
        raise RuntimeNotAvailableError(
            f"memomalloc's runtime needs torch, which is not installed. Run: pip install torch, then: {_BUILD_COMMAND}"
        ) from error
    from memomalloc import _built_for

    check_torch(str(torch.__version__), _built_for.TORCH_VERSION)
    return importlib.import_module("memomalloc._runtime")


@functools.cache
def install() -> ModuleType:
    """The native module, with its allocator in front of torch's. It stays there until the process ends.

    Raises:
        OptionError: a variable of the environment is no limit or time.
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    native = load()
    try:
        native.install()
    except RuntimeError as error:
        raise RuntimeNotAvailableError(str(error)) from error
    native.set_memory_limit(default_memory_limit())
    native.set_release_after(default_release_after_s())
    return native
