"""From what the native capture saw to the origins of a trace."""

from __future__ import annotations

import gc
import linecache
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from sys import intern
from types import CellType, FrameType
from typing import Any, NamedTuple

import torch

import memomalloc
from memomalloc.data.origin import Origin, SourceLine
from memomalloc.runtime.memory.askers import COMPILED_KERNEL, NO_OPERATOR, SCALAR_OPERATOR

#: Code in these folders is nobody's source line: the line that called into them is.
LIBRARY_FOLDERS = [str(Path(package.__file__ or "").parent) + "/" for package in (torch, memomalloc)]
#: The frame that runs when a module is called; its ``self`` is the module.
MODULE_CALL_CODE = torch.nn.Module._call_impl.__code__


def call_of_the_program(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call a function so that origins do not tell who called it: a wrapper is called from anywhere."""
    return function(*args, **kwargs)


#: More than a Python number has.
_MAX_SCALAR_BYTES = 16

# The code that Inductor generates: a buffer, another name for it, a call, and the comment above the call.
_BUFFER = re.compile(r"\s*(?P<name>\w+) = empty_strided\w*\(")
_RENAMED = re.compile(r"\s*(?P<new>\w+) = (?P<old>\w+); del (?P=old)")
_CALL = re.compile(r"\s*(?:\w+ = )?(?P<function>[\w.]+)\((?P<arguments>.*)\)")
_SOURCE_NODES = re.compile(r"# Topologically Sorted Source Nodes: \[(?P<nodes>[^\]]*)\]")
_REACH = 60  # lines between a buffer and the kernel that first writes it


class Context(NamedTuple):
    """One kind of asking, as the native capture tells it."""

    operators: tuple[str, ...]  # outermost first
    modules: tuple[Any, ...]  # outermost first
    script_modules: str  # TorchScript's own module path
    file: str
    line: int
    function: str
    thread: str = ""


class Place(NamedTuple):
    """From where memory is asked for, as a trace tells it."""

    operators: tuple[str, ...]
    module_path: str
    source: SourceLine | None
    thread: str

    @property
    def is_compiled(self) -> bool:
        """Whether a kernel of compiled code asks."""
        return self.operators[-1].startswith(COMPILED_KERNEL)

    def origin(self, role: str, occurrence: int = 0) -> Origin:
        """Of a buffer that is asked for, or, with the role ``call``, of a call."""
        return Origin(self.operators, self.module_path, self.source, role, occurrence, self.thread)


def places_of(contexts: Sequence[Context], *, name_models: bool = False) -> list[Place]:
    """Describe the kinds of asking there were.

    Args:
        contexts: of one recording, or of several that are told together.
        name_models: where there are several models, paths begin with the name of the variable or attribute that holds
            the model. Not for traces that are compared with later ones: such a name may change.
    """
    paths = _ModulePaths()
    if name_models:
        paths.name_models([context.modules for context in contexts])
    return [_describe(context, paths) for context in contexts]


def origins_of(
    places: Sequence[Place],
    place_of: Sequence[int],
    sizes: Sequence[int],
    escapes: Sequence[bool],
    freed_in_call: Sequence[bool],
) -> tuple[Origin, ...]:
    """Describe who asked for each buffer of a trace.

    Args:
        places: see :func:`places_of`.
        place_of: for each of n buffers an index into ``places``.
        sizes: of the buffers, in bytes.
        escapes: for each buffer whether it outlived the recording.
        freed_in_call: for each buffer whether it was freed before the operator that asked for it was done.

    Returns:
        n origins, unique in the trace.
    """
    seen: Counter[tuple[Place, str]] = Counter()
    origins = []
    for index, size, escape, in_call in zip(place_of, sizes, escapes, freed_in_call, strict=True):
        role = "escape" if escape else "scratch" if in_call else "output"
        place = places[index]
        if place.operators == (NO_OPERATOR,) and size <= _MAX_SCALAR_BYTES:
            place = place._replace(operators=(SCALAR_OPERATOR,))
        origins.append(place.origin(role, seen[place, role]))
        seen[place, role] += 1
    return tuple(origins)


def _describe(context: Context, paths: _ModulePaths) -> Place:
    path = paths.of(context.modules)
    if context.script_modules:
        path = ".".join(part for part in (path, _script_path(context.script_modules)) if part)
    # Interned: each plan keeps its origins, and those of one model ask from the same places.
    source = SourceLine(intern(context.file), context.line, intern(context.function)) if context.file else None
    operators = context.operators or (_inductor_operators(source) if source else ()) or (NO_OPERATOR,)
    return Place(tuple(map(intern, operators)), intern(path), source, context.thread)


class _ModulePaths:
    """Names of modules below the model that they were called from."""

    def __init__(self) -> None:
        self._below: dict[int, dict[int, str]] = {}
        self._names: dict[int, str] = {}

    def name_models(self, called: Sequence[Sequence[Any]]) -> None:
        """Let paths begin with the model's name if there are several models.

        Args:
            called: the modules of each context, outermost first.
        """
        models = {id(model): model for modules in called if modules for model in [self._model(modules)]}
        if len(models) > 1:
            self._names = names_of_models(list(models.values()))

    def of(self, modules: Sequence[Any]) -> str:
        """The path of the innermost module as in ``named_modules()``; for a model itself the name of its class."""
        if not modules:
            return ""
        model = self._model(modules)
        below = self._paths_below(model).get(id(modules[-1]))
        if id(model) in self._names:
            return ".".join(part for part in (self._names[id(model)], below) if part)
        return below or type(model).__name__

    def _model(self, modules: Sequence[Any]) -> Any:
        """The outermost module that knows the innermost; it knows itself, unless its class says otherwise."""
        innermost = id(modules[-1])
        return next((module for module in modules if innermost in self._paths_below(module)), modules[-1])

    def _paths_below(self, root: Any) -> dict[int, str]:
        if id(root) not in self._below:
            # Not what a class may have made of it.
            named = torch.nn.Module.named_modules(root)
            self._below[id(root)] = {id(module): name for name, module in named}
        return self._below[id(root)]


def names_of_models(models: Sequence[Any]) -> dict[int, str]:
    """What a program calls its models, by their ids: the variable of a module, else the attribute and its class, else
    the variable of a function, else the model's own class. Names that are taken get a number."""
    names: dict[int, str] = {}
    taken: Counter[str] = Counter()
    for model in models:
        name = _name_of_model(model) or type(model).__name__
        taken[name] += 1
        names[id(model)] = name if taken[name] == 1 else f"{name}#{taken[name]}"
    return names


def _name_of_model(model: Any) -> str:
    found: dict[int, str] = {}
    for holder in gc.get_referrers(model):
        if isinstance(holder, dict):
            key = next((key for key, value in list(holder.items()) if value is model and isinstance(key, str)), "")
            if not key.isidentifier():
                continue
            if "__name__" in holder and "__builtins__" in holder:
                found.setdefault(0, key)
            else:
                owners = [o for o in gc.get_referrers(holder) if getattr(o, "__dict__", None) is holder]
                found.setdefault(1, f"{type(owners[0]).__name__}.{key}") if owners else found.setdefault(2, key)
        elif not isinstance(holder, (list, tuple, FrameType, CellType)) and getattr(holder, "__dict__", None):
            key = next((key for key, value in list(vars(holder).items()) if value is model), "")
            if key:
                found.setdefault(1, f"{type(holder).__name__}.{key}")
        elif isinstance(holder, FrameType) and not holder.f_code.co_filename.startswith(tuple(LIBRARY_FOLDERS)):
            key = next((key for key, value in holder.f_locals.items() if value is model), "")
            if key:
                found.setdefault(3, key)
    return found[min(found)] if found else ""


def _script_path(hierarchy: str) -> str:
    """``TOP(Net)::forward.SELF(Net)::forward.conv(Conv2d)::_conv_forward`` is the module ``conv``."""
    names = [re.sub(r"\(.*?\)(::.*)?$", "", level) for level in hierarchy.split(".")]
    return ".".join(name for name in names if name not in ("TOP", "SELF", ""))


def _inductor_operators(source: SourceLine) -> tuple[str, ...]:
    """The nodes of the program and the kernel that a buffer of Inductor's generated code is for, as far as it tells."""
    buffer = _BUFFER.match(linecache.getline(source.file, source.line))
    if buffer is None:
        return ()
    names = {buffer["name"]}
    for number in range(source.line + 1, source.line + _REACH):
        line = linecache.getline(source.file, number)
        if (renamed := _RENAMED.match(line)) and renamed["old"] in names:
            names.add(renamed["new"])
        call = _CALL.match(line)
        if call is None or call["function"].startswith("assert_"):
            continue
        if names.intersection(re.findall(r"\w+", call["arguments"])):
            nodes = _SOURCE_NODES.search(linecache.getline(source.file, number - 1))
            kernel = COMPILED_KERNEL + call["function"].rpartition(".")[2]
            return (nodes["nodes"], kernel) if nodes else (kernel,)
    return ()
