"""Locks that a forked child finds open: the threads that held them do not exist there."""

from __future__ import annotations

import os
import threading
import weakref


class LockHolder:
    """An object whose ``lock`` is renewed in a forked child. What the lock guards may be half-changed there; it must be
    such that every state is a valid one.

    It may be taken again by the thread that has it: a signal handler or a finalizer may run in the middle of anything,
    and ask for counters or call a model.
    """

    def __init__(self) -> None:
        self.renew_locks()
        _holders.add(self)

    def renew_locks(self) -> None:
        """Have locks that nobody holds."""
        self.lock = threading.RLock()


_holders: weakref.WeakSet[LockHolder] = weakref.WeakSet()


def _renew_locks() -> None:
    for holder in list(_holders):
        holder.renew_locks()


os.register_at_fork(after_in_child=_renew_locks)
