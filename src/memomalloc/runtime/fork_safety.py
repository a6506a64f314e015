"""Locks that a forked child finds open: the threads that held them do not exist there."""

from __future__ import annotations

import os
import threading
import weakref


class LockHolder:
    """An object whose ``lock`` is renewed in a forked child. What the lock guards may be half-changed there; it must be
    such that every state is a valid one.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        _holders.add(self)


_holders: weakref.WeakSet[LockHolder] = weakref.WeakSet()


def _renew_locks() -> None:
    for holder in list(_holders):
        holder.lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)
