"""The planner as an installed library: found, built against and linked from an empty folder, in C and in C++."""

from __future__ import annotations

import ctypes
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import memomalloc
from memomalloc.errors import InvalidProblemError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "library"
HEADER = ROOT / "csrc" / "library" / "include" / "memomalloc" / "planner.h"

# The tools of the environment first; pip puts cmake and ninja beside python.
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def _tool(name: str) -> str | None:
    return shutil.which(name, path=ENVIRONMENT["PATH"])


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not all(map(_tool, ("cmake", "ninja", "c++", "cc"))), reason="needs cmake, ninja and a compiler for C and C++"
    ),
]


def run(*command: str | Path, folder: Path, status: int = 0) -> str:
    finished = subprocess.run(
        [str(part) for part in command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == status, f"{command}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def _install(kind: str, folder: Path) -> Path:
    """The library built as ``kind``, and its installed files, moved to another place after they were installed."""
    options = {"shared": ["-DBUILD_SHARED_LIBS=ON"], "static": ["-DBUILD_SHARED_LIBS=OFF"]}[kind]
    build = folder / "build"
    # Not optimised: it is not speed that is tested here.
    run(
        *("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug"),
        *("-DMEMOMALLOC_LIBRARY=ON", "-DMEMOMALLOC_WERROR=ON", *options),
        folder=folder,
    )
    run("cmake", "--build", build, "--parallel", "2", folder=folder)
    run("cmake", "--install", build, "--prefix", folder / "installed", folder=folder)
    shutil.rmtree(build)
    return (folder / "installed").rename(folder / "moved")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _install("shared", tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _install("static", tmp_path_factory.mktemp("static"))


@pytest.fixture(params=["shared", "static"])
def prefix(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def _library(prefix: Path) -> Path:
    (library,) = prefix.rglob("libmemomalloc_planner.so")
    return library


def _build_example(language: str, prefix: Path, folder: Path) -> Path:
    """An example, built by find_package in a folder that holds nothing else."""
    shutil.copytree(EXAMPLES / language, folder / "program")
    run(
        *("cmake", "-S", folder / "program", "-B", folder / "build", "-G", "Ninja"),
        f"-DCMAKE_PREFIX_PATH={prefix}",
        folder=folder,
    )
    run("cmake", "--build", folder / "build", folder=folder)
    (program,) = [
        path for path in (folder / "build").iterdir() if path.is_file() and path.name in ("schedule", "scratchpad")
    ]
    return program


def test_the_example_in_c(prefix: Path, tmp_path: Path) -> None:
    program = _build_example("c", prefix, tmp_path)
    lines = run(program, folder=tmp_path).splitlines()
    assert lines[-1].startswith("6422528 bytes, the lower bound; ")
    assert [line.split()[0] for line in lines[:-1]] == ["input", "conv", "relu", "pool", "conv2", "add"]
    # What the page for compilers gets for the same schedule from Python.
    page = (ROOT / "docs" / "compilers.md").read_text()
    assert "== 6422528" in page
    assert run(program, "6422528", folder=tmp_path)
    run(program, "6422527", folder=tmp_path, status=1)


def test_the_example_in_cpp(prefix: Path, tmp_path: Path) -> None:
    program = _build_example("cpp", prefix, tmp_path)
    lines = run(program, folder=tmp_path).splitlines()
    assert len(lines) == 3
    assert re.match(r"25 buffers in \d+ bytes, no plan needs less than \d+; \w+$", lines[0])
    assert lines[1].endswith("bytes: fits")
    assert lines[2].endswith("bytes: cannot fit")


def test_pkg_config_finds_it(prefix: Path, tmp_path: Path) -> None:
    if _tool("pkg-config") is None:
        pytest.skip("needs pkg-config")
    (description,) = prefix.rglob("memomalloc.pc")
    flags = run("pkg-config", "--cflags", "--libs", description, folder=tmp_path).split()
    program = tmp_path / "schedule"
    # Flags of the linker come after what needs them.
    run("cc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", EXAMPLES / "c" / "schedule.c", *flags,
        f"-Wl,-rpath,{description.parents[1]}", "-o", program, folder=tmp_path)  # fmt: skip
    assert "the lower bound" in run(program, folder=tmp_path)


def test_an_incompatible_version_is_not_found(prefix: Path, tmp_path: Path) -> None:
    lines = (EXAMPLES / "c" / "CMakeLists.txt").read_text().replace("memomalloc 0.1", "memomalloc 99")
    (tmp_path / "CMakeLists.txt").write_text(lines)
    (tmp_path / "schedule.c").write_text("int main(void) { return 0; }\n")
    run("cmake", "-B", "build", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}", folder=tmp_path, status=1)


@pytest.mark.parametrize("standard", ["c99", "c17", "c++11", "c++17", "c++20"])
def test_the_headers_are_of_every_standard(standard: str, tmp_path: Path) -> None:
    compiler, name = ("c++", "program.cpp") if "++" in standard else ("cc", "program.c")
    uses = "#include <memomalloc/planner.h>\nmemomalloc_problem problem = MEMOMALLOC_PROBLEM_INIT;\n"
    if standard in ("c++17", "c++20"):
        uses += "#include <memomalloc/planner.hpp>\nmemomalloc::Plan made() { return memomalloc::plan({}); }\n"
    (tmp_path / name).write_text(uses)
    flags = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-fsyntax-only")
    run(compiler, f"-std={standard}", *flags, f"-I{HEADER.parents[1]}", name, folder=tmp_path)


def test_another_project_may_take_the_sources_in(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "c" / "schedule.c", tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\n"
        "project(another LANGUAGES C CXX)\n"
        f"add_subdirectory({ROOT} memomalloc)\n"
        "add_executable(schedule schedule.c)\n"
        "target_link_libraries(schedule PRIVATE memomalloc::planner)\n"
    )
    run("cmake", "-B", "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug", folder=tmp_path)
    run("cmake", "--build", "build", "--parallel", "2", folder=tmp_path)
    assert "the lower bound" in run("build/schedule", folder=tmp_path)


def test_nothing_but_the_c_interface_is_exported(shared: Path, tmp_path: Path) -> None:
    symbols = run("nm", "--dynamic", "--defined-only", "--format=posix", _library(shared), folder=tmp_path).splitlines()
    exported = {line.split()[0] for line in symbols} - {"MEMOMALLOC_1"}
    declared = set(re.findall(r"\b(memomalloc_\w+)\([^)]*\)\s+MEMOMALLOC_NOEXCEPT;", HEADER.read_text()))
    assert declared
    # The version of a symbol is that of the binary interface it came with.
    assert exported == {f"{name}@@MEMOMALLOC_1" for name in declared}
    assert _library(shared).resolve().name == f"libmemomalloc_planner.so.1.{memomalloc.__version__}"


_COLUMNS = ("sizes", "starts", "ends", "alignments", "pins")


class _Problem(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("num_buffers", ctypes.c_size_t),
        *((name, ctypes.POINTER(ctypes.c_int64)) for name in _COLUMNS),
        ("alignment", ctypes.c_int64),
    )


class _Request(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("planner", ctypes.c_char_p),
        ("capacity", ctypes.c_int64),
        ("time_limit_s", ctypes.c_double),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_void_p) for name in ("progress", "user_data", "cancellation")),
    )


def _offsets_in_c(library: ctypes.CDLL, columns: dict[str, list[int] | None], alignment: int) -> list[int] | None:
    """What the C interface answers; None: it refuses the problem."""
    n = len(columns["sizes"] or [])
    array = ctypes.c_int64 * n
    arrays = {name: array(*values) for name, values in columns.items() if values is not None}
    problem = _Problem(ctypes.sizeof(_Problem), n, alignment=alignment, **arrays)
    request = _Request(ctypes.sizeof(_Request), b"skyline", -1, 1.0, 0)
    offsets = array()
    status = library.memomalloc_plan(ctypes.byref(problem), ctypes.byref(request), offsets, None, None)
    assert status in (0, 4)  # fine, or an invalid argument
    return list(offsets) if status == 0 else None


def _offsets_in_python(columns: dict[str, list[int] | None], alignment: int) -> list[int] | None:
    try:
        problem = memomalloc.Problem.from_arrays(
            columns["sizes"] or [],
            columns["starts"] or [],
            columns["ends"] or [],
            alignment_bytes=alignment,
            alignments=columns["alignments"],
            pinned_offsets=columns["pins"],
        )
    except InvalidProblemError:
        return None
    offsets: list[int] = memomalloc.plan(problem, planner="skyline").offsets.tolist()
    return offsets


def test_another_language_gets_what_python_gets(shared: Path) -> None:
    library = ctypes.CDLL(str(_library(shared)))
    library.memomalloc_version.restype = ctypes.c_char_p
    assert library.memomalloc_version().decode() == memomalloc.__version__
    draw = random.Random(0)
    num_refused = 0
    for _ in range(500):
        n = draw.randrange(12)
        starts = [draw.randrange(20) for _ in range(n)]
        columns: dict[str, list[int] | None] = {
            "sizes": [draw.choice([0, 1, 64, 100, draw.randrange(2**40)]) for _ in range(n)],
            "starts": starts,
            "ends": [start + draw.randrange(1, 8) for start in starts],
            "alignments": draw.choice([None, [draw.choice([1, 3, 16, 4096]) for _ in range(n)]]),
            "pins": draw.choice([None, [draw.choice([-1] * 9 + [0, 48, 2**30 * 3]) for _ in range(n)]]),
        }
        if n > 0 and draw.random() < 0.3:
            # A value that no column of some kind may have.
            column = columns[draw.choice([name for name in _COLUMNS if columns[name] is not None])]
            assert column is not None
            column[draw.randrange(n)] = draw.choice([-1, -2, 0, 2**31 + 1, 2**61, 2**63 - 1, -(2**63)])
        alignment = draw.choice([1, 16, 48, 0, 2**31])
        expected = _offsets_in_python(columns, alignment)
        num_refused += expected is None
        assert _offsets_in_c(library, columns, alignment) == expected, (columns, alignment)
    assert 100 < num_refused < 400
