"""What a program suffers from, with the figures that say so and what helps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memomalloc.doctor.examination import Examination
from memomalloc.doctor.observation import Observation

MIB = 1 << 20
#: Less than this is nothing to see a doctor for, nor is less than the share of all that is resident.
MIN_BYTES = 32 * MIB
MIN_SHARE = 0.1
#: The share of the time, and page faults in a second, from which page faults are the trouble.
MIN_FAULT_SHARE = 0.08
MIN_FAULTS_PER_S = 10_000
#: A remedy that takes away less than this share of what it should did not work.
CURED_SHARE = 0.5

ONEDNN_OFF = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0"}


@dataclass(frozen=True)
class Diagnosis:
    """One thing that can be wrong, looked into.

    Attributes:
        name: what it is called.
        holds: the program has it.
        figures: what that was decided by, one sentence each.
        remedy: what helps; empty where nothing is wrong.
    """

    name: str
    holds: bool
    figures: tuple[str, ...]
    remedy: str = ""


def diagnose(examination: Examination) -> Iterator[Diagnosis]:
    """Look for everything that is known, the cheapest first; runs the program again where that alone can tell."""
    for look in (_page_faults, _retention, _thread_arenas, _live_tensors, _onednn_cache):
        yield look(examination)


def _mib(num_bytes: float) -> str:
    return f"{num_bytes / MIB:,.0f} MiB"


def _grew(num_bytes: int) -> str:
    return f"{'shrank' if num_bytes < 0 else 'grew'} by {_mib(abs(num_bytes))}"


def _matters(num_bytes: int, observation: Observation) -> bool:
    return num_bytes >= max(MIN_BYTES, MIN_SHARE * observation.samples[-1].resident_bytes)


def _page_faults(examination: Examination) -> Diagnosis:
    seen = examination.plain
    per_s = seen.repeated_faults / seen.cpu_s if seen.cpu_s > 0 else 0.0
    return Diagnosis(
        "page-fault-bound allocation",
        holds=seen.fault_share >= MIN_FAULT_SHARE and per_s >= MIN_FAULTS_PER_S,
        figures=(
            f"about {100 * seen.fault_share:.0f} % of the processor time went into page faults for memory that was "
            f"given back before (from {100 * MIN_FAULT_SHARE:.0f} % on it matters)",
            f"{per_s:,.0f} such page faults for each second of it (from {MIN_FAULTS_PER_S:,} on)",
        ),
        remedy="memomalloc.optimize(model) serves tensors from memory that stays mapped; where calls never repeat, "
        "MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 keeps glibc from giving memory back, for more of it",
    )


def _in_thread_arenas(seen: Observation) -> bool:
    arenas = seen.arenas
    return arenas is not None and arenas.other_free_bytes > arenas.main_free_bytes


def _retention(examination: Examination) -> Diagnosis:
    seen = examination.plain
    figures = [
        f"at the end {_mib(seen.samples[-1].resident_bytes)} were resident, of which {seen.allocator} gave back "
        f"{_mib(seen.retained_bytes)} when it was asked to"
    ]
    holds = _matters(seen.retained_bytes, seen) and not _in_thread_arenas(seen)
    if holds and _cured_without_onednn_cache(examination):
        holds = False
        figures.append("but without oneDNN's cache it retained nothing that matters: what the cache keeps lies between")
    return Diagnosis(
        "memory that the allocator retains",
        holds=holds,
        figures=tuple(figures),
        remedy="memomalloc.optimize(model): tensors that do not go through the allocator leave nothing in it; or let "
        "malloc_trim(0) be called now and then, or preload an allocator that gives memory back by itself",
    )


def _thread_arenas(examination: Examination) -> Diagnosis:
    seen = examination.plain
    arenas = seen.arenas
    if arenas is None:
        return Diagnosis("heaps of threads", holds=False, figures=(f"{seen.allocator} has none that glibc's tell of",))
    return Diagnosis(
        "heaps of threads",
        holds=_matters(seen.retained_bytes, seen) and _in_thread_arenas(seen),
        figures=(
            f"glibc has {arenas.num_arenas} heaps; free, but not given back, are {_mib(arenas.main_free_bytes)} in "
            f"that of the main thread and {_mib(arenas.other_free_bytes)} in the others",
            f"when it was asked to it gave back {_mib(seen.retained_bytes)}",
        ),
        remedy="MALLOC_ARENA_MAX=2 lets threads share heaps; memomalloc.optimize(model) keeps tensors out of them",
    )


def _live_tensors(examination: Examination) -> Diagnosis:
    seen = examination.plain
    figures = [
        f"tensors that the program can reach {_grew(seen.live_growth_bytes)} after the warm-up, "
        f"and physical memory {_grew(seen.growth_bytes)}"
    ]
    # Tensors that are merely seen at another moment of a call do not make the process grow.
    holds = _matters(min(seen.live_growth_bytes, seen.growth_bytes), seen)
    if holds:
        figures += [
            f"{_mib(holder.num_bytes)} in {holder.num_tensors} tensors asked for by {holder.origin}"
            for holder in examination.recorded().holders
        ]
    return Diagnosis(
        "tensors that stay alive",
        holds=holds,
        figures=tuple(figures),
        remedy="drop them: results kept in a list or cache, or activations that autograd keeps for a backward pass "
        "that never comes (run the model under torch.inference_mode())",
    )


def _onednn_cache(examination: Examination) -> Diagnosis:
    seen = examination.plain
    figures = [
        f"{_mib(max(_excess_bytes(seen), 0))} of what was resident at the end came after the warm-up and "
        "are not in tensors that the program can reach"
    ]
    holds = False
    if _matters(_excess_bytes(seen), seen):
        holds = _cured_without_onednn_cache(examination)
        saved = max(_saved_without_onednn_cache(examination), 0)
        figures.append(f"without the cache of primitives {_mib(saved)} less were resident at the end")
    return Diagnosis(
        "oneDNN's cache of primitives",
        holds=holds,
        figures=tuple(figures),
        remedy="each new shape of an input makes oneDNN compile and keep code: pad inputs to a few shapes, or bound "
        "the cache with ONEDNN_PRIMITIVE_CACHE_CAPACITY (1024 entries by default)",
    )


def _excess_bytes(seen: Observation) -> int:
    """What the program grew by after the warm-up and is not in tensors that it can reach."""
    return seen.growth_bytes - max(seen.live_growth_bytes, 0)


def _saved_without_onednn_cache(examination: Examination) -> int:
    # At the end, which is the same moment in both runs; where the warm-up ends varies with the load of the machine.
    seen, without = examination.plain, examination.with_variables(ONEDNN_OFF)
    return seen.samples[-1].resident_bytes - without.samples[-1].resident_bytes


def _cured_without_onednn_cache(examination: Examination) -> bool:
    excess = max(_excess_bytes(examination.plain), MIN_BYTES)
    return _saved_without_onednn_cache(examination) >= CURED_SHARE * excess
