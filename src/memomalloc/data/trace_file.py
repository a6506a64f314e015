"""Trace files: lines of JSON that can be read and written row by row.

The first line says what follows, the last one how many buffers there were and the SHA-256 of all lines before it; a
file without its last line is truncated. Between them, in any order in which what is referred to comes first:

- ``"text"``: the next entry of the table of texts;
- ``{"operators": [text, ...], "module_path": text, "source": [text, line, text] | null, "role": text,
  "occurrence": n}``: the next entry of the table of origins, its texts by index; of a trace of several threads also
  with ``"thread": text``;
- ``[size, smallest size, start, end, escape, origin]``: the next buffer; escape is 0 or 1, origin an index or -1.

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
from memomalloc.data.columns import INT64_MAX, read_only
from memomalloc.data.input_file import open_input
from memomalloc.data.json_document import MAX_LINE_BYTES, parse_json
from memomalloc.data.origin import Origin, SourceLine
from memomalloc.data.trace import Trace
from memomalloc.errors import FileFormatError, InvalidProblemError

FORMAT = "memomalloc-trace"
VERSION = 1
MAX_BUFFERS = 2**25
"""More buffers than any inference has."""
MAX_TEXTS = 2**18
MAX_TEXTS_BYTES = 2**23
"""Of all texts, which are there once each: names of operators, modules, files and functions."""
MAX_OPERATORS = 256
"""Of one origin: operators that are inside each other."""
MEAN_OPERATORS = 16
"""Of all origins; there may be `MAX_TEXTS` more."""
_HEADER_NUMBERS = ("end_tick", "elsewhere_requests", "elsewhere_bytes")
#: A buffer as it is written. Written in another way it takes longer to read.
_NUMBER = rb"(0|[1-9]\d{0,17})"
_BUFFER = re.compile(rb"\[%b,%b,%b,%b,([01]),(-1|0|[1-9]\d{0,8})\]\n" % ((_NUMBER,) * 4))


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


class _Writer:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._texts: dict[str, int] = {}
        self._origins: dict[Origin, int] = {}

    def write(self, trace: Trace) -> None:
        header = {"format": FORMAT, "version": VERSION} | {name: getattr(trace, name) for name in _HEADER_NUMBERS}
        self._line(header)
        columns = (trace.sizes, trace.smallest_sizes, trace.starts, trace.ends, trace.escapes.astype(np.int64))
        for *numbers, origin in zip(*(column.tolist() for column in columns), trace.origins, strict=True):
            self._line([*numbers, -1 if origin is None else self._origin(origin)])
        footer = {"buffers": len(trace), "sha256": self._digest.hexdigest()}
        self._line(footer)

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

    def read(self, file: IO[bytes]) -> None:
        digest = hashlib.sha256()
        lines = self._lines(file)
        header_line = next(lines, b"")
        self._header(parse_json(header_line, self._path, what="trace file", line=1))
        digest.update(header_line)
        for line in lines:
            match = _BUFFER.fullmatch(line)
            row = [int(number) for number in match.groups()] if match else self._parse(line)
            if isinstance(row, list):
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
                self._fail("neither a buffer, nor a text, nor an origin: record again")
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
                **self._header_numbers,
            )
        except InvalidProblemError as error:
            raise FileFormatError(self._path, f"not a valid trace: {error}; record again") from error

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
        if type(header.get("version")) is not int or header["version"] != VERSION:
            self._fail(
                f"trace file of version {header.get('version')!r:.20}, this memomalloc reads {VERSION}: record again"
            )
        if header.keys() != {"format", "version", *_HEADER_NUMBERS}:
            self._fail(f"the first line must have the keys format, version, {', '.join(_HEADER_NUMBERS)}")
        self._header_numbers = {name: self._whole(header[name], name, 0, INT64_MAX) for name in _HEADER_NUMBERS}

    def _footer(self, footer: dict[str, Any], digest: str) -> None:
        if footer != {"buffers": len(self._columns[0]), "sha256": digest}:
            self._fail("the checksum or the number of buffers does not match: the file is damaged; record again")

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
