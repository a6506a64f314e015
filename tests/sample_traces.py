"""Traces with origins that no torch is needed for."""

from __future__ import annotations

import numpy as np

from memomalloc.data.origin import Origin, SourceLine
from memomalloc.data.trace import Trace

KIB, MIB = 2**10, 2**20


def _origin(operator: str, module: str, line: int, role: str = "output", occurrence: int = 0) -> Origin:
    return Origin(
        ("aten::outer", f"aten::{operator}"), module, SourceLine("/code/net.py", line, "forward"), role, occurrence
    )


def small_trace(scale: int = 1) -> Trace:
    """Five buffers of which the last one escapes: 5 MiB times ``scale`` alive at the peak, which is at tick 3."""
    return Trace.from_arrays(
        [scale * MIB, 3 * scale * MIB, scale * MIB, 64 * KIB, 2 * scale * MIB],
        [0, 1, 3, 6, 8],
        [4, 5, 7, 9, 0],
        [False, False, False, False, True],
        end_tick=12,
        origins=[
            _origin("conv2d", "stem.conv", 10),
            _origin("scratch", "stem.conv", 10, "scratch"),
            _origin("relu", "body.0.act", 20),
            _origin("conv2d", "body.0.conv", 21),
            _origin("linear", "head", 30, "escape"),
        ],
    )


def large_trace(num_buffers: int) -> Trace:
    """Many short-lived buffers of all sizes, asked for by a deep model; the same every time."""
    random = np.random.default_rng(0)
    starts = 2 * np.arange(num_buffers)
    ends = starts + 2 * random.geometric(0.01, num_buffers) + 1
    sizes = (2 ** random.uniform(6, 21, num_buffers)).astype(np.int64)
    origins = [
        Origin(
            (f"aten::outer{i % 23}", f"aten::inner{i % 61}"),
            f"model.layers.{i * 40 // num_buffers}.block{i % 7}.part{i % 5}",
            SourceLine("/code/model.py", i % 400 + 1, "forward"),
            "output",
            i,
        )
        for i in range(num_buffers)
    ]
    return Trace.from_arrays(sizes, starts, ends, origins=origins)
