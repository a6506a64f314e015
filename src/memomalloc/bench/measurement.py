"""Measure one case: unplanned and planned calls in turns in one process, with memory, faults and results.

A recording leaves small blocks high in upstream's heap. With them there glibc cannot give its memory back as it
otherwise would, and takes a third of its page faults or none: the calls to compare with would not be those of a program
that never heard of memomalloc. So the plan is learned in a forked copy of the process, and armed before the first call.
"""

from __future__ import annotations

import contextlib
import gc
import io
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from memomalloc.bench import process
from memomalloc.bench.case import Case
from memomalloc.bench.forked import ProcessDiedError, Send, run_forked
from memomalloc.bench.futex import count_futex_calls
from memomalloc.bench.paired import Call, Side, Workers, take_pairs
from memomalloc.bench.row import Row, latency_figures, pooled
from memomalloc.bench.workload import Workload, same_bits, tensors_in
from memomalloc.errors import MissingDependencyError, RuntimeNotAvailableError
from memomalloc.runtime import extension
from memomalloc.runtime.memory.process_memory import release
from memomalloc.runtime.memory.statistics import Stats
from memomalloc.runtime.models.optimizing import optimize

#: Calls before anything is measured: oneDNN makes its primitives; compilers compile, some at a later call.
WARM_UP_CALLS = 2
WARM_UP_CALLS_COMPILED = 4
#: Calls until a plan must be armed; the runtime arms one after at most six recordings.
MAX_LEARNING_CALLS = 12
#: Calls over which the peak of memory is taken; from the second on, the outputs of the one before are gone.
CALLS_AT_PEAK = 2


@dataclass(frozen=True)
class Effort:
    """How long one case may take.

    Attributes:
        num_processes: a row is measured in so many fresh processes, and their pairs are pooled.
        budget_s: wall-clock time for the pairs of one process.
        whole_row_s: where building and warming up leave less than ``budget_s`` of this, the pairs get what is left.
        min_pairs: at least so many pairs, whatever they take.
        max_pairs: at most so many.
        calls_each: calls of one worker before the other side has its turn.
        futex: count futex calls as well, in calls of their own under strace.
        time_limit_s: a row that takes longer, with building and compiling, is given up.
    """

    num_processes: int = 1
    budget_s: float = 10.0
    min_pairs: int = 5
    max_pairs: int = 400
    calls_each: int = 1
    futex: bool = False
    whole_row_s: float = math.inf
    time_limit_s: float = 600.0


#: Calls of each worker over which futex calls are counted.
CALLS_TRACED = 3
#: Time for the pairs where building and warming up have used up that of the whole row.
MIN_BUDGET_S = 0.1
#: An error message in a row is cut here; some hold a whole compiler log.
MAX_ERROR_LENGTH = 1000

Progress = Callable[[str, float], None]


