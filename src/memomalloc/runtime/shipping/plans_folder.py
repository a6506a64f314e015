"""A folder in which programs keep what was learned, from one start to the next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memomalloc.data.atomic_file import atomic_file
from memomalloc.errors import MemomallocError
from memomalloc.runtime.calls.planned_function import PlannedFunction
from memomalloc.runtime.events import report
from memomalloc.runtime.shipping.fingerprint import fingerprint
from memomalloc.runtime.shipping.plan_archive import PlanArchive
from memomalloc.runtime.shipping.plan_shipping import load_plans, named_calls

SUFFIX = ".plans"
_DIGITS = 32


class PlansFolder:
    """One archive of plans for each model, named by what the model is and what it runs on.

    A model that changed, or another torch or processor, has another name: nothing in the folder is ever stale, and
    several programs and machines may share it. Files are replaced atomically; the last writer wins.
    """

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made if it is not there.

        Raises:
            OSError: it cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def entry(self, function: Callable[..., Any]) -> PlansEntry:
        """The place of a function, or of the module that it is the call of."""
        known = fingerprint(function)
        text = json.dumps(known, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
        return PlansEntry(self._folder / f"{name}{SUFFIX}", known)


class PlansEntry:
    """The archive of one model in the folder."""

    def __init__(self, file: Path, known: dict[str, str]) -> None:
        self._file = file
        self._fingerprint = known

    @property
    def exists(self) -> bool:
        """Whether something was learned at an earlier start."""
        return self._file.is_file()

    def load(self, planned: PlannedFunction) -> None:
        """Replay what was learned from the first call on; a damaged file is reported, and learned anew."""
        if self.exists:
            load_plans(planned, self._file, strict=False)

    def save(self, planned: PlannedFunction) -> int:
        """Keep what was learned, with what is there of other calls of the same model; how many plans that were.

        Raises:
            OSError: the file cannot be written.
        """
        learned = named_calls(planned)
        if not learned:
            return 0
        if self.exists:
            try:
                kept = PlanArchive.from_bytes(self._file.read_bytes(), self._file).learned
                learned = {**kept, **learned}
            except MemomallocError as error:
                report("plans_refused", planned.name, f"saved plans are refused, and replaced: {error}")
        content = PlanArchive(self._fingerprint, learned).to_bytes()
        with atomic_file(self._file) as opened:
            opened.write(content)
        return len(learned)
