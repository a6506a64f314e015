"""The runtime refuses a torch that is too old, and says which command mends it."""

from __future__ import annotations

import pytest

from child_process import run_python
from memomalloc.errors import RuntimeNotAvailableError
from memomalloc.runtime.extension import check_torch, comes_with_package, install, load, torch_version
from memomalloc.runtime.torch_versions import is_newer_than_tested


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("2.8.0", r"needs torch>=2\.9, this is torch 2\.8\.0\. Run: pip install 'torch>=2\.9'"),
        ("1.13.0", r"needs torch>=2\.9"),
        ("nonsense", r"cannot be read: 'nonsense'"),
    ],
)
def test_a_torch_that_is_too_old_is_refused_with_the_command_that_mends_it(version: str, message: str) -> None:
    with pytest.raises(RuntimeNotAvailableError, match=message):
        check_torch(version)


@pytest.mark.parametrize("version", ["2.9.0", "2.13.0+cpu", "2.14.0a0+git1234", "2.15.0", "2.16.0", "3.0.0a0+git"])
def test_a_torch_that_is_new_enough_is_not(version: str) -> None:
    check_torch(version)


@pytest.mark.parametrize(
    ("version", "newer"), [("2.9.1", False), ("2.15.3+cpu", False), ("2.16.0a0+git", True), ("3.0.0", True)]
)
def test_what_is_newer_than_tested_is_known(version: str, newer: bool) -> None:
    assert is_newer_than_tested(version) is newer


def test_only_the_runtime_for_this_very_torch_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from memomalloc import _built_for

    monkeypatch.setattr(_built_for, "TORCH_VERSION", "2.14.1+cpu")
    assert comes_with_package("2.14.1+cpu")
    assert not comes_with_package("2.14.1+cu130")
    monkeypatch.setattr(_built_for, "TORCH_VERSION", "2.99.0")
    assert not comes_with_package("2.99.0"), "newer than tested: its runtime is tested first"
    monkeypatch.setattr(_built_for, "TORCH_VERSION", "")
    assert not comes_with_package(torch_version())


def test_installing_twice_is_installing_once() -> None:
    assert install() is install() is load()


@pytest.mark.parametrize("name", ["optimize", "record", "replay", "stats"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("import sys; sys.modules['torch'] = None", "needs torch, which cannot be imported"),
        ("import torch; torch.__version__ = '2.8.1'", "this is torch 2.8.1"),
    ],
    ids=["no_torch", "old_torch"],
)
def test_where_the_runtime_cannot_run_its_names_say_so_and_the_planner_works(
    fault: str, message: str, name: str
) -> None:
    child = run_python(f"""
        {fault}
        import memomalloc
        problem = memomalloc.Problem.from_arrays([64, 64], [0, 1], [2, 3])
        assert memomalloc.plan(problem).arena_bytes == 128
        try:
            memomalloc.{name}
        except memomalloc.errors.RuntimeNotAvailableError as error:
            print(error)
    """)
    assert message in child.stdout, child.stderr


def test_an_allocator_that_cannot_be_fronted_is_an_error_and_not_a_crash() -> None:
    child = run_python("""
        import memomalloc, torch
        from memomalloc.runtime import extension
        native = extension.load()
        class Refusing:
            def install(self):
                raise RuntimeError("the CPU allocator that is installed has no raw deleter")
        extension.load = lambda: Refusing()
        try:
            extension.install()
        except memomalloc.errors.RuntimeNotAvailableError as error:
            print(error)
    """)
    assert "no raw deleter" in child.stdout, child.stderr
