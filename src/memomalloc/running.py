"""Run a program in this process as ``python PROGRAM`` or ``python -m MODULE`` would.

Uses the standard library alone, and nothing of this package: the doctor loads it inside programs that it watches.
"""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
import types
from collections.abc import Sequence


def run_program(program: str, arguments: Sequence[str], *, is_module: bool) -> None:
    """Run it; whatever it raises is raised.

    Args:
        program: a Python file; with ``is_module``, the name of a module.
        arguments: its own.
        is_module: as ``python -m``.
    """
    sys.argv = [program, *arguments]
    if is_module:
        _set_first_path(os.getcwd())
        runpy.run_module(program, run_name="__main__", alter_sys=True)
        return
    _set_first_path(os.path.dirname(os.path.realpath(program)))
    # A module of its own, as `python` has it: what the program pickles names it.
    main = types.ModuleType("__main__")
    path = os.path.abspath(program)
    main.__dict__.update(__file__=path, __builtins__=builtins, __cached__=None, __annotations__={})
    sys.modules["__main__"] = main
    with io.open_code(path) as file:
        source = file.read()
    exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)


def _set_first_path(folder: str) -> None:
    if not sys.flags.safe_path:  # else there is no such entry
        sys.path[0] = folder
