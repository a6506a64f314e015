"""What all tests share. Modules that several tests use lie beside it: ``models``, ``serving``, ``child_process``."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator

import pytest

# Before torch is imported, here and in child processes. One intra-op thread: a thread pool would make page faults and
# timings wild, and does not survive fork().
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shell without job control, a script's, starts what is to run in its background with interrupts ignored, and child
# processes would ignore them, too: tests interrupt theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HAS_TORCH = importlib.util.find_spec("torch") is not None
if not HAS_TORCH:  # the planner half is tested without it
    collect_ignore_glob = ["integration/*", "fault/*", "stress/*", "unit/test_runtime_*"]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that are armed in the test overwrite memory as it is freed, so that a use after free shows."""
    from memomalloc.runtime.memory.armed_plan import POISON_VARIABLE

    monkeypatch.setenv(POISON_VARIABLE, "1")


@pytest.fixture
def switched_back_on() -> Iterator[None]:
    """A test may call ``memomalloc.disable()``."""
    import memomalloc

    yield
    memomalloc.enable()
