"""Which part may know which: the import rule of the layers, checked in the sources."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from child_process import run_python

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc"
PACKAGE = Path(find_spec("memomalloc").origin).parent

#: For each part of the package, the others that it may import. A part may import itself; tools at the end may import
#: everything before them.
ALLOWED = {
    "harmless_text": set(),
    "running": set(),
    "child_group": set(),
    "errors": {"harmless_text"},
    "extras": {"errors"},
    "data": {"errors", "extras", "harmless_text", "_planner", "_snapshot"},
    "planners": {"child_group", "errors", "extras", "data", "_planner"},
    "advice": {"errors", "harmless_text", "data", "planners"},
    "runtime": {"errors", "extras", "data", "planners", "_runtime", "_built_for"},
    "report": {"errors", "extras", "harmless_text", "data", "planners", "advice"},
    "integrations": {"errors", "extras", "data", "planners"},
}
#: The rooms of the runtime: each may import those to its right. Below all of them are the modules beside them.
ROOMS = ("models", "shipping", "calls", "learning", "memory")
#: Run by a person or a test, imported by no part of the library.
TOOLS = {"auto", "bench", "cli", "doctor", "serve", "trial", "__main__"}
#: Parts that must work where torch is not installed.
WITHOUT_TORCH = {
    "advice", "running", "errors", "extras", "harmless_text", "data", "planners", "report", "integrations"
}  # fmt: skip


def _modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "memomalloc":
                yield from (f"memomalloc.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_part_imports_only_what_lies_below_it(path: Path) -> None:
    part = _part(path)
    if part == "__init__" or part in TOOLS:
        return
    if part == "_built_for":
        assert not list(_imports(path))
        return
    assert part in ALLOWED, f"{part} has no rule: say here what it may import"
    for name in _imports(path):
        top, _, rest = name.partition(".")
        if top == "memomalloc" and rest:
            assert rest.split(".")[0] in {part, *ALLOWED[part]}, f"{path.relative_to(PACKAGE)} imports {name}"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_of_the_runtime_imports_only_rooms_to_its_right(path: Path) -> None:
    part, *inner = path.relative_to(PACKAGE).parts
    if part != "runtime":
        return
    may = ROOMS[ROOMS.index(inner[0]) :] if len(inner) > 1 else ()
    below = {other.stem for other in (PACKAGE / "runtime").glob("*.py")}
    for name in _imports(path):
        if name.startswith("memomalloc.runtime."):
            assert name.split(".")[2] in {*may, *below}, f"{path.relative_to(PACKAGE)} imports {name}"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_runtime_and_the_tools_know_torch(path: Path) -> None:
    if _part(path) in WITHOUT_TORCH or _part(path) == "__init__":
        assert not [name for name in _imports(path) if name.split(".")[0] in ("torch", "transformers", "torchvision")]


def test_the_package_itself_imports_no_runtime() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    at_import = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {getattr(node, "module", None) or node.names[0].name for node in at_import}
    assert not [name for name in names if "runtime" in name or "torch" in name]


def test_no_module_is_named_like_a_public_function() -> None:
    import memomalloc

    functions = {name for name in memomalloc.__all__ if name.islower() and callable(getattr(memomalloc, name))}
    assert functions
    assert functions.isdisjoint(path.name.removesuffix(".py") for path in PACKAGE.iterdir())


def test_the_planner_half_works_without_torch() -> None:
    child = run_python("""
        import sys
        sys.modules["torch"] = None
        import memomalloc
        problem = memomalloc.Problem.from_arrays([64, 128, 64], [0, 1, 2], [2, 3, 4])
        for planner in memomalloc.planners.available():
            if not planner.extra:
                assert memomalloc.plan(problem, planner=planner.name).arena_bytes >= 192
        print("fine")
    """)
    assert child.stdout == "fine\n", child.stderr


def test_python_imports_are_of_the_standard_library_or_declared() -> None:
    declared = {"numpy", "memomalloc", "torch", "transformers", "rich"}
    for path in _modules():
        if _part(path) in WITHOUT_TORCH - {"extras"} | {"__init__", "runtime"}:
            tops = {name.split(".")[0] for name in _imports(path)}
            unknown = tops - declared - set(sys.stdlib_module_names)
            assert not unknown or _part(path) in ("planners", "report"), f"{path}: {unknown}"


# --- Plain data ----------------------------------------------------------------------------------------------------

#: What data is made of. None of it knows what is made of it: a file format, a notebook, the checker, a command.
PLAIN_DATA = {
    "call_stacks",
    "calls",
    "columns",
    "device_plan",
    "device_problem",
    "forms",
    "origin",
    "plan",
    "problem",
    "snapshot",
    "trace",
}
#: Parts in which no file imports, by any way round, itself; imports for types and inside functions count.
WITHOUT_CYCLES = ("advice", "data", "planners", "report")


def _files_of(part: str) -> dict[str, set[str]]:
    """The files of a part by name, and which others of the same part each imports."""
    files = {path.stem: path for path in (PACKAGE / part).glob("*.py") if path.stem != "__init__"}
    prefix = f"memomalloc.{part}."
    return {
        stem: {name.removeprefix(prefix).split(".")[0] for name in _imports(path) if name.startswith(prefix)} & {*files}
        for stem, path in files.items()
    }


def _cycle(files: dict[str, set[str]]) -> list[str]:
    """Files that import each other in a ring; empty if there are none."""
    left = dict(files)
    while left:
        done = [stem for stem, imported in left.items() if not imported & left.keys()]
        if not done:
            return sorted(left)
        for stem in done:
            del left[stem]
    return []


def test_plain_data_knows_nothing_that_is_made_of_it() -> None:
    files = _files_of("data")
    assert files.keys() >= PLAIN_DATA
    for stem in PLAIN_DATA:
        assert files[stem] <= PLAIN_DATA, f"data/{stem}.py imports {files[stem] - PLAIN_DATA}"


@pytest.mark.parametrize("part", WITHOUT_CYCLES)
def test_no_files_import_each_other_in_a_ring(part: str) -> None:
    assert _files_of(part)
    assert not _cycle(_files_of(part))


def test_a_ring_would_be_found() -> None:
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    assert not _cycle({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"a"}})


# --- C++ -----------------------------------------------------------------------------------------------------------

needs_sources = pytest.mark.skipif(not SOURCES.is_dir(), reason="runs in a checkout only")

#: For each folder of csrc, the folders whose headers it may include.
ALLOWED_INCLUDES = {
    "planner": {"planner"},
    "core": {"core"},
    "python": {"python"},
    "torch": {"torch", "core", "python"},
    "snapshot": {"snapshot"},
    # "memomalloc" is the folder of the headers that are installed.
    "library": {"library", "planner", "memomalloc"},
}
#: Headers in C, which knows no namespaces; what they declare begins with the name.
C_HEADERS = {SOURCES / "library" / "include" / "memomalloc" / "planner.h"}
#: The files that know Python.
BINDINGS = {SOURCES / folder / "bindings.cpp" for folder in ("planner", "snapshot", "torch")}
_FOREIGN = re.compile(r"^(torch|c10|ATen|aten|caffe2|nanobind|pybind11|Python\.h|pyerrors|frameobject|cpython)\b")


def _sources() -> list[Path]:
    return sorted(path for kind in ("*.cpp", "*.hpp", "*.h") for path in SOURCES.rglob(kind))


def _includes(path: Path) -> list[tuple[str, str]]:
    """Each include of a file: ``"`` or ``<``, and what is named."""
    return re.findall(r'^\s*#\s*include\s*(["<])([^">]+)[">]', path.read_text(encoding="utf-8"), re.MULTILINE)


