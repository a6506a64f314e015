"""Files that the real XLA, IREE and LiteRT make, planned; what is not installed is skipped.

`make compilers` has an environment with all of them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memomalloc
from memomalloc.cli import main
from memomalloc.data.checker import check
from memomalloc.errors import FileFormatError, InvalidPlanError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FUNCTION = """
import jax, jax.numpy as jnp
from jax import export

def block(x, w):
    y = jax.nn.relu(x @ w)
    z = jnp.sort(y @ w.T, axis=0)
    return jax.nn.softmax(z + x) * y.mean()

def network(x, *weights):
    kept = [x]
    for w in weights:
        x = block(x, w)
        kept.append(x @ w)
    return sum(part.sum(0).mean() for part in kept) + x.sum(0)

shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(64, 32), (32, 96), (32, 160), (32, 48), (32, 224)]]
"""


def run(program: str, folder: Path, **environment: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-"], input=FUNCTION + program, cwd=folder, env=_environment(environment), check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr


def _environment(extra: dict[str, str]) -> dict[str, str]:
    import os

    return os.environ | extra


# --- XLA -----------------------------------------------------------------------------------------------------------


def test_xla(tmp_path: Path) -> None:
    if find_spec("jax") is None:
        pytest.skip("needs jax")
    from memomalloc.integrations.xla import read_xla_dump

    flags = f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_proto --xla_dump_hlo_as_text"
    run("jax.jit(network).lower(*shapes).compile()", tmp_path, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    (path,) = tmp_path.glob("*jit_network*after_optimizations.hlo.pb")
    (dumped,) = read_xla_dump(path)
    assert len(dumped.problem) > 8
    # XLA's own report has the same allocation, and its values.
    report = path.with_name(path.name.replace(".hlo.pb", "-buffer-assignment.txt")).read_text()
    temporary = re.search(r"size (\d+), preallocated-temp:\n((?: value: .*\n)+)", report)
    assert temporary is not None
    assert dumped.own_bytes == int(temporary[1])
    values = {int(value) for value in re.findall(r"value: <(\d+) ", temporary[2])}
    assert {int(str(name).rpartition("#")[2]) for name in dumped.problem.ids or ()} <= values
    planned = memomalloc.plan(dumped.problem)
    # XLA does not round up the size of what lies last.
    assert planned.arena_bytes <= -(-dumped.own_bytes // 64) * 64
    # XLA's offsets solve the problem that was read: so the lifetimes are no longer than those it has.
    own = {
        int(value): int(offset)
        for value, offset in re.findall(r"value: <(\d+) .*\(size=\d+,offset=(\d+)\)", temporary[2])
    }
    check(dumped.problem, [own[int(str(name).rpartition("#")[2])] for name in dumped.problem.ids or ()])
    assert main(["compiler", "xla", str(path), "-o", str(tmp_path / "planned.csv")]) == 0


# --- IREE ----------------------------------------------------------------------------------------------------------


def test_iree(tmp_path: Path) -> None:
    compiler = shutil.which("iree-compile", path=str(Path(sys.executable).parent))
    if compiler is None or find_spec("jax") is None:
        pytest.skip("needs iree-compile and jax")
    from memomalloc.integrations.iree import read_iree_dump

    # IREE has no sort on this target.
    program = "block = lambda x, w: jax.nn.softmax(jax.nn.relu(x @ w) @ w.T + x)\n"
    program += "open('network.mlir', 'w').write(str(export.export(jax.jit(network))(*shapes).mlir_module()))"
    run(program, tmp_path, JAX_PLATFORMS="cpu")
    finished = subprocess.run(
        [
            *(compiler, "network.mlir", "-o", "network.vmfb", "--iree-input-type=auto"),
            *("--iree-hal-target-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=generic"),
            *("--mlir-print-ir-before=iree-stream-layout-slices", "--mlir-print-ir-after=iree-stream-layout-slices"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    dump = tmp_path / "dump.mlir"
    dump.write_text(finished.stderr)
    problems = read_iree_dump(dump)
    assert sum(len(dumped.problem) for dumped in problems) > 8
    # After the pass the sizes of the allocations are constants: IREE's own layout.
    constants = dict(
        re.findall(r"(%[\w.$-]+) = arith\.constant (\d+) : index", finished.stderr.rpartition("IR Dump After")[2])
    )
    own = [
        int(constants[size])
        for size in re.findall(
            r"stream\.resource\.alloca .*!stream\.resource<transient>\{(%[\w.$-]+)\}",
            finished.stderr.rpartition("IR Dump After")[2],
        )
    ]
    assert len(own) == len(problems)
    planned = [memomalloc.plan(dumped.problem).arena_bytes for dumped in problems]
    assert sum(planned) <= sum(own)
    assert all(dumped.problem.lower_bound_bytes <= size for dumped, size in zip(problems, own, strict=True))


# --- TensorFlow Lite Micro -----------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    pytest.importorskip("ai_edge_litert")
    from tflite_models import small_network

    path = tmp_path / "model.tflite"
    path.write_bytes(small_network(with_variable=True))
    return path


def _outputs(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    given, taken = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.set_tensor(given["index"], np.random.default_rng(1).normal(size=given["shape"]).astype(np.float32))
    interpreter.invoke()
    return interpreter.get_tensor(taken["index"])


def test_a_model_with_a_plan_computes_the_same(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from memomalloc.integrations.tflite import TfliteModel

    planned = small.with_name("planned.tflite")
    assert main(["compiler", "tflite", str(small), "-o", str(planned)]) == 0
    line = capsys.readouterr().out
    before, after = TfliteModel(small), TfliteModel(planned)
    assert before.offsets() is None
    offsets = after.offsets()
    assert offsets is not None
    assert len(offsets) == after.num_tensors
    # Constants and the variable are the device's; every other tensor has a place, and no two that live share a byte.
    places = {int(str(name)): offsets[int(str(name))] for name in after.dumped.problem.ids or ()}
    assert {index for index, offset in enumerate(offsets) if offset >= 0} == set(places)
    check(after.dumped.problem, list(places.values()))
    assert all(offset % 16 == 0 for offset in places.values())
    made = memomalloc.plan(before.dumped.problem)
    assert f"subgraph 0: 10 buffers in {made.arena_bytes} bytes" in line
    assert made.arena_bytes <= (before.dumped.own_bytes or 0)
    assert np.array_equal(_outputs(planned), _outputs(small))


def test_lifetimes_are_those_of_the_device(small: Path) -> None:
    from memomalloc.integrations.tflite import TfliteModel

    problem = TfliteModel(small).dumped.problem
    by_size = list(zip(problem.sizes.tolist(), problem.starts.tolist(), problem.ends.tolist(), strict=True))
    # The image, what the nine operators make of it; neither the variable nor constants.
    assert by_size[0] == (16 * 16 * 3 * 4, 0, 2)
    assert by_size[1] == (16 * 16 * 8 * 4, 1, 4)
    assert by_size[-1] == (96 * 4, 9, 10)


def test_constants_stay_aligned_and_everything_else_stays(small: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    from memomalloc.integrations.tflite import METADATA_NAME, TfliteModel

    planned = small.with_name("planned.tflite")
    model = TfliteModel(small)
    model.write(memomalloc.plan(model.dumped.problem), planned)
    content = planned.read_bytes()
    written = schema.Model.GetRootAs(content, 0)
    read = schema.Model.GetRootAs(small.read_bytes(), 0)
    assert written.BuffersLength() == read.BuffersLength() + 1
    for index in range(written.BuffersLength()):
        data = written.Buffers(index).DataAsNumpy()
        if isinstance(data, np.ndarray) and len(data) > 0:
            address = (
                data.__array_interface__["data"][0] - np.frombuffer(content, np.uint8).__array_interface__["data"][0]
            )
            assert address % 16 == 0
            if index < read.BuffersLength():
                assert np.array_equal(data, read.Buffers(index).DataAsNumpy())
    assert written.Metadata(0).Name().decode() == METADATA_NAME
    words = np.frombuffer(written.Buffers(written.Metadata(0).Buffer()).DataAsNumpy().tobytes(), "<i4")
    assert words[:3].tolist() == [1, 0, model.num_tensors]


def test_a_plan_that_is_there_is_replaced_only_when_told(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from memomalloc.integrations.tflite import TfliteModel

    planned, again = small.with_name("planned.tflite"), small.with_name("again.tflite")
    assert main(["compiler", "tflite", str(small), "-o", str(planned)]) == 0
    assert main(["compiler", "tflite", str(planned), "-o", str(again)]) == 2
    assert "--replace" in capsys.readouterr().err
    assert main(["compiler", "tflite", str(planned), "-o", str(again), "--replace", "--planner", "bump"]) == 0
    assert TfliteModel(again).offsets() != TfliteModel(planned).offsets()
    # Replaced, not added to: the file has grown by nothing.
    assert len(again.read_bytes()) == len(planned.read_bytes())
    assert np.array_equal(_outputs(again), _outputs(small))


def test_a_plan_for_another_model_is_refused(small: Path) -> None:
    from memomalloc.integrations.tflite import TfliteModel

    model = TfliteModel(small)
    other = memomalloc.plan(memomalloc.Problem.from_arrays([64], [0], [1]))
    with pytest.raises(InvalidPlanError, match="not for the tensors"):
        model.write(other, small.with_name("out.tflite"))


def test_damaged_models_are_refused_or_read_never_anything_else(small: Path) -> None:
    from memomalloc.integrations.tflite import TfliteModel

    whole = small.read_bytes()
    for place in range(0, len(whole), 101):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :]):
            small.write_bytes(damaged)
            try:
                TfliteModel(small)
            except FileFormatError:
                continue


def test_what_cannot_be_planned_says_why(small: Path) -> None:
    from memomalloc.integrations.tflite import TfliteModel
    from tflite_models import ModelWriter

    writer = ModelWriter()
    image = writer.tensor([1, 8, 8, 3])
    writer.model.subgraphs.append(writer.graph)
    small.write_bytes(writer.content([image], [writer.convolution(image, 4, 1)]))
    with pytest.raises(FileFormatError, match="2 subgraphs"):
        TfliteModel(small)
    small.write_bytes(b"GIF89a and so on")
    with pytest.raises(FileFormatError, match="bytes 4 to 8"):
        TfliteModel(small)
