"""Take the pictures of the documentation: the memory map of ResNet-50 with random weights, light and dark, and what
lowers the peak of the example that holds on to too much.

Needs Chromium and playwright: ``apt-get install chromium && pip install playwright transformers``.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from playwright.sync_api import Page, sync_playwright
from transformers import ResNetConfig, ResNetModel

import memomalloc
from memomalloc.cli.subjects import record_script
from memomalloc.report import Placement, write_page

FOLDER = Path(__file__).resolve().parent
EXAMPLES = FOLDER.parents[1] / "examples"


def resnet_50() -> memomalloc.Trace:
    """One inference of one image."""
    torch.manual_seed(0)
    model, images = ResNetModel(ResNetConfig()).eval(), torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        model(images)
        with memomalloc.record() as recording:
            outputs = model(images)
    del outputs
    return recording.trace


def show_the_largest(page: Page) -> None:
    """The buffer that is largest at the peak."""
    page.click("#tab-alive")
    page.click("#alive tbody button")


def take(trace: memomalloc.Trace, title: str, name: str, show: Callable[[Page], object]) -> None:
    """Write ``NAME-light.png`` and ``NAME-dark.png`` beside this file."""
    placement = Placement.of_plan(memomalloc.plan(trace), trace=trace, title="planned")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "map.html"
        write_page([placement], path, title=title)
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for theme in ("light", "dark"):
            page = chromium.new_page(viewport={"width": 1280, "height": 760}, color_scheme=theme)
            page.goto(path.as_uri())
            show(page)
            page.mouse.move(5, 5)
            page.screenshot(path=FOLDER / f"{name}-{theme}.png")
        chromium.close()


def main() -> None:
    """Take all, or those whose names are given."""
    names = sys.argv[1:] or ["memory-map", "lower-the-peak"]
    if "memory-map" in names:
        take(resnet_50(), "ResNet-50", "memory-map", show_the_largest)
    if "lower-the-peak" in names:
        trace = record_script(EXAMPLES / "lower_the_peak.py", [])
        take(trace, "lower_the_peak.py", "lower-the-peak", lambda page: page.click("#tab-advice"))


if __name__ == "__main__":
    main()