@needs_sources
@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(SOURCES)))
def test_a_folder_includes_only_what_lies_below_it(path: Path) -> None:
    folder = path.relative_to(SOURCES).parts[0]
    allowed = ALLOWED_INCLUDES[folder] | ({"python"} if path in BINDINGS else set())
    for quote, name in _includes(path):
        if quote == '"':
            assert name.split("/")[0] in allowed, f"{name}: a folder's name comes first in an include"


@needs_sources
@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(SOURCES)))
def test_what_is_beside_torch_knows_neither_it_nor_python(path: Path) -> None:
    folder = path.relative_to(SOURCES).parts[0]
    if folder in ("core", "planner", "snapshot", "library") and path not in BINDINGS:
        assert not [name for quote, name in _includes(path) if quote == "<" and _FOREIGN.match(name)]


@needs_sources
def test_installed_headers_include_only_each_other_and_the_standard_library() -> None:
    for path in (SOURCES / "library" / "include").rglob("*.h*"):
        for quote, name in _includes(path):
            assert quote == "<"
            assert "/" not in name or (path.parents[1] / name).is_file(), f"{path} includes {name}"


@needs_sources
def test_nothing_is_global_but_the_namespace() -> None:
    for path in _sources():
        text = path.read_text(encoding="utf-8")
        if path in C_HEADERS:
            # Types end a declaration, functions are followed by their parameters, macros are defined.
            named = re.findall(r"^} (\w+);|^MEMOMALLOC_API .*?\b(\w+)\(|^#define (\w+)", text, re.MULTILINE)
            assert named
            assert all("".join(names).lower().startswith("memomalloc_") for names in named), path
            continue
        assert "namespace memomalloc" in text, path
        assert "using namespace std" not in text, path
