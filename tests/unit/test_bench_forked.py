"""Functions in a copy of the process: what comes back, and what happens when nothing does."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from memomalloc.bench.forked import ProcessDiedError, Send, run_forked
from memomalloc.errors import MemomallocError


def test_the_result_comes_back_and_nothing_else_changes() -> None:
    here: list[int] = []

    def work(send: Send) -> tuple[int, int]:
        here.append(1)
        return len(here), os.getpid()

    number, pid = run_forked(work)
    assert (number, here) == (1, [])
    assert pid != os.getpid()


def test_messages_come_in_order() -> None:
    messages: list[int] = []

    def work(send: Send) -> None:
        for number in range(5):
            send(number)

    run_forked(work, on_message=messages.append)
    assert messages == [0, 1, 2, 3, 4]


def test_an_error_is_raised_here() -> None:
    def work(send: Send) -> None:
        raise MemomallocError("it failed")

    with pytest.raises(MemomallocError, match="it failed"):
        run_forked(work)


def test_an_error_that_cannot_be_pickled_keeps_its_text() -> None:
    class Local(Exception):  # noqa: N818
        pass

    def work(send: Send) -> None:
        raise Local("of a class that nobody else knows")

    with pytest.raises(RuntimeError, match="Local: of a class that nobody else knows"):
        run_forked(work)


def test_a_child_that_is_killed_is_reported() -> None:
    with pytest.raises(ProcessDiedError, match="SIGTERM") as caught:
        run_forked(lambda send: os.kill(os.getpid(), signal.SIGTERM))
    assert caught.value.signal_number == signal.SIGTERM


def test_a_child_that_leaves_is_reported() -> None:
    with pytest.raises(ProcessDiedError, match="status 3"):
        run_forked(lambda send: os._exit(3))


def test_a_child_that_takes_too_long_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        run_forked(lambda send: time.sleep(60), time_limit_s=0.2)
    assert time.monotonic() - began < 30


def test_the_child_ends_when_the_parent_is_interrupted() -> None:
    pids: list[int] = []

    def work(send: Send) -> None:
        send(os.getpid())
        time.sleep(60)

    def on_message(pid: int) -> None:
        pids.append(pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_forked(work, on_message=on_message)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_forks_nest() -> None:
    assert run_forked(lambda send: run_forked(lambda inner: 7) + 1) == 8
    with pytest.raises(ProcessDiedError) as caught:
        run_forked(lambda send: run_forked(lambda inner: os.kill(os.getpid(), signal.SIGKILL)))
    assert caught.value.signal_number == signal.SIGKILL


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    run_forked(lambda send: None)
    assert threading.active_count() == before
