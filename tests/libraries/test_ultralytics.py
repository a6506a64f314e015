"""ultralytics: YOLO copies its model, fuses the copy, and calls that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import memomalloc
from library_calls import assert_as_plain

ultralytics = pytest.importorskip("ultralytics")


def yolo() -> Any:
    torch.manual_seed(0)
    return ultralytics.YOLO("yolov8n.yaml")


def image(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (96, 96, 3), dtype=np.uint8)


def detect(model: Any, seed: int) -> Any:
    found = model.predict(image(seed), imgsz=96, device="cpu", verbose=False, conf=0.0001, max_det=20)[0]
    return found.boxes.data


@pytest.mark.parametrize("inplace", [False, True])
def test_objects_are_detected(inplace: bool) -> None:
    plain, planned = yolo(), yolo()
    planned.model = memomalloc.optimize(planned.model, inplace=inplace)
    assert_as_plain(lambda seed: detect(plain, seed), lambda seed: detect(planned, seed), planned.model)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    planned = yolo()
    planned.model = memomalloc.optimize(planned.model)
    detect(planned, 0)
    planned.save(tmp_path / "yolo.pt")
    yolo().save(tmp_path / "plain.pt")
    loaded, plain = (ultralytics.YOLO(tmp_path / name) for name in ("yolo.pt", "plain.pt"))
    assert type(loaded.model) is type(plain.model)
    assert torch.equal(detect(loaded, 1), detect(plain, 1))
