"""``torch.cuda``'s counters for the CPU: the bytes that tensors have now, and the most that they had.

Counted are the bytes of every tensor that is allocated by torch's CPU allocator, on any thread, as they were asked for
and whether a plan serves them or not, until it is freed, on any thread. Counting begins with the first
:func:`reset_peak_memory_stats` and does not end; until then it costs nothing. Not counted are tensors that were
allocated before, and memory of other origin: numpy's, shared or mapped files, what libraries allocate for themselves.
A forked child counts on from what its parent had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memomalloc.errors import NotCountingError, OptionError
from memomalloc.runtime import extension

if TYPE_CHECKING:
    import torch


def reset_peak_memory_stats(device: torch.device | str | None = None) -> None:
    """Let :func:`max_memory_allocated` begin anew, from what is allocated now. The first call begins to count.

    Args:
        device: as ``torch.cuda`` has it; the CPU, or None.

    Raises:
        OptionError: it is another device.
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    _check_device(device)
    extension.install().reset_peak_allocated_bytes()


def memory_allocated(device: torch.device | str | None = None) -> int:
    """The bytes of all tensors that live, of those that are counted.

    Args:
        device: as ``torch.cuda`` has it; the CPU, or None.

    Raises:
        NotCountingError: :func:`reset_peak_memory_stats` was not called before.
        OptionError: it is another device.
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    return _allocated_bytes(device)[0]


def max_memory_allocated(device: torch.device | str | None = None) -> int:
    """The most bytes that lived at one time, on all threads together, since :func:`reset_peak_memory_stats`.

    Args:
        device: as ``torch.cuda`` has it; the CPU, or None.

    Raises:
        NotCountingError: :func:`reset_peak_memory_stats` was not called before.
        OptionError: it is another device.
        RuntimeNotAvailableError: the runtime cannot run here.
    """
    return _allocated_bytes(device)[1]


def _check_device(device: torch.device | str | None) -> None:
    if device is not None and str(device).partition(":")[0] != "cpu":
        raise OptionError(f"device must be the CPU or None, not {device!r}: of a GPU torch.cuda tells the same")


def _allocated_bytes(device: torch.device | str | None) -> tuple[int, int]:
    _check_device(device)
    counts: tuple[int, int] | None = extension.load().allocated_bytes()
    if counts is None:
        raise NotCountingError(
            "nothing is counted before memomalloc.reset_peak_memory_stats(): call it before the first tensor that is "
            "to be counted"
        )
    return counts
