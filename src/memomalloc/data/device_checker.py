"""The independent check of a plan for a device: it shares no code with any planner."""

from __future__ import annotations

from numpy.typing import ArrayLike

from memomalloc import _planner
from memomalloc.data.columns import int64_column
from memomalloc.data.device_problem import DeviceProblem
from memomalloc.errors import InvalidPlanError, InvalidProblemError

_FAULTS = {
    1: "{0} lies in no memory or chunk that there is",
    2: "{0} may not lie in that memory",
    3: "{0} lies at no multiple of its alignment",
    4: "{0} does not lie at its pin",
    5: "{0} ends beyond its chunk",
    6: "{0} ends beyond the capacity of its memory",
    7: "{0} and {1} alias, but do not lie as their group says",
    8: "two live buffers share bytes: {0} and {1}",
    9: "{0} and {1} share bytes, but must not overlap",
    10: "{0} and {1} share a bank, but must not",
}


def check_device(problem: DeviceProblem, memories: ArrayLike, chunks: ArrayLike, offsets: ArrayLike) -> None:
    """Do nothing for places that solve the problem; raise for any others. O(n log n), a sweep over time.

    Args:
        problem: for a device.
        memories: of each buffer, the position of its memory.
        chunks: of each buffer, which chunk of that memory.
        offsets: of each buffer, bytes from the start of the chunk.

    Raises:
        InvalidPlanError: the first fault, with the buffers by name.
    """
    try:
        columns = [
            int64_column(name, values)
            for name, values in (("memories", memories), ("chunks", chunks), ("offsets", offsets))
        ]
    except InvalidProblemError as error:
        raise InvalidPlanError(str(error)) from error
    if any(len(column) != len(problem) for column in columns):
        raise InvalidPlanError(f"{[len(column) for column in columns]} places for {len(problem)} buffers")
    fault, *indices = _planner.find_device_fault(problem.columns, *columns)
    if fault:
        names = []
        for index in indices:
            if index >= 0:
                memory, chunk, offset = (int(column[index]) for column in columns)
                size = problem.buffers[index].size
                known = 0 <= memory < len(problem.memories)
                where = repr(problem.memories[memory].name)[:60] if known else f"memory {memory}"
                in_chunk = f", chunk {chunk}" if chunk else ""
                names.append(
                    f"buffer {problem.buffers[index].id!r:.60} (bytes [{offset}, {offset + size}) of {where}{in_chunk})"
                )
        raise InvalidPlanError(_FAULTS[fault].format(*names))
