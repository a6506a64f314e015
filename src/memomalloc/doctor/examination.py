"""Run a program in processes of its own, as it is and with remedies, and keep what was seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from memomalloc.child_group import child_group
from memomalloc.doctor.observation import Observation
from memomalloc.doctor.observer import RECORD_OPTION
from memomalloc.errors import MemomallocError

#: So much of the last line that a process that died has printed goes into the message.
MAX_LOG_LENGTH = 400


class ExaminationError(MemomallocError, RuntimeError):
    """The program could not be watched."""


class Examination:
    """A program that is run as often as its diagnoses need.

    Attributes:
        plain: the program as it is.
    """

    def __init__(
        self, program: Path, arguments: Sequence[str], *, on_run: Callable[[str], None] = lambda why: None
    ) -> None:
        """Run the program for the first time.

        Args:
            program: a Python file.
            arguments: its own.
            on_run: told why the program is run, each time.

        Raises:
            ExaminationError: there is no such file, or its process died.
        """
        if not program.is_file():
            raise ExaminationError(f"{program} is no file; a Python program was expected")
        self._program = program
        self._arguments = list(arguments)
        self._on_run = on_run
        self._seen: dict[str, Observation] = {}
        self.plain = self._run("as it is", {}, record=False)

    def with_variables(self, variables: Mapping[str, str]) -> Observation:
        """The program in another environment; run once however often this is asked."""
        named = " ".join(f"{name}={value}" for name, value in variables.items())
        if named not in self._seen:
            self._seen[named] = self._run(f"with {named}", variables, record=False)
        return self._seen[named]

    def recorded(self) -> Observation:
        """Run the program again and record its tensors."""
        return self._run("with its tensors recorded", {}, record=True)

    def _run(self, why: str, variables: Mapping[str, str], *, record: bool) -> Observation:
        self._on_run(why)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "observation.json"
            with child_group(
                [
                    sys.executable,
                    "-m",
                    "memomalloc.doctor.observer",
                    str(out),
                    *([RECORD_OPTION] if record else []),
                    str(self._program),
                    *self._arguments,
                ],
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            ) as process:
                _, stderr = process.communicate()
            if not out.exists():
                said = (stderr.strip().splitlines() or [""])[-1][-MAX_LOG_LENGTH:]
                said = f"{_ending(process.returncode)}{': ' if said else ''}{said}"
                raise ExaminationError(f"{self._program} run {why} was not watched to its end: {said}")
            return Observation.load(out)


def _ending(status: int) -> str:
    """How a process ended, by its status as `subprocess` has it."""
    return f"it was ended by {signal.Signals(-status).name}" if status < 0 else f"it ended with status {status}"
