"""lightning: a trainer predicts with an optimized module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain, assert_same
from models import chain_values

lightning = pytest.importorskip("lightning")
pytestmark = pytest.mark.filterwarnings("ignore")


def module() -> Any:
    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            # So many that an output, which the trainer holds and which then finds its place taken, is a small share.
            self.layers = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(30)])

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.layers(values)

        def predict_step(self, batch: torch.Tensor) -> torch.Tensor:
            return self(batch)

        def test_step(self, batch: torch.Tensor) -> None:
            self.log("mean", self.layers(batch).mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    return Model().eval()


def batches(seed: int) -> Any:
    rows = chain_values(seed, 16 * 64).reshape(16, 64)
    return torch.utils.data.DataLoader(rows, batch_size=4)


def trainer(folder: Path) -> Any:
    return lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip


@pytest.mark.parametrize("inplace", [False, True])
def test_a_trainer_predicts(inplace: bool, tmp_path: Path) -> None:
    plain, planned = module(), memomalloc.optimize(module(), inplace=inplace)

    def predict(model: Any, seed: int) -> Any:
        return trainer(tmp_path).predict(model, batches(seed))

    assert_as_plain(lambda seed: predict(plain, seed), lambda seed: predict(planned, seed), planned)


def test_a_trainer_tests_and_saves(tmp_path: Path) -> None:
    plain, planned = module(), memomalloc.optimize(module())
    answers = []
    for model in (plain, planned):
        runs = trainer(tmp_path)
        for seed in range(6):
            answers.append(runs.test(model, batches(seed), verbose=False))
    assert answers[:6] == answers[6:]
    assert memomalloc.stats(planned).runs_replayed > 0
    runs.strategy.connect(planned)
    runs.save_checkpoint(tmp_path / "model.ckpt")
    state = torch.load(tmp_path / "model.ckpt", weights_only=False)["state_dict"]
    assert list(state) == list(plain.state_dict())
    assert_same(state, plain.state_dict())
