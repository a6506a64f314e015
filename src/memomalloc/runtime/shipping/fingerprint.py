"""What a plan was learned with: plans of another model, torch or processor are stale."""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import platform
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

#: So deep are values described that hold others; what is deeper belongs to no structure of a model.
_MAX_DEPTH = 6
_MAX_ENTRIES = 256
_MAX_TEXT = 200
#: Of these the version says enough.
_VERSIONED = frozenset({"torch", "numpy", "memomalloc"} | sys.stdlib_module_names)
#: What every module has, hooks apart: states of the moment, and tables that are described by themselves.
_OF_EVERY_MODULE = frozenset(vars(torch.nn.Module())) | {"_compiled_call_impl", "training"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")


def fingerprint(function: Callable[..., Any]) -> dict[str, str]:
    """What must be equal where plans are learned and where they are used, by name.

    The number of threads, grad mode and the like are not in it: they belong to each call and are part of its signature.

    - ``model``: a digest of the structure: classes, the code of ``forward`` and of all that it may come to, with
      decorators, hooks, defaults and what functions enclose, attributes that are numbers, texts or lists of such, and
      names, shapes and dtypes of parameters and buffers; not their values. Attributes that methods assign anew while
      they run are left out: they are states, and not the same twice.
    - ``torch``, ``python``: the versions.
    - ``cpu``: the instruction set that torch chose, on which the algorithms of operators depend, and whether oneDNN is
      used.
    """
    digest = hashlib.sha256()
    for line in _Description().of_callable(function):
        digest.update(line.encode(errors="backslashreplace") + b"\n")
    return {
        "model": digest.hexdigest(),
        "torch": str(torch.__version__),
        "python": ".".join(map(str, sys.version_info[:2])),
        "cpu": " ".join(
            (
                platform.machine(),
                torch.backends.cpu.get_cpu_capability(),
                "oneDNN" if torch._C._has_mkldnn and torch.backends.mkldnn.enabled else "no-oneDNN",
            )
        ),
    }


class _Description:
    """Lines that are equal in every process for what behaves alike, and differ where code or structure does."""

    def __init__(self) -> None:
        #: What was described already, with a reference that keeps its id from being used again.
        self._seen: dict[int, object] = {}
        self._reached: set[tuple[type, str]] = set()
        #: Names that occur in code that was described.
        self._names: set[str] = set()

    def of_callable(self, function: Any) -> Iterator[str]:
        """What is called, and what it consists of."""
        owner = getattr(function, "__self__", None)
        if isinstance(reference := getattr(function, "module", None), weakref.ref):  # the call of an optimized model
            owner = reference()
        if isinstance(owner, torch.nn.Module):
            # The call of a module that is optimized in place, or another method of it.
            if not _is_versioned(function):
                yield from self._function(function.__func__)
            function = owner
        if isinstance(function, torch.nn.Module):
            yield from self._module(function)
        else:
            yield from self._value(function, 0)

    def _module(self, root: torch.nn.Module) -> Iterator[str]:
        kinds: dict[type, None] = {}
        for path, module in root.named_modules():
            kind = _own_kind(module)
            kinds[kind] = None
            self._seen[id(module)] = module
            yield f"{path}: {_name(kind)}({_options(module)})"
            if isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
                yield str(getattr(module, "code", ""))
            else:
                yield from self._attributes(module, kind)
            named = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            for name, tensor in named:
                yield f"{path}.{name}: {_tensor(tensor)}"
        yield from self._reachable(kinds)

    def _attributes(self, module: torch.nn.Module, kind: type) -> Iterator[str]:
        states = _assigned_names(kind)
        for name, value in sorted(vars(module).items()):
            if name in _HOOKS:
                for hook in value.values():
                    yield f"{name}:"
                    yield from self._value(hook, 0)
            elif name not in _OF_EVERY_MODULE and name not in states and not name.startswith("__"):
                yield f".{name} ="
                yield from self._value(value, 0)

    def _class(self, kind: type) -> Iterator[str]:
        yield from self._reachable({kind: None})

    def _reachable(self, kinds: Iterable[type]) -> Iterator[str]:
        """What a call may come to: methods of these classes and of their bases, up to torch's own, that are called
        ``forward`` or by a name that occurs in what was reached before."""
        bases = {
            base: None for kind in kinds for base in kind.__mro__ if not _is_versioned(base) and base is not object
        }
        self._names |= {"forward", "__call__"}
        while True:
            num_names = len(self._names)
            for base in bases:
                for name, member in sorted(vars(base).items()):
                    if name in self._names and (base, name) not in self._reached:
                        self._reached.add((base, name))
                        yield f"{_name(base)}.{name}"
                        yield from self._member(member)
            if len(self._names) == num_names:
                return

    def _member(self, member: Any) -> Iterator[str]:
        if isinstance(member, (property, functools.cached_property)):
            getter = member.fget if isinstance(member, property) else member.func
            yield from self._value(getter, 1)
            return
        function = getattr(member, "__func__", member)  # of static and class methods
        if isinstance(function, (FunctionType, functools.partial)) or _is_plain(function):
            yield from self._value(function, 1)

    def _function(self, function: FunctionType) -> Iterator[str]:
        """Code, defaults, enclosed values, and what it finds by its names in its module."""
        yield f"function {function.__module__}.{function.__qualname__}"
        if self._is_known(function):
            return
        yield from _instructions(function.__code__)
        yield from self._value(function.__defaults__, 1)
        yield from self._value(function.__kwdefaults__, 1)
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            yield from self._value(content, 1)
        if _is_versioned(function):
            return
        names = _names(function.__code__)
        self._names |= names
        for name in sorted(names - _assigned_globals(function.__code__)):
            value = function.__globals__.get(name)
            if isinstance(value, (FunctionType, functools.partial)) and not _is_versioned(value):
                yield from self._value(value, 1)
            elif value is not None and _is_plain(value):
                yield f"{name} = {_text(value)}"

    def _value(self, value: Any, depth: int) -> Iterator[str]:
        if value is None or _is_plain(value):
            yield _text(value)
        elif depth > _MAX_DEPTH:
            yield _name(type(value))
        elif isinstance(value, FunctionType):
            yield from self._function(value)
        elif isinstance(value, MethodType):
            yield from self._value(value.__func__, depth + 1)
            yield from self._value(value.__self__, depth + 1)
        elif isinstance(value, functools.partial):
            yield "partial"
            yield from self._value(value.func, depth + 1)
            yield from self._value(value.args, depth + 1)
            yield from self._value(value.keywords, depth + 1)
        elif isinstance(value, (torch.Tensor, torch.nn.Module, type, ModuleType, BuiltinFunctionType)):
            yield from self._named(value)
        elif isinstance(value, (list, tuple)):
            yield f"{type(value).__name__} of {len(value)}"
            for entry in value[:_MAX_ENTRIES]:
                yield from self._value(entry, depth + 1)
        elif isinstance(value, Mapping):
            yield f"{type(value).__name__} of {len(value)}"
            entries = [(str(key), entry) for key, entry in value.items() if isinstance(key, (str, int, bool))]
            for key, entry in sorted(entries, key=lambda item: item[0])[:_MAX_ENTRIES]:
                yield f"{key}:"
                yield from self._value(entry, depth + 1)
        else:
            yield from self._object(value, depth)

    def _named(self, value: Any) -> Iterator[str]:
        if isinstance(value, torch.Tensor):
            yield _tensor(value)
        elif isinstance(value, torch.nn.Module):
            if not self._is_known(value):  # one that is no child, but enclosed or held in a list
                yield from self._module(value)
        elif isinstance(value, type):
            yield _name(value)
            yield from () if _is_versioned(value) else self._class(value)
        else:
            yield str(getattr(value, "__name__", ""))

    def _object(self, value: Any, depth: int) -> Iterator[str]:
        """An object: what it is called with, and for a configuration what it holds."""
        kind = type(value)
        yield _name(kind)
        if callable(value) and not _is_versioned(kind):
            yield from self._class(kind)
            holds = True
        else:
            # Others have caches, clocks and locks.
            holds = dataclasses.is_dataclass(value) or kind.__name__.endswith(("Config", "no_grad", "enabled", "mode"))
        if holds and not self._is_known(value):
            states = _assigned_names(kind)
            for name, entry in sorted(getattr(value, "__dict__", {}).items()):
                if name not in states and name not in ("prev",):
                    yield f".{name} ="
                    yield from self._value(entry, depth + 1)

    def _is_known(self, value: object) -> bool:
        known = id(value) in self._seen
        self._seen[id(value)] = value
        return known


def _own_kind(module: torch.nn.Module) -> type:
    """The class of a module, without one that memomalloc has made for it: an optimized model says its own."""
    kind: type = module.__class__
    return next(base for base in kind.__mro__ if not base.__module__.startswith("memomalloc"))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _tensor(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} {tensor.layout} {tensor.device}"


def _options(module: torch.nn.Module) -> str:
    try:
        return module.extra_repr()
    except Exception:  # a user's class: its text for people may raise anything
        return ""


def _is_versioned(value: Any) -> bool:
    return str(getattr(value, "__module__", "") or "").partition(".")[0] in _VERSIONED


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, torch.Size))


