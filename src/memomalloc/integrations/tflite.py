"""Plans for TensorFlow Lite Micro, written into the model that it loads.

TensorFlow Lite Micro takes the place of each tensor from metadata called ``OfflineMemoryAllocation``, if a model has
it: 32-bit numbers, the version 1, the subgraph 0, how many tensors there are, and for each an offset into the arena, or
-1 for what is planned on the device (what operators take as scratch is planned around the others in any case).
"""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memomalloc.data.atomic_file import atomic_file
from memomalloc.data.input_file import read_bounded
from memomalloc.data.plan import Plan
from memomalloc.data.problem import Problem
from memomalloc.errors import FileFormatError, InvalidPlanError, InvalidProblemError
from memomalloc.extras import require
from memomalloc.integrations.dumped_problem import DumpedProblem
from memomalloc.planners import plan

METADATA_NAME = "OfflineMemoryAllocation"
MAX_FILE_BYTES = 2**31
#: What TensorFlow Lite Micro aligns every buffer of its arena to, and rounds its size up to.
ALIGNMENT_BYTES = 16

_VERSION = 1
_SUBGRAPH = 0
_ONLINE = -1  # planned on the device
_WHAT = "TensorFlow Lite model"
_IDENTIFIER = b"TFL3"
#: By the names of the schema's TensorType. Four-bit activations take a byte each on the device.
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "INT4", "INT8", "UINT8"), 1),
    **dict.fromkeys(("BFLOAT16", "FLOAT16", "INT16", "UINT16"), 2),
    **dict.fromkeys(("FLOAT32", "INT32", "UINT32"), 4),
    **dict.fromkeys(("COMPLEX64", "FLOAT64", "INT64", "UINT64"), 8),
    "COMPLEX128": 16,
}


