"""Plans that are learned from calls whose shapes and branches vary: equal bits, and most requests served."""

from __future__ import annotations

import pytest
import torch

import memomalloc
from child_process import in_child_process
from dynamic_models import PROGRAMS, bert, run_beside_the_original, served_share_between, tokens
from memomalloc.runtime.calls.shape_policy import POLICIES
from models import Chain, Steps, chain_values
from serving import assert_equal_bits, learn

pytestmark = pytest.mark.usefixtures("poison")

NUM_CALLS = 200
BY_NAME = {program.name: program for program in PROGRAMS}


@pytest.mark.parametrize("match", ["auto", "origin"])
@pytest.mark.parametrize("shapes", POLICIES)
@pytest.mark.parametrize("name", ["bert", "detector", "experts", "early_exit"])
def test_results_are_equal_bit_for_bit(name: str, shapes: str, match: str) -> None:
    stats = run_beside_the_original(BY_NAME[name], NUM_CALLS, shapes=shapes, match=match)[-1]
    assert stats.runs_replayed > 0 or shapes == "exact"


@pytest.mark.parametrize("shapes", ["bucketed", "merged"])
def test_random_lengths_are_served_after_twenty_calls(shapes: str) -> None:
    learned, end = run_beside_the_original(BY_NAME["bert"], NUM_CALLS, [20], shapes=shapes)
    assert served_share_between(learned, end) >= 0.95


@pytest.mark.parametrize("shapes", ["bucketed", "merged", "auto"])
@pytest.mark.parametrize("name", ["experts", "early_exit"])
def test_branches_are_served_once_they_are_learned(name: str, shapes: str) -> None:
    learned, end = run_beside_the_original(BY_NAME[name], 2 * NUM_CALLS, [NUM_CALLS], shapes=shapes)
    assert served_share_between(learned, end) >= 0.9


def test_recordings_become_rare() -> None:
    """Learning may not eat what it gains: a program of ever new branches is recorded less and less often."""
    early, late, end = run_beside_the_original(BY_NAME["detector"], 600, [200, 400], shapes="merged")
    assert end.runs_recorded - late.runs_recorded <= early.runs_recorded + 8
    assert end.runs_recorded < 120


@pytest.mark.parametrize("shapes", POLICIES)
def test_memory_stays_within_the_budget(shapes: str) -> None:
    memomalloc.release()  # a region counts with the largest arena that was laid over it since
    model = bert()
    wrapper = memomalloc.optimize(model, shapes=shapes, max_bytes=2**20)
    with torch.inference_mode():
        for seed in range(60):
            ids = tokens(8 + 37 * seed % 200, seed)
            assert_equal_bits(wrapper(ids)[0], model(ids)[0])
            assert wrapper.stats().mapped_bytes <= 2**20


def test_the_number_of_plans_stays_within_its_bound() -> None:
    wrapper = memomalloc.optimize(Chain(), shapes="exact", max_plans=3, warm_up_calls=0)
    for size in range(100, 130):
        learn(wrapper, chain_values(0, size))
        assert wrapper.stats().num_plans <= 3
    learned_again = wrapper.stats().runs_recorded
    learn(wrapper, chain_values(0, 100))  # evicted long ago
    assert wrapper.stats().runs_recorded > learned_again


def test_bucketed_calls_of_one_bucket_share_a_plan_and_others_do_not() -> None:
    wrapper = memomalloc.optimize(Chain(), shapes="bucketed")
    for size in (1030, 1200, 1400, 1536):
        for _ in range(4):
            assert_equal_bits(wrapper(chain_values(0, size)), Chain()(chain_values(0, size)))
    assert wrapper.stats().num_plans == 1
    for _ in range(5):
        wrapper(chain_values(0, 1600))
    assert wrapper.stats().num_plans == 2


