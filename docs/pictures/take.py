"""Take the pictures of the documentation: the memory map of ResNet-50 with random weights, light and dark.

Needs Chromium and playwright: ``apt-get install chromium && pip install playwright transformers``.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright
from transformers import ResNetConfig, ResNetModel

import memomalloc
from memomalloc.report import Placement, write_page

FOLDER = Path(__file__).resolve().parent


def record() -> memomalloc.Trace:
    """One inference of one image."""
    torch.manual_seed(0)
    model, images = ResNetModel(ResNetConfig()).eval(), torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        model(images)
        with memomalloc.record() as recording:
            outputs = model(images)
    del outputs
    return recording.trace


def main() -> None:
    """Write ``memory-map-light.png`` and ``memory-map-dark.png`` beside this file."""
    trace = record()
    placement = Placement.of_plan(memomalloc.plan(trace), trace=trace, title="planned")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "map.html"
        write_page([placement], path, title="ResNet-50")
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for theme in ("light", "dark"):
            page = chromium.new_page(viewport={"width": 1280, "height": 760}, color_scheme=theme)
            page.goto(path.as_uri())
            # The buffer that is largest at the peak.
            page.click("#tab-alive")
            page.click("#alive tbody button")
            page.mouse.move(5, 5)
            page.screenshot(path=FOLDER / f"memory-map-{theme}.png")
        chromium.close()


if __name__ == "__main__":
    main()
