"""Files of results, whichever kind they are of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memomalloc.bench import planner_results, results
from memomalloc.bench.planner_results import PlannerResults
from memomalloc.bench.results import Results
from memomalloc.errors import FileFormatError

_KINDS: dict[str, Callable[[dict[str, Any]], Results | PlannerResults]] = {
    results.FORMAT: Results.from_document,
    planner_results.FORMAT: PlannerResults.from_document,
}


def load_results(path: str | Path) -> Results | PlannerResults:
    """Read a file of ``memomalloc bench models`` or ``memomalloc bench planners``.

    Raises:
        OSError: it cannot be read.
        FileFormatError: it is no results file.
    """
    try:
        document = json.loads(Path(path).read_bytes())
        return _KINDS[document["format"]](document)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileFormatError(path, f"not a results file: {error!r}") from error


def load_model_results(path: str | Path) -> Results:
    """Read a file of ``memomalloc bench models``.

    Raises:
        OSError: it cannot be read.
        FileFormatError: it is none.
    """
    loaded = load_results(path)
    if not isinstance(loaded, Results):
        raise FileFormatError(path, "results of planners, not of models")
    return loaded