def measure(
    case: Case,
    build: Callable[[], Workload],
    effort: Effort,
    *,
    seed: int = 0,
    on_progress: Progress = lambda stage, share: None,
) -> Row:
    """Measure a case.

    Args:
        case: what to measure; its upstream must be the one that this process runs with.
        build: makes the model and its inputs; called once, with torch seeded.
        effort: how long to measure.
        seed: of torch's generator, for weights and inputs.
        on_progress: told what is being done and the share of it that is done, between calls.

    Returns:
        A row whose status says whether its figures mean what they say.

    Raises:
        Exception: whatever the model raises.
    """
    began = time.perf_counter()
    on_progress("building", 0.0)
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # threads started here would be missing in the forked learner
    workload = build()
    model = workload.in_mode(case.mode)
    on_progress("learning", 0.0)
    learned = run_forked(lambda send: _learn(case, workload, model))
    if isinstance(learned, str):
        return Row.of_case(case, status="unplanned", error=learned, elapsed_s=time.perf_counter() - began)
    wrapper: Any = optimize(model)
    wrapper.load_plans(io.BytesIO(learned), strict=True)
    upstream, planned = workload.caller(model), workload.caller(wrapper)
    memory = run_forked(lambda send: _memory_of(case, upstream, planned))

    with _modes(case), Workers(case.workers, lambda: _modes(case)) as workers:
        on_progress("warming up", 0.0)
        planned()  # arms the plan, before upstream's heap is used
        for _ in range(_warm_up_calls(case) - 1):
            upstream()
        reference = [tensor.clone() for tensor in tensors_in(upstream())]
        equal = same_bits(reference, planned())
        for call in (upstream, planned):  # by all workers, and on pages that are no more shared with a fork
            workers.run(call, 1, Side())

        before = wrapper.stats()
        pairs = take_pairs(
            upstream,
            planned,
            workers,
            budget_s=min(effort.budget_s, max(effort.whole_row_s - (time.perf_counter() - began), MIN_BUDGET_S)),
            min_pairs=effort.min_pairs,
            max_pairs=effort.max_pairs,
            calls_each=effort.calls_each,
            on_progress=lambda share: on_progress("measuring", share),
        )
        after = wrapper.stats()
        futex_calls: dict[str, float | None] = {}
        if effort.futex:
            on_progress("counting futex calls", 1.0)
            futex_calls["upstream_futex_calls"] = _futex_calls(workers, upstream)
            futex_calls["planned_futex_calls"] = _futex_calls(workers, planned)
        equal = equal and same_bits(reference, planned())
        repeatable = same_bits(reference, upstream())
    (plan,) = wrapper.plans
    replayed = _Replayed.between(before, after)
    status, error = _judge(replayed, pairs.planned.num_calls, equal, repeatable)
    return Row.of_case(
        case,
        status=status,
        error=error,
        **latency_figures(pairs.upstream.latencies_ms, pairs.planned.latencies_ms),
        **_of_side("upstream", pairs.upstream, memory["upstream"]),
        **_of_side("planned", pairs.planned, memory["planned"]),
        **futex_calls,
        arena_bytes=plan.arena_bytes,
        num_arenas=after.num_regions,
        lower_bound_bytes=plan.lower_bound_bytes,
        requests_per_call=replayed.planned // max(replayed.runs, 1),
        requests_served_share=replayed.served_share,
        requests_upstream=replayed.upstream,
        results_equal=equal if repeatable else None,
        planner=plan.planner,
        plan_s=plan.elapsed_s,
        elapsed_s=time.perf_counter() - began,
        num_processes=1,
        samples={
            "upstream_ms": [round(sample, 4) for sample in pairs.upstream.latencies_ms],
            "planned_ms": [round(sample, 4) for sample in pairs.planned.latencies_ms],
            "pairs_of_process": [pairs.num_pairs],
        },
    )


def attempt(
    case: Case,
    build: Callable[[], Workload],
    effort: Effort,
    *,
    seed: int = 0,
    on_progress: Progress = lambda stage, share: None,
) -> Row:
    """Like :func:`measure`, but in fresh copies of this process, and a model that fails gives a row that says so.

    Each copy begins with the heap that this process has now, whatever the rows before did. How much an allocator
    costs depends on what happens to lie where in the heap, so the pairs of several processes say more than those
    of one.

    Raises:
        MemomallocError: nothing can be measured here, for no case: a package is missing, or the runtime.
    """
    rows: list[Row] = []
    for number in range(effort.num_processes):

        def tell(stage: str, share: float, number: int = number) -> None:
            name = stage if effort.num_processes == 1 else f"{stage}, process {number + 1} of {effort.num_processes}"
            on_progress(name, (number + share) / effort.num_processes)

        rows.append(_attempt_once(case, build, effort, seed=seed, on_progress=tell))
        if rows[-1].ratio_median is None:
            return rows[-1]
    return pooled(rows)


def _attempt_once(
    case: Case, build: Callable[[], Workload], effort: Effort, *, seed: int, on_progress: Progress
) -> Row:
    began = time.perf_counter()

    def work(send: Send) -> Row:
        return measure(case, build, effort, seed=seed, on_progress=_seldom(lambda *news: send(news)))

    def failed(status: str, error: Exception) -> Row:
        message = f"{type(error).__name__}: {error}"[:MAX_ERROR_LENGTH]
        return Row.of_case(case, status=status, error=message, elapsed_s=time.perf_counter() - began)

    try:
        return run_forked(work, on_message=lambda news: on_progress(*news), time_limit_s=effort.time_limit_s)
    except (MissingDependencyError, RuntimeNotAvailableError):
        raise
    except TimeoutError as error:
        return failed("timed_out", error)
    except ProcessDiedError as error:
        return failed("out_of_memory" if error.signal_number == signal.SIGKILL else "failed", error)
    except Exception as error:  # whatever a model raises is its result
        return failed("out_of_memory" if _is_out_of_memory(error) else "failed", error)


def _seldom(on_progress: Progress) -> Progress:
    """Pass on a new stage at once and the share that is done four times a second: telling it takes time as well."""
    last_stage, last_s = "", 0.0

    def tell(stage: str, share: float) -> None:
        nonlocal last_stage, last_s
        now = time.monotonic()
        if stage != last_stage or now - last_s > 0.25:
            last_stage, last_s = stage, now
            on_progress(stage, share)

    return tell


def _is_out_of_memory(error: Exception) -> bool:
    # torch has no class for it on the CPU.
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _warm_up_calls(case: Case) -> int:
    return WARM_UP_CALLS if case.mode == "eager" else WARM_UP_CALLS_COMPILED


