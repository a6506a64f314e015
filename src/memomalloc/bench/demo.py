"""The demo: three real models, two batch sizes, one thread, in this process."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable

from memomalloc.bench.case import Case
from memomalloc.bench.measurement import Effort, attempt
from memomalloc.bench.model import Model
from memomalloc.bench.results import Results
from memomalloc.bench.transformers_models import DEMO
from memomalloc.runtime import extension

BATCHES = (1, 4)
EFFORT = Effort(budget_s=10.0, min_pairs=7)
#: What is spent on building and warming up on a slow or busy machine is saved on pairs.
WHOLE_DEMO_S = 50.0

SMOKE_BATCHES = (1, 2)
SMOKE_SIZES = {"px": 32, "tokens": 8}
SMOKE_EFFORT = Effort(budget_s=0.05, min_pairs=2, max_pairs=5)


def demo_cases(*, smoke: bool) -> list[tuple[Model, Case]]:
    """What the demo measures, in order."""
    upstream = extension.load().upstream_name()
    return [
        (
            model,
            Case("demo", model.name, batch, SMOKE_SIZES[model.size_unit] if smoke else size, upstream=upstream),
        )
        for model in DEMO
        for size in model.input_sizes
        for batch in (SMOKE_BATCHES if smoke else BATCHES)
    ]


def run_demo(results: Results, *, smoke: bool, on_progress: Callable[[int, Case, str, float], None]) -> None:
    """Measure every case of the demo; each row is in ``results`` as soon as it is known.

    Args:
        results: where the rows go.
        smoke: only see that it works: small inputs, a few pairs, in seconds.
        on_progress: told the number of the case, the case, what is being done and the share of it that is done.

    Raises:
        MissingDependencyError: transformers is not installed.
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    effort = SMOKE_EFFORT if smoke else EFFORT
    cases = demo_cases(smoke=smoke)
    began = time.monotonic()
    for number, (model, case) in enumerate(cases):
        left_s = WHOLE_DEMO_S - (time.monotonic() - began)
        row_effort = dataclasses.replace(effort, whole_row_s=left_s / (len(cases) - number))
        build = functools.partial(model.build, case.batch, case.input_size)
        report = functools.partial(on_progress, number, case)
        results.rows.append(attempt(case, build, row_effort, seed=results.seed, on_progress=report))
