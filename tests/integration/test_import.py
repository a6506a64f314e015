"""Importing the package does nothing but import the planner half."""

from __future__ import annotations

from child_process import run_python


def test_import_installs_nothing_starts_nothing_and_imports_no_torch() -> None:
    child = run_python("""
        import sys, threading, os
        import numpy
        threads = len(os.listdir("/proc/self/task"))
        import memomalloc
        assert "torch" not in sys.modules
        assert "memomalloc._runtime" not in sys.modules
        assert "memomalloc.runtime" not in sys.modules
        assert threading.active_count() == 1
        assert len(os.listdir("/proc/self/task")) == threads
        problem = memomalloc.Problem.from_arrays([64], [0], [1])
        assert memomalloc.plan(problem).arena_bytes == 64
        assert memomalloc.is_enabled()
        assert "torch" not in sys.modules
        print("fine")
    """)
    assert child.stdout == "fine\n", child.stderr


def test_import_loads_no_file_format_before_one_is_used() -> None:
    child = run_python("""
        import sys
        import memomalloc
        late = ("atomic_file", "input_file", "json_document", "notebook", "plan_file", "trace_file")
        assert not [name for name in late if f"memomalloc.data.{name}" in sys.modules]
        problem = memomalloc.Problem.from_arrays([64], [0], [1])
        memomalloc.plan(problem).save("/dev/null")
        assert "memomalloc.data.plan_file" in sys.modules
        print("fine")
    """)
    assert child.stdout == "fine\n", child.stderr


def test_naming_the_runtime_installs_no_allocator() -> None:
    child = run_python("""
        import torch, memomalloc
        from memomalloc.runtime import extension
        memomalloc.optimize, memomalloc.record, memomalloc.replay
        print(memomalloc.stats().num_plans, extension.load().reserved_bytes())
    """)
    assert child.stdout == "0 0\n", child.stderr


def test_every_public_name_is_there() -> None:
    child = run_python("""
        import memomalloc
        for name in memomalloc.__all__:
            getattr(memomalloc, name)
        assert set(memomalloc.__all__) <= set(dir(memomalloc))
        try:
            memomalloc.nonsense
        except AttributeError as error:
            print(error)
    """)
    assert child.stdout == "module 'memomalloc' has no attribute 'nonsense'\n", child.stderr
