"""A small model for TensorFlow Lite, written with the schema that comes with ai-edge-litert."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


class ModelWriter:
    """Writes a model operator by operator; a tensor is its index."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]  # the empty one
        self.model.operatorCodes = []
        self.graph = schema.SubGraphT()
        self.graph.name = "main"
        self.graph.tensors = []
        self.graph.operators = []
        self.model.subgraphs = [self.graph]

    def tensor(self, shape: list[int], content: Any = None, *, is_variable: bool = False) -> int:
        tensor = schema.TensorT()
        tensor.name = f"tensor{len(self.graph.tensors)}"
        tensor.shape = np.array(shape, np.int32)
        tensor.type = schema.TensorType.FLOAT32
        tensor.isVariable = is_variable
        if content is not None:
            if content.dtype == np.int32:
                tensor.type = schema.TensorType.INT32
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(content.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def weights(self, *shape: int) -> int:
        return self.tensor(list(shape), (self.random.normal(size=shape) * 0.3).astype(np.float32))

    def operator(self, name: str, options: Any, inputs: list[int], shape: list[int]) -> int:
        code = getattr(schema.BuiltinOperator, name)
        codes = [entry.builtinCode for entry in self.model.operatorCodes]
        if code not in codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode = entry.deprecatedBuiltinCode = code
            entry.version = 1
            self.model.operatorCodes.append(entry)
            codes.append(code)
        output = self.tensor(shape)
        operator = schema.OperatorT()
        operator.opcodeIndex = codes.index(code)
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array([output], np.int32)
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(operator)
        return output

    def convolution(self, of: int, channels: int, kernel: int, stride: int = 1) -> int:
        _, height, width, depth = (int(extent) for extent in self.graph.tensors[of].shape)
        options = schema.Conv2DOptionsT()
        options.strideW = options.strideH = stride
        options.dilationWFactor = options.dilationHFactor = 1
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        inputs = [of, self.weights(channels, kernel, kernel, depth), self.weights(channels)]
        return self.operator("CONV_2D", options, inputs, [1, height // stride, width // stride, channels])

    def content(self, inputs: list[int], outputs: list[int]) -> bytes:
        self.graph.inputs = np.array(inputs, np.int32)
        self.graph.outputs = np.array(outputs, np.int32)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def small_network(*, with_variable: bool = False) -> bytes:
    """Convolutions with a residual and a concatenation, of 16 by 16 pixels."""
    writer = ModelWriter()
    image = writer.tensor([1, 16, 16, 3])
    first = writer.convolution(image, 8, 3)
    second = writer.convolution(first, 8, 3)
    if with_variable:
        writer.tensor([1, 16], is_variable=True)
    added = writer.operator("ADD", schema.AddOptionsT(), [first, second], [1, 16, 16, 8])
    narrow, wide = writer.convolution(added, 4, 1, 2), writer.convolution(added, 12, 3, 2)
    along = schema.ConcatenationOptionsT()
    along.axis = 3
    joined = writer.operator("CONCATENATION", along, [narrow, wide], [1, 8, 8, 16])
    last = writer.convolution(joined, 6, 3, 2)
    flat = schema.ReshapeOptionsT()
    flat.newShape = np.array([1, 96], np.int32)
    shape = writer.tensor([2], np.array([1, 96], np.int32))
    reshaped = writer.operator("RESHAPE", flat, [last, shape], [1, 96])
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    return writer.content([image], [writer.operator("SOFTMAX", softmax, [reshaped], [1, 96])])
