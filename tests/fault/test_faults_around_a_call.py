"""Whatever fails around the program's function, it is called once, and its result arrives."""

from __future__ import annotations

import functools  # noqa: F401 for a parameter that is evaluated
import gc
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import pytest
import torch

import memomalloc
from child_process import in_child_process
from models import chain_result, chain_values
from serving import assert_equal_bits, fully_served, learn


class _ThrownError(Exception):
    pass


class _Thrower:
    """Throws from the n-th Python function that is called outside the program's own."""

    def __init__(self, number: int, error: BaseException, programs: CodeType) -> None:
        self.has_thrown = False
        self._left = number
        self._error = error
        self._programs = programs
        self._is_inside = False

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if frame.f_code is self._programs:
            if event in ("call", "return"):  # not where it calls a function of C
                self._is_inside = event == "call"
        elif event == "call" and not self._is_inside and frame.f_code is not _calling.__code__:
            self._left -= 1
            if self._left == 0:
                self.has_thrown = True
                raise self._error


def _calling(thrower: _Thrower, call: Callable[..., Any], *args: Any) -> Any:
    sys.setprofile(thrower)
    try:
        return call(*args)
    finally:
        sys.setprofile(None)


def _visit_all_that_learning_does(number: int, error: BaseException, shapes: str) -> tuple[bool, int]:
    """Learn, replay, deviate and grow, and throw at one moment of it: whether that came, and how often it got out."""
    num_made = num_out = 0
    extra = 0

    def program(values: torch.Tensor) -> torch.Tensor:
        nonlocal num_made
        num_made += 1
        for _ in range(extra):
            torch.ones(3000).sin()
        return chain_result(values)

    wrapper = memomalloc.optimize(program, shapes=shapes, warm_up_calls=1, planner="greedy_by_size")
    thrower = _Thrower(number, error, program.__code__)
    sizes = [100, 100, 100, 100, 100, 100] if shapes == "exact" else [100, 120, 90, 110, 130, 400]
    for at, size in enumerate(sizes + sizes[-3:]):
        values = chain_values(0, size)
        extra = 2 if at >= len(sizes) else 0
        try:
            result = _calling(thrower, wrapper._planned._dispatch().call, (values,), {}, None)
        except type(error):
            num_out += 1
        else:
            assert_equal_bits(result, chain_result(values))
        assert num_made >= at + 1 - num_out
        assert num_made <= at + 1, "the program's function was called twice"
    assert wrapper.stats().num_arenas_in_use == 0
    # What was raised holds frames, and these the recordings of this thread.
    error.__traceback__ = None
    gc.collect()
    return thrower.has_thrown, num_out


def _prepare() -> None:
    logging.getLogger("memomalloc").addHandler(logging.NullHandler())
    sys.unraisablehook = lambda _: None  # thrown in finalizers
    gc.freeze()  # a collection looks at what is new only


def _numbers() -> Iterator[int]:
    """One by one what belongs to the calls themselves, and some of the thousands of calls that planning makes."""
    yield from range(1, 250)
    yield from range(250, 100_000, 29)


@pytest.mark.parametrize("shapes", ["exact", "merged"])
@in_child_process(timeout_s=600)
def test_an_exception_from_any_python_call_around_the_function_costs_no_result(shapes: str) -> None:
    _prepare()
    for number in _numbers():
        has_thrown, num_out = _visit_all_that_learning_does(number, _ThrownError(), shapes)
        assert num_out == 0, f"what was thrown from call {number} reached the program"
        if not has_thrown:
            break
    assert number > 250


@in_child_process(timeout_s=600)
def test_an_interrupt_from_any_python_call_around_the_function_reaches_the_program_and_breaks_nothing() -> None:
    _prepare()
    num_out = 0
    for number in range(1, 1000, 9):
        num_out += _visit_all_that_learning_does(number, KeyboardInterrupt(), "exact")[1]
    assert num_out > 50  # not where Python itself loses it, as in a finalizer


