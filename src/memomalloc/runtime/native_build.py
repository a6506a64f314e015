"""Builds the native runtime for the torch that is installed, from the sources that come with the package.

A wheel serves every torch this way: the runtime is compiled once for each, tested in a process of its own, and kept.
The package's own build (CMakeLists.txt) compiles the same files with the same options.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from memomalloc.errors import RuntimeNotAvailableError
from memomalloc.runtime import extension

#: The folder for built runtimes, where neither the environment's nor the user's is to be used.
FOLDER_VARIABLE = "MEMOMALLOC_RUNTIMES"

_MAX_COMPILERS = 8  # each takes up to 1 GB
_POLL_S = 0.02
_SELF_TEST_TIMEOUT_S = 300.0

#: Told how many files of how many are compiled.
OnProgress = Callable[[int, int], None]


def runtime_file() -> Path:
    """The runtime for the torch that is installed; built, with a line on stderr, where there is none yet.

    Raises:
        RuntimeNotAvailableError: it cannot be built.
    """
    found = find()
    if found is not None:
        return found
    began = time.monotonic()
    _say(f"builds its runtime for torch {extension.torch_version()}, once (a minute or two)")
    path = build()
    _say(f"built {path} in {time.monotonic() - began:.0f} s")
    return path


def find() -> Path | None:
    """The runtime that was built for the torch that is installed, by this or another process before."""
    name = _file_name()
    return next((path for folder in _folders() if _may_be_loaded(path := folder / name)), None)


def build(on_progress: OnProgress = lambda _done, _all: None) -> Path:
    """Compile and test the runtime for the torch that is installed, and keep it.

    Another process that builds the same is waited for. What is kept is whole and tested, whatever interrupts this.

    Raises:
        RuntimeNotAvailableError: no compiler, no place to keep it, or it failed its test; the message says what to do.
    """
    name = _file_name()
    folder = _writable_folder()
    target = folder / name
    with _alone(target.with_suffix(".lock")):
        if _may_be_loaded(target):
            return target
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as work:
            log = target.with_suffix(".log")
            built = _compile(Path(work), log, on_progress)
            _test(built)
            os.replace(built, target)
            log.unlink(missing_ok=True)
    return target


def _say(text: str) -> None:
    if sys.stderr is not None:
        print(f"memomalloc: {text}", file=sys.stderr, flush=True)


# --- What is built, and where it is kept ---------------------------------------------------------------------------


@functools.cache
def _sources() -> Path:
    """The folder of the sources, which lies beside what the package's own build has written."""
    from memomalloc import _built_for

    folder = Path(_built_for.__file__).parent / "_sources"
    if not folder.is_dir():
        raise RuntimeNotAvailableError(
            f"memomalloc is installed without its sources, which belong in {folder}. "
            "Run: pip install --force-reinstall --no-deps memomalloc"
        )
    return folder


def _file_name() -> str:
    """Different wherever another runtime is needed: by torch, Python, or the sources."""
    import torch

    digest = hashlib.sha256(f"{torch.version.git_version} {_abi_of_strings()}".encode())
    for path in sorted(_sources().rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(_sources())).encode() + b"\0" + path.read_bytes())
    return f"torch-{torch.__version__}-{sysconfig.get_config_var('SOABI')}-{digest.hexdigest()[:16]}.so"


def _abi_of_strings() -> int:
    """Which of its two kinds of ``std::string`` torch was compiled with."""
    import torch

    return int(torch.compiled_with_cxx11_abi())


def _folders() -> list[Path]:
    """Where runtimes are kept: with the environment, which may be an image made by another user; else with the user."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return [Path(chosen)]
    caches = [os.environ.get("XDG_CACHE_HOME", ""), os.path.join(os.path.expanduser("~"), ".cache")]
    users = [Path(cache, "memomalloc") for cache in caches if os.path.isabs(cache)]
    return [Path(sys.prefix, "share", "memomalloc"), *users[:1]]


def _may_be_loaded(path: Path) -> bool:
    """Whether a runtime is there, and nobody has put it there who could not have changed Python itself."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return False
    return bool(os.environ.get(FOLDER_VARIABLE)) or owner in (0, os.getuid(), os.stat(sys.prefix).st_uid)