@contextlib.contextmanager
def _modes(case: Case) -> Iterator[None]:
    """The modes of torch that belong to a thread."""
    torch.set_num_threads(case.intra_op_threads)
    with torch.inference_mode():
        yield


def _futex_calls(workers: Workers, call: Call) -> float | None:
    counted = count_futex_calls(lambda: workers.run(call, CALLS_TRACED, Side()))
    return None if counted is None else counted / (CALLS_TRACED * workers.num_workers)


@dataclass(frozen=True)
class _Memory:
    peak_bytes: int
    steady_bytes: int


def _memory_of(case: Case, upstream: Call, planned: Call) -> dict[str, _Memory]:
    """By how much physical memory grows while the workers call, and by how much when they have, for both sides.

    Called in a process of its own. What is measured first is thrown away: it brings into memory the code that it runs,
    and leaves what the model keeps besides tensors (oneDNN's primitives). It is planned, so no tensor has gone through
    upstream before upstream's turn, and none of its memory can be retained.
    """
    with _modes(case), Workers(case.workers, lambda: _modes(case)) as workers:
        _growth(workers, planned)
        return {"planned": _growth(workers, planned), "upstream": _growth(workers, upstream)}


def _growth(workers: Workers, call: Call) -> _Memory:
    gc.collect()
    release()
    # What building the model has left would serve tensors as well.
    extension.load().release_upstream_memory()
    process.reset_peak_resident()
    before = process.resident_bytes()
    workers.run(call, CALLS_AT_PEAK, Side())
    return _Memory(
        peak_bytes=max(process.peak_resident_bytes() - before, 0),
        steady_bytes=max(process.resident_bytes() - before, 0),
    )


def _learn(case: Case, workload: Workload, model: Callable[..., Any]) -> bytes | str:
    """Saved plans, or the reason why there is none. Called in a process of its own."""
    with _modes(case):
        wrapper: Any = optimize(model, warm_up_calls=_warm_up_calls(case))
        planned = workload.caller(wrapper)
        for _ in range(MAX_LEARNING_CALLS):
            planned()
            if wrapper.plans:
                saved = io.BytesIO()
                num_saved = wrapper.save_plans(saved)
                return saved.getvalue() if num_saved else "the plan could not be saved"
    return "no plan was made; calls ran unplanned: " + ", ".join(sorted(wrapper.stats().runs_unplanned))


@dataclass(frozen=True)
class _Replayed:
    """What the measured calls did with the plan."""

    runs: int
    planned: int
    served: int
    missing: int
    upstream: Mapping[str, int]

    @classmethod
    def between(cls, before: Stats, after: Stats) -> _Replayed:
        return cls(
            runs=after.runs_replayed - before.runs_replayed,
            planned=after.requests_planned - before.requests_planned,
            served=after.requests_served - before.requests_served,
            missing=after.requests_missing - before.requests_missing,
            upstream={
                reason: count - before.requests_upstream.get(reason, 0)
                for reason, count in after.requests_upstream.items()
            },
        )

    @property
    def served_share(self) -> float:
        requests = self.served + sum(self.upstream.values())
        return self.served / requests if requests else 1.0


def _judge(replayed: _Replayed, num_calls: int, equal: bool, repeatable: bool) -> tuple[str, str]:
    """Status and error of a row that was measured."""
    if not equal and repeatable:
        return "different_results", "the outputs with the plan are not those without it"
    if replayed.runs < num_calls:
        return "deviated", f"{num_calls - replayed.runs} of {num_calls} calls ran unplanned"
    num_upstream = sum(replayed.upstream.values())
    if num_upstream or replayed.missing:
        reasons = ", ".join(f"{count} {reason}" for reason, count in replayed.upstream.items() if count)
        return "deviated", (
            f"of {replayed.planned} planned requests {replayed.missing} did not come; "
            f"{num_upstream} requests went upstream" + (f" ({reasons})" if reasons else "")
        )
    return "ok", "" if repeatable else "the model does not repeat its own results, so they could not be compared"


def _of_side(name: str, side: Side, memory: _Memory) -> dict[str, Any]:
    figures = {
        "calls_per_s": side.num_calls / side.wall_s,
        "cpu_ms": side.per_call(side.usage.cpu_s) * 1e3,
        "kernel_ms": side.per_call(side.usage.kernel_s) * 1e3,
        "minor_faults": side.per_call(side.usage.minor_faults),
        "voluntary_switches": side.per_call(side.usage.voluntary_switches),
        "peak_bytes": memory.peak_bytes,
        "steady_bytes": memory.steady_bytes,
    }
    return {f"{name}_{figure}": value for figure, value in figures.items()}
