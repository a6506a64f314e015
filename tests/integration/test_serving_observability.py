"""What an operator of a service sees: the summary, metrics and log records."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import torch

import memomalloc
from child_process import in_child_process, run_python
from models import Chain, Steps, chain_values, conv_net, images
from serving import assert_equal_bits, learn


def _row(summary: str, name: str) -> list[str]:
    line = next(line for line in summary.splitlines() if line.startswith(f"| {name}"))
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def test_the_summary_of_a_wrapper_has_the_numbers_of_its_statistics() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    wrapper(chain_values(0))
    summary = memomalloc.memory_summary(wrapper)
    stats = wrapper.stats()
    assert _row(summary, "Calls replayed") == [str(stats.runs_replayed)]
    assert _row(summary, "Calls that ran unplanned") == [str(sum(stats.runs_unplanned.values()))]
    assert _row(summary, "      warm_up") == ["1"]
    assert _row(summary, "Requests of replayed calls served") == [str(stats.requests_served)]
    assert _row(summary, "Share served") == ["100.0000%"]
    assert _row(summary, "Regions in use / with these plans") == ["0", "1"]
    assert _row(summary, f"{wrapper.plans[0].num_buffers} slots")[1] == str(stats.runs_replayed)
    assert "memomalloc, Chain" in summary
    assert len({len(line) for line in summary.splitlines()}) == 1


def test_the_summary_of_the_process_counts_wrappers_that_are_gone() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    before = memomalloc.stats().runs_replayed
    del wrapper
    assert _row(memomalloc.memory_summary(), "Calls replayed") == [f"{before:,}"]


def test_memory_that_the_limit_refuses_is_counted() -> None:
    wrapper = memomalloc.optimize(Chain(), warm_up_calls=0)
    learn(wrapper, chain_values(0))
    assert "refused" not in memomalloc.memory_summary(wrapper)
    before = memomalloc.memory_stats().num_over_limit
    memomalloc.set_memory_limit(1)
    try:
        for seed in range(3):
            assert_equal_bits(wrapper(chain_values(seed)), Chain()(chain_values(seed)))
    finally:
        memomalloc.set_memory_limit(None)
    stats = memomalloc.memory_stats()
    assert stats.num_over_limit - before == wrapper.stats().runs_unplanned["no_arena"] == 3
    row = _row(memomalloc.memory_summary(wrapper), "Regions unmapped")
    assert row == [f"{stats.num_evicted:,}", f"{stats.num_over_limit:,}"]
    assert_equal_bits(wrapper(chain_values(5)), Chain()(chain_values(5)))
    assert wrapper.stats().runs_unplanned["no_arena"] == 3


def test_the_summary_of_a_module_in_place_and_of_none() -> None:
    model = memomalloc.optimize(conv_net(), inplace=True)
    with torch.inference_mode():
        for _ in range(6):
            model(images(0))
    assert int(_row(memomalloc.memory_summary(model), "Calls replayed")[0]) > 0
    with pytest.raises(TypeError, match="Chain is not optimized"):
        memomalloc.memory_summary(Chain())


def test_the_summary_says_that_memomalloc_is_off(switched_back_on: None) -> None:
    memomalloc.disable()
    assert "(switched off)" in memomalloc.memory_summary()


def test_the_summary_of_many_plans_is_cut() -> None:
    wrapper = memomalloc.optimize(Chain(), warm_up_calls=0, time_limit_s=0, shapes="exact")
    for size in range(64, 64 + 25):
        for _ in range(2):
            wrapper(chain_values(0, size))
    assert "and 5 more" in memomalloc.memory_summary(wrapper)


@in_child_process()
def test_a_process_without_plans_has_a_summary() -> None:
    assert "Calls replayed" in memomalloc.memory_summary()


# --- Metrics


def _samples(registry: Any) -> dict[str, float]:
    return {
        sample.name + "".join(f"_{value}" for value in sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_metrics_follow_the_statistics_of_the_process() -> None:
    client = pytest.importorskip("prometheus_client")
    from memomalloc.serve import metrics

    registry = client.CollectorRegistry()
    collector = metrics.register(registry)
    before = _samples(registry)
    wrapper = memomalloc.optimize(Steps([500, 400]))
    learn(wrapper, chain_values(0))
    wrapper.sizes = (500, 900)
    wrapper(chain_values(0))
    after, stats = _samples(registry), memomalloc.stats()
    assert after["memomalloc_runs_replayed_total"] == stats.runs_replayed
    assert after["memomalloc_runs_replayed_total"] > before["memomalloc_runs_replayed_total"]
    assert after["memomalloc_requests_served_total"] == stats.requests_served
    for reason, count in stats.requests_upstream.items():
        assert after[f"memomalloc_requests_upstream_total_{reason}"] == count
    assert after["memomalloc_requests_upstream_total_size"] > before["memomalloc_requests_upstream_total_size"]
    assert after["memomalloc_runs_unplanned_total_warm_up"] >= 1
    memory = memomalloc.memory_stats()
    assert after["memomalloc_regions"] == len(memory.regions) >= 1
    assert after["memomalloc_regions_in_use"] == 0
    assert after["memomalloc_mapped_bytes"] == memory.mapped_bytes
    assert after["memomalloc_memory_limit_bytes"] == memory.limit_bytes
    assert after["memomalloc_page_faults_total_minor"] >= before["memomalloc_page_faults_total_minor"]
    assert 0 <= after["memomalloc_plan_age_seconds_newest"] <= after["memomalloc_plan_age_seconds_oldest"]
    registry.unregister(collector)


def test_metrics_can_be_scraped_as_text() -> None:
    client = pytest.importorskip("prometheus_client")
    from memomalloc.serve import metrics

    registry = client.CollectorRegistry()
    metrics.register(registry)
    text = client.generate_latest(registry).decode()
    documented = set(re.findall(r"``(memomalloc_\w+)", metrics.__doc__ or ""))
    assert documented == set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))


def test_without_the_client_the_message_has_the_command_that_installs_it() -> None:
    child = run_python(
        """
        import sys
        sys.modules["prometheus_client"] = None
        from memomalloc.serve import metrics
        try:
            metrics.register()
        except ImportError as error:
            print(error)
        """
    )
    assert "pip install 'memomalloc[metrics]'" in child.stdout


# --- Log


def _events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.memomalloc["event"] for record in caplog.records if record.name == "memomalloc"]


def test_the_log_tells_the_life_of_a_plan(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "memomalloc")
    model = Steps([500, 400])
    wrapper = memomalloc.optimize(model, max_plans=1)
    learn(wrapper, chain_values(0))
    assert _events(caplog) == ["armed"]
    fields = caplog.records[-1].memomalloc
    assert fields["model"] == "Steps"
    assert fields["arena_bytes"] == wrapper.plans[0].arena_bytes
    assert fields["num_buffers"] == wrapper.plans[0].num_buffers
    model.sizes = (500, 900, 400)
    for _ in range(4):
        wrapper(chain_values(0))
    assert _events(caplog)[1:] == ["deviated", "grew"]
    deviated = caplog.records[-2].memomalloc
    assert deviated["num_runs"] == 1
    assert "was asked 3.5 KiB" in deviated["first"]
    wrapper(chain_values(0, 1200))
    assert _events(caplog)[3:] == ["evicted"]


def test_the_log_does_not_grow_with_the_traffic(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "memomalloc")
    extra: list[torch.Tensor] = []
    model = Chain(visit=lambda step, values: extra.append(values) if hoarding else None)
    hoarding = False
    wrapper = memomalloc.optimize(model)
    learn(wrapper, chain_values(0))
    hoarding = True
    for seed in range(100):
        wrapper(chain_values(seed))
    assert len(_events(caplog)) < 40
