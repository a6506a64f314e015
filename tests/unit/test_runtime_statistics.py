"""Counters: of one wrapper, of the process, and as plain data."""

from __future__ import annotations

import dataclasses
import gc
import json

import pytest

import memomalloc
from models import Chain, chain_values
from serving import learn


def test_statistics_are_frozen_plain_and_json() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    for stats in (wrapper.stats(), memomalloc.stats()):
        assert isinstance(stats, memomalloc.Stats)
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.runs_recorded = 0
        assert set(stats.as_dict()) == {field.name for field in dataclasses.fields(stats)}
        assert json.loads(json.dumps(stats.as_dict())) == stats.as_dict()


def test_a_wrapper_counts_each_call_once() -> None:
    wrapper = memomalloc.optimize(Chain())
    for _ in range(10):
        wrapper(chain_values(0))
    stats = wrapper.stats()
    assert stats.runs_recorded + stats.runs_replayed + sum(stats.runs_unplanned.values()) == 10
    assert stats.requests_planned == stats.requests_served + stats.requests_missing == 12 * stats.runs_replayed
    assert stats.served_share == 1.0
    assert (stats.num_plans, stats.num_regions, stats.num_regions_in_use) == (1, 1, 0)
    assert stats.arena_bytes == stats.lower_bound_bytes == wrapper.plans[0].arena_bytes
    assert stats.mapped_bytes >= stats.arena_bytes


def test_a_new_wrapper_has_counted_nothing() -> None:
    stats = memomalloc.optimize(Chain()).stats()
    assert stats.served_share is None
    assert not any(value for value in stats.as_dict().values() if isinstance(value, int))


def test_the_process_counts_all_wrappers_also_those_that_are_gone() -> None:
    gc.collect()
    before = memomalloc.stats()
    wrappers = [memomalloc.optimize(Chain()) for _ in range(3)]
    for wrapper in wrappers:
        learn(wrapper, chain_values(0))
    during = memomalloc.stats()
    own = [wrapper.stats() for wrapper in wrappers]
    assert during.num_plans == before.num_plans + 3
    del wrappers, wrapper
    gc.collect()
    after = memomalloc.stats()
    for name in ("runs_recorded", "runs_replayed", "requests_planned", "requests_served"):
        assert getattr(after, name) - getattr(before, name) == sum(getattr(stats, name) for stats in own)
    assert (after.num_plans, after.mapped_bytes) == (before.num_plans, before.mapped_bytes)


def test_an_arena_is_in_use_during_a_run() -> None:
    seen = []
    wrapper = memomalloc.optimize(
        Chain(visit=lambda step, values: seen.append(wrapper.stats().num_regions_in_use)), warm_up_calls=0
    )
    learn(wrapper, chain_values(0))
    assert (seen[0], seen[-1]) == (0, 1)
