from __future__ import annotations

import signal
import threading
import time

import pytest

from memomalloc.planners.background import Background


def test_the_result_of_the_call() -> None:
    work = Background(lambda: 42)
    work.wait(lambda: True)
    assert work.result(within_s=1) == 42
    assert not work.interrupted


def test_an_error_of_the_call_is_raised() -> None:
    def fail() -> None:
        raise ValueError("no")

    work = Background(fail)
    work.wait(lambda: True)
    with pytest.raises(ValueError, match="no"):
        work.result(within_s=1)


def test_waiting_can_be_ended() -> None:
    end = threading.Event()
    work = Background(lambda: end.wait(10))
    work.wait(lambda: False)
    assert work.result(within_s=0) is None
    end.set()
    assert work.result(within_s=5) is True


def test_ctrl_c_ends_the_waiting() -> None:
    end = threading.Event()
    work = Background(lambda: end.wait(10))
    main = threading.get_ident()
    threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    start_s = time.perf_counter()
    work.wait(lambda: True)
    assert work.interrupted
    assert work.result(within_s=0.1) is None
    end.set()
    assert work.result(within_s=5) is True
    assert time.perf_counter() - start_s < 5
