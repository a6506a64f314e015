"""The runtime refuses a torch it was not built for, and says which command mends it."""

from __future__ import annotations

import pytest

from child_process import run_python
from memomalloc.errors import RuntimeNotAvailableError
from memomalloc.runtime.extension import check_torch, install, load


@pytest.mark.parametrize(
    ("running", "built_for", "message"),
    [
        ("2.12.1", "2.12.1", r"supports torch>=2\.13,<2\.15, this is torch 2\.12\.1\. Run: pip install 'torch>="),
        ("2.15.0", "2.15.0", r"supports torch>=2\.13,<2\.15, this is torch 2\.15\.0"),
        ("1.13.0", "2.13.0", r"supports torch>=2\.13"),
        ("3.0.0a0+git", "3.0.0a0+git", r"this is torch 3\.0\.0a0\+git"),
        ("2.13.0", "2.14.1", r"built for torch 2\.14\.1, this is torch 2\.13\.0\. Run: pip install --no-build-iso"),
        ("2.14.1+cpu", "2.14.1+cu130", r"built for torch 2\.14\.1\+cu130"),
        ("2.13.0", "", r"built where torch was not installed.*Run: pip install --no-build-isolation"),
        ("nonsense", "2.13.0", r"cannot be read: 'nonsense'"),
    ],
)
def test_another_torch_is_refused_with_the_command_that_mends_it(running: str, built_for: str, message: str) -> None:
    with pytest.raises(RuntimeNotAvailableError, match=message):
        check_torch(running, built_for)


@pytest.mark.parametrize("version", ["2.13.0", "2.13.0+cpu", "2.14.1", "2.14.0a0+git1234"])
def test_the_torch_it_was_built_for_is_accepted(version: str) -> None:
    check_torch(version, version)


def test_installing_twice_is_installing_once() -> None:
    assert install() is install() is load()


_NO_TORCH = "import sys; sys.modules['torch'] = None"


@pytest.mark.parametrize(
    ("fault", "name", "message"),
    [
        *[
            pytest.param(_NO_TORCH, name, "needs torch, which is not installed. Run: pip install torch", id=name)
            for name in ("optimize", "record", "replay", "stats")
        ],
        pytest.param(
            "import torch; torch.__version__ = '2.99.0'", "optimize", "this is torch 2.99.0", id="unsupported_torch"
        ),
        pytest.param(
            "import memomalloc._built_for as built; built.TORCH_VERSION = '2.14.9'",
            "optimize",
            "was built for torch 2.14.9",
            id="another_torch",
        ),
        pytest.param(
            "import memomalloc._built_for as built; built.TORCH_VERSION = ''",
            "optimize",
            "planner but no runtime",
            id="built_without_torch",
        ),
    ],
)
def test_where_the_runtime_cannot_run_its_names_say_so_and_the_planner_works(
    fault: str, name: str, message: str
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
