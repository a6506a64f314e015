"""The stubs of the native modules say what the modules have: every name, every parameter, every default."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import memomalloc

Signatures = dict[
    str, list[tuple[str, bool]] | None
]  # by name: parameters and whether each has a default; None for a property


def in_stub(body: list[ast.stmt], prefix: str = "") -> Signatures:
    found: Signatures = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            found |= in_stub(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            decorators = {decorator.id for decorator in node.decorator_list if isinstance(decorator, ast.Name)}
            # A parameter that the binding gives no name is called so by nanobind, and taken by position only.
            names = ["arg"] * len(node.args.posonlyargs) + [argument.arg for argument in node.args.args]
            first_default = len(names) - len(node.args.defaults)
            parameters = [(name, place >= first_default) for place, name in enumerate(names)]
            found[prefix + node.name] = None if "property" in decorators else parameters
    return found


def in_module(owner: Any, prefix: str = "") -> Signatures:
    found: Signatures = {}
    for name, member in vars(owner).items():
        if isinstance(member, type):
            found |= in_module(member, f"{name}.")
        elif isinstance(member, property):
            found[prefix + name] = None
        elif hasattr(member, "__nb_signature__"):
            ((text, _, _),) = member.__nb_signature__
            found[prefix + name] = parameters_of(text)
    return found


def parameters_of(signature: str) -> list[tuple[str, bool]]:
    # Defaults are numbered, "\0", and types are not always Python: both are replaced by what Python can read.
    text = re.sub(r"\\\d+", "...", re.sub(r"ndarray\[[^\]]*\]", "ndarray", signature))
    (function,) = ast.parse(f"{text}: ...").body
    assert isinstance(function, ast.FunctionDef)
    return next(iter(in_stub([function]).values())) or []


@pytest.mark.parametrize("name", ["_planner", "_snapshot", "_runtime"])
def test_a_stub_says_what_the_module_has(name: str) -> None:
    module = importlib.import_module(f"memomalloc.{name}")
    stub = ast.parse((Path(memomalloc.__file__).parent / f"{name}.pyi").read_text())
    has = in_module(module)
    assert len(has) >= 3
    assert in_stub(stub.body) == has


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(memomalloc.__file__).parent / "py.typed").is_file()
