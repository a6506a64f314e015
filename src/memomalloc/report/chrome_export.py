"""Export as Chrome trace JSON, which chrome://tracing, Perfetto and Speedscope open.

One counter for the live bytes, and one asynchronous slice for each buffer; the time of an event, in microseconds, is
its tick.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from memomalloc.data.atomic_file import atomic_file
from memomalloc.harmless_text import harmless
from memomalloc.report.placement import Placement
from memomalloc.report.summary import origin_fields

_PROCESS = 1


def write_chrome_trace(placement: Placement, path: str | Path) -> None:
    """Write a Chrome trace, atomically; compressed when the name ends in ``.gz``.

    Raises:
        OSError: the folder cannot be written to.
    """
    with atomic_file(path) as file:
        file.write(json.dumps(chrome_trace(placement), separators=(",", ":")).encode("ascii"))


def chrome_trace(placement: Placement) -> dict[str, Any]:
    """The events of a placement in the Trace Event Format."""
    events: list[dict[str, Any]] = [
        {
            "ph": "M",
            "name": "process_name",
            "pid": _PROCESS,
            "args": {"name": harmless(f"memomalloc: {placement.title}")},
        }
    ]
    live = placement.live_bytes
    for tick, num_bytes in zip(live.ticks.tolist(), live.live_bytes.tolist(), strict=True):
        events.append({"ph": "C", "name": "live bytes", "pid": _PROCESS, "ts": tick, "args": {"bytes": num_bytes}})
    for i, origin in enumerate(placement.origins):
        common = {
            "cat": "buffer" if origin is None else harmless(origin.role),
            "name": f"buffer {i}" if origin is None else harmless(origin.operator),
            "pid": _PROCESS,
            "tid": 0,
            "id": i,
        }
        details = {
            "size_bytes": int(placement.sizes[i]),
            "offset_bytes": int(placement.offsets[i]),
            "origin": origin_fields(origin),
        }
        events.append({"ph": "b", "ts": int(placement.starts[i]), **common, "args": details})
        events.append({"ph": "e", "ts": int(placement.ends[i]), **common})
    return {"displayTimeUnit": "ms", "traceEvents": events}
