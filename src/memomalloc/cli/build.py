"""Build the runtime for the torch that is installed, and test it.

A package that was installed as a wheel has no runtime of its own: it is compiled for the torch it runs with, at its
first use or by this command, and kept with the environment (in share/memomalloc of it) or, where that is closed, in
~/.cache/memomalloc; MEMOMALLOC_RUNTIMES names another folder. Needs a C++ compiler and Python's headers. Where it is
built already, nothing is done.

examples:
  memomalloc build
  CXX=clang++ MEMOMALLOC_RUNTIMES=/srv/memomalloc memomalloc build
"""

from __future__ import annotations

import argparse
import sys
import time

HELP = "build the runtime for the torch that is installed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: there are none."""


def run(args: argparse.Namespace) -> int:
    """Build it.

    Returns:
        0.
    """
    from memomalloc.cli.option_types import named
    from memomalloc.runtime import extension, native_build

    version = extension.torch_version()
    if extension.comes_with_package(version):
        print(f"memomalloc was installed with a runtime for torch {version}")
        return 0
    found = native_build.find()
    if found is not None:
        print(f"the runtime for torch {version} is built already: {named(found)}")
        return 0
    began = time.monotonic()
    path = native_build.build(_show_progress if sys.stderr.isatty() else lambda _done, _all: None)
    print(f"built and tested the runtime for torch {version} in {time.monotonic() - began:.0f} s: {named(path)}")
    return 0


def _show_progress(num_done: int, num_all: int) -> None:
    end = "\n" if num_done == num_all else ""
    print(f"\rcompiled {num_done} of {num_all} files", end=end, file=sys.stderr, flush=True)
