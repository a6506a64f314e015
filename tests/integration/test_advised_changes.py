"""Advice is true: the change is made by hand, recorded, and the peak is the one foretold, to the byte."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import memomalloc
import memomalloc.cli
from memomalloc.advice import Advice, Change
from memomalloc.advice.advising import Memory, _proposals
from memomalloc.advice.subject import Subject
from memomalloc.advice.trials import TRIALS
from memomalloc.cli.subjects import record_script
from memomalloc.data import Trace
from memomalloc.trial import CALLS, _PackedConvolution, change_outermost_calls
from models import REAL_MODELS, RealModel, image_model

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {model.name: model for model in REAL_MODELS}

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A program, and a change of it made by hand.

    Attributes:
        name: of the test.
        build: the program, or the changed one.
        changes: kinds and texts of the advice that was followed, all of it together.
        same: the results are the same bit for bit.
    """

    name: str
    build: Callable[[bool], Call]
    changes: tuple[tuple[str, str], ...]
    same: bool = True


def _real(model: RealModel, change: Callable[[torch.nn.Module], object], changed: bool) -> Call:
    module, inputs = model.build(), model.inputs(0)
    if changed:
        change(module)
    return lambda: module(*inputs)


def _replace(kind: str, function: Callable[..., Any], module: torch.nn.Module, name: str = "forward") -> None:
    """Give all modules of a class another method."""
    found = [inner for inner in module.modules() if type(inner).__name__ == kind]
    assert found
    for inner in found:
        setattr(inner, name, functools.partial(function, inner))


def _gelu_in_place(module: torch.nn.Module) -> None:
    _replace("GELUActivation", lambda self, values: torch.ops.aten.gelu_(values), module)


