"""Lets another process of the same owner ask what is in this one: a thread that waits at a socket.

Whoever asks gets the answer of a fork: a copy of the process, which looks at itself for as long as it takes and goes.
So nothing is counted, listed or loaded in the process itself, whose memory stays as it is; what it pays is the fork.

Uses the standard library alone, and nothing of this package: it is loaded inside processes that are watched.
"""

from __future__ import annotations

import _socket
import _thread
import os
import sys
import time
from types import ModuleType

#: The fork is ended after so many seconds, whatever it does.
PATIENCE_S = 120
#: The fork leaves the processor to the program where both want it.
NICENESS = 5
#: What may be asked.
LOOK = b"look\n"

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_forking = False


def listen(folder: str) -> None:
    """Wait for questions at ``folder/PID.sock``, also in processes that are forked from this one.

    Args:
        folder: it exists, and only its owner may enter it; who may is who may ask.
    """
    _start(folder)
    os.register_at_fork(after_in_child=lambda: None if _forking else _start(folder))


def socket_path(folder: str, pid: int) -> str:
    """Where the process of a number listens."""
    return f"{folder}/{pid}.sock"


def _start(folder: str) -> None:
    path = socket_path(folder, os.getpid())
    try:
        server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        if os.path.exists(path):  # of an earlier process that had the number
            os.unlink(path)
        server.bind(path)
        os.chmod(path, 0o600)
        server.listen(4)
        _thread.start_new_thread(_serve, (server,))
    except (OSError, RuntimeError):
        pass  # the process runs on, and is seen from outside alone


def _serve(server: _socket.socket) -> None:
    while True:
        try:
            number, _ = server._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        connection = _socket.socket(fileno=number)
        try:
            if connection.recv(len(LOOK)) == LOOK:
                _answer(connection)
        except OSError:
            pass
        finally:
            connection.close()


def _answer(connection: _socket.socket) -> None:
    global _forking
    pid, began_s = os.getpid(), time.perf_counter()
    _forking = True  # and it stays so in the forks
    try:
        child = os.fork()
    except OSError:
        _forking = False
        raise
    if child != 0:
        _forking = False
        os.waitpid(child, 0)
        return
    # A grandchild, which is nobody's here: the program may wait for its own children.
    try:
        if os.fork() == 0:
            _look(connection, pid, time.perf_counter() - began_s)
    finally:
        os._exit(0)


def _look(connection: _socket.socket, pid: int, fork_s: float) -> None:
    os.nice(NICENESS)
    _forget_imports()
    import signal

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(PATIENCE_S)
    sys.setrecursionlimit(10_000)
    # Not by import: the package would bring its own libraries, and the program may have another of the name.
    inside = load("inside")
    import json

    found = inside.look(pid, load("mappings"))
    found["fork_s"] = fork_s
    connection.sendall(json.dumps(found).encode())


def _forget_imports() -> None:
    """Forget modules that another thread was importing, and the locks it held for that: it is not here."""
    import _frozen_importlib

    for name in ("_module_locks", "_blocking_on"):
        getattr(_frozen_importlib, name, {}).clear()
    for name, module in list(sys.modules.items()):
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            del sys.modules[name]


def load(name: str) -> ModuleType:
    """A file beside this one as a module, without the package around it."""
    from importlib.machinery import SourceFileLoader

    loader = SourceFileLoader(f"_memomalloc_{name}", os.path.join(_FOLDER, f"{name}.py"))
    module = ModuleType(loader.name)
    sys.modules[loader.name] = module
    module.__file__ = loader.path
    loader.exec_module(module)
    return module
