"""Take the pictures of the documentation: the memory maps of ResNet-50 and of a GPU's snapshot, light and dark.

Needs Chromium and playwright: ``apt-get install chromium && pip install playwright transformers``.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import sync_playwright
from transformers import ResNetConfig, ResNetModel

import memomalloc
from memomalloc.report import Placement, write_page
from memomalloc.report.snapshot_map import placements_of_memory

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from caching_allocator import MIB, CachingAllocator, stack, write

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


def snapshot_of_a_training(path: Path) -> None:
    """Three steps on an allocator that is simulated."""
    allocator = CachingAllocator()
    for i in range(8):
        allocator.alloc((4, 6, 9)[i % 3] * MIB, frames=stack(10 + i, module=f"block{i % 4}", function="linear"))
    for step in range(3):
        activations = []
        for i in range(10):
            module = f"block{i % 4}"
            scratch = allocator.alloc(3 * MIB + 400 * i, frames=stack(20, module=module, function="conv2d"))
            stream = 0 if i % 5 else 7
            size = (7 + i % 3 * 5) * MIB
            activations.append(
                allocator.alloc(size, stream=stream, frames=stack(30 + i, module=module, function="gelu"))
            )
            allocator.free(scratch)
        for i in reversed(range(10)):
            frames = stack(60, module=f"block{i % 4}", function="grad")
            gradient = allocator.alloc((6 + i % 4 * 4) * MIB, frames=frames)
            allocator.free(activations.pop())
            allocator.free(gradient)
        if step == 0:
            for i in range(8):
                allocator.alloc(5 * MIB + i, frames=stack(80, module="adamw", function="zeros_like"))
    write(path, allocator)


def main() -> None:
    """Write ``memory-map-light.png``, ``gpu-snapshot-light.png`` and the dark ones beside this file."""
    trace = record()
    placement = Placement.of_plan(memomalloc.plan(trace), trace=trace, title="planned")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "map.html"
        write_page([placement], path, title="ResNet-50")
        snapshot = Path(folder) / "snapshot.pickle"
        snapshot_of_a_training(snapshot)
        (memory,) = memomalloc.read_snapshot(snapshot).memories
        beside = Path(folder) / "beside.html"
        write_page(placements_of_memory(memory, memomalloc.plan(memory.problem())), beside, title="snapshot.pickle")
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for theme in ("light", "dark"):
            page = chromium.new_page(viewport={"width": 1280, "height": 760}, color_scheme=theme)
            page.goto(path.as_uri())
            # The buffer that is largest at the peak.
            page.click("#tab-alive")
            page.click("#alive tbody button")
            page.mouse.move(5, 5)
            page.screenshot(path=FOLDER / f"memory-map-{theme}.png")
            take_snapshots_map(chromium, beside, theme)
        chromium.close()


def take_snapshots_map(chromium: Any, path: Path, theme: str) -> None:
    """The real addresses beside a plan."""
    page = chromium.new_page(viewport={"width": 1280, "height": 700}, color_scheme=theme)
    page.goto(path.as_uri())
    page.wait_for_timeout(300)
    page.screenshot(path=FOLDER / f"gpu-snapshot-{theme}.png")


if __name__ == "__main__":
    main()
