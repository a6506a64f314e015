"""What it means that calls were really replayed: a silent fallback to upstream must fail a test."""

from __future__ import annotations

import gc
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from memomalloc.runtime import extension

#: Warm-up calls and recordings of the defaults, and one more in which oneDNN settles.
CALLS_TO_LEARN = 12


def learn(wrapper: Any, *args: Any, **kwargs: Any) -> None:
    """Call a wrapper until this kind of call is replayed; fail if that never happens."""
    before = wrapper.stats().runs_replayed
    for _ in range(CALLS_TO_LEARN):
        wrapper(*args, **kwargs)
        if wrapper.stats().runs_replayed >= before + 2:  # the second finds the arena resident
            return
    raise AssertionError(f"never replayed: {wrapper.stats()}")


@contextmanager
def fully_served(wrapper: Any, *, runs: int) -> Iterator[None]:
    """Assert that the block replays ``runs`` calls of ``wrapper``, each request of which the plan serves."""
    before = wrapper.stats()
    yield
    after = wrapper.stats()
    planned = after.requests_planned - before.requests_planned
    assert after.runs_replayed - before.runs_replayed == runs
    assert planned > 0
    assert after.requests_served - before.requests_served == planned
    assert after.requests_missing == before.requests_missing
    assert after.requests_upstream == before.requests_upstream
    assert after.runs_unplanned == before.runs_unplanned
    assert after.num_bad_frees == 0


def hold_each_while_the_next_is_made(wrapper: Any, held: list[torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
    """Assert that all is served, and no output in the place of the one before. ``held`` alone has the last output."""
    with fully_served(wrapper, runs=len(inputs)):
        for values in inputs:
            output = wrapper(values)
            assert output.data_ptr() != held[0].data_ptr()
            held[0] = output


def errors_in_threads(work: Callable[[int], object], num_threads: int) -> list[BaseException]:
    """Call ``work(0)``, ``work(1)``, ... at once, each in a thread of its own; what they raised."""
    errors: list[BaseException] = []

    def call(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def upstream_requests(wrapper: Any, call: Callable[[], object]) -> dict[str, int]:
    """The requests that went upstream in ``call``, by reason; reasons that did not occur are left out."""
    before = wrapper.stats().requests_upstream
    call()
    after = wrapper.stats().requests_upstream
    return {reason: after[reason] - before[reason] for reason in after if after[reason] != before[reason]}


def assert_equal_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """The same dtype, shape and bits; NaN equals NaN."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    raw = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (actual, expected)]
    assert torch.equal(*raw)


def minor_faults(call: Callable[[], object]) -> int:
    """Page faults without disk access that ``call`` causes in this process."""
    gc.collect()  # a collection in the middle would touch pages that have nothing to do with the call
    gc.disable()
    try:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        call()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    finally:
        gc.enable()


def lies_in_an_arena(tensor: torch.Tensor) -> bool:
    """Whether a live tensor was served from a plan, told by its address alone."""
    return bool(extension.install().is_reserved(tensor.data_ptr()))


def is_accessible(address: int) -> bool:
    """Whether memory at an address can be read: whether the arena that lay there is still mapped."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, access = line.split()[:2]
        begin, end = (int(part, 16) for part in addresses.split("-"))
        if begin <= address < end:
            return access.startswith("r")
    return False


def join_until_gone(thread: threading.Thread) -> None:
    """Wait for a thread. Python is done with it before it does what it does at its exit."""
    thread.join()
    while Path(f"/proc/self/task/{thread.native_id}").exists():
        time.sleep(1e-3)
