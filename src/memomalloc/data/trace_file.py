"""Trace files: lines of JSON that can be read and written row by row.

The first line says what follows, the last one how many buffers there were and the SHA-256 of all lines before it; a
file without its last line is truncated. Between them, in any order in which what is referred to comes first:

- ``"text"``: the next entry of the table of texts;
- ``{"operators": [text, ...], "module_path": text, "source": [text, line, text] | null, "role": text,
  "occurrence": n}``: the next entry of the table of origins, its texts by index; of a trace of several threads also
  with ``"thread": text``;
- ``[size, smallest size, start, end, escape, origin]``: the next buffer; escape is 0 or 1, origin an index or -1;
- ``[[begin, end, origin, frame, tracked], [buffer, ...], [bytes, ...]]``: the next call, the buffers that it read, and
  the bytes of its other arguments; in files of version 2, which says that calls were recorded.

A name that ends in ``.gz`` is compressed when it is written; what is read tells by itself whether it is.

Whatever a file says, it is refused as soon as it has more than programs have: see the limits below.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from memomalloc.data.atomic_file import atomic_file
from memomalloc.data.calls import Calls
from memomalloc.data.columns import INT64_MAX, read_only
from memomalloc.data.input_file import open_input
from memomalloc.data.json_document import MAX_LINE_BYTES, parse_json
from memomalloc.data.origin import Origin, SourceLine
from memomalloc.data.trace import Trace
from memomalloc.errors import FileFormatError, InvalidProblemError

FORMAT = "memomalloc-trace"
VERSION = 1
VERSION_WITH_CALLS = 2
MAX_BUFFERS = 2**25
"""More buffers than any inference has."""
MAX_TEXTS = 2**18
MAX_TEXTS_BYTES = 2**23
"""Of all texts, which are there once each: names of operators, modules, files and functions."""
MAX_OPERATORS = 256
"""Of one origin: operators that are inside each other."""
MEAN_OPERATORS = 16
"""Of all origins; there may be `MAX_TEXTS` more."""
MORE_ORIGINS = 2**16
"""There may be so many more origins than buffers and calls: each is written where it is first needed."""
MAX_CALLS = 2**25
MEAN_ARGUMENTS = 8
MORE_ARGUMENTS = 2**20
"""Of all calls together there may be so many more than the mean. A trace that has more is written without its calls."""
_HEADER_NUMBERS = ("end_tick", "elsewhere_requests", "elsewhere_bytes")
#: A buffer as it is written. Written in another way it takes longer to read.
_DIGITS, _INDEX = rb"(?:0|[1-9]\d{0,17})", rb"(?:0|[1-9]\d{0,8})"
_NUMBER = rb"(%b)" % _DIGITS
_ORIGIN = rb"(-1|%b)" % _INDEX
_BUFFER = re.compile(rb"\[%b,%b,%b,%b,([01]),%b\]\n" % (*(_NUMBER,) * 4, _ORIGIN))
#: A call as it is written.
_CALL = re.compile(
    rb"\[\[%b,%b,%b,%b,([01])\],\[((?:%b(?:,%b)*)?)\],\[((?:%b(?:,%b)*)?)\]\]\n"
    % (_NUMBER, _NUMBER, _ORIGIN, _NUMBER, _INDEX, _INDEX, _DIGITS, _DIGITS)
)


def write_trace(trace: Trace, path: str | Path) -> None:
    """Write a trace file, atomically.

    Raises:
        OSError: the folder cannot be written to.
    """
    with atomic_file(path) as file:
        dump_trace(trace, file)


def read_trace(path: str | Path) -> Trace:
    """Read and validate a trace file.

    Raises:
        FileFormatError: it is not a whole, undamaged trace file.
    """
    with open_input(path, what="trace file") as file:
        return load_trace(file, path)


def dump_trace(trace: Trace, file: IO[bytes]) -> None:
    """Write what a trace file has."""
    _Writer(file).write(trace)


def load_trace(file: IO[bytes], path: str | Path) -> Trace:
    """Read and validate what a trace file has.

    Args:
        file: read to its end.
        path: for messages.

    Raises:
        FileFormatError: it is not a whole, undamaged trace file.
    """
    reader = _Reader(path)
    reader.read(file)
    return reader.trace()


def _can_be_read(calls: Calls) -> bool:
    num_arguments = len(calls.read_buffers) + len(calls.outside_bytes)
    return num_arguments <= MEAN_ARGUMENTS * len(calls) + MORE_ARGUMENTS


class _Writer:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._texts: dict[str, int] = {}
        self._origins: dict[Origin, int] = {}

    def write(self, trace: Trace) -> None:
        calls = trace.calls if trace.calls is not None and _can_be_read(trace.calls) else None
        version = VERSION if calls is None else VERSION_WITH_CALLS
        header = {"format": FORMAT, "version": version} | {name: getattr(trace, name) for name in _HEADER_NUMBERS}
        self._line(header)
        columns = (trace.sizes, trace.smallest_sizes, trace.starts, trace.ends, trace.escapes.astype(np.int64))
        for *numbers, origin in zip(*(column.tolist() for column in columns), trace.origins, strict=True):
            self._line([*numbers, -1 if origin is None else self._origin(origin)])
        footer: dict[str, object] = {"buffers": len(trace)}
        if calls is not None:
            self._calls(calls)
            footer["calls"] = len(calls)
        self._line(footer | {"sha256": self._digest.hexdigest()})

    def _calls(self, calls: Calls) -> None:
        read_until, outside_until = np.cumsum(calls.read_counts), np.cumsum(calls.outside_counts)
        tracked = calls.tracked.astype(np.int64)
        numbers = (calls.begins, calls.ends, calls.frames, tracked, calls.read_counts, read_until)
        columns = [column.tolist() for column in (*numbers, calls.outside_counts, outside_until)]
        for begin, end, frame, is_tracked, num_read, read, num_outside, outside, origin in zip(
            *columns, calls.origins, strict=True
        ):
            self._line(
                [
                    [begin, end, -1 if origin is None else self._origin(origin), frame, is_tracked],
                    calls.read_buffers[read - num_read : read].tolist(),
                    calls.outside_bytes[outside - num_outside : outside].tolist(),
                ]
            )

    def _line(self, value: object) -> None:
        line = json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"
        self._digest.update(line)
        self._file.write(line)

    def _text(self, text: str) -> int:
        index = self._texts.get(text)
        if index is None:
            index = self._texts[text] = len(self._texts)
            self._line(text)
        return index

    def _origin(self, origin: Origin) -> int:
        index = self._origins.get(origin)
        if index is None:
            source = origin.source
            row: dict[str, object] = {
                "operators": [self._text(operator) for operator in origin.operators],
                "module_path": self._text(origin.module_path),
                "source": source and [self._text(source.file), source.line, self._text(source.function)],
                "role": self._text(origin.role),
                "occurrence": origin.occurrence,
            }
            if origin.thread:
                row["thread"] = self._text(origin.thread)
            index = self._origins[origin] = len(self._origins)
            self._line(row)
        return index


class _Reader:
    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._line_number = 0
        self._header_numbers: dict[str, int] = {}
        self._texts: list[str] = []
        self._texts_bytes = 0
        self._origins: list[Origin] = []
        self._num_operators = 0
        #: Sizes, smallest sizes, starts, ends, escapes, origins: numbers, not Python's objects.
        self._columns: tuple[array[int], ...] = (array("q"), array("q"), array("q"), array("q"), array("b"), array("i"))
        self._last_start = -1
        self._version = VERSION
        #: Begins, ends, origins, frames of calls, whether they are tracked, how many buffers and other arguments each
        #: has, and those.
        self._calls: tuple[array[int], ...] = tuple(map(array, "qqiqbiiiq"))

    def read(self, file: IO[bytes]) -> None:
        digest = hashlib.sha256()
        lines = self._lines(file)
        header_line = next(lines, b"")
        self._header(parse_json(header_line, self._path, what="trace file", line=1))
        digest.update(header_line)
        for line in lines:
            if line.startswith(b"[[") and (call := _CALL.fullmatch(line)) is not None:
                self._call_as_written(call)
                digest.update(line)
                continue
            match = _BUFFER.fullmatch(line)
            row = [int(number) for number in match.groups()] if match else self._parse(line)
            if isinstance(row, list) and row and isinstance(row[0], list):
                self._call(row)
            elif isinstance(row, list):
                self._buffer(row, is_checked=match is not None)
            elif isinstance(row, str):
                self._text(row)
            elif isinstance(row, dict) and "sha256" in row:
                self._footer(row, digest.hexdigest())
                if next(lines, None) is not None:
                    self._fail("there is more after the last line: record again")
                return
            elif isinstance(row, dict):
                self._origin(row)
            else:
                self._fail("neither a buffer, nor a text, nor an origin, nor a call: record again")
            digest.update(line)
        self._fail("the file is truncated, its last line is missing: record again")

    def trace(self) -> Trace:
        *columns, origins = self._columns
        self._columns = ()  # each is gone once it is copied
        sizes, smallest_sizes, starts, ends, escapes = (
            read_only(np.array(columns.pop(0), dtype=dtype)) for dtype in (np.int64,) * 4 + (np.bool_,)
        )
        try:
            return Trace.from_arrays(
                sizes,
                starts,
                ends,
                escapes,
                origins=tuple(None if index < 0 else self._origins[index] for index in origins),
                smallest_sizes=smallest_sizes,
                calls=self._recorded_calls(),
                **self._header_numbers,
            )
        except InvalidProblemError as error:
            raise FileFormatError(self._path, f"not a valid trace: {error}; record again") from error

    def _recorded_calls(self) -> Calls | None:
        if self._version != VERSION_WITH_CALLS:
            return None
        columns = list(self._calls)
        self._calls = ()
        origins = columns.pop(2)
        begins, ends, frames, tracked, read_counts, outside_counts, read_buffers, outside_bytes = (
            read_only(np.array(columns.pop(0), dtype=np.int64)) for _ in range(8)
        )
        return Calls.from_arrays(
            begins,
            ends,
            origins=tuple(None if index < 0 else self._origins[index] for index in origins),
            frames=frames,
            tracked=tracked,
            read_counts=read_counts,
            read_buffers=read_buffers,
            outside_counts=outside_counts,
            outside_bytes=outside_bytes,
        )

    def _lines(self, file: IO[bytes]) -> Iterator[bytes]:
        while line := file.readline(MAX_LINE_BYTES + 1):
            self._line_number += 1
            if len(line) > MAX_LINE_BYTES:
                self._fail(f"the line is longer than {MAX_LINE_BYTES} bytes, so this is not a trace file")
            yield line

    def _parse(self, line: bytes) -> Any:
        return parse_json(line, self._path, what="trace file", line=self._line_number)

    def _header(self, header: Any) -> None:
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            self._fail(f'not a trace file: the first line has no "format": "{FORMAT}"')
        version = header.get("version")
        if type(version) is not int or version not in (VERSION, VERSION_WITH_CALLS):
            self._fail(
                f"trace file of version {version!r:.20}, this memomalloc reads {VERSION} and {VERSION_WITH_CALLS}: "
                "record again"
            )
        self._version = version
        if header.keys() != {"format", "version", *_HEADER_NUMBERS}:
            self._fail(f"the first line must have the keys format, version, {', '.join(_HEADER_NUMBERS)}")
        self._header_numbers = {name: self._whole(header[name], name, 0, INT64_MAX) for name in _HEADER_NUMBERS}

    def _footer(self, footer: dict[str, Any], digest: str) -> None:
        expected = {"buffers": len(self._columns[0]), "sha256": digest}
        if self._version == VERSION_WITH_CALLS:
            expected["calls"] = len(self._calls[0])
        if footer != expected:
            self._fail("the checksum or a number of buffers or calls does not match: the file is damaged; record again")

    def _call_as_written(self, call: re.Match[bytes]) -> None:
        *head, reads, outside = call.groups()
        self._take_call(
            [int(number) for number in head],
            list(map(int, reads.split(b","))) if reads else [],
            list(map(int, outside.split(b","))) if outside else [],
        )

    def _call(self, row: list[Any]) -> None:
        """Take a call that is written in another way than ours, or is wrong."""
        if len(row) != 3 or not all(isinstance(part, list) for part in row) or len(row[0]) != 5:
            self._fail("a call is [[begin, end, origin, frame, tracked], [buffer, ...], [bytes, ...]]")
        (begin, end, origin, frame, tracked), reads, outside = row
        self._take_call(
            [
                self._whole(begin, "begin", 0, INT64_MAX),
                self._whole(end, "end", 0, INT64_MAX),
                self._whole(origin, "origin", -1, len(self._origins) - 1),
                self._whole(frame, "frame", 0, INT64_MAX),
                self._whole(tracked, "tracked", 0, 1),
            ],
            [self._whole(buffer, "buffer", 0, MAX_BUFFERS) for buffer in reads],
            [self._whole(num_bytes, "bytes", 0, INT64_MAX) for num_bytes in outside],
        )

    def _take_call(self, head: list[int], reads: list[int], outside: list[int]) -> None:
        if self._version != VERSION_WITH_CALLS:
            self._fail(f"a call in a trace file of version {self._version}: record again")
        *columns, read_buffers, outside_bytes = self._calls
        num_calls = len(columns[0]) + 1
        num_arguments = len(read_buffers) + len(outside_bytes) + len(reads) + len(outside)
        if num_calls > MAX_CALLS or num_arguments > MEAN_ARGUMENTS * num_calls + MORE_ARGUMENTS:
            self._fail(f"more than {MAX_CALLS} calls, or {MEAN_ARGUMENTS} arguments of each, in the mean")
        self._whole(head[2], "origin", -1, len(self._origins) - 1)
        if reads:
            self._whole(max(reads), "buffer", 0, len(self._columns[0]) - 1)
        for column, number in zip(columns, [*head, len(reads), len(outside)], strict=True):
            column.append(number)
        read_buffers.extend(reads)
        outside_bytes.extend(outside)

    def _buffer(self, row: list[Any], *, is_checked: bool) -> None:
        """Take a buffer; ``is_checked``: it is of six whole numbers of the right size."""
        if not is_checked:
            self._check_numbers(row)
        if row[5] >= len(self._origins):
            self._whole(row[5], "origin", -1, len(self._origins) - 1)
        if row[2] <= self._last_start:
            self._fail(f"the buffer is not allocated after the one before it, but at tick {row[2]}: record again")
        self._last_start = row[2]
        if len(self._columns[0]) == MAX_BUFFERS:
            self._fail(f"more than {MAX_BUFFERS} buffers")
        for value, column in zip(row, self._columns, strict=True):
            column.append(value)

    def _check_numbers(self, row: list[Any]) -> None:
        if len(row) != len(self._columns):
            self._fail(f"a buffer has {len(self._columns)} numbers, not {len(row)}")
        bounds = (
            ("size", 0, INT64_MAX),
            ("smallest size", 0, INT64_MAX),
            ("start", 0, INT64_MAX),
            ("end", 0, INT64_MAX),
            ("escape", 0, 1),
            ("origin", -1, len(self._origins) - 1),
        )
        for value, (name, lowest, highest) in zip(row, bounds, strict=True):
            self._whole(value, name, lowest, highest)

    def _text(self, text: str) -> None:
        self._texts_bytes += len(text)
        if len(self._texts) == MAX_TEXTS or self._texts_bytes > MAX_TEXTS_BYTES:
            self._fail(f"more than {MAX_TEXTS} texts, or {MAX_TEXTS_BYTES} characters in them: no program has so many")
        self._texts.append(text)

    def _origin(self, row: dict[str, Any]) -> None:
        if row.keys() - {"thread"} != {"operators", "module_path", "source", "role", "occurrence"}:
            self._fail(
                "an origin has the keys operators, module_path, source, role and occurrence, and may have thread"
            )
        if len(self._origins) >= len(self._columns[0]) + len(self._calls[0]) + MORE_ORIGINS:
            self._fail(f"{MORE_ORIGINS} origins more than buffers and calls, which have one each: record again")
        source, operators = row["source"], row["operators"]
        if source is not None and (not isinstance(source, list) or len(source) != 3):
            self._fail("the source of an origin is null, or a file, a line and a function")
        if not isinstance(operators, list) or len(operators) > MAX_OPERATORS:
            self._fail(f"the operators of an origin are a list, of at most {MAX_OPERATORS}")
        self._num_operators += len(operators)
        if self._num_operators > MEAN_OPERATORS * len(self._origins) + MAX_TEXTS:
            self._fail(f"more than {MEAN_OPERATORS} operators in an origin, in the mean: no program has so many")
        self._origins.append(
            Origin(
                operators=tuple([self._text_at(operator, "operators") for operator in operators]),
                module_path=self._text_at(row["module_path"], "module_path"),
                source=None
                if source is None
                else SourceLine(
                    self._text_at(source[0], "source"),
                    self._whole(source[1], "source", 0, INT64_MAX),
                    self._text_at(source[2], "source"),
                ),
                role=self._text_at(row["role"], "role"),
                occurrence=self._whole(row["occurrence"], "occurrence", 0, INT64_MAX),
                thread=self._text_at(row["thread"], "thread") if "thread" in row else "",
            )
        )

    def _text_at(self, index: Any, name: str) -> str:
        return self._texts[self._whole(index, name, 0, len(self._texts) - 1)]

    def _whole(self, value: Any, name: str, lowest: int, highest: int) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise FileFormatError(
                self._path,
                f"{value!r:.60} is not a whole number between {lowest} and {highest}: record again",
                line=self._line_number,
                column=name,
            )
        return value

    def _fail(self, message: str) -> NoReturn:
        raise FileFormatError(self._path, message, line=self._line_number or None)
