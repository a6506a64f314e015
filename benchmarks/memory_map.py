"""Time the memory map in a real browser: how large the file is, how long it takes to open, and whether it stays fluid.

Opens each map several times in headless Chromium, turns the wheel and moves the pointer. Needs Chromium and playwright:

    apt-get install chromium && pip install playwright
    python benchmarks/memory_map.py --json results/memory_map.json
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import memomalloc
from memomalloc.bench.machine import describe_machine, describe_versions
from memomalloc.data import Trace
from memomalloc.extras import require
from memomalloc.report.html_page import write_page
from memomalloc.report.placement import Placement

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from sample_traces import large_trace

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
# Milliseconds from each turn of the wheel until all of it is drawn, half of them inwards and half outwards.
TURN_WHEEL = """async (turns) => {
  const map = document.querySelector(".map"), box = map.getBoundingClientRect(), times = [];
  for (let turn = 0; turn < turns; turn++) {
    const began = performance.now();
    map.dispatchEvent(new WheelEvent("wheel", { deltaY: turn < turns / 2 ? -100 : 100, cancelable: true,
      clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
    times.push(performance.now() - began);
  }
  return times;
}"""
MOVE_POINTER = """async (moves) => {
  const map = document.querySelector(".map"), box = map.getBoundingClientRect(), times = [];
  for (let move = 0; move < moves; move++) {
    const began = performance.now();
    map.dispatchEvent(new PointerEvent("pointermove", { clientX: box.x + 80 + (move / moves) * (box.width - 100),
      clientY: box.y + box.height * 0.7 }));
    times.push(performance.now() - began);
  }
  return times;
}"""


def resnet50_trace() -> Trace:
    """One inference of ResNet-50 with random weights."""
    import torch
    from transformers import ResNetConfig, ResNetModel

    model, images = ResNetModel(ResNetConfig()).eval(), torch.zeros(1, 3, 224, 224)
    with torch.no_grad():
        model(images)
        with memomalloc.record() as recording:
            outputs = model(images)
    del outputs
    return recording.trace


def measure(browser: Any, path: Path, rounds: int) -> dict[str, list[float]]:
    """Samples in milliseconds of opening a map, of one turn of the wheel in it, and of one move of the pointer."""
    samples: dict[str, list[float]] = {"open_ms": [], "wheel_ms": [], "pointer_ms": []}
    for _ in range(rounds):
        page = browser.new_page(viewport={"width": 1440, "height": 860})
        began = time.perf_counter()
        page.goto(path.as_uri())
        page.evaluate(TWO_FRAMES)
        samples["open_ms"].append(1000 * (time.perf_counter() - began))
        samples["wheel_ms"] += page.evaluate(TURN_WHEEL, 20)
        samples["pointer_ms"] += page.evaluate(MOVE_POINTER, 20)
        page.close()
    return samples


def main() -> None:
    """Measure, print the table, and keep the raw samples where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="one small map once, to see that it runs")
    parser.add_argument("--json", type=Path, help="where to write machine, versions and raw samples")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium here: apt-get install chromium")
    playwright = require("playwright.sync_api", extra="dev", feature="benchmarks/memory_map.py")

    rounds = 1 if arguments.smoke else arguments.rounds
    traces = {"1,000 buffers": large_trace(1000)}
    if not arguments.smoke:
        traces |= {
            "ResNet-50": resnet50_trace(),
            "10,000 buffers": large_trace(10_000),
            "100,000 buffers": large_trace(100_000),
        }
    results = []
    print(
        f"{'map':18}{'KiB':>8}{'open ms':>10}{'wheel ms':>10}{'95 %':>8}{'pointer ms':>12}   medians of {rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as folder, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
        for name, trace in traces.items():
            path = Path(folder) / "map.html"
            plan = memomalloc.plan(trace, planner="skyline")
            write_page([Placement.of_plan(plan, trace=trace)], path, title=name)
            samples = measure(browser, path, rounds)
            file_bytes = path.stat().st_size
            results.append({"map": name, "num_buffers": len(trace), "file_bytes": file_bytes, **samples})
            opened, wheel, pointer = (statistics.median(samples[key]) for key in samples)
            slow_wheel = statistics.quantiles(samples["wheel_ms"], n=20)[-1]
            print(f"{name:18}{file_bytes / 1024:8.0f}{opened:10.0f}{wheel:10.1f}{slow_wheel:8.1f}{pointer:12.2f}")
        version = browser.version
        browser.close()
    if arguments.json is not None:
        document = {
            "machine": describe_machine(),
            "versions": {**describe_versions(), "chromium": version},
            "rounds": rounds,
            "results": results,
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
