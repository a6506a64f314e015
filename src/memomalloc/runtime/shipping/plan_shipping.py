"""Save what a function has learned, and start another process with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO

from memomalloc.data.atomic_file import atomic_file
from memomalloc.data.input_file import read_all, read_bounded
from memomalloc.errors import FileFormatError, MemomallocError, StalePlansError
from memomalloc.runtime import extension
from memomalloc.runtime.calls.call_digest import UnnamedCallError, digest_of
from memomalloc.runtime.calls.planned_function import PlannedFunction
from memomalloc.runtime.events import report
from memomalloc.runtime.learning.learned_calls import LearnedCalls
from memomalloc.runtime.shipping.fingerprint import fingerprint
from memomalloc.runtime.shipping.plan_archive import PlanArchive
from memomalloc.runtime.switch import switch

MAX_ARCHIVE_BYTES = 2**28

PlansFile = str | Path | IO[bytes]


def save_plans(planned: PlannedFunction, file: PlansFile) -> int:
    """Write all plans that are armed; to a path atomically. How many those were."""
    learned = named_calls(planned)
    content = PlanArchive(fingerprint(planned.function), learned).to_bytes()
    if isinstance(file, (str, Path)):
        with atomic_file(file) as opened:
            opened.write(content)
    else:
        file.write(content)
    return len(learned)


def named_calls(planned: PlannedFunction) -> dict[str, LearnedCalls]:
    """What was learned of calls that mean the same in another process, by digest of the call."""
    learned: dict[str, LearnedCalls] = {}
    for key, calls in planned.learned().items():
        try:
            learned[digest_of(key)] = calls
        except UnnamedCallError as error:
            report("plan_not_saved", planned.name, f"a plan for {planned.name} cannot be saved: {error}")
    return learned


def load_plans(planned: PlannedFunction, file: PlansFile, *, strict: bool) -> int:
    """Let calls be replayed from plans that were saved; how many plans there are, 0 if they were refused.

    Raises:
        FileFormatError: strict, and it is not a whole, undamaged file of valid plans.
        StalePlansError: strict, and they were learned with something else.
    """
    try:
        learned = _read(planned, file)
    except MemomallocError as error:
        if strict:
            raise
        report("plans_refused", planned.name, f"saved plans are refused, {planned.name} learns anew: {error}")
        return 0
    planned.adopt(learned)
    report("plans_loaded", planned.name, f"{len(learned)} saved plans for {planned.name}", num_plans=len(learned))
    return len(learned)


def _read(planned: PlannedFunction, file: PlansFile) -> dict[str, LearnedCalls]:
    if isinstance(file, (str, Path)):
        name, content = str(file), read_bounded(file, MAX_ARCHIVE_BYTES, what="file of saved plans")
    else:
        name = str(getattr(file, "name", "saved plans"))
        content = read_all(file, name, MAX_ARCHIVE_BYTES, what="file of saved plans")
    archive = PlanArchive.from_bytes(content, name)
    here = fingerprint(planned.function)
    for part in sorted({*here, *archive.fingerprint}):
        theirs, ours = archive.fingerprint.get(part), here.get(part)
        if theirs != ours:
            raise StalePlansError(
                f"{name}: the plans were learned with another {part} ({theirs!s:.20}, this is {ours!s:.20}); "
                "call the model here and save its plans again"
            )
    _require_room(archive.learned.values(), name)
    return dict(archive.learned)


def _require_room(learned: Iterable[LearnedCalls], name: str) -> None:
    """See that each plan can have its arena here: else its calls would stay unplanned, and nobody would know why."""
    largest = max((calls.plan.arena_bytes for calls in learned), default=0)
    if largest and switch.on and largest > (reserved_bytes := extension.install().reserved_bytes()):
        raise FileFormatError(
            name,
            f"a plan needs an arena of {largest} bytes, and {reserved_bytes} bytes of address space are reserved for "
            "arenas here: save the plans again, or lift the limit on address space (ulimit -v)",
        )
