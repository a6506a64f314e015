"""Files from outside, opened so that what they take is bounded while they are read.

A plain file takes memory and time in proportion to its size, which whoever names it knows. What has no size, a pipe or
a compressed file, is read up to `MAX_UNKNOWN_BYTES`; a compressed one further as long as it holds no more than
`MAX_UNPACKED_RATIO` times what was read of it, which what is recorded of programs never reaches.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from memomalloc.errors import FileFormatError

MAX_UNKNOWN_BYTES = 3 * 2**24
"""Of a pipe, or unpacked from a compressed file: 48 MiB, a trace of some 400,000 buffers."""
MAX_UNPACKED_RATIO = 24
"""Bytes for each compressed one; traces of real programs have 5 to 15."""
MAX_FILE_BYTES = 2**33
"""Of a plain file."""

STANDARD_INPUT = Path("/dev/stdin")
COMPRESSED = b"\x1f\x8b"

_DESCRIPTOR = re.compile(r"/dev/stdin|/dev/fd/(\d+)|/proc/self/fd/(\d+)")
_CHUNK_BYTES = 2**16
_PIECE_BYTES = 2**20
_SPOOLED_BYTES = 2**24


@contextmanager
def open_input(path: str | Path, *, what: str, max_pipe_bytes: int = MAX_UNKNOWN_BYTES) -> Iterator[io.BufferedReader]:
    """The bytes of a file, unpacked where they are compressed, whatever the file is called.

    Args:
        path: a file, a pipe, a device; ``/dev/stdin`` is this process's own standard input.
        what: for messages, such as "plan file".
        max_pipe_bytes: of what is no regular file.

    Yields:
        A reader that can ``peek``; it may not be able to ``seek``, see `seekable`.

    Raises:
        FileFormatError: missing, a folder, unreadable, not whole, or larger than what is read; also while it is read.
    """
    try:
        with _open(path) as file:
            status = os.fstat(file.fileno())
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError
            if file.peek(2)[:2] == COMPRESSED:
                yield io.BufferedReader(_Unpacked(file, path), _CHUNK_BYTES)
            elif Path(path).suffix == ".gz":
                raise zlib.error("it does not begin as such; rename it if it is unpacked")
            elif not stat.S_ISREG(status.st_mode):
                yield io.BufferedReader(_Bounded(file, path, max_pipe_bytes), _CHUNK_BYTES)
            elif status.st_size > MAX_FILE_BYTES:
                raise FileFormatError(path, f"larger than the {MAX_FILE_BYTES} bytes that are read of a {what}")
            else:
                yield file
    except FileNotFoundError:
        raise FileFormatError(path, f"there is no such file; a {what} was expected") from None
    except IsADirectoryError:
        raise FileFormatError(path, f"this is a folder; a {what} was expected") from None
    except zlib.error as error:
        raise FileFormatError(path, f"not whole gzip data ({error}): fetch or make it again") from error
    except OSError as error:
        raise FileFormatError(path, f"cannot be read: {error.strerror or error}") from error


@contextmanager
def seekable(file: io.BufferedReader) -> Iterator[IO[bytes]]:
    """The same bytes in a file that can be read again; what cannot be is copied, to the disk where it is large."""
    if file.seekable():
        yield file
        return
    with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as copy:
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        yield copy


def limit_pipe(file: io.BufferedReader, max_bytes: int) -> None:
    """Read less of a pipe than it was opened for; where it is none, nothing changes."""
    if isinstance(file.raw, _Bounded):
        file.raw.max_bytes = max_bytes


def limit_unpacked(file: io.BufferedReader, max_bytes: int, max_ratio: int) -> None:
    """Unpack less of a compressed file than of others; where it is none, nothing changes."""
    if isinstance(file.raw, _Unpacked):
        file.raw.max_bytes, file.raw.max_ratio = max_bytes, max_ratio


def read_bounded(path: str | Path, max_bytes: int, *, what: str) -> bytes:
    """All bytes of a file, unpacked where they are compressed.

    Raises:
        FileFormatError: missing, a folder, unreadable, not whole, or larger than ``max_bytes``.
    """
    with open_input(path, what=what, max_pipe_bytes=max_bytes) as file:
        return read_all(file, path, max_bytes, what=what)


def read_all(file: IO[bytes], path: str | Path, max_bytes: int, *, what: str) -> bytes:
    """All bytes of an open file.

    Raises:
        FileFormatError: there are more than ``max_bytes``.
    """
    # Piece by piece: to read so many bytes at once takes memory for so many, however few there are.
    content = io.BytesIO()
    while piece := file.read(_PIECE_BYTES):
        if content.tell() + len(piece) > max_bytes:
            raise FileFormatError(path, f"larger than the {max_bytes} bytes that a {what} may have")
        content.write(piece)
    return content.getvalue()


def _open(path: str | Path) -> io.BufferedReader:
    match = _DESCRIPTOR.fullmatch(str(path))
    if match is None:
        return open(path, "rb")
    # Opened anew, a socket could not be read, and a file would begin at its beginning. A copy can be closed.
    number = int(match[1] or match[2] or 0)
    if number == 0 and sys.stdin is None:
        # Its number may belong to another file by now.
        raise FileFormatError(path, "it is closed: name a file")
    return os.fdopen(os.dup(number), "rb")


class _Bounded(io.RawIOBase):
    """A stream that ends with an error when too much has come."""

    def __init__(self, file: io.BufferedReader, path: str | Path, max_bytes: int) -> None:
        self._file, self._path = file, path
        self.max_bytes = max_bytes
        self._num_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        found = self._file.readinto1(buffer)
        self._num_bytes += found
        if self._num_bytes > self.max_bytes:
            raise FileFormatError(
                self._path,
                f"more than the {self.max_bytes} bytes that are read from a pipe: write them to a file first",
            )
        return found


class _Unpacked(io.RawIOBase):
    """The content of gzip data, of one member or several."""

    def __init__(self, file: io.BufferedReader, path: str | Path) -> None:
        self._file, self._path = file, path
        self._unpacker = zlib.decompressobj(wbits=31)
        self._packed = b""
        self._num_packed = self._num_unpacked = 0
        self.max_bytes, self.max_ratio = MAX_UNKNOWN_BYTES, MAX_UNPACKED_RATIO

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            if self._unpacker.eof and not self._begin_next_member():
                return 0
            packed = self._packed or self._read()
            unpacked = self._unpacker.decompress(packed, len(buffer))
            self._packed = self._unpacker.unconsumed_tail
            if unpacked:
                self._count(len(unpacked))
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)
            if not packed:
                raise zlib.error("it ends too early")

    def _begin_next_member(self) -> bool:
        rest = (self._unpacker.unused_data or self._read()).lstrip(b"\0")
        while not rest:
            rest = self._read()
            if not rest:
                return False
            rest = rest.lstrip(b"\0")
        self._unpacker, self._packed = zlib.decompressobj(wbits=31), rest
        return True

    def _read(self) -> bytes:
        packed = self._file.read1(_CHUNK_BYTES)
        self._num_packed += len(packed)
        return packed

    def _count(self, num_bytes: int) -> None:
        self._num_unpacked += num_bytes
        if self._num_unpacked > max(self.max_bytes, self.max_ratio * self._num_packed):
            raise FileFormatError(
                self._path,
                f"it unpacks to more than {self.max_ratio} times its size and {self.max_bytes} bytes: "
                "if that is meant, unpack it with gunzip first",
            )
