"""Counting futex calls with strace."""

from __future__ import annotations

import shutil
import threading

import pytest

from memomalloc.bench import futex
from memomalloc.errors import MissingDependencyError


def test_counts_are_read() -> None:
    text = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
100.00    0.000123          10        12         3 futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.000123          10        12         3 total
"""
    assert futex.parse_counts(text) == 12
    assert futex.parse_counts("") == 0


def test_without_strace_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="apt-get install strace"):
        futex.count_futex_calls(lambda: None)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_waiting_threads_are_counted() -> None:
    def meet() -> None:
        barrier = threading.Barrier(3)
        threads = [threading.Thread(target=barrier.wait) for _ in range(2)]
        for thread in threads:
            thread.start()
        barrier.wait()
        for thread in threads:
            thread.join()

    counted = futex.count_futex_calls(meet)
    if counted is None:
        pytest.skip("this system does not let a process be traced")
    assert counted > 0
    quiet = futex.count_futex_calls(lambda: None)
    assert quiet is not None
    assert quiet < counted
