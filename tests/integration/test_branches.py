"""Programs whose requests differ in more than sizes: what each asks for is told apart, in whatever order calls come."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

import memomalloc
from memomalloc.runtime.models.optimizing import planned_function_of


class Scores(torch.nn.Module):
    """Bags of embeddings: each asks for a buffer more where there are several rows; by size it looks like others."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = torch.nn.ModuleList(torch.nn.EmbeddingBag(50, 16) for _ in range(2))
        self.top = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """A score for each row."""
        bags = [table(indices) for table, indices in zip(self.tables, rows, strict=True)]
        return self.top(torch.cat(bags, 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("first", list(itertools.permutations((1, 16, 64))))
@pytest.mark.parametrize("repeats", [1, 3])
def test_it_ends_with_every_request_served(first: tuple[int, ...], repeats: int) -> None:
    model = Scores().eval()
    optimized = memomalloc.optimize(model, keep_plans=True)
    chooses = random.Random(0)
    rows = {size: torch.randint(50, (2, size, 4)) for size in first}
    with torch.inference_mode():
        expected = {size: model(rows[size]) for size in first}
        for size in (*(size for size in first for _ in range(repeats)), *chooses.choices(first, k=150)):
            assert torch.equal(optimized(rows[size]), expected[size])
        before = memomalloc.stats(optimized)
        for size in chooses.choices(first, k=100):
            optimized(rows[size])
    after = memomalloc.stats(optimized)
    assert after.runs_replayed == before.runs_replayed + 100
    assert after.requests_upstream == before.requests_upstream
    # By size: following who asks costs time at each operator.
    assert not any(learned.by_origin for learned in planned_function_of(optimized).learned().values())
