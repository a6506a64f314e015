"""Who asked for a buffer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of a program.

    Attributes:
        file: path as the interpreter knows it.
        line: 1-based.
        function: the function it is in.
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


@dataclass(frozen=True, slots=True)
class Origin:
    """The operation, module and source line that asked for a buffer; unique in a trace.

    Attributes:
        operators: from the outermost operator that was running to the innermost.
        module_path: as in ``named_modules()``; empty outside any module.
        source: the innermost line of Python outside torch, where known.
        role: ``output`` (the operator returns it), ``scratch`` (freed inside the operator), or ``escape``; ``call`` is
            that of the origin of a call.
        occurrence: counts the buffers of one trace that agree in all else.
        thread: the name of the thread that asked, in a trace of several; else empty.
    """

    operators: tuple[str, ...] = ()
    module_path: str = ""
    source: SourceLine | None = None
    role: str = "output"
    occurrence: int = 0
    thread: str = ""

    @property
    def operator(self) -> str:
        """The innermost operator; empty where none was running."""
        return self.operators[-1] if self.operators else ""
