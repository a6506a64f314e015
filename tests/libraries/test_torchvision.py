"""torchvision: classification, detection of images of various sizes, feature extraction."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import memomalloc
from library_calls import assert_as_plain, assert_same

torchvision = pytest.importorskip("torchvision")


def classifier() -> Any:
    torch.manual_seed(0)
    return torchvision.models.mobilenet_v3_small(num_classes=10).eval()


def images(seed: int, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn((1, 3, height, width), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("inplace", [False, True])
def test_images_are_classified(inplace: bool) -> None:
    plain, planned = classifier(), memomalloc.optimize(classifier(), inplace=inplace)
    with torch.inference_mode():
        assert_as_plain(lambda seed: plain(images(seed)), lambda seed: planned(images(seed)), planned)


def test_objects_are_detected() -> None:
    def detector() -> Any:
        torch.manual_seed(0)
        return torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=4, score_thresh=0.0, detections_per_img=20
        ).eval()

    plain, planned = detector(), memomalloc.optimize(detector())
    with torch.inference_mode():
        assert_as_plain(
            lambda seed: plain([images(seed, 96, 96)[0]]), lambda seed: planned([images(seed, 96, 96)[0]]), planned
        )


def test_features_are_extracted() -> None:
    create = torchvision.models.feature_extraction.create_feature_extractor
    planned = memomalloc.optimize(classifier())
    plain_features, features = create(classifier(), ["features.3"]), create(planned, ["features.3"])
    with torch.inference_mode():
        assert_same(features(images(0)), plain_features(images(0)))
        features = memomalloc.optimize(features)
        assert_as_plain(lambda seed: plain_features(images(seed)), lambda seed: features(images(seed)), features)
