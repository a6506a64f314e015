"""The planned memory of the process: one limit, regions that all plans share, and when idle ones give pages back."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from memomalloc.errors import OptionError
from memomalloc.runtime import extension
from memomalloc.runtime.process_limits import MAX_BYTES, default_memory_limit, default_release_after_s


@dataclass(frozen=True)
class RegionStats:
    """One region: mapped memory on which one call at a time lays its plan.

    Attributes:
        id: its number in the process.
        is_running: a call is running on it now. What is said of kept tensors and outputs is 0 then.
        mapped_bytes: the largest arena that was laid since its pages were last given back; so much may be resident.
        num_kept: tensors, other than outputs, that the program has kept from a call: until they go no other plan can
            use the region.
        kept_bytes: of them.
        num_outputs: outputs that live, of all plans that were laid here.
        output_bytes: of them.
        output_mapped_bytes: of the memory in which outputs lie, as far as it may be resident.
        plan: the number of the plan that it is laid with, as in ``ArmedPlan.number``; 0: none.
    """

    id: int
    is_running: bool
    mapped_bytes: int
    num_kept: int
    kept_bytes: int
    num_outputs: int
    output_bytes: int
    output_mapped_bytes: int
    plan: int


@dataclass(frozen=True)
class MemoryStats:
    """The planned memory of the process.

    Attributes:
        limit_bytes: what it may have; see :func:`set_memory_limit`.
        mapped_bytes: of regions and outputs, as far as pages may be resident.
        peak_mapped_bytes: the most there ever was.
        num_evicted: regions that were unmapped so that others fit below the limit; if it grows steadily, the limit is
            too small for the calls that run at one time, and they pay for their pages anew.
        num_over_limit: times that memory was refused: a call ran unplanned, or an output came from upstream.
        num_releases: times that idle memory was given back.
        released_bytes: by them.
        regions: each that has memory.
    """

    limit_bytes: int = 0
    mapped_bytes: int = 0
    peak_mapped_bytes: int = 0
    num_evicted: int = 0
    num_over_limit: int = 0
    num_releases: int = 0
    released_bytes: int = 0
    regions: tuple[RegionStats, ...] = ()


def set_memory_limit(limit_bytes: int | None) -> None:
    """Let all plans of the process together have at most so many bytes, from now on.

    Idle memory beyond it is given back at once; calls for which there is none run unplanned. Without a call it is what
    ``MEMOMALLOC_MEMORY_LIMIT`` says, else a quarter of the memory that the container may use.

    Args:
        limit_bytes: at least 0; None: what it would be without a call.

    Raises:
        OptionError: it is no number of bytes.
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    if limit_bytes is None:
        limit_bytes = default_memory_limit()
    if not isinstance(limit_bytes, int) or isinstance(limit_bytes, bool) or not 0 <= limit_bytes <= MAX_BYTES:
        raise OptionError(f"limit_bytes must be a number of bytes, at least 0, not {limit_bytes!r}")
    extension.install().set_memory_limit(limit_bytes)


def set_release_after(seconds: float | None) -> None:
    """Let memory on which no call ran for so long go back to the system. The next call faults its pages in again.

    One native thread does it, which is there only while there is memory to give back; a forked child gets its own with
    its first planned call. Without a call it is what ``MEMOMALLOC_RELEASE_AFTER`` says, else five seconds.

    Args:
        seconds: 0: memory is kept until :func:`release`; None: what it would be without a call.

    Raises:
        OptionError: it is no number of seconds.
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    if seconds is None:
        seconds = default_release_after_s()
    if not 0 <= seconds < min(threading.TIMEOUT_MAX, 1e9):
        raise OptionError(f"seconds must be a number of seconds, at least 0, not {seconds!r}")
    extension.install().set_release_after(float(seconds))


def release() -> int:
    """Give pages back to the operating system: of regions in which no call runs, but where a tensor lives.

    Plans stay armed; the next call faults its pages in again.

    Returns:
        How many bytes were given back, since the last time; those of their pages that were resident are free now.

    Raises:
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    released: int = extension.install().release_pages(0.0)
    return released


def memory_stats() -> MemoryStats:
    """What the planned memory of the process is used for.

    Raises:
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    native = extension.install()
    use = native.memory_use()
    return MemoryStats(
        limit_bytes=use["limit_bytes"],
        mapped_bytes=use["used_bytes"],
        peak_mapped_bytes=use["peak_bytes"],
        num_evicted=use["num_evicted"],
        num_over_limit=use["num_over_limit"],
        num_releases=use["num_releases"],
        released_bytes=use["released_bytes"],
        regions=tuple(
            RegionStats(
                id=region["id"],
                is_running=region["is_running"],
                mapped_bytes=region["charged_bytes"],
                num_kept=region["num_kept"],
                kept_bytes=region["kept_bytes"],
                num_outputs=region["num_outputs"],
                output_bytes=region["output_bytes"],
                output_mapped_bytes=region["output_charged_bytes"],
                plan=region["plan"],
            )
            for region in native.regions()
        ),
    )
