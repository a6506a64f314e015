"""Watch a process that runs already: from outside, and from inside where it listens."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from memomalloc.doctor.account import Account, account_from_outside, account_of
from memomalloc.doctor.listener import listen, socket_path
from memomalloc.doctor.watching import Question, Samples
from memomalloc.errors import MemomallocError

FOLDER_VARIABLE = "XDG_RUNTIME_DIR"


class AttachError(MemomallocError, RuntimeError):
    """There is no such process, or it is another user's."""


def runtime_folder() -> Path:
    """Where processes of this user listen: a folder that only the user may enter.

    Raises:
        AttachError: somebody else made it.
    """
    base = os.environ.get(FOLDER_VARIABLE) or tempfile.gettempdir()
    folder = Path(base) / f"memomalloc-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise AttachError(f"{folder} is not a folder of this user's alone: remove it, or set {FOLDER_VARIABLE}")
    return folder


def let_watch() -> None:
    """Let `memomalloc watch` look into this process; it is not told where that cannot be."""
    with contextlib.suppress(OSError, AttachError):  # else it is seen from outside alone
        folder = runtime_folder()
        for path in folder.glob("*.sock"):  # of processes that are gone
            if not Path("/proc", path.stem).exists():
                path.unlink(missing_ok=True)
        listen(str(folder))


class Attached:
    """A process that runs already.

    Attributes:
        samples: what the system tells of it.
        is_seen_inside: it listens.
    """

    def __init__(self, pid: int) -> None:
        """Attach, which the process does not notice.

        Raises:
            AttachError: there is no such process, or it is another user's.
        """
        self.samples = Samples(pid)
        try:
            account_from_outside(pid)
        except OSError as error:
            raise AttachError(f"process {pid} cannot be watched: {error.strerror}") from error
        self.is_seen_inside = Path(socket_path(str(runtime_folder()), pid)).exists()

    def account(self) -> Account | None:
        """What its memory is for now; None if it is gone."""
        if self.is_seen_inside:
            try:
                found = Question(str(runtime_folder()), self.samples.pid).answer()
            except OSError:
                found = {}
            if found:
                return account_of(found)
        try:
            return account_from_outside(self.samples.pid)
        except OSError:
            return None

    def watch(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> bool:
        """Take samples for so many seconds, or until something is so; False if the process is gone."""
        until_s = time.monotonic() + seconds
        while self.samples.take():
            left_s = until_s - time.monotonic()
            if left_s <= 0 or until():
                return True
            time.sleep(min(self.samples.period_s, left_s))
        return False
