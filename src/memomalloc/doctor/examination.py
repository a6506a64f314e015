"""Run a program in processes of its own, as it is and with remedies, and keep what was seen."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from memomalloc.doctor import patient
from memomalloc.doctor.observation import Observation
from memomalloc.doctor.watching import Program, WatchError, watch_program
from memomalloc.errors import MemomallocError

if TYPE_CHECKING:
    from memomalloc.data.trace import Trace

#: A figure that lies so near to where it matters, by this factor, is looked at again, and again.
NEAR = 1.2
MAX_REPETITIONS = 3


class ExaminationError(MemomallocError, RuntimeError):
    """The program could not be watched."""


@dataclass(frozen=True)
class Remedy:
    """Something that may help, and can be tried without changing the program.

    Attributes:
        text: what to do.
        variables: of the environment.
        option: of ``patient.py``.
    """

    text: str
    variables: Mapping[str, str] = field(default_factory=dict)
    option: str = ""

    @classmethod
    def of(cls, **variables: str) -> Remedy:
        """Variables of the environment."""
        return cls(" ".join(f"{name}={value}" for name, value in variables.items()), variables)


AS_IT_IS = Remedy("as it is")
OPTIMIZED = Remedy("memomalloc.optimize(model) or `memomalloc run`", option=patient.OPTIMIZE)
NO_GRAD = Remedy("torch.inference_mode()", option=patient.NO_GRAD)
COLLECTED = Remedy("gc.collect() now and then, or no cycles", option=patient.COLLECT)
GLIBC_KEEPS = Remedy.of(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="17179869184")
GLIBC_GIVES = Remedy.of(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="131072")
FEW_ARENAS = Remedy.of(MALLOC_ARENA_MAX="2")
NO_ONEDNN_CACHE = Remedy.of(ONEDNN_PRIMITIVE_CACHE_CAPACITY="0")
SMALL_ONEDNN_CACHE = Remedy.of(ONEDNN_PRIMITIVE_CACHE_CAPACITY="32")
NO_TORCHSCRIPT = Remedy.of(PYTORCH_JIT="0")
NO_DYNAMO = Remedy.of(TORCHDYNAMO_DISABLE="1")


class Examination:
    """A program that is run as often as its diagnoses need.

    Attributes:
        program: what is run.
        plain: its first run, as it is.
        was_interrupted: nothing more is run.
    """

    def __init__(
        self, program: Program, *, seconds: float | None = None, on_run: Callable[[str], None] = lambda why: None
    ) -> None:
        """Run the program for the first time.

        Args:
            program: what to run.
            seconds: it is stopped after so many; it is then run once.
            on_run: told why the program is run, each time.

        Raises:
            ExaminationError: there is no such file, or its process died.
        """
        if not program.is_module and not Path(program.name).is_file():
            raise ExaminationError(f"{program.name} is no file; a Python program was expected")
        self.program = program
        self._seconds = seconds
        self._on_run = on_run
        self._seen: dict[str, list[Observation]] = {}
        self._trace: Trace | None = None
        self.was_interrupted = False
        self.plain = self._run(AS_IT_IS)
        self._seen[AS_IT_IS.text] = [self.plain]

    @property
    def may_run(self) -> bool:
        """Whether it can be run again, alike: nobody stopped it, which had to be done to one that waits for others."""
        return not self.plain.was_stopped and not self.was_interrupted

    def run(self, remedy: Remedy, repetition: int = 0) -> Observation | None:
        """The program with a remedy; None where it cannot be run so. Run once for each repetition."""
        seen = self._seen.setdefault(remedy.text, [])
        while len(seen) <= repetition:
            if not self.may_run:
                return None
            try:
                found = self._run(remedy)
            except ExaminationError:  # it does not run with the remedy
                return None
            if found.was_stopped:
                self.was_interrupted = True
                return None
            seen.append(found)
        return seen[repetition]

    def median(
        self, remedy: Remedy, figure: Callable[[Observation], float], near: Sequence[float] = ()
    ) -> float | None:
        """The figure of a run with a remedy; where it is near one that decides, the median of several runs.

        Returns:
            None where it cannot be run so.
        """
        figures: list[float] = []
        for repetition in range(MAX_REPETITIONS):
            seen = self.run(remedy, repetition)
            if seen is None:
                break
            figures.append(figure(seen))
            found = statistics.median(figures)
            if not any(limit / NEAR <= found <= limit * NEAR for limit in near):
                return found
        return statistics.median(figures) if figures else None

    def recorded(self) -> Trace | None:
        """Run the program again and record its tensors, and who reads them; None where it cannot be."""
        if self._trace is None and self.may_run:
            from memomalloc.data.trace import Trace

            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / patient.TRACE
                self._on_run("with its tensors recorded")
                try:
                    seen = watch_program(self.program, options=[patient.RECORD], keep_trace=path)
                except WatchError:
                    return None
                if seen.was_stopped:
                    self.was_interrupted = True
                elif path.exists():
                    self._trace = Trace.load(path)
        return self._trace

    def _run(self, remedy: Remedy) -> Observation:
        why = remedy.text if remedy is AS_IT_IS else f"with {remedy.text}"
        again = len(self._seen.get(remedy.text, ()))
        self._on_run(f"{why}{', again' if again else ''}")
        try:
            return watch_program(
                self.program,
                options=[remedy.option] if remedy.option else (),
                variables=remedy.variables,
                seconds=self._seconds,
            )
        except WatchError as error:
            raise ExaminationError(f"{self.program.name} run {why} was not watched to its end: {error}") from error
