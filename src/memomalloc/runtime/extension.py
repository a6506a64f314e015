"""The native runtime: found or built for the torch that runs, loaded, and installed at its first use."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

from memomalloc.errors import RuntimeNotAvailableError
from memomalloc.runtime.process_limits import default_memory_limit, default_release_after_s
from memomalloc.runtime.torch_versions import FIRST_TORCH, LAST_TESTED_TORCH, is_newer_than_tested, minor_version

if TYPE_CHECKING:
    from types import ModuleType

MODULE = "memomalloc._runtime"
#: Names the file of the runtime to be used, whatever was built for what. For a test of a new one, before it is kept.
FILE_VARIABLE = "MEMOMALLOC_RUNTIME_FILE"


def check_torch(version: str) -> None:
    """Refuse a torch that is too old.

    Args:
        version: ``torch.__version__``.

    Raises:
        RuntimeNotAvailableError: with the command that mends it.
    """
    try:
        supported = minor_version(version) >= FIRST_TORCH
    except ValueError as error:
        raise RuntimeNotAvailableError(str(error)) from None
    if not supported:
        first = f">={FIRST_TORCH[0]}.{FIRST_TORCH[1]}"
        raise RuntimeNotAvailableError(
            f"memomalloc's runtime needs torch{first}, this is torch {version}. Run: pip install 'torch{first}'"
        )


def torch_version() -> str:
    """The version of the torch that is installed.

    Raises:
        RuntimeNotAvailableError: there is none, or it is too old.
    """
    try:
        import torch
    except ImportError as error:
        raise RuntimeNotAvailableError(
            f"memomalloc's runtime needs torch, which cannot be imported ({error}). Run: pip install torch"
        ) from error
    version = str(torch.__version__)
    check_torch(version)
    return version


def comes_with_package(version: str) -> bool:
    """Whether the package was installed with a runtime for this torch: built from its sources, where torch was."""
    from memomalloc import _built_for

    return version == _built_for.TORCH_VERSION and not is_newer_than_tested(version)


@functools.cache
def load() -> ModuleType:
    """The native module, loaded but not installed. Builds it, which takes a minute, where there is none for this torch.

    Raises:
        RuntimeNotAvailableError: torch is missing or too old, or no runtime can be built for it.
    """
    version = torch_version()
    file = os.environ.get(FILE_VARIABLE)
    if file:
        return _load_file(Path(file))
    if comes_with_package(version):
        return importlib.import_module(MODULE)
    from memomalloc.runtime.native_build import runtime_file

    module = _load_file(runtime_file())
    if is_newer_than_tested(version):
        warnings.warn(
            f"memomalloc was tested with torch up to {LAST_TESTED_TORCH[0]}.{LAST_TESTED_TORCH[1]}, this is torch "
            f"{version}. Its runtime passed a test of its own here; report what looks wrong",
            stacklevel=2,
        )
    return module


def _load_file(path: Path) -> ModuleType:
    spec = spec_from_file_location(MODULE, path, loader=ExtensionFileLoader(MODULE, str(path)))
    assert spec is not None
    assert spec.loader is not None  # it is given
    try:
        module = module_from_spec(spec)
    except ImportError as error:
        raise RuntimeNotAvailableError(
            f"memomalloc's runtime in {path} cannot be loaded ({error}). Run: rm {path} && memomalloc build"
        ) from error
    spec.loader.exec_module(module)
    sys.modules[MODULE] = module
    return module


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
