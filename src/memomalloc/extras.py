"""Packages that only some features need."""

from __future__ import annotations

import importlib
from types import ModuleType

from memomalloc.errors import MissingDependencyError


def require(module: str, *, extra: str, feature: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: what to import, such as ``rich.table``.
        extra: the extra of this package that installs it.
        feature: what needs it, for the message; reads before "needs".

    Raises:
        MissingDependencyError: it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{feature} needs {module.partition('.')[0]}, which cannot be imported ({error}). "
            f"Run: pip install 'memomalloc[{extra}]'"
        ) from error
