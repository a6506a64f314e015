"""The CSV files of MiniMalloc (google/minimalloc), which other planners read and write as well.

A header names the columns, in any order: ``id``, ``lower``, ``upper`` and ``size``, and optionally ``alignment``
(bytes) and ``offset`` (a pin; -1 or nothing: free). Lifetimes are half-open ticks [lower, upper), sizes are in
bytes. A file with a plan has every buffer's offset: read back, it is a problem with all buffers pinned.

MiniMalloc's other names are read as well: ``buffer`` and ``buffer_id`` for ``id``, ``begin`` and ``start`` for
``lower``, ``end`` for the last tick of a lifetime, one before ``upper``. A ``hint``, which a search may start from, is
skipped. ``gaps`` are ticks within a lifetime in which a buffer needs no bytes, ``5-7`` for [5, 7), or few of them,
``5-7@0:64`` for its bytes [0, 64); several are separated by spaces. A file that has any states a problem of a device
with one memory: `load_csv_problem` reads it, `read_minimalloc_csv` refuses it.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import warnings
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from memomalloc.data.atomic_file import atomic_file
from memomalloc.data.columns import INT64_MAX, Int64Array, int64_column, read_only
from memomalloc.data.device_problem import DeviceProblem
from memomalloc.data.input_file import limit_unpacked, open_input, seekable
from memomalloc.data.problem import MAX_ALIGNMENT, MAX_BUFFERS, Problem
from memomalloc.errors import FileFormatError, InvalidProblemError

REQUIRED = ("id", "lower", "upper", "size")
OPTIONAL = ("alignment", "offset", "hint", "gaps")
#: Other names of the same columns. An ``end`` is one tick before ``upper``.
ALIASES = {"buffer": "id", "buffer_id": "id", "begin": "lower", "start": "lower", "end": "upper"}
MAX_PIPE_BYTES = 2**30
"""Of a pipe, which is copied to the disk first."""
MAX_UNPACKED_BYTES = 2**24
"""Of a compressed file: short rows take ten times their text."""
MAX_UNPACKED_RATIO = 6
MAX_HEADER_BYTES = 2**16
MAX_LINE_CHARACTERS = 2**16

_Gap = tuple[int, int, int, int]
"""Ticks [first, last), and the bytes [lower, upper) of the buffer that it needs then."""

_GAP = re.compile(r"(-?\d{1,18})-(-?\d{1,18})(?:@(\d{1,18}):(\d{1,18}))?", re.ASCII)
_WHAT = "CSV file of buffers"
_ROWS_PER_WRITE = 100_000
_TEXTS = ("id", "hint", "gaps")
"""Columns that need be no numbers."""


def read_minimalloc_csv(path: str | Path, *, alignment_bytes: int = 1) -> Problem:
    """The problem that a file states.

    Args:
        path: the file.
        alignment_bytes: sizes are rounded up to it and offsets will be multiples of it. 1 takes sizes as they are.

    Raises:
        FileFormatError: not such a file; with the line and the column of the fault.
    """
    with open_input(path, what=_WHAT, max_pipe_bytes=MAX_PIPE_BYTES) as file:
        return load_minimalloc_csv(file, path, alignment_bytes=alignment_bytes)


def load_minimalloc_csv(file: io.BufferedReader, path: str | Path, *, alignment_bytes: int = 1) -> Problem:
    """The problem that an open file states; ``path`` is for messages.

    Raises:
        FileFormatError: not such a file; with the line and the column of the fault.
    """
    problem = load_csv_problem(file, path, alignment_bytes=alignment_bytes)
    if isinstance(problem, DeviceProblem):
        raise FileFormatError(path, "it has gaps in lifetimes: read it with memomalloc.data.any_file.read_problem")
    return problem


def load_csv_problem(file: io.BufferedReader, path: str | Path, *, alignment_bytes: int = 1) -> Problem | DeviceProblem:
    """The problem that an open file states; that of a device where a buffer has gaps. ``path`` is for messages.

    Raises:
        FileFormatError: not such a file; with the line and the column of the fault.
    """
    limit_unpacked(file, MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO)
    with seekable(file) as again:
        return _read(again, path, alignment_bytes)


def is_minimalloc_csv(path: str | Path, beginning: bytes) -> bool:
    """Whether a file is called ``.csv``, in any case, or begins with a line that names columns of such files."""
    if Path(str(path).lower().removesuffix(".gz")).suffix == ".csv":
        return True
    first_line = beginning[:MAX_HEADER_BYTES].decode("utf-8-sig", errors="replace").partition("\n")[0]
    names = [name.strip(' \t\r"') for name in first_line.lower().split(",")]
    return len({ALIASES.get(name, name) for name in names} & set(REQUIRED)) > 1


def write_minimalloc_csv(problem: Problem, path: str | Path, offsets: ArrayLike | None = None) -> None:
    """Write a problem, with the offsets of a plan if there are any, atomically.

    Args:
        problem: its sizes are written as they are: rounded up to its alignment.
        path: the file.
        offsets: n offsets in bytes; None: the pins of the problem, if it has any.

    Raises:
        OSError: the folder cannot be written to.
    """
    columns: dict[str, Sequence[object] | Int64Array] = {
        "id": range(len(problem)) if problem.ids is None else [_quoted(str(name)) for name in problem.ids],
        "lower": problem.starts,
        "upper": problem.ends,
        "size": problem.sizes,
    }
    if problem.alignments is not None:
        columns["alignment"] = problem.alignments
    pins = problem.pinned_offsets if offsets is None else int64_column("offsets", offsets)
    if pins is not None:
        columns["offset"] = pins
    with atomic_file(path) as file:
        file.write((",".join(columns) + "\n").encode())
        for first in range(0, len(problem), _ROWS_PER_WRITE):
            part = [column[first : first + _ROWS_PER_WRITE] for column in columns.values()]
            text = [map(str, values.tolist() if isinstance(values, np.ndarray) else values) for values in part]
            lines = "\n".join(map(",".join, zip(*text, strict=True))) + "\n"
            file.write(lines.encode(errors="backslashreplace"))


def _quoted(name: str) -> str:
    if not any(character in name for character in ',"\r\n'):
        return name
    return '"' + name.replace('"', '""') + '"'


def _read(file: IO[bytes], path: str | Path, alignment_bytes: int) -> Problem | DeviceProblem:
    header = _read_header(path, file.readline(MAX_HEADER_BYTES))
    start = file.tell()
    try:
        return _read_quickly(file, header, alignment_bytes)
    except (ValueError, OverflowError, DeprecationWarning):
        # Something is unusual or wrong. The slow reader allows any text as an id, and finds the fault.
        file.seek(start)
        return _SlowReader(path, header).read(file, alignment_bytes)


@dataclass(frozen=True, slots=True)
class _Header:
    columns: list[str]
    last_ticks: bool  # the column upper has the last tick of each lifetime, not the first one after it


def _read_header(path: str | Path, line: bytes) -> _Header:
    if not line:
        message = f"the file is empty; its first line must name the columns {', '.join(REQUIRED)}"
        raise FileFormatError(path, message, line=1)
    try:
        header = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(path, f"not UTF-8 text, so not a CSV file: {error}", line=1) from error
    if "\0" in header or (len(line) == MAX_HEADER_BYTES and not header.endswith("\n")):
        raise FileFormatError(path, "not a CSV file: its first line is no header", line=1)
    if "\r" in header.rstrip("\r\n"):
        message = "its lines end in carriage returns alone: end them in line feeds (tr '\\r' '\\n')"
        raise FileFormatError(path, message, line=1)
    try:
        names = [name.strip().lower() for name in next(csv.reader([header.strip()], strict=True), [])]
    except csv.Error as error:
        raise FileFormatError(path, f"not a CSV file: {error}", line=1) from error
    columns = [ALIASES.get(name, name) for name in names]
    expected = f"the first line must name the columns {', '.join(REQUIRED)}, and may name {', '.join(OPTIONAL)}"
    for name in columns:
        if name not in REQUIRED + OPTIONAL:
            message = f"unknown column: {expected}; remove or rename the column"
            raise FileFormatError(path, message, line=1, column=name[:60])
        if columns.count(name) > 1:
            raise FileFormatError(path, f"there are two columns of this name: {expected}", line=1, column=name)
    for name in REQUIRED:
        if name not in columns:
            raise FileFormatError(path, f"the column is missing: {expected}", line=1, column=name)
    return _Header(columns, last_ticks="end" in names)


def _read_quickly(file: IO[bytes], header: _Header, alignment_bytes: int) -> Problem:
    """For files in which every field is a number. Raises ValueError for whatever it does not like."""
    columns = header.columns
    if "gaps" in columns:
        raise ValueError("gaps are no numbers")
    _require_lines(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # "1e3" would be taken for a whole number
        warnings.filterwarnings("ignore", message=".*input contained no data.*")
        # numpy takes some letters beyond ASCII for digits.
        table = np.loadtxt(file, dtype=np.int64, delimiter=",", comments=None, ndmin=2, encoding="ascii")
    if table.size == 0:
        table = np.zeros((0, len(columns)), dtype=np.int64)
    if table.shape[1] != len(columns):
        raise ValueError("the rows are shorter or longer than the header")
    by_name = {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(columns)}
    if header.last_ticks:
        if (by_name["upper"] == INT64_MAX).any():
            raise ValueError("the tick after the last is no number")
        by_name["upper"] = by_name["upper"] + 1
    by_name = {name: read_only(column) for name, column in by_name.items()}
    return _problem(by_name, by_name["id"], alignment_bytes)


def _require_lines(file: IO[bytes]) -> None:
    """Raise ValueError where a line is far too long: it would take ten times its length in memory."""
    start = file.tell()
    while len(piece := file.read(2 * MAX_LINE_CHARACTERS)) == 2 * MAX_LINE_CHARACTERS:
        if b"\n" not in piece:
            raise ValueError("a line is too long")
    file.seek(start)


def _problem(columns: dict[str, Int64Array], ids: Int64Array | list[str], alignment_bytes: int) -> Problem:
    plain = isinstance(ids, np.ndarray) and np.array_equal(ids, np.arange(len(ids)))
    if isinstance(ids, np.ndarray) and not plain and len(np.unique(ids)) < len(ids):
        raise ValueError("two rows have the same id")
    return Problem.from_arrays(
        columns["size"],
        columns["lower"],
        columns["upper"],
        alignment_bytes=alignment_bytes,
        alignments=columns.get("alignment"),
        pinned_offsets=columns.get("offset"),
        ids=None if plain else tuple(ids if isinstance(ids, list) else ids.tolist()),
    )


def _with_gaps(problem: Problem, gaps: Mapping[int, Sequence[_Gap]]) -> DeviceProblem:
    """The same with lifetimes that have gaps, by position of their buffers."""
    whole = DeviceProblem.of_problem(problem)
    buffers = list(whole.buffers)
    for index, own in gaps.items():
        buffer = buffers[index]
        ((start, end),) = buffer.lifetimes
        lifetimes: list[tuple[int, ...]] = []
        for first, last, lower, upper in own:
            lifetimes += [(start, first)] if start < first else []
            lifetimes += [(first, last, lower, upper)] if lower < upper else []
            start = last
        lifetimes += [(start, end)] if start < end else []
        # What is never in use still has a place.
        buffers[index] = replace(buffer, lifetimes=tuple(lifetimes or [(start - 1, end, 0, 0)]))
    return DeviceProblem.of(whole.memories, buffers)


class _SlowReader:
    """Reads field by field, and says where the first fault is."""

    def __init__(self, path: str | Path, header: _Header) -> None:
        self._path = path
        self._columns = header.columns
        self._last_ticks = header.last_ticks
        self._line = 1

    def read(self, file: IO[bytes], alignment_bytes: int) -> Problem | DeviceProblem:
        gaps: dict[int, list[_Gap]] = {}
        numbers = {name: array("q") for name in self._columns if name not in _TEXTS}
        ids: list[str] = []
        lines = array("q")
        for row in self._rows(file):
            fields = dict(zip(self._columns, row, strict=True))
            ids.append(fields["id"].strip())
            lines.append(self._line)
            for name, values in numbers.items():
                values.append(self._number(name, fields[name].strip()))
            if self._last_ticks:
                numbers["upper"][-1] += 1
            if numbers["lower"][-1] >= numbers["upper"][-1]:
                self._fail(
                    f"the lifetime [{fields['lower']}, {fields['upper']}) is empty: lower must be below upper", "upper"
                )
            if text := fields.get("gaps", "").strip():
                gaps[len(ids) - 1] = self._gaps(text, *(numbers[name][-1] for name in ("lower", "upper", "size")))
        if len(set(ids)) < len(ids):
            self._fail_of_equal_ids(ids, lines)
        arrays = {name: read_only(np.array(numbers.pop(name), dtype=np.int64)) for name in list(numbers)}
        try:
            problem = _problem(arrays, ids, alignment_bytes)
            return _with_gaps(problem, gaps) if gaps else problem
        except InvalidProblemError:
            # Once more, for a message that has the lines of the buffers that it names.
            located = [f"{name_of_buffer}, line {line}" for name_of_buffer, line in zip(ids, lines, strict=True)]
            try:
                return _problem(arrays, located, alignment_bytes)
            except InvalidProblemError as error:
                raise FileFormatError(self._path, str(error)) from error

    def _gaps(self, text: str, start: int, end: int, size: int) -> list[_Gap]:
        found: list[_Gap] = []
        for part in text.split():
            match = _GAP.fullmatch(part)
            if match is None:
                self._fail(f"{part!r:.60} is no gap: write 5-7 for the ticks [5, 7), 5-7@0:64 for few bytes", "gaps")
            first, last, lower, upper = (int(number or 0) for number in match.groups())
            gap = (first, last + self._last_ticks, lower, upper)
            if not start <= gap[0] < gap[1] <= end or not lower <= upper <= size:
                self._fail(f"the gap {part!r:.60} is empty, or not within the buffer's lifetime and size", "gaps")
            found.append(gap)
        found.sort()
        if any(before[1] > after[0] for before, after in itertools.pairwise(found)):
            self._fail("two gaps overlap", "gaps")
        return found

    def _fail_of_equal_ids(self, ids: list[str], lines: Sequence[int]) -> NoReturn:
        first_lines: dict[str, int] = {}
        for name_of_buffer, self._line in zip(ids, lines, strict=True):
            first_line = first_lines.setdefault(name_of_buffer, self._line)
            if first_line != self._line:
                self._fail(f"{name_of_buffer!r:.60} is the id of line {first_line} as well: give each its own", "id")
        raise AssertionError("no two ids are equal")

    def _rows(self, file: IO[bytes]) -> Iterator[list[str]]:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        reader = csv.reader(self._lines(text), strict=True)
        num_rows = 0
        try:
            for row in reader:
                self._line = reader.line_num + 1  # the header was read before
                if not row or (len(row) == 1 and not row[0].strip()):
                    continue
                if len(row) != len(self._columns):
                    self._fail(f"{len(row)} fields where the header has {len(self._columns)}", None)
                num_rows += 1
                if num_rows > MAX_BUFFERS:
                    self._fail(f"more than {MAX_BUFFERS} buffers", None)
                yield row
        except UnicodeDecodeError as error:
            self._line = reader.line_num + 2
            self._fail(f"not UTF-8 text: {error}", None)
        except csv.Error as error:
            self._line = reader.line_num + 1
            self._fail(f"not CSV: {error}", None)
        finally:
            text.detach()

    def _lines(self, text: io.TextIOWrapper) -> Iterator[str]:
        number = 1
        while line := text.readline(MAX_LINE_CHARACTERS + 1):
            number += 1
            if len(line) > MAX_LINE_CHARACTERS:
                self._line = number
                self._fail(f"not CSV: the line is longer than {MAX_LINE_CHARACTERS} characters", None)
            yield line

    def _number(self, name: str, field: str) -> int:
        if name == "offset" and field in ("", "-1"):
            return -1
        lowest = {"size": 0, "offset": 0, "alignment": 1}.get(name, -INT64_MAX - 1)
        highest = MAX_ALIGNMENT if name == "alignment" else INT64_MAX
        if name == "upper" and self._last_ticks:
            highest -= 1
        digits = field.removeprefix("-")
        # int() would also take 1_000, and needs long for a million digits.
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 30:
            self._fail(f"{field!r:.60} is not a whole number", name)
        value = int(field)
        if not lowest <= value <= highest:
            self._fail(f"{value} is not between {lowest} and {highest}", name)
        return value

    def _fail(self, message: str, column: str | None) -> NoReturn:
        raise FileFormatError(self._path, message, line=self._line, column=column)