# --- What is known only once it has happened -----------------------------------------------------------------------


class _Request:
    """Told apart by what it has seen; once it has been used it has no hash."""

    def __init__(self, name: str = "") -> None:
        self.log: tuple[Any, ...] = (name,)

    def __hash__(self) -> int:
        return hash(self.log)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Request) and self.log == other.log


def _use(values: torch.Tensor, request: _Request) -> torch.Tensor:
    request.log = (*request.log, {"seen": 1})
    return chain_result(values)


@pytest.mark.parametrize("shapes", ["exact", "merged", "auto"])
def test_an_argument_whose_hash_fails_once_it_was_used(shapes: str) -> None:
    wrapper = memomalloc.optimize(_use, shapes=shapes, warm_up_calls=0)
    for seed in range(8):
        assert_equal_bits(wrapper(chain_values(seed), _Request()), chain_result(chain_values(seed)))


def test_groups_of_arguments_that_have_no_hash_any_more_make_room() -> None:
    wrapper = memomalloc.optimize(_use, max_plans=4, warm_up_calls=0)
    for number in range(30):
        for _ in range(2):
            wrapper(chain_values(0), _Request(str(number)))
    assert len(wrapper._planned._groups) <= 4
    assert wrapper.stats().runs_unplanned.get("unplannable", 0) == 0
    wrapper._planned.forget()


class _LateError(Exception):
    pass


class _Handler:
    def __call__(self, *_: object) -> None:
        raise _LateError

    def method(self, *_: object) -> None:
        raise _LateError


def _function(*_: object) -> None:
    raise _LateError


@pytest.mark.parametrize("handler", ["_function", "_Handler()", "_Handler().method", "functools.partial(_function, 1)"])
@pytest.mark.parametrize("when", ["before", "after"])
@in_child_process()
def test_what_a_signal_handler_raises_while_python_thinks_goes_to_the_program(handler: str, when: str) -> None:
    signal.signal(signal.SIGUSR1, eval(handler))
    wrapper = memomalloc.optimize(chain_result)
    planned = wrapper._planned
    think = planned._think

    def interrupted(call: Any) -> Any:
        if when == "before":
            signal.raise_signal(signal.SIGUSR1)
        result = think(call)
        if when == "after":
            signal.raise_signal(signal.SIGUSR1)
        return result

    planned._think = interrupted  # type: ignore[method-assign]
    with pytest.raises(_LateError):
        wrapper(chain_values(0))
    planned._think = think  # type: ignore[method-assign]
    learn(wrapper, chain_values(0))


def test_what_the_function_raises_arrives_whatever_is_raised_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = False

    def run(values: torch.Tensor) -> torch.Tensor:
        torch.ones(3000 if fails else 10).sin()
        if fails:
            raise _LateError("of the function")
        return chain_result(values)

    wrapper = memomalloc.optimize(run, warm_up_calls=0)
    learn(wrapper, chain_values(0))

    def fault(*_: object) -> bool:
        raise ValueError("ours")

    monkeypatch.setattr(wrapper._planned, "_deviated", fault)
    fails = True
    for _ in range(3):
        with pytest.raises(_LateError, match="of the function") as caught:
            wrapper(chain_values(0))
        assert caught.value.__cause__ is None
    fails = False
    with fully_served(wrapper, runs=1):
        wrapper(chain_values(0))


def test_faults_are_logged_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrapper = memomalloc.optimize(chain_result)

    def fault(call: object) -> None:
        raise ValueError("ours")

    monkeypatch.setattr(wrapper._planned, "_think", fault)
    for _ in range(9):
        assert_equal_bits(wrapper(chain_values(0)), chain_result(chain_values(0)))
    assert [record.memomalloc["num_faults"] for record in caplog.records] == [1, 2, 4, 8]  # type: ignore[attr-defined]
    assert all("ValueError: ours" in record.getMessage() for record in caplog.records)
    assert wrapper.stats().runs_unplanned == {"unplannable": 9}
