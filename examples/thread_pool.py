"""A service of plain threads: one wrapper, a pool of workers, each running call on a region of its own.

python examples/thread_pool.py
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import torch
from image_model import build, images

import memomalloc


@torch.inference_mode()
def main(num_workers: str = "4", num_requests: str = "200") -> None:
    """Serve requests, and say what was served from the plan."""
    reference = build()
    expected = [reference(images(seed)) for seed in range(8)]
    model = memomalloc.optimize(
        build(),
        example_inputs=images(0),  # plans before the first request
        arenas=memomalloc.ArenaSettings(max_arenas=int(num_workers), wait_s=1.0),
    )

    @torch.inference_mode()  # modes of torch belong to a thread
    def handle(seed: int) -> bool:
        return torch.equal(model(images(seed % 8)), expected[seed % 8])

    with ThreadPoolExecutor(int(num_workers)) as workers:
        correct = sum(workers.map(handle, range(int(num_requests))))
    print(f"{correct} of {num_requests} answers equal those of the model, bit for bit")
    print(memomalloc.memory_summary(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
