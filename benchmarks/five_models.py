"""What a process with five models and four workers needs, and what the first call after idle time costs.

The page docs/serving/memory.md has its figures.

    python benchmarks/five_models.py            # some minutes
    python benchmarks/five_models.py --smoke    # a few seconds

Each worker calls the models in an order of its own, and holds the outputs of its last call. The process is measured
planned and, in another process, as it is; both after the weights are loaded, at the end of the calls, and at rest.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

NUM_WORKERS = 4
MIB = 2**20


def build(smoke: bool) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Models of transformers by name, with random weights, and what they are called with."""
    import torch
    import transformers as tf

    torch.manual_seed(0)
    size, batch = (64, 1) if smoke else (224, 2)
    images = {"pixel_values": torch.randn(batch, 3, size, size)}
    tokens = {"input_ids": torch.randint(0, 1000, (batch, 16 if smoke else 128))}
    text = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    vit = {**text, "image_size": size, "patch_size": 16}
    return {
        "ResNet-50": (tf.ResNetForImageClassification(tf.ResNetConfig()).eval(), images),
        "ConvNeXt": (tf.ConvNextForImageClassification(tf.ConvNextConfig()).eval(), images),
        "MobileNetV2": (tf.MobileNetV2ForImageClassification(tf.MobileNetV2Config()).eval(), images),
        "ViT": (tf.ViTForImageClassification(tf.ViTConfig(**vit)).eval(), images),
        "BERT": (tf.BertModel(tf.BertConfig(**text)).eval(), tokens),
    }


def resident_bytes() -> int:
    """What is resident of the process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def work(models: dict[str, tuple[Any, dict[str, Any]]], num_rounds: int) -> int:
    """Let the workers call the models; the largest resident size that was seen."""
    import torch

    ready, done = threading.Barrier(NUM_WORKERS), threading.Event()

    def run(seed: int) -> None:
        order = [name for _ in range(num_rounds) for name in models]
        random.Random(seed).shuffle(order)
        ready.wait()
        held = None
        with torch.inference_mode():
            for name in order:
                model, inputs = models[name]
                held = model(**inputs)
        del held

    peak = 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident_bytes())

    watching = threading.Thread(target=watch)
    workers = [threading.Thread(target=run, args=(seed,)) for seed in range(NUM_WORKERS)]
    for thread in (watching, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    watching.join()
    return peak


def timed_ms(model: Any, inputs: dict[str, Any]) -> tuple[float, float, int]:
    """One call: CPU time and wall-clock time in milliseconds, and page faults."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    cpu, wall = time.process_time(), time.perf_counter()
    model(**inputs)
    spent = (time.process_time() - cpu, time.perf_counter() - wall)
    return spent[0] * 1e3, spent[1] * 1e3, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults


def idle_cost(models: dict[str, tuple[Any, dict[str, Any]]], num_rounds: int) -> dict[str, Any]:
    """What the first call costs after the pages went back, beside the call that comes next; medians."""
    import memomalloc

    costs: dict[str, Any] = {}
    for name, (model, inputs) in models.items():
        for _ in range(3):
            model(**inputs)
        pairs = []
        for _ in range(num_rounds):
            memomalloc.release()
            pairs.append((timed_ms(model, inputs), timed_ms(model, inputs)))
        costs[name] = {
            "first": [statistics.median(first[i] for first, _ in pairs) for i in range(3)],
            "next": [statistics.median(after[i] for _, after in pairs) for i in range(3)],
        }
    return costs


