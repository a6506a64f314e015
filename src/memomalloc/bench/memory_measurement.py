"""The process that measures the memory of others over one upstream: started with its library, it forks for each.

Reads a request from stdin and writes a line of JSON for each row, as :mod:`memomalloc.bench.upstream_process` does.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import random
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from memomalloc.bench import process as own
from memomalloc.bench.forked import Send, run_forked
from memomalloc.bench.measurement import MAX_ERROR_LENGTH
from memomalloc.bench.memory_processes import PROCESSES
from memomalloc.bench.memory_results import PLAIN, MemoryCase, MemoryRow
from memomalloc.bench.upstream_process import answers, require_upstream
from memomalloc.bench.workload import tensors_in
from memomalloc.errors import MemomallocError, MissingDependencyError, RuntimeNotAvailableError
from memomalloc.runtime import extension
from memomalloc.runtime.memory import armed_plan
from memomalloc.runtime.memory.process_memory import memory_stats, release
from memomalloc.runtime.models.optimizing import optimize


@dataclass(frozen=True)
class MemoryRequest:
    """What an upstream's process is asked to measure.

    Attributes:
        cases: all of the same upstream.
        seed: of weights, inputs and the order of calls.
        rounds: in which every call is made once.
        smoke: all is small.
    """

    cases: tuple[MemoryCase, ...]
    seed: int
    rounds: int
    smoke: bool

    def as_json(self) -> str:
        """The request as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> MemoryRequest:
        """The request in a text that :meth:`as_json` made."""
        values = json.loads(text)
        return cls(**{**values, "cases": tuple(MemoryCase(**case) for case in values["cases"])})


def measure(case: MemoryCase, request: MemoryRequest, send: Send) -> MemoryRow:
    """Run the process of a case in this one, and see by how much it grows.

    Args:
        case: what to measure; its upstream must be the one that this process runs with.
        request: how.
        send: told the number of each round that begins.
    """
    measured = PROCESSES[case.process]
    torch.manual_seed(request.seed)
    torch.set_num_threads(1)
    work = measured.build(request.smoke)
    models: list[Any] = [model.eval() for model in work.models]
    if case.shapes != PLAIN:
        models = [optimize(model, shapes=case.shapes) for model in models]
    order = random.Random(request.seed)
    gc.collect()
    # What building the models has left would serve tensors as well.
    extension.load().release_upstream_memory()
    own.reset_peak_resident()
    loaded_bytes, began_s = own.resident_bytes(), time.process_time()

    def growth(now_bytes: int) -> int:
        return max(now_bytes - loaded_bytes, 0)

    outputs: Any = None
    with torch.inference_mode():
        for number in range(request.rounds):
            send(number)
            outputs = work.call_all(models, order)
    cpu_s = time.process_time() - began_s
    if not request.smoke:
        time.sleep(measured.idle_s)
    row = MemoryRow(
        **dataclasses.asdict(case),
        num_calls=request.rounds * work.calls_a_round,
        end_bytes=growth(own.resident_bytes()),
        peak_bytes=growth(own.peak_resident_bytes()),
        output_bytes=sum(tensor.nbytes for tensor in tensors_in(outputs)),
        cpu_s=cpu_s,
    )
    if case.shapes != PLAIN:
        stats = armed_plan.stats()
        row = dataclasses.replace(
            row,
            num_recordings=stats.runs_recorded,
            served_share=stats.served_share,
            num_replayed=stats.runs_replayed,
            num_plans=stats.num_plans,
            num_regions=len(memory_stats().regions),
            largest_arena_bytes=max((plan.plan.arena_bytes for plan in armed_plan.alive()), default=0),
        )
    del outputs
    if case.shapes != PLAIN:
        release()
    released_bytes = growth(own.resident_bytes())
    gc.collect()
    extension.load().release_upstream_memory()
    return dataclasses.replace(row, released_bytes=released_bytes, trimmed_bytes=growth(own.resident_bytes()))


def main() -> None:
    """Serve the request on stdin."""
    with answers() as send:
        try:
            request = MemoryRequest.from_json(sys.stdin.read())
            require_upstream(request.cases[0].upstream)
            _serve(request, send)
        except MemomallocError as error:
            send({"error": str(error), "kind": type(error).__name__})


def _serve(request: MemoryRequest, send: Send) -> None:
    for case in request.cases:
        try:
            row = run_forked(
                lambda tell, case=case: measure(case, request, tell),  # type: ignore[misc]
                on_message=lambda number: send({"round": number}),
            )
        except (MissingDependencyError, RuntimeNotAvailableError):
            raise
        except Exception as error:  # whatever a process dies of is its result
            message = f"{type(error).__name__}: {error}"[:MAX_ERROR_LENGTH]
            row = MemoryRow(**dataclasses.asdict(case), error=message)
        send({"row": dataclasses.asdict(row)})


if __name__ == "__main__":
    # Nothing is downloaded, and nobody asks.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