class TfliteModel:
    """A model file, the problem that it states, and the way to write a plan into it.

    Attributes:
        dumped: the tensors that the device would plan: neither constants nor variables, which live outside of the
            plan. Their ids are the indices of the tensors. ``own_bytes`` is what greedy by size needs, which is the
            device's own way.
        has_plan: the model has a plan already.
    """

    def __init__(self, path: str | Path, *, alignment_bytes: int = ALIGNMENT_BYTES) -> None:
        """Read a model.

        Args:
            path: a ``.tflite`` file.
            alignment_bytes: of each tensor in the arena.

        Raises:
            FileFormatError: not such a file, or one that cannot be planned: several subgraphs, weights in other files.
            MissingDependencyError: ai-edge-litert is not installed.
        """
        self._path = path
        self._schema: Any = require("ai_edge_litert.schema_py_generated", extra="tflite", feature="planning for TFLite")
        types = vars(self._schema.TensorType).items()
        self._item_bytes = {value: _ITEM_BYTES.get(name, 0) for name, value in types if name.isupper()}
        content = read_bounded(path, MAX_FILE_BYTES, what=_WHAT)
        if content[4:8] != _IDENTIFIER:
            raise FileFormatError(path, f"not a {_WHAT}: its bytes 4 to 8 are not {_IDENTIFIER.decode()}")
        try:
            self._model = self._schema.ModelT.InitFromObj(self._schema.Model.GetRootAs(content, 0))
            if len(self._model.subgraphs) != 1:
                raise FileFormatError(
                    path,
                    f"{len(self._model.subgraphs)} subgraphs: TensorFlow Lite Micro takes offline plans for models of "
                    "one only (no control flow)",
                )
            problem = self._problem(alignment_bytes)
        except FileFormatError:
            raise
        except (struct.error, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise FileFormatError(path, f"damaged, or not a {_WHAT}: {error}") from error
        own = plan(problem, planner="greedy_by_size")
        self.dumped = DumpedProblem("subgraph 0", problem, own.arena_bytes)
        self.has_plan = any(self._is_plan(entry) for entry in self._model.metadata or [])

    def write(self, made: Plan, output: str | Path) -> None:
        """Write the model with a plan in it, in place of one that it has.

        Args:
            made: for ``dumped.problem``.
            output: the file; it appears whole or not at all.

        Raises:
            InvalidPlanError: a plan for other buffers, or an arena of more than 2 GiB.
            OSError: it cannot be written.
        """
        ids = self.dumped.problem.ids or ()
        if not np.array_equal(made.sizes, self.dumped.problem.sizes) or made.arena_bytes >= 2**31:
            raise InvalidPlanError("the plan is not for the tensors of this model, or larger than 2 GiB")
        offsets = [_ONLINE] * len(self._subgraph.tensors)
        for index, offset in zip(ids, made.offsets.tolist(), strict=True):
            offsets[int(str(index))] = offset
        words = np.array([_VERSION, _SUBGRAPH, len(offsets), *offsets], dtype="<i4")
        data = np.frombuffer(words.tobytes(), dtype=np.uint8)
        metadata = list(self._model.metadata or [])
        old = [entry for entry in metadata if self._is_plan(entry)]
        if old:
            self._model.buffers[old[0].buffer].data = data
            self._model.metadata = [entry for entry in metadata if entry not in old[1:]]
        else:
            buffer = self._schema.BufferT()
            buffer.data = data
            entry = self._schema.MetadataT()
            entry.name = METADATA_NAME
            entry.buffer = len(self._model.buffers)
            self._model.buffers.append(buffer)
            self._model.metadata = [*metadata, entry]
        self.has_plan = True
        flatbuffers: Any = require("flatbuffers", extra="tflite", feature="planning for TFLite")
        for buffer in self._model.buffers:
            buffer.Pack = partial(_pack_aligned, buffer, self._schema)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), file_identifier=_IDENTIFIER)
        with atomic_file(output) as file:
            file.write(bytes(builder.Output()))

    def offsets(self) -> list[int] | None:
        """The plan that the model has: an offset for each tensor, -1 for what the device plans; None: it has none.

        Raises:
            FileFormatError: the plan is damaged.
        """
        for entry in self._model.metadata or []:
            if self._is_plan(entry):
                data = self._model.buffers[entry.buffer].data
                words = np.frombuffer(np.asarray(data, dtype=np.uint8).tobytes()[: len(data) // 4 * 4], dtype="<i4")
                if len(words) < 3 or words[0] != _VERSION or len(words) != 3 + words[2] or words[2] != self.num_tensors:
                    raise FileFormatError(self._path, f"the metadata {METADATA_NAME} is damaged, or of another version")
                return [int(word) for word in words[3:]]
        return None

    @property
    def num_tensors(self) -> int:
        """All tensors of the model, constants and variables too."""
        return len(self._subgraph.tensors)

    @property
    def _subgraph(self) -> Any:
        return self._model.subgraphs[_SUBGRAPH]

    def _is_plan(self, entry: Any) -> bool:
        name = entry.name
        return (name.decode("utf-8", "replace") if isinstance(name, bytes) else name) == METADATA_NAME

    def _problem(self, alignment_bytes: int) -> Problem:
        """Lifetimes as the device counts them: inputs and outputs are there from the start, outputs to the end."""
        subgraph = self._subgraph
        operators = _indices(subgraph.operators)
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for tensor in _indices(subgraph.inputs):
            first[tensor] = last[tensor] = 0
        for step, operator in enumerate(operators, start=1):
            for tensor in _indices(operator.outputs):
                first.setdefault(tensor, step)
                last[tensor] = step
            for tensor in _indices(operator.inputs):
                if tensor >= 0:  # -1: an optional input that is not there
                    last[tensor] = step
        for tensor in _indices(subgraph.outputs):
            last[tensor] = len(operators)
        sizes = {index: self._bytes_in_arena(index) for index in sorted(first)}
        planned = [index for index, size in sizes.items() if size > 0]
        try:
            return Problem.from_arrays(
                [sizes[index] for index in planned],
                [first[index] for index in planned],
                [last[index] + 1 for index in planned],
                alignment_bytes=alignment_bytes,
                ids=planned,
            )
        except InvalidProblemError as error:
            raise FileFormatError(self._path, str(error)) from None

    def _bytes_in_arena(self, index: int) -> int:
        """Bytes of a tensor; 0 for constants, variables and whatever has no size before it runs."""
        tensor = self._subgraph.tensors[index]
        buffer = self._model.buffers[tensor.buffer]
        if buffer.offset > 1:
            raise FileFormatError(self._path, "its weights are outside of the model: only whole files can be planned")
        is_constant = buffer.data is not None and len(buffer.data) > 0
        if is_constant or tensor.isVariable:
            return 0
        item_bytes = self._item_bytes.get(tensor.type, 0)
        shape = [int(extent) for extent in _indices(tensor.shape)]
        if any(extent < 0 for extent in shape):
            return 0
        count = 1
        for extent in shape:
            count *= extent
        return item_bytes * count


def _pack_aligned(buffer: Any, schema: Any, builder: Any) -> Any:
    """Write a buffer as the schema wants it, at a multiple of 16 bytes; what the schema's own code for Python does not.

    The device reads weights where they lie in the file, and some processors read no numbers at odd addresses.
    """
    data = None
    if buffer.data is not None:
        content = np.asarray(buffer.data, dtype=np.uint8).tobytes()
        builder.Prep(ALIGNMENT_BYTES, len(content))
        data = builder.CreateByteVector(content)
    schema.BufferStart(builder)
    if data is not None:
        schema.BufferAddData(builder, data)
    schema.BufferAddOffset(builder, buffer.offset)
    schema.BufferAddSize(builder, buffer.size)
    return schema.BufferEnd(builder)


def _indices(vector: Any) -> list[Any]:
    """A vector of a flat buffer, which is None where it is empty."""
    return [] if vector is None else list(vector)
