"""What a program suffers from, with the figures that say so and what was seen to help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from memomalloc.advice import Advice, advise
from memomalloc.data.origin import Origin
from memomalloc.data.trace import Trace
from memomalloc.doctor import account as parts
from memomalloc.doctor.account import Account, Holder
from memomalloc.doctor.examination import (
    AS_IT_IS,
    COLLECTED,
    FEW_ARENAS,
    GLIBC_GIVES,
    GLIBC_KEEPS,
    NEAR,
    NO_DYNAMO,
    NO_GRAD,
    NO_ONEDNN_CACHE,
    NO_TORCHSCRIPT,
    OPTIMIZED,
    SMALL_ONEDNN_CACHE,
    Examination,
    Remedy,
)
from memomalloc.doctor.observation import Observation

MIB = 1 << 20
#: Less than this is nothing to see a doctor for, nor is less than the share of all that is resident.
MIN_BYTES = 32 * MIB
MIN_SHARE = 0.1
#: Growth of which the last third of the run has no more than this share has ended.
MIN_LATE_SHARE = 0.1
#: Page faults, and page faults for each second of processor time, from which they are the trouble.
MIN_FAULTS = 15_000
MIN_FAULTS_PER_S = 8_000
#: Accounts between which the process grew by less than this share of all that it grew by do not tell what grew.
MIN_SEEN_SHARE = 0.2
#: A remedy that takes away less than this share of what it should did not work.
CURED_SHARE = 0.5
#: So many threads, or children, more are a trouble by themselves.
MIN_PILE = 32
MIN_CHILDREN = 8
MAX_NAMED = 5
#: Advice takes no longer than this; on more buffers it would.
ADVICE_S = 5.0
MAX_ADVISED = 50_000

PAGE_FAULTS = "page-fault-bound allocation"
RETENTION = "memory that the allocator retains"
THREAD_HEAPS = "heaps of threads"
LIVE_TENSORS = "tensors that stay alive"
PYTHON_OBJECTS = "Python objects that stay alive"
ONEDNN_CACHE = "oneDNN's cache of primitives"
COMPILED_GRAPHS = "compiled graphs that pile up"
THREADS = "threads that pile up"
CHILDREN = "child processes"
MAPPED_FILES = "files that stay mapped"
SHARED_MEMORY = "shared memory that stays"
UNEXPLAINED = "growth that nothing explains"


@dataclass(frozen=True)
class Trial:
    """What came of a remedy.

    Attributes:
        remedy: what was tried.
        figure: from what to what.
        saved_share: of what it should take away, the share that it did.
    """

    remedy: Remedy
    figure: str
    saved_share: float

    @property
    def helped(self) -> bool:
        """Whether it is worth recommending."""
        return self.saved_share >= CURED_SHARE

    def __str__(self) -> str:
        return f"{self.remedy.text}: {self.figure}"


@dataclass(frozen=True)
class Diagnosis:
    """One thing that can be wrong, looked into.

    Attributes:
        name: what it is called.
        holds: the program has it.
        figures: what that was decided by, one sentence each.
        remedies: what helps, the strongest first, each with the figure of a run with it where it can be tried from
            outside; empty where nothing is wrong.
        num_bytes: how much memory it is about; 0 where it is about time.
    """

    name: str
    holds: bool
    figures: tuple[str, ...]
    remedies: tuple[str, ...] = ()
    num_bytes: int = 0


def diagnose(examination: Examination) -> list[Diagnosis]:
    """Look for everything that is known; runs the program again where that alone can tell. What holds comes first: what
    goes on growing, by bytes, then time, then memory that lies idle."""
    growth = Growth(examination.plain)
    pinned_bytes = _pinned_by_onednn(examination, growth)
    found = [
        _page_faults(examination),
        _retention(examination, pinned_bytes),
        _live_tensors(examination, growth),
        _python_objects(examination, growth),
        *_native(examination, growth, pinned_bytes),
        _threads(examination, growth),
        _children(examination),
        _mapped(growth, parts.FILES, MAPPED_FILES),
        _mapped(growth, parts.SHARED, SHARED_MEMORY),
    ]
    last = (PAGE_FAULTS, RETENTION, THREAD_HEAPS)
    order = {name: 1 + at for at, name in enumerate(last)}
    return sorted(
        found, key=lambda diagnosis: (not diagnosis.holds, order.get(diagnosis.name, 0), -diagnosis.num_bytes)
    )


def mib(num_bytes: float) -> str:
    """So many bytes, to be read."""
    return f"{num_bytes / MIB:,.0f} MiB"


def grew(num_bytes: int) -> str:
    """By how much something grew or shrank, to be read."""
    return f"{'shrank' if num_bytes < 0 else 'grew'} by {mib(abs(num_bytes))}"


def _matters(num_bytes: float, observation: Observation) -> bool:
    return num_bytes >= _limit(observation)


def _limit(observation: Observation) -> float:
    return max(MIN_BYTES, MIN_SHARE * observation.last.resident_bytes)


class Growth:
    """By how much the process grew after the warm-up, and which part of its account did.

    Attributes:
        num_bytes: of physical memory.
        is_over: it has ended before the run did.
        by_part: by how much each part of the account grew in that time; empty where there are no two accounts
            that tell.
        lost_bytes: growth that was gone when the last account was taken: what a function held until it ended.
        recorded_bytes: growth that a recording explained, which no account shows.
    """

    def __init__(self, seen: Observation) -> None:
        self._seen = seen
        self.num_bytes = max(seen.growth_bytes, 0)
        self.is_over = seen.late_growth_bytes < MIN_LATE_SHARE * self.num_bytes
        self.warm: Account | None = seen.warm_look.account if seen.warm_look else None
        self.late: Account | None = self._late()
        self.by_part = self._by_part()
        self.lost_bytes = 0 if self.is_over else self._lost()
        self.recorded_bytes = 0

    @property
    def matters(self) -> bool:
        """Whether it is anything to see a doctor for."""
        return _matters(self.num_bytes, self._seen)

    def of(self, *names: str) -> int:
        """By how much parts of the account grew; never more than the process did: a moment in a call is no growth."""
        return min(sum(self.by_part.get(name, 0) for name in names), self.num_bytes)

    def holders(self) -> tuple[Holder, ...]:
        """Names under which more is reached than after the warm-up."""
        if self.late is None or self.warm is None:
            return ()
        return self.late.holders_since(self.warm, MIB)[:MAX_NAMED]

    def _by_part(self) -> dict[str, int]:
        if self.late is None or self.warm is None:
            return {}
        found = self.late.growth_since(self.warm)
        seen_bytes = self.late.resident_bytes - self.warm.resident_bytes
        if seen_bytes < MIN_SEEN_SHARE * self.num_bytes:
            return {}
        # The accounts may be of a shorter time than all that is growth: then it grew alike before and after.
        if seen_bytes < self.num_bytes:
            return {name: num_bytes * self.num_bytes // seen_bytes for name, num_bytes in found.items()}
        return found

    def _lost(self) -> int:
        seen = self._seen
        if self.late is None:
            return self.num_bytes
        if seen.looks[-1].at_s < seen.began_s + 0.97 * (seen.last.at_s - seen.began_s):
            return 0  # nobody could look at the end: it was not gone then
        return min(max(seen.sustained_bytes - self.late.resident_bytes, 0), self.num_bytes)

    def _late(self) -> Account | None:
        # What a function held is gone when the program has ended: the fullest of the late accounts.
        seen = self._seen
        latest_s = seen.began_s + 0.7 * (seen.last.at_s - seen.began_s)
        late = [look.account for look in seen.looks[1:] if look.at_s >= latest_s]
        return max(late, key=lambda account: account.resident_bytes - account.given_back_bytes, default=seen.account)


# --- Time ----------------------------------------------------------------------------------------------------------


def _page_faults(examination: Examination) -> Diagnosis:
    def repeated(seen: Observation) -> float:
        return seen.repeated_faults

    def per_s(seen: Observation) -> float:
        return seen.repeated_faults / seen.cpu_s if seen.cpu_s > 0 else 0.0

    faults = examination.median(AS_IT_IS, repeated, near=[MIN_FAULTS]) or 0.0
    rate = 0.0
    if faults >= MIN_FAULTS:
        rate = examination.median(AS_IT_IS, per_s, near=[MIN_FAULTS_PER_S]) or 0.0
    figures = [
        f"{faults:,.0f} page faults for memory that was given back before (from {MIN_FAULTS:,} on it matters)",
    ]
    if rate:
        figures.append(f"{rate:,.0f} of them for each second of processor time (from {MIN_FAULTS_PER_S:,} on)")
    holds = rate >= MIN_FAULTS_PER_S
    trials: list[Trial] = []
    if holds:
        figures.append(
            f"about {100 * examination.plain.fault_share:.0f} % of its processor time, "
            f"{examination.plain.cpu_s:.1f} s, went into them"
        )
        before_s = examination.median(AS_IT_IS, _cpu_s) or 0.0
        for remedy in (OPTIMIZED, GLIBC_KEEPS):
            after = examination.median(remedy, repeated, near=[CURED_SHARE * faults])
            after_s = examination.median(remedy, _cpu_s)
            if after is not None and after_s is not None:
                text = (
                    f"{faults:,.0f} -> {after:,.0f} such page faults, "
                    f"{before_s:.1f} -> {after_s:.1f} s of processor time"
                )
                trials.append(Trial(remedy, text, 1 - after / faults))
    # Where nothing that keeps memory mapped takes them away, they have another reason.
    holds = holds and (not trials or any(trial.helped for trial in trials))
    return _decided(PAGE_FAULTS, holds, figures, trials, untried=(OPTIMIZED, GLIBC_KEEPS))


# --- Memory that nobody uses ---------------------------------------------------------------------------------------


def _given_back(run: Observation) -> float:
    return run.account.given_back_bytes if run.account else 0.0


def _resident(run: Observation) -> float:
    return run.account.resident_bytes if run.account else run.last.resident_bytes


def _used(run: Observation) -> float:
    """What was resident and in use at the end: what the allocator has free does not count."""
    return _resident(run) - _given_back(run)


def _cpu_s(run: Observation) -> float:
    return run.cpu_s


def _retention(examination: Examination, pinned_bytes: float) -> Diagnosis:
    seen = examination.plain
    limit = _limit(seen)
    retained = _given_back(seen)
    if limit / NEAR <= retained <= limit * NEAR:
        retained = examination.median(AS_IT_IS, _given_back, near=[limit]) or 0.0
    account = seen.account
    if account is None:
        return Diagnosis(RETENTION, holds=False, figures=("it was gone before it could be looked at",))
    arenas, holds = account.arenas, retained >= limit and not pinned_bytes
    resident = account.resident_bytes
    figures = [
        f"of {mib(resident)} at the end a copy of the process gave back {mib(retained)} "
        f"when {account.allocator} was asked to"
    ]
    in_threads = arenas is not None and arenas.other_free_bytes > arenas.main_free_bytes
    if arenas is not None and arenas.num_arenas > 1:
        figures.append(
            f"glibc has {arenas.num_arenas} heaps; free are {mib(arenas.main_free_bytes)} in that of the main "
            f"thread and {mib(arenas.other_free_bytes)} in the others"
        )
    if pinned_bytes:
        figures.append("what oneDNN's cache keeps lies between: without it nothing was retained that matters")
    trials = []
    if holds:
        trim = "malloc_trim(0)" if account.allocator == "glibc" else f"a purge by {account.allocator}"
        trials.append(
            Trial(
                Remedy(f"{trim} now and then"), f"{mib(resident)} -> {mib(resident - retained)}, tried in the copy", 1.0
            )
        )
        remedies = [GLIBC_GIVES, OPTIMIZED]
        if in_threads:
            remedies.insert(0, FEW_ARENAS)
        trials += _saved_at_the_end(examination, remedies, retained)
    name = THREAD_HEAPS if in_threads and holds else RETENTION
    return _decided(name, holds, figures, trials, num_bytes=int(retained))


def _saved_at_the_end(examination: Examination, remedies: list[Remedy], num_bytes: float) -> list[Trial]:
    """Runs with remedies, by what was resident at their ends."""
    return [
        trial for remedy in remedies for trial in _compared(examination, remedy, num_bytes, _resident, "at the end")
    ]


def _used_less(examination: Examination, remedy: Remedy, num_bytes: float) -> list[Trial]:
    """A run with a remedy, by what was resident and in use at its end."""
    return _compared(examination, remedy, num_bytes, _used, "in use at the end")


def _compared(
    examination: Examination, remedy: Remedy, num_bytes: float, figure: Callable[[Observation], float], when: str
) -> list[Trial]:
    before, before_s = figure(examination.plain), examination.plain.cpu_s
    after = examination.median(remedy, figure, near=[before - CURED_SHARE * num_bytes])
    after_s = examination.median(remedy, _cpu_s)
    if after is None or after_s is None:
        return []
    text = f"{mib(before)} -> {mib(after)} {when}, {before_s:.1f} -> {after_s:.1f} s of processor time"
    return [Trial(remedy, text, (before - after) / max(num_bytes, 1))]


# --- Memory that is held -------------------------------------------------------------------------------------------


def _live_tensors(examination: Examination, growth: Growth) -> Diagnosis:
    names = [parts.TENSORS, parts.AUTOGRAD, *([] if growth.is_over else [parts.WEIGHTS])]
    num_bytes, saved = growth.of(*names), growth.of(parts.AUTOGRAD)
    seen = examination.plain
    figures = [f"tensors that the program can reach {grew(num_bytes)} after the warm-up"]
    holds = _matters(num_bytes, seen) and not growth.is_over
    unknown = _unexplained(growth) + growth.lost_bytes
    if not holds and growth.matters and not growth.is_over and unknown >= CURED_SHARE * growth.num_bytes:
        # Python reaches no tensor of a function that has ended, nor one that native code holds.
        trace = examination.recorded() if seen.torch_at_s is not None else None
        if trace is not None:
            alive = sum(size for _, _, size in _alive_late(trace))
            if alive >= CURED_SHARE * growth.num_bytes:
                holds, num_bytes = True, min(alive, growth.num_bytes)
                growth.lost_bytes, growth.recorded_bytes = 0, num_bytes
                figures = [f"tensors that are alive {grew(num_bytes)} after the warm-up, by a recording of them"]
    trials: list[Trial] = []
    remedies: list[str] = []
    if holds:
        if saved > 0:
            figures.append(f"{mib(saved)} of that autograd keeps for a backward pass")
        figures += [f"{mib(holder.num_bytes)} more by {holder.path}, {holder.what}" for holder in growth.holders()]
        trace = examination.recorded()
        if trace is not None:
            figures += [
                f"{mib(size)} in {num:,} tensors asked for by {origin}"
                for origin, num, size in _alive_late(trace)[:MAX_NAMED]
            ]
        if saved >= 0.3 * num_bytes:
            trials += _grown_with(examination, NO_GRAD, growth)
        trials += _collected(examination, growth, num_bytes)
        if not any(trial.helped for trial in trials):
            remedies.append(_let_go_of(growth))
        advice = _advice(examination)
        if advice is not None:
            figures.append(f"at its peak {advice.peak.text}")
            if advice.together:
                remedies.append(advice.headline)
    return _decided(LIVE_TENSORS, holds, figures, trials, num_bytes=num_bytes, also=remedies)


def _advice(examination: Examination) -> Advice | None:
    """What ``memomalloc advise`` says of the program; None where it is not known who reads its tensors."""
    trace = examination.recorded()
    if trace is None or trace.calls is None or not 0 < len(trace) <= MAX_ADVISED:
        return None
    return advise(trace, time_limit_s=ADVICE_S)


def _python_objects(examination: Examination, growth: Growth) -> Diagnosis:
    num_bytes = growth.of(parts.PYTHON, parts.PYTHON_FREE)
    figures = [f"Python's objects {grew(num_bytes)} after the warm-up"]
    holds = _matters(num_bytes, examination.plain) and not growth.is_over
    trials: list[Trial] = []
    remedies: list[str] = []
    if holds and growth.late is not None and growth.warm is not None:
        grown = []
        for name, (num, size) in growth.late.types.items():
            _, size_before = growth.warm.types.get(name, (0, 0))
            if size - size_before >= MIB:
                grown.append((size - size_before, num, name))
        figures += [
            f"{mib(size)} more in objects of {name}, of which there are {num:,}"
            for size, num, name in sorted(grown, reverse=True)[:MAX_NAMED]
        ]
        figures += [f"{mib(holder.num_bytes)} more by {holder.path}, {holder.what}" for holder in growth.holders()]
        trials += _collected(examination, growth, num_bytes)
        if not any(trial.helped for trial in trials):
            remedies.append(_let_go_of(growth))
    return _decided(PYTHON_OBJECTS, holds, figures, trials, num_bytes=num_bytes, also=remedies)


def _let_go_of(growth: Growth) -> str:
    holders = growth.holders()
    if holders:
        return f"let go of what {holders[0].path} holds, {holders[0].what}: it grew by {mib(holders[0].num_bytes)}"
    return "let go of them: results kept in a list or a cache"


def _collected(examination: Examination, growth: Growth, num_bytes: int) -> list[Trial]:
    """The trial of a collection of cycles, where much is reached by no module."""
    if growth.late is None or growth.warm is None:
        return []
    if growth.late.unreachable_bytes - growth.warm.unreachable_bytes < 0.3 * num_bytes:
        return []
    return _grown_with(examination, COLLECTED, growth)


def _grown_with(examination: Examination, remedy: Remedy, growth: Growth) -> list[Trial]:
    """A run with a remedy, by how much the process grew in it."""
    after = examination.median(
        remedy, lambda run: max(run.growth_bytes, 0), near=[(1 - CURED_SHARE) * growth.num_bytes]
    )
    if after is None:
        return []
    text = f"growth after the warm-up {mib(growth.num_bytes)} -> {mib(after)}"
    return [Trial(remedy, text, 1 - after / max(growth.num_bytes, 1))]


def _alive_late(trace: Trace) -> list[tuple[str, int, int]]:
    """Who asked for tensors that were made after the warm-up and live at the fullest moment of the last third: origin,
    how many, bytes; most bytes first."""
    buffers = trace.buffers
    changes: Counter[int] = Counter()
    for buffer in buffers:
        changes[buffer.start] += buffer.size_bytes
        changes[buffer.end] -= buffer.size_bytes
    live = fullest = best = 0
    for tick in sorted(changes):
        live += changes[tick]
        if 3 * tick >= 2 * trace.end_tick and live > best and tick < trace.end_tick:
            best, fullest = live, tick
    num: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for buffer in buffers:
        if Observation.WARM_UP_SHARE * trace.end_tick <= buffer.start <= fullest < buffer.end:
            name = _name_of(buffer.origin)
            num[name] += 1
            size[name] += buffer.size_bytes
    return [(name, num[name], num_bytes) for name, num_bytes in size.most_common()]


def _name_of(origin: Origin | None) -> str:
    if origin is None:
        return "unknown"
    where = [part for part in (origin.operator, origin.module_path, str(origin.source or "")) if part]
    return ", ".join(where) or "unknown"


# --- Native memory -------------------------------------------------------------------------------------------------

_NATIVE_PARTS = (parts.NATIVE, parts.CODE, parts.UNEXPLAINED, parts.FRAGMENTS)


def _unexplained(growth: Growth) -> int:
    if not growth.by_part:
        return 0 if growth.is_over else growth.num_bytes - growth.lost_bytes - growth.recorded_bytes
    return max(growth.of(*_NATIVE_PARTS) - growth.recorded_bytes, 0)


def _native(examination: Examination, growth: Growth, pinned_bytes: float) -> list[Diagnosis]:
    """What native code keeps: which of its caches it is, a run without each tells."""
    left = float(_unexplained(growth))
    onednn = _onednn_cache(examination, growth, left, pinned_bytes)
    left -= onednn.num_bytes if onednn.holds and not pinned_bytes else 0
    graphs = _compiled_graphs(examination, growth, left)
    left -= graphs.num_bytes if graphs.holds else 0
    return [onednn, graphs, _nothing_known(examination, growth, int(left))]


def _uses_onednn(examination: Examination, growth: Growth) -> bool:
    # It compiles code for each primitive, into mappings of no file.
    return examination.plain.torch_at_s is not None and growth.late is not None and growth.late.parts[parts.CODE] > 0


def _pinned_by_onednn(examination: Examination, growth: Growth) -> float:
    """Bytes that the allocator retains because what oneDNN's cache keeps lies between them; 0 where it is not so.

    The cache is small then, and goes on growing; without it nothing is retained that matters.
    """
    seen = examination.plain
    if growth.is_over or not _uses_onednn(examination, growth) or not _matters(_given_back(seen), seen):
        return 0.0
    retained, limit = _given_back(seen), _limit(seen)
    without = examination.median(NO_ONEDNN_CACHE, _given_back, near=[limit])
    after = examination.median(NO_ONEDNN_CACHE, _resident)
    if without is None or after is None or without >= limit or _resident(seen) - after < CURED_SHARE * retained:
        return 0.0
    return retained


def _onednn_cache(examination: Examination, growth: Growth, left: float, pinned_bytes: float) -> Diagnosis:
    figures = [f"memory in use by native code {grew(growth.of(*_NATIVE_PARTS))} after the warm-up"]
    if pinned_bytes:
        without, *_ = _saved_at_the_end(examination, [NO_ONEDNN_CACHE], pinned_bytes)
        figures.append(f"{mib(pinned_bytes)} of free memory cannot go back since what it keeps lies between; {without}")
        trials = _saved_at_the_end(examination, [SMALL_ONEDNN_CACHE], pinned_bytes)
        saved = pinned_bytes
    elif _uses_onednn(examination, growth) and _matters(left, examination.plain):
        trials = _used_less(examination, NO_ONEDNN_CACHE, left)
        figures += map(str, trials)
        if not (trials and trials[0].helped):
            return Diagnosis(ONEDNN_CACHE, holds=False, figures=tuple(figures))
        saved = min(trials[0].saved_share, 1.0) * left
        trials = _used_less(examination, SMALL_ONEDNN_CACHE, saved)
    else:
        return Diagnosis(ONEDNN_CACHE, holds=False, figures=tuple(figures))
    also = ["each new shape of an input makes oneDNN compile and keep code: pad inputs to a few shapes"]
    return _decided(ONEDNN_CACHE, True, figures, trials, num_bytes=int(saved), also=also)


def _compiled_graphs(examination: Examination, growth: Growth, left: float) -> Diagnosis:
    figures: list[str] = []
    if examination.plain.torch_at_s is not None and _matters(left, examination.plain):
        for without in (NO_TORCHSCRIPT, NO_DYNAMO):
            trials = _used_less(examination, without, left)
            figures += map(str, trials)
            if trials and trials[0].helped:
                advice = (
                    "torch.jit and torch.compile keep what they made as long as the process lives: trace, script or "
                    f"compile a model once, not in each call; without it {trials[0].figure}"
                )
                saved = int(min(trials[0].saved_share, 1.0) * left)
                return _decided(COMPILED_GRAPHS, True, figures, [], num_bytes=saved, also=[advice])
    return Diagnosis(COMPILED_GRAPHS, holds=False, figures=tuple(figures))


def _nothing_known(examination: Examination, growth: Growth, left: int) -> Diagnosis:
    lost = growth.lost_bytes
    holds = _matters(left + lost, examination.plain) and growth.matters and not growth.is_over
    figures = []
    if holds:
        figures.append(f"it {growing(examination.plain)}")
        if left >= MIB:
            figures.append(
                f"{mib(left)} are in memory that native code uses or nobody accounts for: no remedy took it away"
            )
        if lost >= MIB:
            figures.append(f"{mib(lost)} were gone when it ended: what a function held until then")
    return Diagnosis(UNEXPLAINED, holds=holds, figures=tuple(figures), num_bytes=left + lost if holds else 0)


def growing(seen: Observation) -> str:
    """By how much a program grows, and when that is much, to be read."""
    per_s = seen.growth_per_s
    text = f"{grew(seen.growth_bytes)} in {seen.last.at_s - seen.warm_s:.1f} s"
    if per_s <= 0:
        return text
    seconds = (8 << 30) / per_s
    after = (
        f"{seconds:,.0f} s"
        if seconds < 120
        else f"{seconds / 60:,.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:,.0f} h"
    )
    return f"{text}: {per_s / MIB:,.1f} MiB a second, 8 GiB after {after}"


# --- Threads, children, files --------------------------------------------------------------------------------------


def _threads(examination: Examination, growth: Growth) -> Diagnosis:
    seen = examination.plain
    warm = min(seen.samples, key=lambda sample: abs(sample.at_s - seen.warm_s))
    late = max(seen.samples[len(seen.samples) // 2 :], key=lambda sample: sample.num_threads)
    middle = min(seen.samples, key=lambda sample: abs(sample.at_s - (seen.warm_s + late.at_s) / 2))
    more = late.num_threads - warm.num_threads
    stacks = max(growth.of(parts.STACKS), 0)
    holds = more >= MIN_PILE and late.num_threads > middle.num_threads
    figures = [f"threads: {warm.num_threads} after the warm-up, {late.num_threads} at most later"]
    if holds:
        figures.append(f"their stacks {grew(stacks)}; each has room for its stack, and may get a heap of its own")
    also = ["let threads end, or let a pool of a fixed size do the work (concurrent.futures.ThreadPoolExecutor)"]
    return _decided(THREADS, holds, figures, [], num_bytes=stacks, also=also)


def _children(examination: Examination) -> Diagnosis:
    seen = examination.plain
    warm = min(seen.samples, key=lambda sample: abs(sample.at_s - seen.warm_s))
    late = max(seen.samples[len(seen.samples) // 2 :], key=lambda sample: sample.children_bytes)
    middle = min(seen.samples, key=lambda sample: abs(sample.at_s - (seen.warm_s + late.at_s) / 2))
    more, num_more = late.children_bytes - warm.children_bytes, late.num_children - warm.num_children
    goes_on = late.children_bytes - middle.children_bytes >= MIN_LATE_SHARE * more
    piles = num_more >= MIN_CHILDREN and late.num_children > middle.num_children
    holds = goes_on and (more >= max(MIN_BYTES, MIN_SHARE * late.children_bytes) or piles)
    figures = [
        f"processes that it started: {late.num_children}, with {mib(late.children_bytes)} for themselves "
        f"({warm.num_children} with {mib(warm.children_bytes)} after the warm-up)"
    ]
    if holds:
        largest = sorted(seen.children, key=lambda child: -child.private_bytes)[:MAX_NAMED]
        for child in largest:
            figures.append(
                f"{mib(child.private_bytes)}, and {mib(child.shared_bytes)} shared, in process {child.pid}: "
                f"{child.command:.80}"
            )
            account = seen.child_accounts.get(child.pid)
            figures += [
                f"process {child.pid}: {mib(holder.num_bytes)} by {holder.path}, {holder.what}"
                for holder in (account.holders[:2] if account else ())
                if holder.num_bytes >= MIN_SHARE * child.private_bytes
            ]
    also = [
        "wait for those that have ended their work, or end them; of a worker that grows, ask the doctor about the "
        "program that it runs"
    ]
    return _decided(CHILDREN, holds, figures, [], num_bytes=max(more, 0), also=also)


def _mapped(growth: Growth, part: str, name: str) -> Diagnosis:
    num_bytes = growth.of(part)
    figures = [f"{part} {grew(num_bytes)} after the warm-up"]
    holds = growth.matters and not growth.is_over and num_bytes >= max(MIN_BYTES, MIN_SHARE * growth.num_bytes)
    if holds and growth.late is not None and growth.warm is not None:
        grown = sorted(
            ((size - growth.warm.files.get(file, 0), file) for file, size in growth.late.files.items()), reverse=True
        )
        figures += [f"{mib(size)} more of {file}" for size, file in grown[:MAX_NAMED] if size >= MIB]
    also = [
        "pages of a file go when memory is short; a mapping goes with the last array or tensor that looks into it"
        if part == parts.FILES
        else "close and unlink it: a block of shared memory lives as long as a process has it mapped or its name "
        "is there"
    ]
    return _decided(name, holds, figures, [], num_bytes=max(num_bytes, 0), also=also)


# --- Verdicts ------------------------------------------------------------------------------------------------------


def _decided(
    name: str,
    holds: bool,
    figures: list[str],
    trials: list[Trial],
    *,
    num_bytes: int = 0,
    also: list[str] | None = None,
    untried: tuple[Remedy, ...] = (),
) -> Diagnosis:
    """A diagnosis with the remedies that were seen to help, the strongest first; what did not help is a figure."""
    if not holds:
        return Diagnosis(name, holds=False, figures=tuple(figures))
    ranked: Callable[[Trial], float] = lambda trial: -trial.saved_share  # noqa: E731
    trials = sorted(trials, key=ranked)
    failed = [f"no cure: {trial}" for trial in trials if not trial.helped]
    remedies = [str(trial) for trial in trials if trial.helped]
    if not trials:
        remedies += [f"{remedy.text} (not tried: the program was not run again)" for remedy in untried]
    return Diagnosis(name, True, (*figures, *failed), (*remedies, *(also or ())), num_bytes)