def test_auto_shares_a_plan_once_there_are_many_shapes() -> None:
    wrapper = memomalloc.optimize(Chain(), shapes="auto")
    for size in (100, 200, 300, 400):
        learn(wrapper, chain_values(0, size))
    assert wrapper.stats().num_plans == 4
    for size in (250, 350, 150):
        learn(wrapper, chain_values(0, size))
    assert wrapper.stats().num_plans == 1
    before = wrapper.stats()
    for size in range(100, 400, 17):
        assert_equal_bits(wrapper(chain_values(0, size)), Chain()(chain_values(0, size)))
    assert served_share_between(before, wrapper.stats()) == 1.0


def test_a_deviation_names_who_was_expected_and_what_was_asked() -> None:
    values = chain_values(0, 393_216)
    wrapper = memomalloc.optimize(Steps((393_216,)))
    learn(wrapper, values)
    wrapper.sizes = (100_000,)
    wrapper(values)
    text = str(wrapper.deviations()[0])
    assert text.startswith("expected 1.5 MiB for aten::sin in Steps (models.py:")
    assert text.endswith("), was asked 390.6 KiB")


@pytest.mark.parametrize("by", ["origin", "size"])
def test_the_bytes_that_went_upstream_are_counted(by: str) -> None:
    values = chain_values(0, 5000)
    wrapper = memomalloc.optimize(Steps((1000, 2000)), match=by)
    learn(wrapper, values)
    assert wrapper.stats().bytes_upstream == 0
    wrapper.sizes = (1000, 5000)
    wrapper(values)
    assert wrapper.stats().bytes_upstream == 20_000


def test_equal_sizes_are_told_apart_by_who_asks() -> None:
    """Branches of tensors of one size: by size, the escape of one lands in a place that the other shares."""

    class Branches(torch.nn.Module):
        def forward(self, values: torch.Tensor, flag: int) -> torch.Tensor:
            if flag:
                values = torch.cos(values).exp() + torch.tan(values)
            kept.append(torch.sigmoid(values))
            return torch.tanh(values).abs()

    kept: list[torch.Tensor] = []
    shares = {}
    for match in ("size", "origin"):
        wrapper = memomalloc.optimize(Branches(), shapes="merged", match=match)
        for call in range(100):
            kept.clear()
            flag = call // 3 % 2
            values = chain_values(call, 500)
            expected = torch.tanh(torch.cos(values).exp() + torch.tan(values) if flag else values).abs()
            assert_equal_bits(wrapper(values, flag), expected)
            if call == 40:
                before = wrapper.stats()
        shares[match] = served_share_between(before, wrapper.stats())
    assert shares["origin"] == 1.0
    assert shares["origin"] >= shares["size"]


# Without the caches of oneDNN, which keep something for each shape, with memomalloc or without.
@in_child_process(env={"MALLOC_ARENA_MAX": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0", "LRU_CACHE_CAPACITY": "0"})
def test_resident_memory_does_not_grow_with_the_shapes() -> None:
    import gc

    def resident_bytes() -> int:
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    torch.set_num_threads(1)
    model = bert()
    wrapper = memomalloc.optimize(model, shapes="merged")
    generator = torch.Generator().manual_seed(0)
    sizes = {}
    with torch.inference_mode():
        wrapper(tokens(512, 0))
        for call in range(2000):
            wrapper(tokens(int(torch.randint(8, 513, (), generator=generator)), call))
            if call + 1 in (200, 2000):
                sizes[call + 1] = resident_bytes()
    # Python's own objects come and go: half a megabyte of them is no growth with the shapes.
    assert sizes[2000] <= sizes[200] + 2**19, sizes


@in_child_process()
def test_arguments_that_differ_in_each_call_cost_no_memory_for_ever() -> None:
    import tracemalloc

    function = memomalloc.optimize(lambda values, factor: torch.sin(values) * factor, max_plans=8)
    values = chain_values(0, 100)
    tracemalloc.start()
    sizes = {}
    for call in range(3000):
        function(values, call + 0.5)
        if call + 1 in (1000, 3000):
            sizes[call + 1] = tracemalloc.get_traced_memory()[0]
    assert sizes[3000] < 1.2 * sizes[1000] + 100_000, sizes
    assert function.stats().num_plans <= 8
