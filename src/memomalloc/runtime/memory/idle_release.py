"""Give pages of idle arenas back after a time: one thread a process, there only while a plan asks for it."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Protocol

#: How often the thread looks, in times of the shortest ``release_after_s``: pages go at most a quarter of it late.
_LOOKS_PER_PERIOD = 4


class Releasing(Protocol):
    """What can give pages back."""

    def release(self, idle_for_s: float = 0.0) -> int:
        """Give back the pages of what was idle for so long; how many bytes."""
        ...


class IdleRelease:
    """The plans whose arenas give pages back when they were idle for a time, and the thread that sees to it.

    A forked child has no thread: it starts its own at its first run of such a plan (:meth:`resume`), so that a child
    which serves nothing starts none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: weakref.WeakKeyDictionary[Releasing, float] = weakref.WeakKeyDictionary()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = False

    @property
    def is_running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None

    def watch(self, plan: Releasing, release_after_s: float) -> None:
        """Let a plan's arenas give pages back once they were idle for so long; it is watched while it lives."""
        with self._lock:
            self._watched[plan] = release_after_s
        self.resume()
        self._wake.set()  # it may be asleep for longer than this plan allows

    def resume(self) -> None:
        """Start the thread if it is not there."""
        with self._lock:
            if self._thread is None and not self._ended:
                self._thread = threading.Thread(target=self._run, name="memomalloc-idle-release", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread for good: the interpreter exits, and a thread inside native code would outlive it."""
        with self._lock:
            self._ended = True
            thread = self._thread
        self._wake.set()
        if thread is not None:
            thread.join()

    def renew(self) -> None:
        """In a forked child: nothing of the thread is left."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = None

    def _run(self) -> None:
        while (pause_s := self._look()) is not None:
            self._wake.wait(pause_s)
            self._wake.clear()

    def _look(self) -> float | None:
        """Release what is due; how long to sleep, None if nothing is watched any more."""
        with self._lock:
            watched = list(self._watched.items())
            if not watched or self._ended:
                self._thread = None
                return None
        for plan, release_after_s in watched:
            plan.release(release_after_s)
        return min(release_after_s for _, release_after_s in watched) / _LOOKS_PER_PERIOD


idle_release = IdleRelease()
os.register_at_fork(after_in_child=idle_release.renew)
atexit.register(idle_release.stop)
