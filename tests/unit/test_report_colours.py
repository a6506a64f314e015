"""The colours of the groups can be told apart by people with any colour vision."""

from __future__ import annotations

import itertools
import re
from importlib import resources

import numpy as np
import pytest

from memomalloc.report.picture import PALETTE

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
VISIONS = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])
#: In CIELAB; about 2.3 can just be noticed, side by side.
LEAST_DISTANCE = 12.0


def lab(colour: str, vision: str) -> np.ndarray:
    encoded = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(VISIONS[vision] @ linear, 0, 1) / WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def palettes() -> dict[str, tuple[str, ...]]:
    script = resources.files("memomalloc.report").joinpath("page", "colours.js").read_text()
    found = {
        name: tuple(re.findall(r"#[0-9a-f]{6}", colours))
        for name, colours in re.findall(r"^  (light|dark): \[(.*)\]", script, re.MULTILINE)
    }
    return {"picture": PALETTE, **found}


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("palette", ["picture", "light", "dark"])
def test_any_two_colours_differ(palette: str, vision: str) -> None:
    colours = palettes()[palette]
    assert len(colours) >= 7
    for one, other in itertools.combinations(colours, 2):
        assert np.linalg.norm(lab(one, vision) - lab(other, vision)) >= LEAST_DISTANCE, (one, other)


def test_a_group_has_the_same_hue_on_light_and_dark_paper() -> None:
    light, dark = palettes()["light"], palettes()["dark"]
    assert len(light) == len(dark)
    for one, other in zip(light, dark, strict=True):
        turn = np.arctan2(*lab(one, "usual")[:0:-1]) - np.arctan2(*lab(other, "usual")[:0:-1])
        assert abs((np.degrees(turn) + 180) % 360 - 180) < 20, (one, other)
