"""Files of results, whichever kind they are of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memomalloc.bench import executorch_report, planner_results, results, time_shares
from memomalloc.bench.executorch_report import ExecutorchResults
from memomalloc.bench.planner_results import PlannerResults
from memomalloc.bench.results import Results
from memomalloc.bench.time_shares import TimeShares
from memomalloc.errors import FileFormatError

AnyResults = Results | PlannerResults | ExecutorchResults | TimeShares

#: By format: the version that is read, and how.
_KINDS: dict[str, tuple[int, Callable[[dict[str, Any]], AnyResults]]] = {
    results.FORMAT: (results.VERSION, Results.from_document),
    planner_results.FORMAT: (planner_results.VERSION, PlannerResults.from_document),
    executorch_report.FORMAT: (executorch_report.VERSION, ExecutorchResults.from_document),
    time_shares.FORMAT: (time_shares.VERSION, TimeShares.from_document),
}


def load_results(path: str | Path) -> AnyResults:
    """Read a file of ``memomalloc bench models``, ``planners`` or ``executorch``, or of ``benchmarks/time_shares.py``.

    Raises:
        FileFormatError: it cannot be read, or is no results file.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise FileFormatError(
            path,
            f"{error.strerror}; name a file that `memomalloc bench models --output` or `bench planners --json` wrote",
        ) from error
    try:
        document = json.loads(content)
        version, from_document = _KINDS[document["format"]]
        if document["version"] != version:
            raise ValueError(f"version {document['version']}, not {version}")
        return from_document(document)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileFormatError(path, f"not a results file: {error!r}") from error


def load_model_results(path: str | Path) -> Results:
    """Read a file of ``memomalloc bench models``.

    Raises:
        FileFormatError: it cannot be read, or is none.
    """
    loaded = load_results(path)
    if not isinstance(loaded, Results):
        raise FileFormatError(path, "results of something else, not of models")
    return loaded
