"""Little address space, little memory, huge plans: degrade to unplanned calls and count them, never crash."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

import memomalloc
from child_process import in_child_process
from memomalloc.errors import ArenaError
from memomalloc.runtime import extension
from models import chain_result, chain_values, conv_net, images
from serving import assert_equal_bits, fully_served, learn

MIB = 2**20


def _address_space_in_use() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _limit_address_space(beyond_use: int) -> None:
    limit = _address_space_in_use() + beyond_use
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def _call_conv_net() -> memomalloc.Stats:
    module = conv_net()
    wrapper = memomalloc.optimize(module)
    with torch.inference_mode():
        for seed in range(10):
            assert_equal_bits(wrapper(images(seed)), module(images(seed)))
    return wrapper.stats()


@pytest.mark.parametrize("beyond_use", [4096 * MIB, 1024 * MIB, 400 * MIB])
@in_child_process()
def test_under_a_limit_on_address_space_calls_are_planned(beyond_use: int) -> None:
    _limit_address_space(beyond_use)
    stats = _call_conv_net()
    assert extension.install().reserved_bytes() <= beyond_use
    assert stats.runs_replayed > 0
    assert stats.requests_served == stats.requests_planned


@pytest.mark.parametrize("beyond_use", [60 * MIB, 40 * MIB])
@in_child_process()
def test_where_nothing_can_be_reserved_calls_run_unplanned_and_are_counted(beyond_use: int) -> None:
    extension.load()
    logging.disable()  # the warning that says so
    _limit_address_space(beyond_use)
    stats = _call_conv_net()
    assert extension.install().reserved_bytes() == 0
    assert stats.runs_replayed == 0
    assert stats.runs_unplanned["unplannable"] > 0


@in_child_process()
def test_a_limit_that_comes_later_stops_new_arenas_only_from_growing_the_process() -> None:
    wrapper = memomalloc.optimize(conv_net())
    with torch.inference_mode():
        learn(wrapper, images(0))
        _limit_address_space(64 * MIB)
        with fully_served(wrapper, runs=3):
            for seed in range(3):
                wrapper(images(seed))
    assert _call_conv_net().runs_replayed > 0  # arenas lie in what is reserved already


@in_child_process()
def test_where_no_memory_may_be_mapped_a_run_is_counted_as_without_arena() -> None:
    with memomalloc.record() as recording:
        chain_result(chain_values(0))
    plan = _planned(200 * MIB)
    small = memomalloc.plan(recording.trace)
    memomalloc.replay(small)
    data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (data + 100 * MIB, resource.RLIM_INFINITY))
    with memomalloc.replay(plan) as replay:
        output = chain_result(chain_values(1))
    assert not replay.started
    with memomalloc.replay(small) as replay:
        output = chain_result(chain_values(1))
    assert replay.started
    assert_equal_bits(output, chain_result(chain_values(1)))


@in_child_process()
def test_large_tensors_of_a_recording_that_stay_leave_room_for_arenas() -> None:
    _limit_address_space(2048 * MIB)
    num_granules = extension.install().reserved_bytes() // (2 * MIB)
    with memomalloc.record():
        weights = [torch.zeros(40_000) for _ in range(num_granules)]
    stats = _call_conv_net()
    assert stats.runs_replayed > 0
    assert stats.requests_served == stats.requests_planned
    assert all(not weight.any() for weight in weights)


@in_child_process()
def test_many_large_tensors_of_a_recording_leave_mappings_for_threads() -> None:
    extension.install()
    with memomalloc.record():
        tensors = [torch.empty(33_000) for _ in range(10_000)]
    num_mappings = len(Path("/proc/self/maps").read_text().splitlines())
    assert num_mappings < 2 * 4096 + 4096, f"{num_mappings} for {len(tensors)} tensors"


def _planned(size_bytes: int) -> memomalloc.Plan:
    return memomalloc.plan(memomalloc.Problem.from_arrays(np.array([size_bytes]), np.array([0]), np.array([1])))


@pytest.mark.parametrize("size_bytes", [2**40, 2**41, 2**45, 2**46, 2**47, 2**60], ids=lambda size: f"{size:.0e}")
def test_a_plan_larger_than_the_address_space_is_refused(size_bytes: int) -> None:
    plan = _planned(size_bytes)
    if size_bytes == 2**40:  # may just fit into what is reserved; it is never touched
        plan = _planned(size_bytes + 2**21)
    with pytest.raises(ArenaError, match=r"does not fit|larger than"):
        memomalloc.replay(plan)
    chain_result(chain_values(0))


def test_a_huge_plan_that_fits_the_reservation_costs_no_memory() -> None:
    plan = _planned(extension.install().reserved_bytes() // 2)
    memomalloc.set_memory_limit(extension.install().reserved_bytes())
    with memomalloc.replay(plan) as replay:
        output = chain_result(chain_values(1))
    assert replay.started
    assert_equal_bits(output, chain_result(chain_values(1)))
