"""Files that appear whole or not at all, wherever their name leads.

What is named is written to as it is: through symbolic links, and straight into devices, pipes and open descriptors.
A regular file is replaced by a whole new one, which keeps its mode, its owner and its extended attributes.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

STANDARD_OUTPUT = Path("/dev/stdout")

_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_PREFIX = ".memomalloc-"
_PROBE_BYTES = 2**16
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)|/proc/(?:self|thread-self|\d+)/fd/(\d+)")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write bytes to; ``path`` is replaced when the block ends well, and untouched when it does not.

    A name that ends in ``.gz`` is compressed. The bytes are on the disk before the name is. What cannot be replaced (a
    device, a pipe, a file of somebody else, one in a closed folder) is written to when all bytes are there.

    Raises:
        OSError: it cannot be written to, or ``path`` is a folder.
    """
    path = Path(path)
    try:
        target = output_target(path)
        if isinstance(target, Path) and (beside := _create_beside(target)) is not None:
            with _replaced(target, *beside) as file, _packed(file, path) as packed:
                yield packed
            return
        descriptor = target if isinstance(target, int) else os.open(target, os.O_WRONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            content = io.BytesIO()
            with _packed(content, path) as packed:
                yield packed
            _write_over(file, content.getbuffer(), is_whole=isinstance(target, Path))
    except OSError as error:
        if error.errno is None or (error.filename is not None and _PREFIX not in str(error.filename)):
            raise
        # Not the name of the temporary file, which no one has asked for.
        raise OSError(error.errno, error.strerror, str(path)) from None


def output_target(path: Path) -> Path | int:
    """Where bytes for ``path`` go: the regular file to replace, or an open descriptor, which the caller closes.

    Raises:
        OSError: ``path`` is a folder, or cannot be written to.
    """
    number = _descriptor(path)
    if number is not None:
        _flush(number)
        if number == 1 and sys.__stdout__ is None:
            # Its number may belong to another file by now.
            raise OSError(errno.EBADF, "it is closed", str(path))
        return os.dup(number)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        # A new file; or what a symbolic link names, which is not there yet.
        return Path(os.path.realpath(path)) if path.is_symlink() else path
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    if stat.S_ISREG(mode):
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "the file is closed for writing", str(path))
        return Path(os.path.realpath(path))
    return os.open(path, os.O_WRONLY | os.O_CLOEXEC)


def require_writable(path: str | Path) -> None:
    """See that a file can be written, by writing a small one in its folder, before what it is to hold is made.

    Raises:
        OSError: it cannot be.
    """
    path = Path(path)
    if _descriptor(path) is not None or _is_special(path):
        return  # looking would be writing
    target = output_target(path)
    try:
        if isinstance(target, Path) and (beside := _create_beside(target)) is not None:
            with _removed(*beside) as file:
                file.write(bytes(_PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _is_special(path: Path) -> bool:
    """Whether it is there and neither a regular file nor a folder; opening a pipe would wait for its reader."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    return False


def _descriptor(path: Path) -> int | None:
    """The number of the open descriptor of this process that a path stands for."""
    if str(path) in _STANDARD:
        return _STANDARD[str(path)]
    match = _DESCRIPTOR.fullmatch(str(path))
    if match is None or (
        match[2] and str(path.parent.parent) not in ("/proc/self", "/proc/thread-self", _own_folder())
    ):
        return None
    return int(match[1] or match[2])


def _own_folder() -> str:
    return f"/proc/{os.getpid()}"


def _flush(number: int) -> None:
    """Let what was printed before come before."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            if stream.fileno() == number:
                stream.flush()


@contextmanager
def _packed(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if path.suffix != ".gz":
        yield file
        return
    # No name and no time inside: equal content gives equal bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed:
        buffered = io.BufferedWriter(compressed)
        yield buffered
        buffered.flush()


def _create_beside(target: Path) -> tuple[int, str] | None:
    """A new file in the folder of ``target``; None where the folder is closed, but ``target`` is there to write to."""
    with suppress(FileNotFoundError):
        target.stat()  # raises for a name that is too long
    try:
        # Not after the name: with what is added to it, that could be too long.
        return tempfile.mkstemp(prefix=_PREFIX, suffix=".tmp", dir=target.parent)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and target.exists():
            return None
        raise


@contextmanager
def _replaced(target: Path, descriptor: int, temporary: str) -> Iterator[IO[bytes]]:
    with _removed(descriptor, temporary) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
        if _take_over(file.fileno(), target):
            try:
                os.replace(temporary, target)
                return
            except OSError as error:
                # Mounted by itself, or another's in a folder like /tmp.
                if error.errno not in (errno.EBUSY, errno.EPERM, errno.EACCES) or not target.exists():
                    raise
        with open(target, "r+b", buffering=0) as old, open(temporary, "rb") as new:
            _write_over(old, memoryview(new.read()), is_whole=True)


@contextmanager
def _removed(descriptor: int, temporary: str) -> Iterator[IO[bytes]]:
    """A file that is gone when the block ends, unless it was renamed."""
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    finally:
        # After Ctrl-C as well: nothing half-written stays behind.
        Path(temporary).unlink(missing_ok=True)


def _write_over(file: IO[bytes], content: memoryview, *, is_whole: bool) -> None:
    """Write to what cannot be replaced: a pipe gets as much as its reader takes, a whole file its new length."""
    with suppress(BrokenPipeError):
        while content:
            content = content[file.write(content) :]
    if is_whole:
        file.truncate()


def _take_over(descriptor: int, target: Path) -> bool:
    """Give the new file what the old one has: mode, extended attributes (access lists among them), owner.

    Returns:
        Whether that was possible: somebody else's file is not made one's own.
    """
    try:
        old = target.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, 0o666 & ~_umask())
        return True
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except PermissionError:
            return False
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    with suppress(OSError):
        for name in os.listxattr(target):
            with suppress(OSError):
                os.setxattr(descriptor, name, os.getxattr(target, name))
    return True


def _umask() -> int:
    """What the system takes from the mode of new files; mkstemp gives a file to its owner alone."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
