"""torch_geometric: graphs of various sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain
from models import chain_values

geometric = pytest.importorskip("torch_geometric")


def network() -> Any:
    torch.manual_seed(0)
    return geometric.nn.GCN(in_channels=16, hidden_channels=32, num_layers=3, out_channels=4).eval()


def graph(seed: int, *, nodes: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(0, nodes, (2, 3 * nodes), generator=generator)
    return chain_values(seed, nodes * 16).reshape(nodes, 16), edges[:, edges[0] != edges[1]][:, : 2 * nodes]


@pytest.mark.parametrize("inplace", [False, True])
def test_nodes_are_classified(inplace: bool) -> None:
    plain, planned = network(), memomalloc.optimize(network(), inplace=inplace)
    with torch.inference_mode():
        assert_as_plain(lambda seed: plain(*graph(seed)), lambda seed: planned(*graph(seed)), planned)


def test_graphs_of_various_sizes_share_a_plan() -> None:
    plain, planned = network(), memomalloc.optimize(network(), shapes="auto")

    def call(model: Any, seed: int) -> Any:
        return model(*graph(seed, nodes=20 + seed * 7 % 30))

    with torch.inference_mode():
        assert_as_plain(lambda seed: call(plain, seed), lambda seed: call(planned, seed), planned, to_learn=60)
