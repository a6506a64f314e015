"""Plans that are saved in one process and replayed in another from the first call on, or refused with a reason."""

from __future__ import annotations

import enum
import io
import json
import logging
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import memomalloc
from child_process import run_python
from memomalloc.errors import FileFormatError, StalePlansError
from memomalloc.runtime.shipping import fingerprint
from models import Chain, Steps, chain_values, conv_net, images
from serving import assert_equal_bits, fully_served, learn


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Plans of :func:`conv_net` for ``images(0)``."""
    file = tmp_path / "conv_net.plans"
    with torch.inference_mode():
        wrapper = memomalloc.optimize(conv_net())
        learn(wrapper, images(0))
    assert wrapper.save_plans(file) == 1
    return file


def _warnings(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.memomalloc for record in caplog.records if record.levelno == logging.WARNING]


def test_the_first_call_is_replayed(saved: Path) -> None:
    with torch.inference_mode():
        replica = memomalloc.optimize(conv_net(), plans=saved)
        for seed in range(3):
            with fully_served(replica, runs=1):
                output = replica(images(seed))
            assert_equal_bits(output, conv_net()(images(seed)))
    assert replica.stats().runs_recorded == 0


def test_the_first_call_of_another_process_is_replayed(saved: Path) -> None:
    child = run_python(
        f"""
        import torch, memomalloc, models, serving
        with torch.inference_mode():
            replica = memomalloc.optimize(models.conv_net(), plans={str(saved)!r})
            with serving.fully_served(replica, runs=1):
                output = replica(models.images(1))
            serving.assert_equal_bits(output, models.conv_net()(models.images(1)))
        """
    )
    assert (child.returncode, child.stderr) == (0, "")


def test_plans_travel_through_memory() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    learn(wrapper, chain_values(0, 500))
    buffer = io.BytesIO()
    assert wrapper.save_plans(buffer) == 2
    replica = memomalloc.optimize(Chain())
    assert replica.load_plans(io.BytesIO(buffer.getvalue()), strict=True) == 2
    with fully_served(replica, runs=2):
        replica(chain_values(1))
        replica(chain_values(1, 500))


def test_equal_plans_give_equal_files() -> None:
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))
    first, second = io.BytesIO(), io.BytesIO()
    wrapper.save_plans(first)
    wrapper.save_plans(second)
    assert first.getvalue() == second.getvalue()


def test_a_call_of_another_kind_is_learned_beside_the_saved_plans(saved: Path) -> None:
    with torch.inference_mode():
        replica = memomalloc.optimize(conv_net(), plans=saved)
        learn(replica, images(0, batch=3))
        assert replica.stats().num_plans == 1  # a saved plan costs an arena when it is first used
        with fully_served(replica, runs=2):
            replica(images(1))
            replica(images(1, batch=3))


def test_a_saved_plan_that_was_evicted_serves_again(saved: Path) -> None:
    with torch.inference_mode():
        replica = memomalloc.optimize(conv_net(), plans=saved, max_plans=1)
        replica(images(0))
        replica(images(0, batch=3))
        with fully_served(replica, runs=1):
            replica(images(1))


def test_a_plan_that_is_matched_by_origin_is_so_in_the_replica() -> None:
    wrapper = memomalloc.optimize(Chain(), match="origin")
    learn(wrapper, chain_values(0))
    buffer = io.BytesIO()
    wrapper.save_plans(buffer)
    replica = memomalloc.optimize(Chain(), match="origin")
    replica.load_plans(io.BytesIO(buffer.getvalue()), strict=True)
    with fully_served(replica, runs=1):
        replica(chain_values(1))


@pytest.mark.parametrize("shapes", ["merged", "bucketed", "auto"])
def test_a_plan_for_various_shapes_serves_them_all_in_the_replica_and_grows_there(shapes: str) -> None:
    def served(wrapper: Any, num_values: int) -> None:
        for seed in range(8):
            assert_equal_bits(wrapper(chain_values(seed, num_values)), Chain()(chain_values(seed, num_values)))

    wrapper = memomalloc.optimize(Chain(), shapes=shapes)
    for num_values in (700, 730, 710, 750, 720, 760):
        served(wrapper, num_values)
    buffer = io.BytesIO()
    wrapper.save_plans(buffer)
    replica = memomalloc.optimize(Chain(), shapes=shapes)
    assert replica.load_plans(io.BytesIO(buffer.getvalue()), strict=True) > 0
    for num_values in (700, 735, 760):
        before = replica.stats()
        replica(chain_values(0, num_values))
        after = replica.stats()
        assert after.runs_replayed == before.runs_replayed + 1
        assert after.requests_upstream == before.requests_upstream
    served(replica, 5000)
    before = replica.stats()
    served(replica, 5000)
    assert replica.stats().runs_replayed == before.runs_replayed + 8


def test_a_replica_whose_calls_deviate_lets_the_plan_grow() -> None:
    wrapper = memomalloc.optimize(Steps([500, 400]))
    learn(wrapper, chain_values(0))
    buffer = io.BytesIO()
    wrapper.save_plans(buffer)
    model = Steps([500, 400])
    replica = memomalloc.optimize(model)
    replica.load_plans(io.BytesIO(buffer.getvalue()), strict=True)
    model.sizes = (500, 900, 400)
    for seed in range(8):
        assert_equal_bits(replica(chain_values(seed)), Steps([500, 900, 400])(chain_values(seed)))
    with fully_served(replica, runs=1):
        replica(chain_values(9))


def test_a_function_can_be_shipped(tmp_path: Path) -> None:
    def doubled(values: torch.Tensor) -> torch.Tensor:
        return (values * 2).sin()

    wrapper = memomalloc.optimize(doubled)
    learn(wrapper, chain_values(0))
    wrapper.save_plans(tmp_path / "plans")
    replica = memomalloc.optimize(doubled)
    assert replica.load_plans(tmp_path / "plans", strict=True) == 1
    with fully_served(replica, runs=1):
        replica(chain_values(1))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_module_in_place_takes_the_plans_of_a_wrapper(saved: Path, inplace: bool) -> None:
    with torch.inference_mode():
        replica = memomalloc.optimize(conv_net(), plans=saved, inplace=inplace)
        before = memomalloc.stats(replica).runs_replayed
        replica(images(1))
        assert memomalloc.stats(replica).runs_replayed == before + 1


class _Opaque:
    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Opaque) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


class _Mode(enum.Enum):
    FAST = 1


@dataclass(frozen=True)
class _Request:
    values: torch.Tensor
    scale: float = 2.0
    mode: _Mode = _Mode.FAST


def test_arguments_of_all_named_kinds_are_recognised() -> None:
    def call(request: _Request, **options: Any) -> torch.Tensor:
        return request.values * request.scale

    arguments: dict[str, Any] = {"a": None, "b": [1, "x", b"y", 1j, True], "c": {"k": torch.float32}, "d": (1.5,)}
    wrapper = memomalloc.optimize(call)
    learn(wrapper, _Request(chain_values(0)), **arguments)
    buffer = io.BytesIO()
    assert wrapper.save_plans(buffer) == 1
    replica = memomalloc.optimize(call)
    assert replica.load_plans(io.BytesIO(buffer.getvalue())) == 1
    with fully_served(replica, runs=1):
        replica(_Request(chain_values(1)), **arguments)


def test_a_plan_for_a_call_without_a_name_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    def call(values: torch.Tensor, opaque: _Opaque) -> torch.Tensor:
        return values * opaque.value

    wrapper = memomalloc.optimize(call)
    learn(wrapper, chain_values(0), _Opaque(3))
    buffer = io.BytesIO()
    assert wrapper.save_plans(buffer) == 0
    assert [warning["event"] for warning in _warnings(caplog)] == ["plan_not_saved"]
    replica = memomalloc.optimize(call)
    assert replica.load_plans(io.BytesIO(buffer.getvalue()), strict=True) == 0
    learn(replica, chain_values(0), _Opaque(3))


# --- Stale plans


def _other_channels() -> torch.nn.Module:
    model = conv_net()
    model.head = torch.nn.Linear(32, 11)
    return model.eval()


def _other_hyperparameter() -> torch.nn.Module:
    model = conv_net()
    model.first.padding = (2, 2)
    return model


def _other_dtype() -> torch.nn.Module:
    return conv_net().to(torch.float64)


def _other_code() -> torch.nn.Module:
    class ConvNet(type(conv_net())):  # type: ignore[misc]
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) + 1

    model = conv_net()
    model.__class__ = ConvNet
    return model


@pytest.mark.parametrize("build", [_other_channels, _other_hyperparameter, _other_dtype, _other_code])
def test_plans_of_another_model_are_refused_and_learned_anew(
    saved: Path, build: Callable[[], torch.nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StalePlansError, match="another model"):
        memomalloc.optimize(build()).load_plans(saved, strict=True)
    replica = memomalloc.optimize(build(), plans=saved)
    assert [warning["event"] for warning in _warnings(caplog)] == ["plans_refused"]
    assert "another model" in caplog.text
    with torch.inference_mode():
        learn(replica, images(0).to(next(build().parameters()).dtype))


@pytest.mark.parametrize("part", ["torch", "python", "cpu"])
def test_plans_of_another_environment_are_refused(saved: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fingerprint.fingerprint
    monkeypatch.setattr(
        "memomalloc.runtime.shipping.plan_shipping.fingerprint",
        lambda function: {**real(function), part: "something else"},
    )
    with pytest.raises(StalePlansError, match=f"another {part} .*something else"):
        memomalloc.optimize(conv_net()).load_plans(saved, strict=True)


def test_other_weights_make_no_plan_stale(saved: Path) -> None:
    model = conv_net()
    with torch.no_grad():
        model.head.weight += 1
    assert memomalloc.optimize(model).load_plans(saved, strict=True) == 1


def test_a_plan_for_another_number_of_threads_is_not_used(saved: Path) -> None:
    before = torch.get_num_threads()
    with torch.inference_mode():
        replica = memomalloc.optimize(conv_net(), plans=saved)
        torch.set_num_threads(before + 1)
        try:
            replica(images(0))
            assert replica.stats().runs_replayed == 0
        finally:
            torch.set_num_threads(before)
        with fully_served(replica, runs=1):
            replica(images(0))


# --- Damaged files


def _edited(content: bytes, edit: Callable[[dict[str, Any]], None]) -> bytes:
    """The archive with a changed manifest, its checksum right."""
    from memomalloc.data.plan_file import checksum

    source, target = io.BytesIO(content), io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "manifest.json":
                document = json.loads(data)
                edit(document)
                document["checksum"] = checksum(document["manifest"])
                data = json.dumps(document).encode()
            new.writestr(name, data)
    return target.getvalue()


def _with_member(content: bytes, name: str, data: bytes | None) -> bytes:
    """The archive with one file in place of another, or without it."""
    source, target = io.BytesIO(content), io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.namelist():
            replaced = data if member == name else old.read(member)
            if replaced is not None:
                new.writestr(member, replaced)
    return target.getvalue()


def _set_entry(**values: Any) -> Callable[[bytes], bytes]:
    return lambda content: _edited(content, lambda document: document["manifest"]["plans"][0].update(values))


def _twice(document: dict[str, Any]) -> None:
    document["manifest"]["plans"].append({**document["manifest"]["plans"][0]})


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "not a whole zip file"),
    "truncated": (lambda content: content[: len(content) // 2], "not a whole zip file"),
    "another file": (lambda content: b"PK\x03\x04" + b"x" * 100, "not a whole zip file"),
    "a flipped byte": (lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:], "."),
    "no manifest": (lambda content: _with_member(content, "manifest.json", None), "manifest.json"),
    "a manifest that is no object": (lambda content: _with_member(content, "manifest.json", b"[]"), "not a plan arch"),
    "a manifest that is no JSON": (lambda content: _with_member(content, "manifest.json", b"{"), "not valid JSON"),
    "another format": (lambda content: _edited(content, lambda d: d.update(format="x")), "not a plan archive"),
    "a later version": (lambda content: _edited(content, lambda d: d.update(version=2)), "version 2"),
    "an edited manifest": (
        lambda content: _with_member(
            content, "manifest.json", zipfile.ZipFile(io.BytesIO(content)).read("manifest.json").replace(b"cpu", b"gpu")
        ),
        "checksum of the manifest",
    ),
    "a missing plan": (lambda content: _with_member(content, "0.plan.json", None), "0.plan.json"),
    "a missing trace": (lambda content: _with_member(content, "0.trace.jsonl", None), "0.trace.jsonl"),
    "an exchanged plan": (lambda content: _with_member(content, "0.plan.json", b"{}"), "checksum of 0.plan.json"),
    "no plans": (lambda content: _edited(content, lambda d: d["manifest"].pop("plans")), "must have a fingerprint"),
    "a fingerprint of numbers": (
        lambda content: _edited(content, lambda d: d["manifest"]["fingerprint"].update(cpu=1)), "object of texts"),
    "a plan twice": (lambda content: _edited(content, _twice), "."),
    "an unknown key": (_set_entry(extra=1), "not the keys"),
    "sizes of different lengths": (_set_entry(lowest=[1], highest=[]), "as long as lowest"),
    "a size that is no number": (_set_entry(lowest=["1"], highest=[1]), "whole number"),
    "a huge count": (_set_entry(upstream_peak_bytes=2**70), "whole number"),
    "a flag that is no flag": (_set_entry(by_origin=1), "true or false"),
    "a digest that is no text": (_set_entry(calls=1), "must be a text"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_and_learned_anew(saved: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    change, message = DAMAGES[damage]
    saved.write_bytes(change(saved.read_bytes()))
    with pytest.raises(FileFormatError, match=message):
        memomalloc.optimize(conv_net()).load_plans(saved, strict=True)
    replica = memomalloc.optimize(conv_net(), plans=saved)
    assert [warning["event"] for warning in _warnings(caplog)] == ["plans_refused"]
    with torch.inference_mode():
        learn(replica, images(0))


def test_a_missing_file_is_no_error_unless_strict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memomalloc.optimize(Chain(), plans=tmp_path / "none")
    assert "there is no such file" in caplog.text
    with pytest.raises(FileFormatError, match="there is no such file"):
        memomalloc.optimize(Chain()).load_plans(tmp_path / "none", strict=True)


def test_saving_replaces_the_file_as_a_whole_or_not_at_all(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    wrapper = memomalloc.optimize(Chain())
    learn(wrapper, chain_values(0))

    def fail(*paths: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        wrapper.save_plans(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