def _bert_output_in_place(self: Any, hidden: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    hidden = self.dropout(self.dense(hidden))
    hidden += inputs
    return self.LayerNorm(hidden)


def _bert_output_with_del(self: Any, hidden: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    hidden = self.dropout(self.dense(hidden))
    total = hidden + inputs
    del hidden
    return self.LayerNorm(total)


class Vgg(torch.nn.Module):
    """Convolutions and activations in a row."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.steps = torch.nn.ModuleList(
            module
            for a, b in ((8, 16), (16, 16), (16, 32))
            for module in (torch.nn.Conv2d(a, b, 1), torch.nn.ReLU(inplace=inplace))
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            images = step(images)
        return images.mean(dim=(2, 3))


def _vgg(changed: bool) -> Call:
    torch.manual_seed(0)
    module, images = Vgg(inplace=changed).eval(), torch.randn(1, 8, 32, 32)
    return lambda: module(images)


class UNet(torch.nn.Module):
    """Two scales with a skip, which is read in the middle of the way up."""

    def __init__(self, *, deletes: bool) -> None:
        super().__init__()
        self.deletes = deletes
        self.down = torch.nn.Conv2d(4, 16, 1)
        self.low = torch.nn.Conv2d(16, 16, 1)
        self.up = torch.nn.Upsample(scale_factor=2)
        self.join = torch.nn.Conv2d(32, 16, 1)
        self.wide = torch.nn.Conv2d(16, 64, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        skip = self.down(images)
        low = self.low(torch.nn.functional.avg_pool2d(skip, 2))
        both = torch.cat([skip, self.up(low)], dim=1)
        if self.deletes:
            del skip
        return self.wide(self.join(both)).amax(dim=1)


def _unet(changed: bool) -> Call:
    torch.manual_seed(0)
    module, images = UNet(deletes=changed).eval(), torch.randn(1, 4, 32, 32)
    return lambda: module(images)


def _detections(changed: bool) -> Call:
    """Scores of several images that are reduced, and cast, when all are there."""
    torch.manual_seed(0)
    module = torch.nn.Conv2d(3, 40, 1).eval()
    images = [torch.randn(1, 3, 40, 40) for _ in range(5)]
    if changed:
        return lambda: [module(image).to(torch.float16) for image in images]

    def late() -> list[torch.Tensor]:
        scores = [module(image) for image in images]
        return [score.to(torch.float16) for score in scores]

    return late


def _convolutions_in_channels_last(changed: bool) -> Call:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.Conv2d(64, 128, 3, padding=1)).eval()
    module.to(memory_format=torch.channels_last)
    images = torch.randn(2, 32, 20, 20).to(memory_format=torch.channels_last)
    if changed:
        for inner in module:
            inner._conv_forward = functools.partial(_PackedConvolution(), inner)
    return lambda: module(images)


def _example(changed: bool) -> Call:
    sys.path.insert(0, str(ROOT / "examples"))
    import lower_the_peak as example

    torch.manual_seed(0)
    model = example.Segmentation(changed=changed).eval()
    images = [torch.randn(1, 3, 64, 64) for _ in range(4)]
    classes_of = example.classes_of_one_by_one if changed else example.classes_of
    return lambda: classes_of(model, images)


_VIT = image_model(
    "vit", "ViTModel", 32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512,
    image_size=32, patch_size=8,
)  # fmt: skip
_SWIN = image_model(
    "swin", "SwinModel", 64, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, image_size=64, mlp_ratio=8.0
)


def _real_case(model: RealModel, change: Callable[[torch.nn.Module], object], kind: str, text: str) -> Case:
    return Case(f"{model.name}, {kind}", functools.partial(_real, model, change), ((kind, text),))


def _output_of_bert(function: Callable[..., torch.Tensor]) -> Callable[[torch.nn.Module], object]:
    return functools.partial(_replace, "BertOutput", function)


CASES = (
    _real_case(
        BY_NAME["bert"],
        _output_of_bert(_bert_output_in_place),
        "in place",
        "write over the result of aten::linear & BertOutput.forward",
    ),
    _real_case(
        BY_NAME["bert"],
        _output_of_bert(_bert_output_with_del),
        "del",
        "`del` the result of aten::linear & BertOutput.forward",
    ),
    *(_real_case(model, _gelu_in_place, "in place", "aten::gelu") for model in (BY_NAME["convnext"], _VIT, _SWIN)),
    Case("vgg, in place", _vgg, (("in place", "aten::relu"),)),
    Case("unet, del", _unet, (("del", "as soon as aten::cat"),)),
    Case("detections, earlier", _detections, (("earlier", "aten::to"),)),
    Case("packed weights", _convolutions_in_channels_last, (("packed weights", "aten::conv2d"),), same=False),
    Case(
        "the example, all together",
        _example,
        (("in place", "aten::relu"), ("del", "aten::relu"), ("del", "aten::upsample"), ("earlier", "aten::argmax")),
    ),
)


def _record(call: Call) -> tuple[Trace, Any]:
    with torch.inference_mode():
        for _ in range(2):
            call()
        with memomalloc.record(calls=True) as recording:
            result = call()
    return recording.trace, result


def _advised(advice: Advice, kind: str, text: str) -> Change:
    (found,) = {change for change in (*advice.changes, *advice.together) if change.kind == kind and _says(change, text)}
    return found


def _says(change: Any, text: str) -> bool:
    return all(part in f"{change.text} {change.source}" for part in text.split(" & "))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return all(map(_same, one, other))


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_peak_after_a_change_is_the_one_foretold(case: Case) -> None:
    before, plain_result = _record(case.build(False))
    after, result = _record(case.build(True))
    if len(case.changes) == 1:
        change = _advised(memomalloc.advise(before), *case.changes[0])
        assert change.is_exact
        foretold = change.after
    else:
        foretold = _together(before, case.changes)
    assert foretold == Memory.of(after)
    assert foretold.peak_bytes < before.peak_live_bytes
    assert not case.same or _same(plain_result, result)
    assert _same(plain_result, result) or all(map(torch.allclose, plain_result, result))


def _together(trace: Trace, wanted: tuple[tuple[str, str], ...]) -> Memory:
    subject = Subject(trace)
    chosen = [
        proposal
        for proposal in _proposals(subject)
        if any(proposal.kind == kind and _says(proposal, text) for kind, text in wanted)
    ]
    assert len({proposal.kind for proposal in chosen}) == len({kind for kind, _ in wanted})
    return Memory.of(subject.outcome([proposal.edit for proposal in chosen]).trace())


# --- What a program is run with -----------------------------------------------------------------------------------

PROGRAM = """
import sys, torch
torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Sequential(
    torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.ReLU(),
    torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.Flatten(1),
).eval()
images = torch.randn(4, 16, 32, 32)
"""
CALL = "outputs = model(images)"
#: What somebody writes who makes the change by hand.
BY_HAND = {
    "inference mode": f"with torch.inference_mode():\n    {CALL}",
    "channels last": "model.to(memory_format=torch.channels_last)\n"
    "outputs = model(images.to(memory_format=torch.channels_last))",
    "half batch": "outputs = torch.cat([model(images[:2]), model(images[2:])])",
}


def _recorded(program: str, folder: Path) -> Trace:
    path = folder / "program.py"
    path.write_text(PROGRAM + program)
    return record_script(path, [])


def test_every_trial_can_be_run() -> None:
    assert CALLS.keys() == TRIALS.keys()


@pytest.mark.parametrize("name", BY_HAND)
def test_a_trial_needs_what_the_program_changed_by_hand_needs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With gradients, so that each of them changes something."""
    _recorded(CALL, tmp_path)  # oneDNN makes its primitives
    plain = _recorded(CALL, tmp_path)
    _recorded(BY_HAND[name], tmp_path)
    by_hand = _recorded(BY_HAND[name], tmp_path)
    monkeypatch.setattr(torch.nn.Module, "__call__", torch.nn.Module.__call__)
    change_outermost_calls(CALLS[name])
    tried = _recorded(CALL, tmp_path)
    assert Memory.of(tried).peak_bytes == Memory.of(by_hand).peak_bytes != plain.peak_live_bytes
    advice = memomalloc.advise(plain, tried={name: tried})
    assert [change.after for change in advice.changes if change.kind == name] == [Memory.of(tried)] * (
        tried.peak_live_bytes < 0.995 * plain.peak_live_bytes
    )


def test_packed_weights_leave_only_packed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = f"with torch.inference_mode():\n    {CALL}"
    plain = _recorded(call, tmp_path)
    monkeypatch.setattr(torch.nn.Module, "__call__", torch.nn.Module.__call__)
    change_outermost_calls(CALLS["packed weights"])
    tried = _recorded(call, tmp_path)
    assert tried.calls is not None
    operators = {origin.operators[-1] for origin in tried.origins}
    assert "mkldnn::_convolution_pointwise" in operators
    assert "aten::mkldnn_convolution" not in operators
    assert tried.peak_live_bytes < plain.peak_live_bytes


def test_a_batch_that_cannot_be_cut_is_said_to_be_one() -> None:
    module = torch.nn.Identity()
    for inputs in (torch.ones(1, 3), torch.ones(()), None):
        with pytest.raises(memomalloc.errors.RecordingError, match="Identity is called with no batch"):
            CALLS["half batch"](torch.nn.Module.__call__, module, inputs)


def _advise(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memomalloc", "advise", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_a_program_is_run_with_each_change(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    own = "images = images[:int(sys.argv[1])]\nprint('printed')\ntorch.nn.Identity()(torch.ones(1))\n"
    program.write_text(PROGRAM + own + "assert '--json' in sys.argv\n" + CALL)
    finished = _advise("--json", str(program), "3", "--json")
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert "does not take half batch: Identity is called with no batch that can be cut in two" in finished.stderr
    by_kind = {change["kind"]: change for change in found["changes"]}
    assert by_kind["inference mode"]["is_exact"]
    assert by_kind["inference mode"]["after"]["peak_bytes"] < found["before"]["peak_bytes"]
    assert found["together"]


def test_what_fails_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fails.py").write_text("import torch\ntorch.ones(8)\n1 / 0\n")
    memomalloc.plan(Trace.from_arrays([1], [0], [1])).save(tmp_path / "plan.json")
    Trace.from_arrays([1], [0], [1]).save(tmp_path / "old.jsonl")
    for name, message in (
        ("fails.py", "ZeroDivisionError"),
        ("plan.json", "this is no trace"),
        ("old.jsonl", "does not say who read its tensors"),
        ("none.jsonl", "no such file"),
    ):
        assert memomalloc.cli.main(["advise", str(tmp_path / name)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_a_trace_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    trace, _ = _record(_vgg(False))
    trace.save(tmp_path / "trace.jsonl.gz")
    path = str(tmp_path / "trace.jsonl.gz")
    assert memomalloc.cli.main(["advise", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["before"]["peak_bytes"] == trace.peak_live_bytes
    assert memomalloc.cli.main(["advise", path, "one", "--json"]) == 2
    assert "only a program takes arguments" in json.loads(capsys.readouterr().out)["error"]
    assert memomalloc.cli.main(["advise", path]) == 0
    printed = capsys.readouterr().out
    assert "the one that gives most" in printed
    assert "nn.ReLU(inplace=True)" in printed
    assert "peak after" in printed
