"""Tests that need a process of their own: they fork, exit, run out of address space, or might crash."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TIMEOUT_S = 120


def run_python(
    code: str, *, env: Mapping[str, str] | None = None, paths: tuple[Path, ...] = (), timeout_s: float = TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, which finds this folder's modules and those in ``paths``."""
    found_in = [str(path) for path in (*paths, Path(__file__).parent)]
    return subprocess.run(
        [sys.executable, "-c", inspect.cleandoc(code)],
        env={
            **os.environ,
            **(env or {}),
            "PYTHONPATH": os.pathsep.join([*found_in, os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def in_child_process(
    *, env: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Run a test's body in a fresh interpreter, which must exit with 0 and say nothing on stderr.

    The body takes parametrised arguments that ``repr`` can carry over, and no fixtures.
    """

    def decorate(body: Callable[..., Any]) -> Callable[..., None]:
        file = Path(inspect.getfile(body))
        call = f"import {file.stem}; {file.stem}.{body.__name__}.body"

        @functools.wraps(body)
        def test(**arguments: Any) -> None:
            child = run_python(f"{call}(**{arguments!r})", env=env, paths=(file.parent,), timeout_s=timeout_s)
            assert (child.returncode, child.stderr) == (0, ""), f"exit code {child.returncode}\n{child.stderr}"

        test.body = body  # type: ignore[attr-defined]
        return test

    return decorate