def _text(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, (str, bytes)):
        # Where a file lies differs from machine to machine, and means nothing to a plan.
        is_path = ("/" if isinstance(value, str) else b"/") in value  # type: ignore[operator]
        return "a path" if is_path else repr(value)[:_MAX_TEXT]
    return repr(value)[:_MAX_TEXT]


def _instructions(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars} {code.co_flags}"
    yield from _constants(code.co_consts)


def _constants(constants: Iterable[Any]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
        elif isinstance(constant, tuple):
            yield from _constants(constant)
        elif isinstance(constant, frozenset):  # whose order differs from process to process
            yield str(sorted(map(repr, constant)))
        else:
            yield repr(constant)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType) -> set[str]:
    return {name for inner in _codes(code) for name in inner.co_names}


def _assigned_globals(code: CodeType) -> set[str]:
    return {name for inner in _codes(code) for operation, name in _assignments(inner) if operation == "STORE_GLOBAL"}


def _assigned_names(kind: type) -> set[str]:
    """Attributes that methods of a class assign after its making: states, such as a count of calls."""
    found: set[str] = set()
    for base in kind.__mro__:
        if _is_versioned(base):
            continue
        for name, member in vars(base).items():
            function = getattr(member, "__wrapped__", getattr(member, "__func__", member))
            if name.startswith(("__init__", "__post_init__", "__setstate__")) or not isinstance(function, FunctionType):
                continue
            for inner in _codes(function.__code__):
                found |= {name for operation, name in _assignments(inner) if operation == "STORE_ATTR"}
    return found


def _assignments(code: CodeType) -> Iterator[tuple[str, str]]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_ATTR", "STORE_GLOBAL"):
            yield instruction.opname, str(instruction.argval)
