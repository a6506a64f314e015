"""Files that appear whole or not at all."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write bytes to; ``path`` is replaced when the block ends well, and untouched when it does not.

    A name that ends in ``.gz`` is compressed. The bytes are on the disk before the name is.

    Raises:
        OSError: the folder cannot be written to, or ``path`` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        # Not the name of the temporary file, which no one has asked for.
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.suffix == ".gz":
                # No name and no time inside: equal content gives equal bytes.
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed:
                    buffered = io.BufferedWriter(compressed)
                    yield buffered
                    buffered.flush()
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        # Ctrl-C as well: nothing half-written stays behind.
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """What the system takes from the mode of new files; mkstemp gives a file to its owner alone."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
