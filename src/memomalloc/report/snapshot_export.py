"""Export in the layout of ``torch.cuda.memory._snapshot()``, which PyTorch's own memory viewer opens.

Save it as a ``.pickle`` and drop it on https://pytorch.org/memory_viz. There is one device and one segment, the arena;
the address of a buffer is its offset from `BASE_ADDRESS`, and the time of an event, in microseconds, is its tick.
Buffers of no bytes have no place and are left out.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from memomalloc.data.atomic_file import atomic_file
from memomalloc.data.origin import Origin
from memomalloc.harmless_text import harmless
from memomalloc.report.placement import Placement

BASE_ADDRESS = 2**40
"""Of the segment: an address of 0 would read as none."""

_PROTOCOL = 4  # that of torch's own dumps; the viewer's unpickler knows no later one


def write_snapshot(placement: Placement, path: str | Path) -> None:
    """Write a snapshot, atomically.

    Raises:
        OSError: the folder cannot be written to.
    """
    with atomic_file(path) as file:
        pickle.dump(snapshot(placement), file, protocol=_PROTOCOL)


def snapshot(placement: Placement) -> dict[str, Any]:
    """The events of a placement, and the blocks that are still there at its end: the escapes."""
    frames = {origin: _frames(origin) for origin in set(placement.origins)}
    addresses = (placement.offsets + BASE_ADDRESS).tolist()
    sizes = placement.sizes.tolist()
    # At one tick what ends makes room for what starts.
    events = sorted(
        [(start, 1, i) for i, start in enumerate(placement.starts.tolist()) if sizes[i]]
        + [(end, 0, i) for i, end in enumerate(placement.ends.tolist()) if sizes[i] and not placement.escapes[i]]
    )
    entries = []
    for tick, is_start, i in events:
        for action in ("alloc",) if is_start else ("free_requested", "free_completed"):
            entries.append(
                {
                    "action": action,
                    "addr": addresses[i],
                    "size": sizes[i],
                    "stream": 0,
                    "time_us": tick,
                    "frames": frames[placement.origins[i]],
                }
            )
    blocks = _blocks(placement, addresses, frames)
    active_bytes = sum(block["size"] for block in blocks if block["state"] == "active_allocated")
    segment = {
        "device": 0,
        "address": BASE_ADDRESS,
        "total_size": placement.extent_bytes,
        "allocated_size": active_bytes,
        "active_size": active_bytes,
        "requested_size": active_bytes,
        "stream": 0,
        "segment_type": "large",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": [],
        "blocks": blocks,
    }
    return {"segments": [segment], "device_traces": [entries], "allocator_settings": {}, "external_annotations": []}


def _blocks(
    placement: Placement, addresses: list[int], frames: dict[Origin | None, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Escapes and what is free between them, without a hole: the viewer adds up their sizes to find their places."""
    blocks: list[dict[str, Any]] = []
    reached, end = BASE_ADDRESS, BASE_ADDRESS + placement.extent_bytes

    def free_up_to(address: int) -> None:
        if address > reached:
            size = address - reached
            blocks.append({"address": reached, "size": size, "requested_size": 0, "state": "inactive", "frames": []})

    escaped = [i for i in placement.escapes.nonzero()[0].tolist() if placement.sizes[i]]
    for i in sorted(escaped, key=lambda i: addresses[i]):
        size = int(placement.sizes[i])
        free_up_to(addresses[i])
        blocks.append(
            {
                "address": addresses[i],
                "size": size,
                "requested_size": size,
                "state": "active_allocated",
                "frames": frames[placement.origins[i]],
            }
        )
        reached = addresses[i] + size
    free_up_to(end)
    return blocks


def _frames(origin: Origin | None) -> list[dict[str, Any]]:
    """Innermost first, as in a stack trace: operators with their module in place of a file, then the source line."""
    if origin is None:
        return []
    where = harmless(origin.module_path) or "(no module)"
    frames = [{"filename": where, "line": 0, "name": harmless(operator)} for operator in reversed(origin.operators)]
    if origin.source is not None:
        file, function = harmless(origin.source.file), harmless(origin.source.function)
        frames.append({"filename": file, "line": origin.source.line, "name": function})
    return frames
