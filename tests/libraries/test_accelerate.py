"""accelerate: prepared, unwrapped, saved, and with weights that come and go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain, assert_same
from models import conv_net, images

accelerate = pytest.importorskip("accelerate")


@pytest.fixture
def accelerator() -> Any:
    return accelerate.Accelerator(cpu=True)


def test_a_prepared_model_is_planned(accelerator: Any, tmp_path: Path) -> None:
    plain, planned = conv_net(), accelerator.prepare_model(memomalloc.optimize(conv_net()), evaluation_mode=True)
    with torch.inference_mode():
        assert_as_plain(lambda seed: plain(images(seed)), lambda seed: planned(images(seed)), planned)
    assert accelerator.unwrap_model(planned) is planned
    accelerator.save_model(planned, tmp_path)
    loaded = conv_net()
    accelerate.load_checkpoint_in_model(loaded, str(tmp_path))
    assert_same(loaded.state_dict(), plain.state_dict())


def test_hooks_that_load_weights_are_called() -> None:
    plain = conv_net()
    offloaded = accelerate.cpu_offload(conv_net(), execution_device=torch.device("cpu"))
    planned = memomalloc.optimize(offloaded)
    with torch.inference_mode():
        for seed in range(10):
            assert_same(planned(images(seed)), plain(images(seed)))
