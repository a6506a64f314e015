"""Figures of a placement, for machines."""

from __future__ import annotations

import dataclasses
from typing import Any

from memomalloc.data.origin import Origin
from memomalloc.report.groups import default_depth, groups
from memomalloc.report.placement import Placement


def summary(placement: Placement, *, depth: int | None = None) -> dict[str, Any]:
    """What ``memomalloc show --json`` prints, ready for json.

    Args:
        placement: the buffers.
        depth: how many parts of module paths count; None: as many as tell something.
    """
    peak = placement.live_bytes
    chosen_depth = depth or default_depth(placement)
    return {
        "title": placement.title,
        "planner": placement.planner,
        "num_buffers": len(placement),
        "num_escapes": int(placement.escapes.sum()),
        "extent_bytes": placement.extent_bytes,
        "lower_bound_bytes": placement.lower_bound_bytes,
        "proven_optimal": placement.proven_optimal,
        "total_bytes": int(placement.sizes.sum()),
        "elsewhere_requests": placement.elsewhere_requests,
        "elsewhere_bytes": placement.elsewhere_bytes,
        "lanes": [dataclasses.asdict(lane) for lane in placement.lanes],
        "peak_live_bytes": peak.peak_live_bytes,
        "peak_tick": peak.peak_tick,
        "module_depth": chosen_depth,
        "by_module": [dataclasses.asdict(group) for group in groups(placement, "module", chosen_depth)],
        "by_operator": [dataclasses.asdict(group) for group in groups(placement, "operator")],
        "alive_at_peak": [_buffer(placement, index) for index in placement.alive_at_peak.tolist()],
    }


def origin_fields(origin: Origin | None) -> dict[str, Any] | None:
    """An origin, ready for json."""
    return None if origin is None else dataclasses.asdict(origin)


def _buffer(placement: Placement, index: int) -> dict[str, Any]:
    return {
        "buffer": index,
        "size_bytes": int(placement.sizes[index]),
        "start": int(placement.starts[index]),
        "end": int(placement.ends[index]),
        "offset_bytes": int(placement.offsets[index]),
        "origin": origin_fields(placement.origins[index]),
    }
