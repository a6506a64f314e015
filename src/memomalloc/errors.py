"""Every error that memomalloc raises on purpose. Each message says what to do."""

from __future__ import annotations

from pathlib import Path

from memomalloc.harmless_text import harmless


class MemomallocError(Exception):
    """The base of all errors of this package. Its text is harmless, whatever names it quotes."""

    def __str__(self) -> str:
        return harmless(super().__str__(), lines=True)


class InvalidProblemError(MemomallocError, ValueError):
    """Sizes, lifetimes, alignments or pins that make no planning problem."""


class InvalidPlanError(MemomallocError, ValueError):
    """Offsets that break a problem: out of range, misaligned, or two live buffers on one byte."""


class FileFormatError(MemomallocError, ValueError):
    """A file that is not what it should be.

    Attributes:
        path: the file.
        line: 1-based line of the fault, if the fault has one.
        column: name or 1-based number of the column of the fault, if the fault has one.
    """

    def __init__(
        self, path: str | Path, message: str, *, line: int | None = None, column: str | int | None = None
    ) -> None:
        self.path = Path(path)
        self.line = line
        self.column = column
        where = "standard input" if str(path) == "/dev/stdin" else harmless(path)
        if line is not None:
            where += f", line {line}"
        if column is not None:
            where += f", column {harmless(column)}"
        super().__init__(f"{where}: {message}")


class UnknownPlannerError(MemomallocError, LookupError):
    """No planner is registered under that name."""


class CapacityError(MemomallocError):
    """No plan within the capacity was found.

    Attributes:
        proven: whether it is proven that none exists.
    """

    def __init__(self, message: str, *, proven: bool) -> None:
        self.proven = proven
        super().__init__(message)


class OptionError(MemomallocError, ValueError):
    """An option, or a variable of the environment, that is not what it should be."""


class PlanningMemoryError(MemomallocError, MemoryError):
    """There was not memory enough to make any plan of a problem."""


class MissingDependencyError(MemomallocError, ImportError):
    """A feature needs a package that is not installed; the message has the command that installs it."""


class RuntimeNotAvailableError(MemomallocError, ImportError):
    """The runtime cannot run here: built without torch, for another torch, or with an unsupported torch."""


class StalePlansError(MemomallocError, ValueError):
    """Saved plans were learned with another model, torch or processor."""


class RecordingError(MemomallocError, RuntimeError):
    """A recording was used in a way that it cannot be: read before its end, ended on another thread."""


class NotCountingError(MemomallocError, RuntimeError):
    """The bytes of tensors were asked for before anything counted them."""


class AdviceError(MemomallocError, ValueError):
    """Nothing can be advised for a trace: it does not say who read its tensors."""


class ArenaError(MemomallocError, MemoryError):
    """An arena could not be mapped: larger than what can be reserved, or refused by the system."""
