"""The runtime builds itself for another torch: found again, tested before it is kept, clear where it cannot be built.

The real build takes a minute, and is tried by ``make package``; here a compiler only says that it was called.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from child_process import run_python
from memomalloc.errors import RuntimeNotAvailableError
from memomalloc.runtime import extension, native_build, torch_versions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runtimes are kept; empty."""
    monkeypatch.setenv(native_build.FOLDER_VARIABLE, str(tmp_path / "runtimes"))
    return tmp_path / "runtimes"


def _compiler(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler whose every output is a file with one line; a log of its calls."""
    log = tmp_path / "calls"
    script = f'echo "$@" >> {log}; while [ "$1" != -o ]; do shift; done; echo compiled > "$2"'
    monkeypatch.setenv("CXX", _compiler(tmp_path / "compiler", script))
    return log


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every runtime passes its test; which were tested."""
    tested: list[Path] = []
    monkeypatch.setattr(native_build, "_test", tested.append)
    return tested


def test_what_is_built_is_tested_kept_and_found_again(folder: Path, compiler: Path, passing: list[Path]) -> None:
    assert native_build.find() is None
    seen: list[tuple[int, int]] = []
    path = native_build.build(lambda num_done, num_all: seen.append((num_done, num_all)))
    assert path.parent == folder
    assert path.read_text() == "compiled\n"
    assert len(passing) == 1
    assert native_build.find() == path == native_build.build()
    assert len(passing) == 1, "what is there is not built again"
    num_files = len(seen)
    assert seen == [(number, num_files) for number in range(1, num_files + 1)]
    calls = compiler.read_text().splitlines()
    assert len(calls) == num_files + 1, "each file, and the link"
    assert {path.name for path in folder.iterdir()} == {path.name, path.with_suffix(".lock").name}


def test_it_compiles_what_the_packages_own_build_does() -> None:
    root = Path(__file__).parents[2]
    if not (root / "csrc").is_dir():
        pytest.skip("runs in a checkout only")
    for part in ("core", "torch"):
        installed = {path.name for path in (native_build._sources() / part).glob("*.cpp")}
        assert installed == {path.name for path in (root / "csrc" / part).glob("*.cpp")}, "install the package again"
    assert (native_build._sources() / "nanobind" / "LICENSE").is_file()


def test_another_torch_or_python_gets_a_runtime_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    names = {native_build._file_name()}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "2.14.7")
        names.add(native_build._file_name())
    with monkeypatch.context() as patch:
        patch.setattr(torch.version, "git_version", "0" * 40)
        names.add(native_build._file_name())
    with monkeypatch.context() as patch:
        patch.setattr(native_build.sysconfig, "get_config_var", lambda name: "cpython-315")
        names.add(native_build._file_name())
    assert len(names) == 4


def test_changed_sources_get_a_runtime_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for text in ("int a;", "int b;"):
        (tmp_path / "one.cpp").write_text(text)
        monkeypatch.setattr(native_build, "_sources", lambda: tmp_path)
        names.append(native_build._file_name())
    assert names[0] != names[1]


def test_no_compiler_is_said_with_the_command_that_brings_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        RuntimeNotAvailableError, match=r"C\+\+ compiler, and there is none\. Run: apt-get install g\+\+"
    ):
        native_build.build()
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(RuntimeNotAvailableError, match="no-such-compiler, which CXX names, is not there"):
        native_build.build()
    assert native_build.find() is None


def test_missing_headers_of_python_are_said(folder: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build.sysconfig, "get_path", lambda name: "/nowhere")
    with pytest.raises(RuntimeNotAvailableError, match=r"/nowhere/Python\.h\. Run: apt-get install python3-dev"):
        native_build.build()


def test_an_error_of_the_compiler_is_quoted_and_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", _compiler(tmp_path / "compiler", "echo 'x.cpp:1: error: no such thing'; exit 1"))
    with pytest.raises(RuntimeNotAvailableError, match=r"cannot be compiled for torch .*no such thing") as raised:
        native_build.build()
    (log,) = folder.glob("*.log")
    assert str(log) in str(raised.value)
    assert "no such thing" in log.read_text()
    assert native_build.find() is None


