"""What learning costs a whole program, at every point of it: the CPU time and the page faults of `memomalloc run`.

    python benchmarks/learning_cost.py --json build/learning_cost.json
    python benchmarks/learning_cost.py --programs gpt2,sentences --repetitions 9

Each program runs as it is and under `memomalloc run`, in turn, in processes of its own, with one thread. It notes what
it has taken since its process began, imports included, after its 1st, 2nd, 3rd, 5th, 7th, 10th, ... request. A figure
is the median over the repetitions of (with memomalloc / without), which are neighbours in time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Request = Callable[[], Any]


# --- Programs. Each makes its model, and then one request after the other.


def _layers() -> Iterator[Request]:
    """No library but torch: the start of memomalloc is felt most."""
    import torch

    model = torch.nn.Sequential(*(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(8))).eval()
    images = torch.randn(1, 16, 128, 128)
    for _ in range(60):
        yield lambda: model(images)


def _demo(name: str, batch: int) -> Iterator[Request]:
    from memomalloc.bench.transformers_models import DEMO

    model = next(model for model in DEMO if model.name == name)
    workload = model.build(batch, next(iter(model.input_sizes)))
    call = workload.caller(workload.model)
    for _ in range(60):
        yield call


def _gpt2() -> Iterator[Request]:
    import torch
    import transformers

    model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        tokens = torch.randint(0, 50000, (1, 8), generator=generator)
        yield lambda tokens=tokens: model.generate(
            tokens, max_new_tokens=60, min_new_tokens=60, do_sample=False, pad_token_id=0
        )


def _sentences() -> Iterator[Request]:
    """320 sentences, of 5 to 60 tokens, in batches of 8: through an encoder of 6 layers, and the mean of its tokens."""
    import torch
    import transformers

    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = transformers.BertModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        length = int(torch.randint(5, 61, (1,), generator=generator))
        tokens = torch.randint(0, config.vocab_size, (8, length), generator=generator)
        yield lambda tokens=tokens: model(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state.mean(dim=1)


def _torchvision_detection(name: str) -> Iterator[Request]:
    import torch
    from torchvision.models import detection

    model = getattr(detection, name)(weights=None, weights_backbone=None).eval()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        height, width = (int(value) for value in torch.randint(240, 480, (2,), generator=generator))
        image = torch.rand(3, height, width, generator=generator)
        yield lambda image=image: model([image])


def _yolo() -> Iterator[Request]:
    import numpy
    import ultralytics

    model = ultralytics.YOLO("yolov8n.yaml")
    random = numpy.random.default_rng(0)
    for _ in range(20):
        height, width = random.integers(240, 640, 2)
        image = random.integers(0, 255, (height, width, 3), dtype=numpy.uint8)
        yield lambda image=image: model.predict(image, verbose=False, device="cpu")


#: Those with torchvision or ultralytics run where these are installed.
PROGRAMS: dict[str, Callable[[], Iterator[Request]]] = {
    "layers": _layers,
    "mobilenet_v2": lambda: _demo("mobilenet_v2", 1),
    "mobilenet_v2_8": lambda: _demo("mobilenet_v2", 8),
    "resnet_50": lambda: _demo("resnet_50", 1),
    "bert_small": lambda: _demo("bert_small", 1),
    "gpt2": _gpt2,
    "sentences": _sentences,
    "faster_rcnn": lambda: _torchvision_detection("fasterrcnn_mobilenet_v3_large_fpn"),
    "ssdlite": lambda: _torchvision_detection("ssdlite320_mobilenet_v3_large"),
    "yolo": _yolo,
}
LIBRARIES = {"faster_rcnn": "torchvision", "ssdlite": "torchvision", "yolo": "ultralytics"}


# --- In the program's process


@dataclass(frozen=True)
class Point:
    """What a process has taken when so many requests are done.

    Attributes:
        num_requests: that are done; 0: all is imported, and the model is made.
        cpu_s: CPU time since the process began, in seconds.
        num_faults: page faults likewise.
    """

    num_requests: int
    cpu_s: float
    num_faults: int


def _point(num_requests: int) -> Point:
    return Point(num_requests, time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt)


def run_program(name: str, file: Path) -> None:
    """Run a program in this process, and write its points."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    points: list[Point] = []
    done = 0
    due = 1.0
    with torch.inference_mode():
        for request in PROGRAMS[name]():
            if not points:
                points.append(_point(0))
            request()
            done += 1
            if done >= due:
                points.append(_point(done))
                due = max(done + 1, done * 1.4)
    if points[-1].num_requests != done:
        points.append(_point(done))
    file.write_text(json.dumps([asdict(point) for point in points]), encoding="utf-8")


