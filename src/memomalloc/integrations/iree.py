"""IREE's buffers as they are before it lays them out.

``iree-compile --mlir-print-ir-before=iree-stream-layout-slices ... 2>dump.mlir`` prints them: each
``stream.resource.pack`` lists the slices of one transient allocation, as ``[first, last] = %size``, where the size is a
constant of the function.
"""

from __future__ import annotations

import re
from pathlib import Path

from memomalloc.data.input_file import read_bounded
from memomalloc.data.problem import Problem
from memomalloc.errors import FileFormatError, InvalidProblemError
from memomalloc.integrations.dumped_problem import DumpedProblem

MAX_FILE_BYTES = 2**31
_WHAT = "dump of IREE"

_FUNCTION = re.compile(r"^\s*(?:util|func)\.(?:func|initializer)\b[^@\n]*(?:@([\w.$-]+|\"[^\"]*\"))?")
_CONSTANT = re.compile(r"^\s*(%[\w.$-]+)\s*=\s*arith\.constant\s+(-?\d+)\s*:\s*index\b")
_PACK = re.compile(r"^\s*(%[\w.$-]+)(?::\d+)?\s*=\s*stream\.resource\.pack\b")
_OFFSET = re.compile(r"\boffset\((%[\w.$-]+)\)")
_SLICE = re.compile(r"\[\s*(\d+)\s*,\s*(\d+)\s*\]\s*=\s*(%[\w.$-]+)")


def read_iree_dump(path: str | Path, *, alignment_bytes: int = 64) -> list[DumpedProblem]:
    """Every allocation that IREE is about to lay out.

    Args:
        path: what iree-compile printed.
        alignment_bytes: of each slice; IREE takes 64 for processors, and what the device asks for elsewhere.

    Returns:
        A problem for each ``stream.resource.pack``; both ends of IREE's lifetimes are in them, ours are half-open.

    Raises:
        FileFormatError: not such a dump, or sizes that are known at run time only.
    """
    content = read_bounded(path, MAX_FILE_BYTES, what=_WHAT)
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FileFormatError(path, f"not UTF-8 text, so not a {_WHAT}: {error}") from error
    found: list[DumpedProblem] = []
    taken: set[str] = set()
    function = "module"
    constants: dict[str, int] = {}
    number = 0
    while number < len(lines):
        line = lines[number]
        if (match := _FUNCTION.match(line)) is not None:
            function, constants = match[1] or "initializer", {}
        elif (match := _CONSTANT.match(line)) is not None:
            constants[match[1]] = int(match[2])
        elif (match := _PACK.match(line)) is not None:
            end = next((i for i in range(number, len(lines)) if "})" in lines[i]), None)
            if end is None:
                raise FileFormatError(path, "the dump ends within a stream.resource.pack", line=number + 1)
            text = "\n".join(lines[number : end + 1])
            name = plain = f"@{function} {match[1]}"
            while name in taken:
                name = f"{plain} again {len(taken)}"
            taken.add(name)
            found.append(DumpedProblem(name, _problem(text, constants, path, number + 1, alignment_bytes), None))
            number = end
        number += 1
    if not found:
        raise FileFormatError(
            path,
            "no stream.resource.pack in it: print with iree-compile --mlir-print-ir-before=iree-stream-layout-slices "
            "and redirect what it prints (2>dump.mlir); a model without temporary buffers has none",
        )
    return found


def _problem(text: str, constants: dict[str, int], path: str | Path, line: int, alignment_bytes: int) -> Problem:
    slices = _SLICE.findall(text)
    if not slices or len(slices) != text.count("["):
        raise FileFormatError(path, "slices of another form than [first, last] = %size", line=line)
    offset = _OFFSET.search(text)
    if offset is not None and constants.get(offset[1]) != 0:
        raise FileFormatError(path, f"the slices begin at {offset[1]}, not at 0", line=line)
    unknown = [size for _, _, size in slices if size not in constants]
    if unknown:
        raise FileFormatError(
            path, f"the size {unknown[0]} is known at run time only: a plan needs models of static shapes", line=line
        )
    try:
        return Problem.from_arrays(
            [constants[size] for _, _, size in slices],
            [int(first) for first, _, _ in slices],
            [int(last) + 1 for _, last, _ in slices],
            alignment_bytes=alignment_bytes,
        )
    except (InvalidProblemError, OverflowError) as error:
        raise FileFormatError(path, str(error), line=line) from None
