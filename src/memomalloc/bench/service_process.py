"""The process that is a service: started with its allocator, it is told what to serve, line by line.

Each line on stdin is one order, and gets one line of JSON as its answer. Its memory is that of all processes in which
requests are answered.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from memomalloc.bench import process as memory
from memomalloc.bench.measurement import MAX_ERROR_LENGTH
from memomalloc.bench.process import Usage
from memomalloc.bench.service_load import Crew, Schedule, Served
from memomalloc.bench.service_mixes import MIXES, weights
from memomalloc.bench.upstream_process import answers, require_upstream
from memomalloc.bench.workload import same_bits
from memomalloc.errors import MemomallocError
from memomalloc.runtime import extension
from memomalloc.runtime.memory import armed_plan
from memomalloc.runtime.models.optimizing import optimize

#: At the start each kind of request is answered so often, by each process.
START_ROUNDS = 2
#: Results of so many kinds are compared.
NUM_COMPARED = 24
#: Between two looks at the memory of a service under load.
_LOOK_S = 0.1
_MIB = 1 << 20


@dataclass(frozen=True)
class Opening:
    """What a service is.

    Attributes:
        mix: what it is asked for.
        way: how its workers stand beside each other.
        upstream: the allocator that its process was started with.
        side: how its models are dressed.
        workers: how many.
        seed: of weights, inputs and the order of the first requests.
        smoke: all is small.
    """

    mix: str
    way: str
    upstream: str
    side: str
    workers: int
    seed: int
    smoke: bool


class RunningService:
    """A service from its opening on.

    Args:
        opening: what it is.
    """

    def __init__(self, opening: Opening) -> None:
        require_upstream(opening.upstream)
        torch.manual_seed(opening.seed)
        torch.set_num_threads(1)
        self.opening = opening
        built = MIXES[opening.mix].build(opening.smoke)
        self._requests, self._weights = built.requests, weights(built.requests)
        self._plain: list[Any] = [model.eval() for model in built.models]
        if "compiled" in opening.side:
            self._plain = [torch.compile(model) for model in self._plain]
        self.is_planned = "planned" in opening.side
        self._models = [optimize(model) for model in self._plain] if self.is_planned else self._plain
        gc.collect()
        # What building the models has left would serve tensors as well.
        extension.load().release_upstream_memory()
        self.crew = Crew(
            opening.way,
            opening.workers,
            self._answer,
            prepare=_modes,
            questions={"facts": _facts, "equal": self._equal},
        )
        self._loaded_bytes = 0
        for number in self.crew.processes:
            memory.reset_peak_resident(number)
        self._loaded_bytes = self._resident_bytes()

    def start(self) -> dict[str, Any]:
        """Answer the first requests, one to each model by itself, and all kinds in an order of chance."""
        began_s = time.monotonic()
        num_answered = 0
        planned: dict[str, Any] = {}

        def serve(kinds: Any) -> Served:
            nonlocal num_answered
            served = self.crew.serve(Schedule.at_once(kinds))
            num_answered += len(kinds)
            if self.is_planned and not planned and any(facts["num_replayed"] for facts in self.crew.ask("facts")):
                planned["first_planned_s"] = time.monotonic() - began_s
                planned["first_planned_requests"] = num_answered
            return served

        models = [request.model for request in self._requests]
        firsts = [serve([models.index(number)]).latencies_ms[0] for number in range(len(self._models))]
        random = np.random.default_rng(self.opening.seed)
        rounds = START_ROUNDS * (1 if self.opening.way == "threads" else self.opening.workers)
        order = np.concatenate([random.permutation(len(models)) for _ in range(rounds)])
        # A few at a time, to see when the first of them is replayed.
        while len(order) and self.is_planned and not planned:
            few, order = np.split(order, [self.opening.workers])
            serve(few)
        if len(order):
            serve(order)
        return {"first_request_ms": statistics.fmean(firsts), **planned}

    def saturate(self, seconds: float) -> dict[str, Any]:
        """Answer as many requests as can be answered."""
        random = np.random.default_rng(self.opening.seed)
        self.crew.serve(Schedule.at_once(random.choice(len(self._weights), 8 * self.opening.workers, p=self._weights)))
        num_requests, enough_s = 8 * self.opening.workers, 0.5 * seconds
        while True:
            kinds = random.choice(len(self._weights), num_requests, p=self._weights)
            served = self.crew.serve(Schedule.at_once(kinds, give_up_s=seconds))
            if served.seconds >= enough_s:
                return {"saturated_per_s": (num_requests - served.num_unanswered) / served.seconds}
            num_requests *= 4

    def load(self, rate_per_s: float, seconds: float, lead_in_s: float, seed: list[int], watch: bool) -> dict[str, Any]:
        """Answer requests that come at a rate, after some that do not count.

        Args:
            rate_per_s: requests a second, in the mean.
            seconds: how long they come.
            lead_in_s: how long those come that do not count: an idle service's memory may have gone back.
            seed: of arrivals.
            watch: look at the memory meanwhile.
        """
        lead_in_s = max(lead_in_s, 2 * self.opening.workers / rate_per_s)
        self.crew.serve(Schedule.open(rate_per_s, lead_in_s, self._weights, [*seed, 0]))
        curve: list[list[float]] = []
        with self._watched(curve) if watch else contextlib.nullcontext():
            served = self.crew.serve(Schedule.open(rate_per_s, seconds, self._weights, [*seed, 1]))
        usage: Usage = served.usage
        return {
            "latencies_ms": [round(latency, 4) for latency in served.latencies_ms.tolist()],
            "num_unanswered": served.num_unanswered,
            "faults": usage.minor_faults,
            "cpu_s": usage.cpu_s,
            "curve": curve,
        }

    def rest(self, seconds: float) -> dict[str, Any]:
        """Lie idle, and see what memory is left."""
        curve: list[list[float]] = []
        with self._watched(curve):
            time.sleep(seconds)
        return {"rest_bytes": self._growth(), "curve": curve}

    def close(self) -> dict[str, Any]:
        """What the service did in all, and whether its results are right."""
        facts = self.crew.ask("facts")
        peak_bytes = sum(memory.peak_resident_bytes(number) for number in self.crew.processes) - self._loaded_bytes
        total = {name: sum(each[name] for each in facts) for name in facts[0]}
        served, others = total.pop("served"), total.pop("upstream")
        return {
            **total,
            "peak_bytes": max(peak_bytes, 0),
            "served_share": served / (served + others) if served + others else None,
            "results_equal": all(self.crew.ask("equal")) if self.is_planned else None,
        }

    def _answer(self, kind: int) -> Any:
        request = self._requests[kind]
        return request.call(self._models[request.model])

    def _equal(self) -> bool:
        """Whether plans change no bit, of kinds all over the list."""
        step = max(len(self._requests) // NUM_COMPARED, 1)
        return all(
            same_bits(request.call(self._plain[request.model]), request.call(self._models[request.model]))
            for request in self._requests[::step]
        )

    def _resident_bytes(self) -> int:
        return sum(memory.resident_bytes(number) for number in self.crew.processes)

    def _growth(self) -> int:
        return max(self._resident_bytes() - self._loaded_bytes, 0)

    @contextlib.contextmanager
    def _watched(self, curve: list[list[float]]) -> Iterator[None]:
        """Add to a curve, again and again, how much memory there is: seconds from now, and MiB."""
        began_s, over = time.monotonic(), threading.Event()

        def look() -> None:
            while not over.wait(_LOOK_S):
                curve.append([round(time.monotonic() - began_s, 3), round(self._growth() / _MIB, 3)])

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


@contextlib.contextmanager
def _modes() -> Iterator[None]:
    """The modes of torch that belong to a thread."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


def _facts() -> dict[str, int]:
    """What this process did with plans."""
    stats = armed_plan.stats()
    return {
        "num_recordings": stats.runs_recorded,
        "num_replayed": stats.runs_replayed,
        "served": stats.requests_served,
        "upstream": sum(stats.requests_upstream.values()),
    }


def main() -> None:
    """Follow orders from stdin until it ends."""
    service: RunningService | None = None
    with answers() as send:
        for line in sys.stdin:
            order = json.loads(line)
            try:
                if service is None:
                    service = RunningService(Opening(**order))
                    send({})
                else:
                    send(getattr(service, order.pop("do"))(**order))
            except MemomallocError as error:
                send({"error": str(error)})
            except Exception as error:  # whatever a service dies of is its result
                send({"error": f"{type(error).__name__}: {error}"[:MAX_ERROR_LENGTH]})
    if service is not None:
        service.crew.close()


if __name__ == "__main__":
    # Nothing is downloaded, and nobody asks; one compiling process, since others would not survive the fork.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    warnings.simplefilter("ignore", FutureWarning)
    main()