# --- In the measuring process


@dataclass(frozen=True)
class Comparison:
    """A program with memomalloc beside itself without, when so many requests are done.

    Attributes:
        program: its name.
        num_requests: that are done.
        plain_cpu_s: CPU time without memomalloc, in seconds, the median.
        cpu_ratio: with over without: the median, the least and the largest of the repetitions.
        fault_ratio: likewise, of page faults.
        num_repetitions: of both.
    """

    program: str
    num_requests: int
    plain_cpu_s: float
    cpu_ratio: tuple[float, float, float]
    fault_ratio: tuple[float, float, float]
    num_repetitions: int


def _points(name: str, *, planned: bool) -> list[Point]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "points.json"
        way = ["-m", "memomalloc", "run"] if planned else []
        command = [sys.executable, *way, __file__, "--child", name, "--json", str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package need not be compiled at each start
        ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        if ended.returncode != 0:
            raise SystemExit(f"{name} {'under memomalloc run ' if planned else ''}failed:\n{ended.stderr[-2000:]}")
        return [Point(**point) for point in json.loads(file.read_text(encoding="utf-8"))]


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def compare(name: str, num_repetitions: int) -> list[Comparison]:
    """Measure a program; one comparison for each of its points."""
    pairs = []
    _points(name, planned=True)  # all is in the page cache, and compiled
    for repetition in range(num_repetitions):
        first, second = (_points(name, planned=planned) for planned in (repetition % 2 == 1, repetition % 2 == 0))
        pairs.append((second, first) if repetition % 2 else (first, second))
    comparisons = []
    for at, point in enumerate(pairs[0][0]):
        here = [(plain[at], planned[at]) for plain, planned in pairs]
        comparisons.append(
            Comparison(
                name,
                point.num_requests,
                statistics.median(plain.cpu_s for plain, _ in here),
                _spread([planned.cpu_s / plain.cpu_s for plain, planned in here]),
                _spread([planned.num_faults / plain.num_faults for plain, planned in here]),
                num_repetitions,
            )
        )
    return comparisons


def _is_there(name: str) -> bool:
    return name not in LIBRARIES or importlib.util.find_spec(LIBRARIES[name]) is not None


def main() -> None:
    """Measure, print, and keep the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", help=f"some of {','.join(PROGRAMS)} (default: all that can run here)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--smoke", action="store_true", help="one program, once")
    parser.add_argument("--child", choices=PROGRAMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_program(args.child, args.json)
        return
    chosen = args.programs.split(",") if args.programs else [name for name in PROGRAMS if _is_there(name)]
    if args.smoke:
        chosen, args.repetitions = ["layers"], 1
    print(f"{'program':<16}{'requests':>9}{'plain':>9}{'CPU time':>24}{'page faults':>24}")
    measured: list[Comparison] = []
    for name in chosen:
        for row in compare(name, args.repetitions):
            measured.append(row)
            cpu, faults = row.cpu_ratio, row.fault_ratio
            print(
                f"{row.program:<16}{row.num_requests:>9}{row.plain_cpu_s:>7.2f} s"
                f"{cpu[0]:>9.3f} ({cpu[1]:.3f} to {cpu[2]:.3f}){faults[0]:>8.3f} ({faults[1]:.3f} to {faults[2]:.3f})",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in measured], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
