"""The search for changes that lower the peak, alone and three together."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memomalloc.advice.deletions import deletions
from memomalloc.advice.earlier import earlier
from memomalloc.advice.in_place import in_place
from memomalloc.advice.peak import Peak, peak_of
from memomalloc.advice.proposal import Proposal
from memomalloc.advice.scratch import scratch
from memomalloc.advice.subject import Edit, Outcome, Subject
from memomalloc.advice.trials import TRIALS
from memomalloc.data.byte_text import byte_text
from memomalloc.data.origin import SourceLine
from memomalloc.data.trace import Trace
from memomalloc.errors import AdviceError
from memomalloc.planners import plan

_FINDERS = (in_place, deletions, earlier, scratch)
#: How many changes are told together.
NUM_TOGETHER = 3
#: A change that lowers the peak by a smaller share is not worth a line.
MIN_SHARE = 0.005
_MAX_CHANGES = 20
_PLANNING_S = 0.5


@dataclass(frozen=True)
class Memory:
    """What a program needs at once.

    Attributes:
        peak_bytes: the largest sum of requested sizes alive at one tick.
        lower_bound_bytes: no plan of it can be smaller: sizes aligned, outputs with places of their own.
        arena_bytes: of the plan that the planner finds.
    """

    peak_bytes: int
    lower_bound_bytes: int
    arena_bytes: int

    @classmethod
    def of(cls, trace: Trace) -> Memory:
        """Ask the bound and the planner."""
        made = plan(trace, time_limit_s=_PLANNING_S)
        return cls(trace.peak_live_bytes, made.lower_bound_bytes, made.arena_bytes)


@dataclass(frozen=True)
class Change:
    """A change of the program, and what it needs after it.

    Attributes:
        kind: what is done: ``in place``, ``del``, ``earlier``, ``packed weights``, or what was tried.
        text: what to do, in a sentence.
        source: the line to change; None where the change is none of one line, or the line is not known.
        modules: paths of the modules that it is done in, where it is not in all that the line calls.
        num_places: how many executions of the line it changes; 0 where the whole program was run with the change.
        alters: what it does to results and speed.
        is_exact: the program asks for exactly so much after it; otherwise for at least so much.
        after: what the program needs with this change alone.
    """

    kind: str
    text: str
    source: SourceLine | None
    modules: tuple[str, ...]
    num_places: int
    alters: str
    is_exact: bool
    after: Memory


@dataclass(frozen=True)
class Advice:
    """What would lower the peak of a program.

    Attributes:
        before: what it needs as it is.
        peak: why the peak is as high as it is.
        changes: each alone, the one that gives most first; those that only help with others are not among them.
        together: at most three that give most together, all exact; empty if none lowers the peak.
        after_together: what the program needs with them.
        is_complete: no other three of the changes that were found give more; False if the search ended before it knew.
    """

    before: Memory
    peak: Peak
    changes: tuple[Change, ...]
    together: tuple[Change, ...]
    after_together: Memory
    is_complete: bool

    @property
    def headline(self) -> str:
        """The advice in one line."""
        peak = self.before.peak_bytes
        if not self.together:
            return f"nothing that is known lowers the peak of {byte_text(peak)}"
        after = self.after_together.peak_bytes
        what = "; ".join(change.text for change in self.together)
        return f"the peak of {byte_text(peak)} falls to {byte_text(after)} ({1 - after / peak:.0%} less): {what}"

    def as_json(self) -> dict[str, Any]:
        """What ``memomalloc advise --json`` prints, ready for json."""
        return {"headline": self.headline, **dataclasses.asdict(self)}


def advise(
    trace: Trace,
    *,
    tried: Mapping[str, Trace] | None = None,
    time_limit_s: float = 10.0,
    progress: Callable[[str], object] | None = None,
) -> Advice:
    """Say which changes of a program lower its peak, each with the peak, bound and arena after it.

    Nothing is estimated: each change is made in the trace (or was recorded), and the bound and the planner are asked
    again.

    Args:
        trace: of ``memomalloc.record(calls=True)``, or a file of one: it must say who read its tensors.
        tried: traces of the same program with one change made, by the name of the change (see
            ``memomalloc.advice.trials``); ``memomalloc advise PROGRAM`` makes them.
        time_limit_s: how long to search for the three that give most together.
        progress: told in a few words what is looked at.

    Raises:
        AdviceError: the trace does not say who read its tensors, or a name in ``tried`` is not known.
    """
    deadline_s = time.monotonic() + time_limit_s
    tell = progress or (lambda _: None)
    if unknown := sorted(set(tried or {}) - TRIALS.keys()):
        raise AdviceError(f"{unknown[0]!r:.60} is no change that can be tried: use one of {', '.join(TRIALS)}")
    tell("looking for changes")
    subject = Subject(trace)
    before = Memory.of(trace)
    proposals = _proposals(subject)
    most = (1 - MIN_SHARE) * before.peak_bytes
    helping = sorted(
        (
            (outcome.peak_bytes, number, outcome)
            for number, proposal in enumerate(proposals)
            if (outcome := subject.outcome([proposal.edit])).peak_bytes <= most
        ),
        key=lambda entry: entry[:2],
    )[:_MAX_CHANGES]
    changes: list[Change] = []
    for _, number, outcome in helping:
        tell(f"planning {len(changes) + 1} of {len(helping)} changes")
        changes.append(_change(proposals[number], Memory.of(outcome.trace())))
    trials = {name: trial for name, trial in (tried or {}).items() if trial.peak_live_bytes <= most}
    # What was run is known exactly; what the trace alone tells of it is not needed then.
    changes = [change for change in changes if change.is_exact or change.kind not in (tried or {})]
    changes += [_trial_change(name, Memory.of(trial)) for name, trial in trials.items()]
    changes.sort(key=lambda change: (change.after.peak_bytes, not change.is_exact))

    tell("looking for three that give most together")
    best = _search(subject, proposals, NUM_TOGETHER, deadline_s)
    found: tuple[Change, ...] = ()
    for name, trial in trials.items():
        if trial.calls is None:
            continue
        other = Subject(trial)
        others = _proposals(other)
        result = _search(other, others, NUM_TOGETHER - 1, deadline_s)
        if result.outcome.peak_bytes < best.outcome.peak_bytes:
            best, subject, proposals = result, other, others
            found = (_trial_change(name, Memory.of(trial)),)
    chosen = [
        _change(proposals[number], Memory.of(subject.outcome([proposals[number].edit]).trace()))
        for number in sorted(best.chosen)
    ]
    return Advice(
        before,
        peak_of(Subject(trace)),
        tuple(changes),
        (*found, *chosen),
        Memory.of(best.outcome.trace()),
        best.is_complete,
    )


def _proposals(subject: Subject) -> list[Proposal]:
    return [proposal for find in _FINDERS for proposal in find(subject)]


def _change(proposal: Proposal, after: Memory) -> Change:
    edit = proposal.edit
    return Change(
        proposal.kind,
        proposal.text,
        proposal.source,
        proposal.modules,
        len(edit.freed or edit.merged or edit.removed),
        proposal.alters,
        proposal.is_exact,
        after,
    )


def _trial_change(name: str, after: Memory) -> Change:
    trial = TRIALS[name]
    return Change(name, trial.text, None, (), 0, trial.alters, True, after)


@dataclass(frozen=True)
class _Found:
    chosen: frozenset[int]
    outcome: Outcome
    is_complete: bool


def _search(subject: Subject, proposals: Sequence[Proposal], size: int, deadline_s: float) -> _Found:
    """The set of at most ``size`` exact proposals that leaves the lowest peak; of equal ones the smallest.

    A larger set leaves a lower peak only if one of its proposals has to do with a buffer that is alive at the peak:
    the others need not be looked at.
    """
    exact = [number for number, proposal in enumerate(proposals) if proposal.is_exact]
    touched = {number: np.array(sorted(proposals[number].buffers), dtype=np.int64) for number in exact}
    none: frozenset[int] = frozenset()
    best_set, best = none, subject.before
    seen = {none}
    level: list[tuple[frozenset[int], Outcome]] = [(none, subject.before)]
    is_complete = True
    for _ in range(size):
        following: list[tuple[frozenset[int], Outcome]] = []
        for chosen, outcome in level:
            for number in exact:
                larger = chosen | {number}
                if larger in seen or not outcome.alive[touched[number]].any():
                    continue
                if time.monotonic() > deadline_s:
                    is_complete = False
                    break
                seen.add(larger)
                changed = subject.outcome(_edits(proposals, larger))
                following.append((larger, changed))
                if changed.peak_bytes < best.peak_bytes:
                    best_set, best = larger, changed
        # What promises most comes first, in case the time is spent.
        level = sorted(following, key=lambda entry: entry[1].peak_bytes)
    return _Found(best_set, best, is_complete)


def _edits(proposals: Sequence[Proposal], numbers: frozenset[int]) -> list[Edit]:
    return [proposals[number].edit for number in sorted(numbers)]