def measure(planned: bool, smoke: bool) -> dict[str, Any]:
    """All figures of one process."""
    import torch

    torch.set_num_threads(1)
    plain = build(smoke)
    weights = sum(p.nbytes for model, _ in plain.values() for p in (*model.parameters(), *model.buffers()))
    result: dict[str, Any] = {"weights_bytes": weights, "loaded_bytes": resident_bytes()}
    num_rounds = 1 if smoke else 3
    if not planned:
        result["peak_bytes"] = work(plain, num_rounds)
        result["end_bytes"] = resident_bytes()
        time.sleep(1 if smoke else 8)
        result["rest_bytes"] = resident_bytes()
        return result

    import memomalloc

    with torch.inference_mode():
        models = {
            name: (memomalloc.optimize(model, example_inputs=inputs), inputs) for name, (model, inputs) in plain.items()
        }
    result["learned_bytes"] = resident_bytes()
    result["plans"] = {
        name: {"arena_bytes": plan.arena_bytes, "escape_bytes": int(plan.sizes[plan.escapes].sum())}
        for name, (model, _) in models.items()
        for plan in memomalloc.plans(model)
    }
    result["peak_bytes"] = work(models, num_rounds)
    result["end_bytes"] = resident_bytes()
    memory = memomalloc.memory_stats()
    result["mapped_bytes"], result["peak_mapped_bytes"] = memory.mapped_bytes, memory.peak_mapped_bytes
    result["regions"] = [region.mapped_bytes for region in memory.regions]
    result["output_mapped_bytes"] = sum(region.output_mapped_bytes for region in memory.regions)
    result["runs_unplanned"] = dict(memomalloc.stats().runs_unplanned)
    result["served_share"] = memomalloc.stats().served_share
    time.sleep(1 if smoke else 8)
    result["rest_bytes"], result["rest_mapped_bytes"] = resident_bytes(), memomalloc.memory_stats().mapped_bytes
    result["summary"] = memomalloc.memory_summary()
    with torch.inference_mode():
        result["after_idle"] = idle_cost(models, 1 if smoke else 3)
    return result


def main() -> None:
    """Measure both processes and print what they need."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small inputs, one round")
    parser.add_argument("--json", action="store_true", help="print all figures")
    parser.add_argument("--only", choices=("planned", "plain"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only is not None:
        print(json.dumps(measure(args.only == "planned", args.smoke)))
        return
    results = {}
    for only in ("planned", "plain"):
        command = [sys.executable, __file__, "--only", only, *(["--smoke"] if args.smoke else [])]
        child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[only] = json.loads(child.stdout)
    if args.json:
        print(json.dumps(results, indent=1))
        return
    planned = results["planned"]
    print(f"{'weights':34} {planned['weights_bytes'] / MIB:8.1f} MiB")
    for name, plan in planned["plans"].items():
        print(f"{'arena of ' + name:34} {plan['arena_bytes'] / MIB:8.1f} MiB, outputs {plan['escape_bytes'] / MIB:.2f}")
    print(f"{'regions':34} {'  '.join(f'{size / MIB:.1f}' for size in planned['regions'])} MiB")
    print(f"{'outputs, as far as used':34} {planned['output_mapped_bytes'] / MIB:8.1f} MiB")
    print(f"{'mapped at the peak':34} {planned['peak_mapped_bytes'] / MIB:8.1f} MiB")
    print(f"served {planned['served_share']:.2%}, unplanned {planned['runs_unplanned']}")
    for name, result in results.items():
        for when in ("learned", "peak", "end", "rest"):
            if (size := result.get(f"{when}_bytes")) is not None:
                growth = (size - result["loaded_bytes"]) / MIB
                print(f"{name + ', ' + when:34} {growth:8.1f} MiB over the loaded process")
    for name, cost in planned["after_idle"].items():
        (cpu, wall, faults), (next_cpu, next_wall, next_faults) = cost["first"], cost["next"]
        print(
            f"{name:12} after idle {wall:7.1f} ms (CPU {cpu:.1f}, {faults:,.0f} faults), "
            f"next {next_wall:7.1f} ms (CPU {next_cpu:.1f}, {next_faults:,.0f} faults)"
        )
    print(planned["summary"])


if __name__ == "__main__":
    main()
