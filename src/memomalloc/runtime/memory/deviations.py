"""What a run asked for that its plan did not foresee, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memomalloc.data.columns import Int64Array
from memomalloc.data.origin import Origin


@dataclass(frozen=True, slots=True)
class Deviation:
    """One request that went upstream.

    Attributes:
        reason: ``size``, ``extra``, ``occupied`` or ``blocked``; see ``Stats.requests_upstream``.
        asked_bytes: the size of the request.
        expected_bytes: what the plan expected next; None after its last slot.
        origin: who was expected to ask; None where that is not known.
    """

    reason: str
    asked_bytes: int
    expected_bytes: int | None
    origin: Origin | None

    def __str__(self) -> str:
        asked = format_bytes(self.asked_bytes)
        if self.expected_bytes is None:
            return f"expected no further request, was asked {asked}"
        expected = format_bytes(self.expected_bytes)
        who = f" for {describe(self.origin)}" if self.origin is not None else ""
        if self.reason == "size":
            return f"expected {expected}{who}, was asked {asked}"
        return f"{expected}{who} could not be served: its place is {self.reason}"


def describe(origin: Origin) -> str:
    """``aten::conv2d in layer3.0.conv2 (model.py:88)``."""
    text = origin.operators[0] if origin.operators else "an allocation"
    if origin.module_path:
        text += f" in {origin.module_path}"
    if origin.source is not None:
        text += f" ({origin.source.file.rpartition('/')[2]}:{origin.source.line})"
    return text


def format_bytes(size: int) -> str:
    """Bytes for people: ``1.5 MiB``."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def deviations_of(
    requests: Sequence[tuple[int, str, int]], sizes: Int64Array, origins: Sequence[Origin | None]
) -> tuple[Deviation, ...]:
    """Name what deviated.

    Args:
        requests: slot, reason and bytes of each, as the native runtime tells them.
        sizes: bytes of each slot.
        origins: who asks for each slot; empty if that is not known.
    """
    return tuple(
        Deviation(
            reason=reason,
            asked_bytes=asked,
            expected_bytes=int(sizes[slot]) if slot < len(sizes) else None,
            origin=origins[slot] if slot < len(origins) else None,
        )
        for slot, reason, asked in requests
    )
