"""The garbage collector runs finalizers in the middle of anything."""

from __future__ import annotations

import faulthandler
import gc

import memomalloc
from child_process import in_child_process
from models import Chain, chain_values
from serving import assert_equal_bits


def _wrapper_in_a_cycle() -> None:
    module = Chain(2)
    module.wrapper = memomalloc.optimize(module, example_inputs=chain_values(0), warm_up_calls=0)


@in_child_process()
def test_a_wrapper_collected_while_statistics_are_read_does_not_deadlock() -> None:
    faulthandler.dump_traceback_later(60, exit=True)
    memomalloc.stats()
    gc.disable()
    for allocations_until_collection in range(30):
        gc.collect()
        _wrapper_in_a_cycle()
        gc.set_threshold(gc.get_count()[0] + allocations_until_collection)
        gc.enable()
        memomalloc.stats()
        gc.disable()
    gc.collect()
    stats = memomalloc.stats()
    assert stats.num_plans == 0
    assert (stats.runs_recorded, stats.num_regions, stats.mapped_bytes) == (30, 0, 0)


def test_a_collection_in_the_middle_of_a_run_changes_nothing() -> None:
    def collect(step: int, values: object) -> None:
        _wrapper_in_a_cycle()
        gc.collect()

    wrapper = memomalloc.optimize(Chain(2, visit=collect))
    for seed in range(8):
        assert_equal_bits(wrapper(chain_values(seed)), Chain(2)(chain_values(seed)))
    assert wrapper.stats().num_bad_frees == 0