def _writable_folder() -> Path:
    reasons = []
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror}")
    raise RuntimeNotAvailableError(
        f"memomalloc finds no place for its runtime ({'; '.join(reasons)}). "
        f"Set {FOLDER_VARIABLE} to a folder that can be written to, or run `memomalloc build` as who can"
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Nobody else is in this block with the same path. The file stays: another may wait for it."""
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waits for another process that builds its runtime")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- Compiling -----------------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    what: str
    command: list[str]
    output: Path


def _compile(work: Path, log: Path, on_progress: OnProgress) -> Path:
    """The compiled runtime in the folder ``work``; ``log`` is what the compiler said, if it failed."""
    compiler, options = _compiler(), _options()
    sources = [
        *_sources().glob("core/*.cpp"),
        *_sources().glob("torch/*.cpp"),
        *_sources().glob("nanobind/src/nb_combined.cpp"),
    ]
    # Those that include torch take longest, and begin.
    sources.sort(key=lambda path: (path.parent.name != "torch", -path.stat().st_size))
    steps = [
        _Step(
            path.name, [*compiler, *options, "-c", str(path), "-o", str(work / f"{number}.o")], work / f"{number}.txt"
        )
        for number, path in enumerate(sources)
    ]
    _run_all(steps, log, on_progress)
    built = work / "_runtime.so"
    objects = [str(work / f"{number}.o") for number in range(len(sources))]
    link = [*compiler, "-shared", "-Wl,-s", "-o", str(built), *objects, "-pthread", "-ldl", *_libraries()]
    _run_all([_Step("the link", link, work / "link.txt")], log, lambda _done, _all: None)
    return built


def _compiler() -> list[str]:
    chosen = os.environ.get("CXX", "").split()
    for command in [chosen] if chosen else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]) is not None:
            return command
    missing = f"{chosen[0]}, which CXX names, is not there" if chosen else "there is none"
    raise RuntimeNotAvailableError(
        f"memomalloc's runtime is compiled for the torch it runs with, by a C++ compiler, and {missing}. Run: "
        "apt-get install g++ (or what your system has), then: memomalloc build; to run without one, build it where "
        f"there is one, with the same Python and torch, and copy the file to {_folders()[0]}"
    )


def _options() -> list[str]:
    sources, torch_folder = _sources(), _torch_folder()
    python_headers = sysconfig.get_path("include")
    if not Path(python_headers, "Python.h").is_file():
        raise RuntimeNotAvailableError(
            f"memomalloc's runtime needs Python's headers, and there is no {python_headers}/Python.h. "
            "Run: apt-get install python3-dev (or what your system has), then: memomalloc build"
        )
    system = [
        torch_folder / "include",
        torch_folder / "include" / "torch" / "csrc" / "api" / "include",
        python_headers,
        sources / "nanobind" / "include",
        sources / "nanobind" / "ext" / "robin_map" / "include",
    ]
    return [
        *("-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-pthread", "-fno-stack-protector", "-fno-strict-aliasing"),
        *("-fvisibility=hidden", "-fvisibility-inlines-hidden", f"-D_GLIBCXX_USE_CXX11_ABI={_abi_of_strings()}"),
        "-DAT_PER_OPERATOR_HEADERS",  # headers bring in the operators that they use, not all there are
        f"-I{sources}",
        *(argument for folder in system for argument in ("-isystem", str(folder))),
    ]


def _torch_folder() -> Path:
    import torch

    return Path(torch.__file__).parent


def _libraries() -> list[str]:
    # No path to them is kept: torch has loaded them before the runtime is.
    return [str(_torch_folder() / "lib" / f"lib{name}.so") for name in ("c10", "torch_cpu", "torch_python")]


def _run_all(steps: list[_Step], log: Path, on_progress: OnProgress) -> None:
    """Run commands, as many at a time as there are cores. Ends those that run when one fails, or at Ctrl-C."""
    stopping = threading.Event()
    # In threads, which no signal interrupts: what was started is known.
    with ThreadPoolExecutor(min(_MAX_COMPILERS, len(os.sched_getaffinity(0)))) as pool:
        futures = [pool.submit(_run, step, stopping) for step in steps]
        try:
            for num_done, future in enumerate(as_completed(futures), start=1):
                step, status = future.result()
                if status != 0:
                    raise _failure(step, log)
                on_progress(num_done, len(steps))
        finally:
            stopping.set()
            for future in futures:
                future.cancel()


def _run(step: _Step, stopping: threading.Event) -> tuple[_Step, int]:
    with (
        open(step.output, "wb") as output,
        subprocess.Popen(step.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process,
    ):
        while process.poll() is None:
            if stopping.wait(_POLL_S):
                process.kill()
        return step, process.returncode


def _failure(step: _Step, log: Path) -> RuntimeNotAvailableError:
    said = step.output.read_bytes()
    log.write_bytes(" ".join(step.command).encode() + b"\n" + said)
    lines = [line for line in said.decode(errors="replace").splitlines() if "error" in line.lower()]
    return RuntimeNotAvailableError(
        f"memomalloc's runtime cannot be compiled for torch {extension.torch_version()}: {step.what} failed"
        f"{f' ({lines[0]})' if lines else ''}. All that the compiler said is in {log}. GCC from version 10 and Clang "
        "from version 12 do; CXX says which is used"
    )


# --- Testing -------------------------------------------------------------------------------------------------------


def _test(path: Path) -> None:
    """See in a process of its own that a runtime works with the torch that is installed."""
    if not sys.executable:
        raise RuntimeNotAvailableError("memomalloc's runtime is built by a Python interpreter. Run: memomalloc build")
    environment = {
        **os.environ,
        extension.FILE_VARIABLE: str(path),
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    # The program's own wishes are not for the test.
    for variable in [
        name for name in environment if name.startswith("MEMOMALLOC_") and name != extension.FILE_VARIABLE
    ]:
        del environment[variable]
    try:
        test = subprocess.run(
            [sys.executable, "-P", "-m", "memomalloc.runtime.models.self_test"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SELF_TEST_TIMEOUT_S,
            check=False,
        )
        ended, said = f"exit status {test.returncode}", (test.stdout + test.stderr).strip()
        if test.returncode == 0:
            return
    except subprocess.TimeoutExpired:
        ended, said = f"no end after {_SELF_TEST_TIMEOUT_S:.0f} s", ""
    last = f": {said.splitlines()[-1]}" if said else ""
    raise RuntimeNotAvailableError(
        f"memomalloc's runtime was compiled for torch {extension.torch_version()}, but does not pass its test with it "
        f"({ended}{last}), and is not used. Please report it; until then run with a torch of docs/versions.md"
    )