def test_what_fails_its_test_is_not_kept(folder: Path, compiler: Path) -> None:
    with pytest.raises(RuntimeNotAvailableError, match="does not pass its test") as raised:
        native_build.build()  # what this compiler makes is no library
    assert "cannot be loaded" in str(raised.value)
    assert native_build.find() is None


def test_a_closed_folder_gives_way_to_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(native_build.sys, "prefix", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(native_build.FOLDER_VARIABLE, raising=False)
    assert native_build._writable_folder() == tmp_path / "cache" / "memomalloc"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RuntimeNotAvailableError, match=r"no place for its runtime .*Set MEMOMALLOC_RUNTIMES"):
        native_build._writable_folder()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_runtime_of_somebody_else_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build.sys, "prefix", str(tmp_path))
    monkeypatch.delenv(native_build.FOLDER_VARIABLE, raising=False)
    path = native_build._writable_folder() / native_build._file_name()
    path.touch()
    assert native_build.find() == path
    os.chown(path, 12345, 12345)
    assert native_build.find() is None
    os.chown(tmp_path, 12345, 12345)  # whose environment it is
    assert native_build.find() == path


def test_a_relative_folder_of_caches_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native_build.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert all(folder.is_absolute() for folder in native_build._folders())


def test_two_that_build_at_once_build_once(folder: Path, compiler: Path, passing: list[Path]) -> None:
    threads = [threading.Thread(target=native_build.build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passing) == 1
    assert native_build.find() is not None


def test_an_interrupt_ends_the_compilers_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"echo $$ >> {pids}; exec sleep 100"
    child = subprocess.Popen(
        [sys.executable, "-c", "from memomalloc.runtime import native_build; native_build.build()"],
        env={**os.environ, "CXX": _compiler(tmp_path / "compiler", script)},
        stderr=subprocess.PIPE,
    )
    while not pids.is_file() or not pids.read_text().endswith("\n"):
        assert child.poll() is None
        threading.Event().wait(0.05)
    child.send_signal(2)
    _, said = child.communicate(timeout=120)
    assert b"KeyboardInterrupt" in said
    for pid in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_a_runtime_that_came_with_the_package_passes_the_test_of_a_new_one() -> None:
    child = run_python("import runpy; runpy.run_module('memomalloc.runtime.models.self_test', run_name='__main__')")
    assert child.returncode == 0, child.stderr


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("native.num_bad_frees = lambda: 1", "a block came back"),
        ("native.is_reserved = lambda address: True", "outside of any plan"),
        ("native.is_reserved = lambda address: False", "an output does not lie in planned memory"),
        ("torch.equal = lambda one, other: False", "gave another result"),
        ("torch.nn.functional.linear = lambda x, weight: x[:, :8] * 2", "is said to have made a product"),
    ],
)
def test_the_test_of_a_new_runtime_sees_what_is_wrong(fault: str, message: str) -> None:
    child = run_python(f"""
        import torch
        from memomalloc.runtime import extension
        from memomalloc.runtime.models import self_test
        class Faulty:
            def __getattr__(self, name):
                return getattr(self.__dict__["real"], name)
        native = Faulty()
        native.__dict__["real"] = extension.install()
        extension.install = lambda: native
        {fault}
        self_test.main()
    """)
    assert child.returncode != 0
    assert message in child.stderr


def test_a_newer_torch_is_tried_with_a_warning(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The runtime of this torch, in the place of one that was built for the newer one.
    own = extension.load().__file__
    assert own is not None
    child = run_python(f"""
        import shutil, torch, warnings
        torch.__version__ = "2.{torch_versions.LAST_TESTED_TORCH[1] + 1}.0"
        from memomalloc.runtime import native_build
        def build(on_progress=None):
            path = native_build._writable_folder() / native_build._file_name()
            shutil.copy({own!r}, path)
            return path
        native_build.build = build
        import memomalloc
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = memomalloc.optimize(torch.nn.Linear(4, 4), example_inputs=torch.ones(1, 4))
        print([str(warning.message) for warning in caught])
    """)
    assert child.returncode == 0, child.stderr
    assert "memomalloc was tested with torch up to" in child.stdout
    assert "builds its runtime for torch" in child.stderr
