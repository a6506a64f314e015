"""Take the pictures of the documentation, light and dark: the maps of ResNet-50 and of a GPU's snapshot, and what
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
from memomalloc.report.snapshot_map import placements_of_memory

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from caching_allocator import MIB, CachingAllocator, stack, write

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


def snapshot_of_a_training(path: Path) -> None:
    """Three steps on an allocator that is simulated."""
    allocator = CachingAllocator()
    for i in range(8):
        allocator.alloc((4, 6, 9)[i % 3] * MIB, frames=stack(10 + i, module=f"block{i % 4}", function="linear"))
    for step in range(3):
        allocator.annotate(f"step {step}", "START")
        allocator.annotate("forward", "START")
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
        allocator.annotate("forward", "END")
        allocator.annotate("backward", "START")
        for i in reversed(range(10)):
            frames = stack(60, module=f"block{i % 4}", function="grad")
            gradient = allocator.alloc((6 + i % 4 * 4) * MIB, frames=frames)
            allocator.free(activations.pop())
            allocator.free(gradient)
        allocator.annotate("backward", "END")
        if step == 0:
            for i in range(8):
                allocator.alloc(5 * MIB + i, frames=stack(80, module="adamw", function="zeros_like"))
        allocator.annotate(f"step {step}", "END")
    write(path, allocator)


def show_the_largest(page: Page) -> None:
    """The buffer that is largest at the peak."""
    page.click("#tab-alive")
    page.click("#alive tbody button")


def take(placements: list[Placement], title: str, name: str, show: Callable[[Page], object], height: int = 760) -> None:
    """Write ``NAME-light.png`` and ``NAME-dark.png`` beside this file."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "map.html"
        write_page(placements, path, title=title)
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for theme in ("light", "dark"):
            page = chromium.new_page(viewport={"width": 1280, "height": height}, color_scheme=theme)
            page.goto(path.as_uri())
            show(page)
            page.mouse.move(5, 5)
            page.screenshot(path=FOLDER / f"{name}-{theme}.png")
        chromium.close()


def planned(trace: memomalloc.Trace) -> list[Placement]:
    """What a plan makes of a trace."""
    return [Placement.of_plan(memomalloc.plan(trace), trace=trace, title="planned")]


def beside_a_plan() -> list[Placement]:
    """A snapshot's real addresses beside a plan."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot.pickle"
        snapshot_of_a_training(path)
        snapshot = memomalloc.read_snapshot(path)
        (memory,) = snapshot.memories
        return placements_of_memory(memory, memomalloc.plan(memory.problem()), annotations=snapshot.annotations)


def main() -> None:
    """Take all, or those whose names are given."""
    names = sys.argv[1:] or ["memory-map", "gpu-snapshot", "lower-the-peak"]
    if "memory-map" in names:
        take(planned(resnet_50()), "ResNet-50", "memory-map", show_the_largest)
    if "gpu-snapshot" in names:
        take(beside_a_plan(), "snapshot.pickle", "gpu-snapshot", lambda page: page.wait_for_timeout(300), height=700)
    if "lower-the-peak" in names:
        trace = record_script(EXAMPLES / "lower_the_peak.py", [])
        take(planned(trace), "lower_the_peak.py", "lower-the-peak", lambda page: page.click("#tab-advice"))


if __name__ == "__main__":
    main()
