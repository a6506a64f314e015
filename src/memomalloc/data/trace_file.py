"""Trace files: lines of JSON that can be read and written row by row.

The first line says what follows, the last one how many buffers there were and the SHA-256 of all lines before it; a
file without its last line is truncated. Between them, in any order in which what is referred to comes first:

- ``"text"``: the next entry of the table of texts;
- ``{"operators": [text, ...], "module_path": text, "source": [text, line, text] | null, "role": text,
  "occurrence": n}``: the next entry of the table of origins, its texts by index;
- ``[size, smallest size, start, end, escape, origin]``: the next buffer; escape is 0 or 1, origin an index or -1.

A name that ends in ``.gz`` is compressed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from memomalloc.data.atomic_file import atomic_file
from memomalloc.data.columns import INT64_MAX
from memomalloc.data.json_document import parse_json
from memomalloc.data.origin import Origin, SourceLine
from memomalloc.data.trace import Trace
from memomalloc.errors import FileFormatError, InvalidProblemError

FORMAT = "memomalloc-trace"
VERSION = 1
MAX_LINE_BYTES = 2**20
_HEADER_NUMBERS = ("end_tick", "elsewhere_requests", "elsewhere_bytes")
MAX_BUFFERS = 2**25
"""More buffers than any inference has: a compressed file can claim billions."""


def write_trace(trace: Trace, path: str | Path) -> None:
    """Write a trace file, atomically.

    Raises:
        OSError: the folder cannot be written to.
    """
    with atomic_file(path) as file:
        _Writer(file).write(trace)


def read_trace(path: str | Path) -> Trace:
    """Read and validate a trace file.

    Raises:
        FileFormatError: it is not a whole, undamaged trace file.
    """
    reader = _Reader(path)
    try:
        with _open(path) as file:
            reader.read(file)
        return reader.trace()
    except FileNotFoundError:
        raise FileFormatError(path, "there is no such file; a trace file was expected") from None
    except IsADirectoryError:
        raise FileFormatError(path, "this is a folder; a trace file was expected") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileFormatError(path, f"not whole gzip data ({error}): record again") from error
    except OSError as error:
        raise FileFormatError(path, f"cannot be read: {error.strerror}") from error


def _open(path: str | Path) -> IO[bytes]:
    return gzip.open(path, "rb") if str(path).endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


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
            row = {
                "operators": [self._text(operator) for operator in origin.operators],
                "module_path": self._text(origin.module_path),
                "source": source and [self._text(source.file), source.line, self._text(source.function)],
                "role": self._text(origin.role),
                "occurrence": origin.occurrence,
            }
            index = self._origins[origin] = len(self._origins)
            self._line(row)
        return index


class _Reader:
    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._line_number = 0
        self._header_numbers: dict[str, int] = {}
        self._texts: list[str] = []
        self._origins: list[Origin] = []
        self._columns: tuple[list[int], ...] = ([], [], [], [], [], [])

    def read(self, file: IO[bytes]) -> None:
        digest = hashlib.sha256()
        lines = self._lines(file)
        header_line = next(lines, b"")
        self._header(parse_json(header_line, self._path, what="trace file", line=1))
        digest.update(header_line)
        for line in lines:
            row = self._parse(line)
            if isinstance(row, list):
                self._buffer(row)
            elif isinstance(row, str):
                self._texts.append(row)
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
        sizes, smallest_sizes, starts, ends, escapes, origins = self._columns
        try:
            return Trace.from_arrays(
                sizes,
                starts,
                ends,
                escapes,
                origins=[None if index < 0 else self._origins[index] for index in origins],
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
        if header.get("version") != VERSION or isinstance(header["version"], bool):
            self._fail(
                f"trace file of version {header.get('version')!r:.20}, this memomalloc reads {VERSION}: record again"
            )
        if header.keys() != {"format", "version", *_HEADER_NUMBERS}:
            self._fail(f"the first line must have the keys format, version, {', '.join(_HEADER_NUMBERS)}")
        self._header_numbers = {name: self._whole(header[name], name, 0, INT64_MAX) for name in _HEADER_NUMBERS}

    def _footer(self, footer: dict[str, Any], digest: str) -> None:
        if footer != {"buffers": len(self._columns[0]), "sha256": digest}:
            self._fail("the checksum or the number of buffers does not match: the file is damaged; record again")

    def _buffer(self, row: list[Any]) -> None:
        if len(row) != len(self._columns):
            self._fail(f"a buffer has {len(self._columns)} numbers, not {len(row)}")
        if len(self._columns[0]) == MAX_BUFFERS:
            self._fail(f"more than {MAX_BUFFERS} buffers")
        bounds = (
            ("size", 0, INT64_MAX),
            ("smallest size", 0, INT64_MAX),
            ("start", 0, INT64_MAX),
            ("end", 0, INT64_MAX),
            ("escape", 0, 1),
            ("origin", -1, len(self._origins) - 1),
        )
        for value, column, (name, lowest, highest) in zip(row, self._columns, bounds, strict=True):
            column.append(self._whole(value, name, lowest, highest))

    def _origin(self, row: dict[str, Any]) -> None:
        if row.keys() != {"operators", "module_path", "source", "role", "occurrence"}:
            self._fail("an origin has the keys operators, module_path, source, role and occurrence")
        source = row["source"]
        if source is not None and (not isinstance(source, list) or len(source) != 3):
            self._fail("the source of an origin is null, or a file, a line and a function")
        if not isinstance(row["operators"], list):
            self._fail("the operators of an origin are a list")
        self._origins.append(
            Origin(
                operators=tuple(self._text(operator, "operators") for operator in row["operators"]),
                module_path=self._text(row["module_path"], "module_path"),
                source=None
                if source is None
                else SourceLine(
                    self._text(source[0], "source"),
                    self._whole(source[1], "source", 0, INT64_MAX),
                    self._text(source[2], "source"),
                ),
                role=self._text(row["role"], "role"),
                occurrence=self._whole(row["occurrence"], "occurrence", 0, INT64_MAX),
            )
        )

    def _text(self, index: Any, name: str) -> str:
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
