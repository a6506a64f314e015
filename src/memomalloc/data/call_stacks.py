"""The call stacks of a snapshot: each is kept once, and read as who asked for a buffer when that is wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from memomalloc.data.columns import Int64Array
from memomalloc.data.origin import SourceLine

#: Files of torch itself, wherever it is installed, and of what runs inside it.
_TORCH = re.compile(r"(?:^|/)(?:site-packages|dist-packages|pytorch)/(?:torch|triton|functorch|torchgen)/")
_IN_TORCH = re.compile(r".*/torch/(.*)\.py")
#: A frame of C++ that the dispatcher made: the name of an operator is in it.
_OPERATOR = re.compile(r"at::_ops::(\w+)::(?:call|redispatch)\(")
#: Of a stack, the innermost frames in which who asked is looked for.
_MAX_FRAMES = 1024
_MAX_DEPTH = 64
_MAX_OPERATORS = 16

Asker = tuple[tuple[str, ...], str, SourceLine | None]


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a call stack.

    Attributes:
        file: its path; of C++ often a library, or ``??``.
        line: 1-based; 0 where it is not known.
        function: its name.
        node: of a compiled graph, the node that the line was made from; empty: none.
    """

    file: str
    line: int
    function: str
    node: str = ""


@dataclass(frozen=True, eq=False)
class CallStacks:
    """Stacks of frames, innermost first.

    Attributes:
        frames: each different one, once.
        stack_ends: where the frames of each stack end in ``stack_frames``.
        stack_frames: indices of frames.
    """

    frames: tuple[Frame, ...]
    stack_ends: Int64Array
    stack_frames: Int64Array
    _askers: dict[int, Asker] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.stack_ends)

    def stack(self, index: int) -> list[Frame]:
        """The frames of a stack, innermost first; none for -1."""
        if index < 0:
            return []
        begin = int(self.stack_ends[index - 1]) if index else 0
        return [self.frames[i] for i in self.stack_frames[begin : int(self.stack_ends[index])].tolist()]

    def asker(self, index: int) -> Asker:
        """Operators from the outermost in, module path, and source line of a stack.

        The operators are those of the dispatcher, where C++ was recorded; else the innermost function of torch. The
        module path is that of the ``forward`` methods that were running: the names of their files, the outermost first.
        The source is the innermost line of Python outside torch.
        """
        found = self._askers.get(index)
        if found is None:
            found = self._askers[index] = _asker(self.stack(index)[:_MAX_FRAMES])
        return found


def _asker(stack: list[Frame]) -> Asker:
    python = [frame for frame in stack if _is_python(frame.file)]
    outside = next((frame for frame in python if not _TORCH.search(frame.file)), None)
    operators: list[str] = []
    for frame in reversed(stack):
        match = _OPERATOR.search(frame.function)
        if match and operators[-1:] != [f"aten::{match[1]}"]:
            operators.append(f"aten::{match[1]}")
    if not operators and python and (match := _IN_TORCH.fullmatch(python[0].file)) and _TORCH.search(python[0].file):
        operators.append(f"torch.{match[1].replace('/', '.').removesuffix('.__init__')}.{python[0].function}")
    node = next((frame.node for frame in python if frame.node), "")
    if node:
        operators.append(node)
    modules = [_module(frame.file) for frame in reversed(python) if frame.function == "forward"]
    source = None if outside is None else SourceLine(outside.file, max(outside.line, 0), outside.function)
    return tuple(operators[-_MAX_OPERATORS:]), ".".join(modules[-_MAX_DEPTH:]), source


def _is_python(file: str) -> bool:
    return file.endswith(".py") or file.startswith("<")


def _module(file: str) -> str:
    """The name of a file, as a part of a dotted path."""
    return file.rpartition("/")[2].removesuffix(".py").replace(".", "_")
