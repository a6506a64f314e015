"""Suites and dimensions: which cases they make, and what they refuse."""

from __future__ import annotations

import argparse
import ctypes.util
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from memomalloc.bench.model import Model
from memomalloc.bench.suite import SUITES, Dimensions, UnknownModelError, models_of, workers_that_fit
from memomalloc.bench.upstream import UPSTREAMS
from memomalloc.bench.user_model import UserModelError, user_model
from memomalloc.bench.workload import MODES
from memomalloc.cli import bench_models
from memomalloc.errors import MissingDependencyError


def models(*names: str) -> dict[str, Model]:
    return {name: Model(name, lambda batch, size: pytest.fail("not built"), (224,)) for name in names}


def test_all_combinations_upstream_by_upstream() -> None:
    dimensions = Dimensions(batches=(1, 8), workers=(1, 2), upstreams=("glibc", "jemalloc"))
    cases = dimensions.cases("demo", models("a", "b"))
    assert len(cases) == len(set(cases)) == 16
    assert [case.upstream for case in cases] == ["glibc"] * 8 + ["jemalloc"] * 8
    assert {case.input_size for case in cases} == {224}


def test_an_unknown_model_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownModelError, match=r"'c'.*a, b"):
        Dimensions(models=("c",)).cases("demo", models("a", "b"))


def test_the_options_offer_what_there_is() -> None:
    assert bench_models._SUITES == SUITES
    assert bench_models._MODES == MODES


def test_all_threads_are_as_many_as_cores_and_each_number_is_measured_once() -> None:
    parser = argparse.ArgumentParser()
    bench_models.add_arguments(parser)
    num_cores = len(os.sched_getaffinity(0))
    args = parser.parse_args(["-o", "out.json", "--intra-op-threads", f"1,{num_cores},all", "--workers", "all"])
    assert args.intra_op_threads == tuple(dict.fromkeys((1, num_cores)))
    assert args.workers == (num_cores,)


def test_workers_are_scaled_to_the_machine() -> None:
    counts = workers_that_fit()
    assert counts[0] == 1
    assert counts == sorted(set(counts))


def test_an_allocator_that_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(MissingDependencyError, match="apt-get install libjemalloc2"):
        UPSTREAMS["jemalloc"].environment()
    assert UPSTREAMS["glibc"].environment() == {}


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_the_paper_suite_without_torchvision_says_what_to_do() -> None:
    with pytest.raises(MissingDependencyError, match="make bench-paper"):
        models_of("paper")


def test_a_model_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_module.py").write_text(
        "import torch\n"
        "def plain():\n    return torch.nn.Linear(4, 2), torch.ones(1, 4)\n"
        "def sized(batch, input_size):\n    return torch.nn.Linear(input_size, 2), torch.ones(batch, input_size)\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    workload = user_model("their_module:sized").build(3, 5)
    assert workload.inputs.shape == (3, 5)
    assert user_model("their_module:plain").build(3, 5).inputs.shape == (1, 4)
    with pytest.raises(UserModelError, match="must return a model and its inputs"):
        user_model("their_module:wrong").build(1, 1)
    for reference in ("their_module", "their_module:missing", "no_such_module:f", ":f", ""):
        with pytest.raises(UserModelError):
            user_model(reference)
