"""Files of results, whichever kind they are of."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memomalloc.bench import (
    executorch_report,
    locality,
    memory_results,
    planner_results,
    results,
    service_results,
    time_shares,
)
from memomalloc.bench.executorch_report import ExecutorchResults
from memomalloc.bench.locality import LocalityResults
from memomalloc.bench.memory_results import MemoryResults
from memomalloc.bench.planner_results import PlannerResults
from memomalloc.bench.results import Results
from memomalloc.bench.service_results import ServiceResults
from memomalloc.bench.time_shares import TimeShares
from memomalloc.data.input_file import read_bounded
from memomalloc.data.json_document import parse_json
from memomalloc.errors import FileFormatError

MAX_FILE_BYTES = 2**26
_WHAT = "results file"

AnyResults = (
    Results | PlannerResults | MemoryResults | ServiceResults | ExecutorchResults | TimeShares | LocalityResults
)

#: By format: the version that is read, and how.
_KINDS: dict[str, tuple[int, Callable[[dict[str, Any]], AnyResults]]] = {
    results.FORMAT: (results.VERSION, Results.from_document),
    planner_results.FORMAT: (planner_results.VERSION, PlannerResults.from_document),
    memory_results.FORMAT: (memory_results.VERSION, MemoryResults.from_document),
    service_results.FORMAT: (service_results.VERSION, ServiceResults.from_document),
    executorch_report.FORMAT: (executorch_report.VERSION, ExecutorchResults.from_document),
    locality.FORMAT: (locality.VERSION, LocalityResults.from_document),
    time_shares.FORMAT: (time_shares.VERSION, TimeShares.from_document),
}


def load_results(path: str | Path) -> AnyResults:
    """Read a file of ``memomalloc bench`` (``models``, ``memory``, ``service`` ...) or ``benchmarks/``.

    Raises:
        FileFormatError: it cannot be read, or is no results file.
    """
    try:
        os.stat(path)
    except OSError as error:
        raise FileFormatError(
            path,
            f"{error.strerror}; name a file that `memomalloc bench models --output` or `bench planners --json` wrote",
        ) from error
    document = parse_json(read_bounded(path, MAX_FILE_BYTES, what=_WHAT), path, what=_WHAT)
    try:
        if not isinstance(document, dict) or not isinstance(document.get("format"), str):
            raise ValueError("it has no format")
        if document["format"] not in _KINDS:
            raise ValueError(f"its format is {document['format']!r:.60}")
        version, from_document = _KINDS[document["format"]]
        if type(document.get("version")) is not int or document["version"] != version:
            raise ValueError(f"version {document.get('version')!r:.20}, not {version}")
        return from_document(document)
    except KeyError as error:
        raise FileFormatError(path, f"not a results file: it has no {error.args[0]}") from error
    except ValueError as error:
        raise FileFormatError(path, f"not a results file: {error}") from error
