"""What the resident memory of a process is for, to be shown beside its map."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ResidentPart:
    """A part of resident memory.

    Attributes:
        name: what it is for.
        num_bytes: of it.
        growth_bytes: by which it grew after the warm-up; None where that is not known.
        source: what told its size.
    """

    name: str
    num_bytes: int
    growth_bytes: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: its name, the figures that say so, and what helps."""

    name: str
    figures: tuple[str, ...]
    remedies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResidentMemory:
    """One account of a process.

    Attributes:
        verdict: what is said of it, in one line.
        growth: by how much it grew, and when that is much, in one line.
        parts: they add up to all that is resident.
        findings: what is wrong.
    """

    verdict: str
    growth: str
    parts: tuple[ResidentPart, ...]
    findings: tuple[Finding, ...]
