"""speechbrain: networks, and an interface that calls networks inside by its own methods."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain
from models import chain_values

pytest.importorskip("speechbrain")
pytestmark = pytest.mark.filterwarnings("ignore")


def network() -> Any:
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    torch.manual_seed(0)
    return ECAPA_TDNN(24, channels=[32, 32, 32, 32, 64], attention_channels=16, lin_neurons=16).eval()


def interface() -> Any:
    from speechbrain.inference.interfaces import Pretrained

    class Encoder(Pretrained):
        def encode(self, features: torch.Tensor) -> torch.Tensor:
            return self.mods.network(features)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return self.encode(features)

    return Encoder(modules={"network": network()}, hparams={}).eval()


def features(seed: int) -> torch.Tensor:
    return chain_values(seed, 2 * 40 * 24).reshape(2, 40, 24)


@pytest.mark.parametrize("inplace", [False, True])
def test_speech_is_embedded(inplace: bool) -> None:
    plain, planned = network(), memomalloc.optimize(network(), inplace=inplace)
    with torch.inference_mode():
        assert_as_plain(lambda seed: plain(features(seed)), lambda seed: planned(features(seed)), planned)


@pytest.mark.parametrize("options", [{}, {"inplace": True}, {"methods": ["encode"]}], ids=str)
def test_an_interface_encodes(options: dict[str, Any]) -> None:
    plain, planned = interface(), memomalloc.optimize(interface(), **options)
    with torch.inference_mode():
        assert_as_plain(lambda seed: plain.encode(features(seed)), lambda seed: planned.encode(features(seed)), planned)
        assert_as_plain(lambda seed: plain(features(seed)), lambda seed: planned(features(seed)), planned)
