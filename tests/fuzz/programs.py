"""Random torch programs, and what runs them beside the same calls of plain functions.

A program is a list of plain steps that anything can be left out of: a step that names what is not there does nothing.
Every call is made twice, of the plain function and of the optimized one, and what comes of them is compared bit for
bit; so is each tensor that is held with a copy that was taken when it was made, until it is let go. Freed memory is
overwritten. Each program has a process of its own. One that fails is reduced to the steps that it fails by::

    python tests/fuzz/programs.py                     # a minute of random programs; MEMOMALLOC_FUZZ_S sets the seconds
    python tests/fuzz/programs.py --seed 7            # one of them
    python tests/fuzz/programs.py --steps '[...]'     # a reduced one
"""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import faulthandler
import gc
import json
import os
import queue
import random
import select
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MEMOMALLOC_POISON"] = "1"

import numpy as np
import torch
import torch._inductor.config  # once, before processes are forked: the profiler takes seconds for it

import memomalloc

Step = list[Any]
Op = list[Any]

NUM_REGISTERS = 6
#: Tensors have so many elements; anything smaller is repeated, anything larger cut.
FEWEST, MOST = 64, 60_000
WIDTH = 16
MAX_DEPTH = 3
NUM_LANES = 3
#: Of the clock, for a program that takes less than a second as a rule.
TIME_LIMIT_S = 120.0
REDUCTION_S = 120.0
#: Then it is enough.
MOST_FAILURES = 10


class StrayError(Exception):
    """What a random program raises."""


class MismatchError(AssertionError):
    """What no program may see."""


# --- What a function is made of --------------------------------------------------------------------------------------


class World:
    """What calls of one kind, plain or optimized, leave behind on one thread; both kinds go the same way."""

    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        self.functions = functions
        self.counts: collections.Counter[str] = collections.Counter()
        self.caches: dict[str, torch.Tensor] = {}
        self.generators: dict[str, Iterator[torch.Tensor]] = {}
        self.held: list[Held] = []
        self.inputs: list[torch.Tensor] = []
        self.depth = 0

    def protects(self, values: torch.Tensor) -> bool:
        """Whether somebody holds the tensor's memory who would not like it to be written to."""
        where = values.untyped_storage().data_ptr()
        held = (tensor for entry in self.held for tensor in entry.tensors)
        everything = (*self.inputs, *self.caches.values(), *held)
        return any(tensor.untyped_storage().data_ptr() == where for tensor in everything)


@dataclasses.dataclass
class Held:
    """Tensors that are held for some calls, with what was in them when they were made."""

    tensors: list[torch.Tensor]
    copies: list[bytes]
    num_calls: int
    how: str = "here"
    other: Any = None

    @classmethod
    def of(cls, tensors: list[torch.Tensor], num_calls: int, how: str = "here", other: Any = None) -> Held:
        return cls(tensors, [content(tensor) for tensor in tensors], num_calls, how, other)

    def check(self, what: str) -> None:
        for number, (tensor, expected) in enumerate(zip(self.tensors, self.copies, strict=True)):
            if content(tensor) != expected:
                raise MismatchError(f"{what}: held tensor {number} of {tuple(tensor.shape)} was overwritten")


HERE = threading.local()


def world() -> World:
    return HERE.world  # type: ignore[no-any-return]


def content(tensor: torch.Tensor) -> bytes:
    # In memory of numpy's, which no plan knows.
    return bytes(tensor.detach().numpy().tobytes())


def fit(values: torch.Tensor, most: int = MOST) -> torch.Tensor:
    """A tensor of the sizes that operators here are used to."""
    if values.dtype != torch.float32:
        values = values.float()
    size = values.numel()
    if size == 0:
        return torch.full((FEWEST,), 0.5)
    if size < FEWEST:
        return values.reshape(-1).repeat(FEWEST // size + 1)
    return values.reshape(-1)[:most] if size > most else values


def flat(values: torch.Tensor, multiple: int = 1, most: int = MOST) -> torch.Tensor:
    values = fit(values, most).reshape(-1)
    return values[: values.numel() // multiple * multiple]


def rows(values: torch.Tensor, width: int = WIDTH, most: int = MOST) -> torch.Tensor:
    return flat(values, width, most).reshape(-1, width)


def both(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = flat(a), flat(b)
    size = min(a.numel(), b.numel())
    return a[:size], b[:size]


def attention(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    query, key = rows(a, 8, 2048), rows(b, 8, 2048)
    return (query @ key.T / 3).softmax(-1) @ key


def with_out(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    out = torch.empty(0)
    torch.maximum(*both(a.detach(), b.detach()), out=out)  # grows in there
    return out


def through_numpy(a: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.tanh(a.detach().numpy()))


def regroup(a: torch.Tensor, k: int) -> torch.Tensor:
    parts = flat(a).chunk(2 + k % 5)
    return torch.cat([part * (1 + number) for number, part in enumerate(reversed(parts))])


#: Of one value and a number.
UNARY: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "relu": lambda a, k: a.relu(),
    "tanh": lambda a, k: a.tanh(),
    "scale": lambda a, k: a * (0.5 + k % 3),
    "shift": lambda a, k: a + k,
    "softmax": lambda a, k: rows(a).softmax(k % 2),
    "norm": lambda a, k: torch.nn.functional.layer_norm(rows(a), (WIDTH,)),
    "gelu": lambda a, k: torch.nn.functional.gelu(a),
    "sort": lambda a, k: flat(a, most=4000).sort(descending=k % 2 == 1).values,
    "cumsum": lambda a, k: rows(a).cumsum(k % 2),
    "clone": lambda a, k: a.clone(),
    "contiguous": lambda a, k: a.contiguous(),
    "double": lambda a, k: (a.double() * 1.5).float(),
    "half": lambda a, k: a.half().float(),
    "where": lambda a, k: torch.where(a > 0, a, a - 1),
    "pad": lambda a, k: torch.nn.functional.pad(rows(a), (k % 3, 2)),
    "sum": lambda a, k: rows(a).sum(k % 2),
    "mean": lambda a, k: rows(a).mean(k % 2, keepdim=True),
    "amax": lambda a, k: rows(a, 4).amax(1),
    "positive": lambda a, k: flat(a)[flat(a) > 0],
    "topk": lambda a, k: flat(a, most=4000).topk(FEWEST).values,
    "index": lambda a, k: rows(a)[torch.arange(0, rows(a).shape[0], 1 + k % 3)],
    "numpy": lambda a, k: through_numpy(a),
    "regroup": regroup,
    "full": lambda a, k: torch.full((1000 * (1 + k),), 0.25),
    "large": lambda a, k: torch.full((33_000 + 1000 * k,), 0.125) + flat(a)[0],
    "repeat": lambda a, k: flat(a, most=MOST // 4).repeat(2 + k % 3),
    # Views.
    "halve": lambda a, k: flat(a)[: flat(a).numel() // 2],
    "tail": lambda a, k: flat(a)[flat(a).numel() // (2 + k % 3) :],
    "step": lambda a, k: flat(a)[:: 2 + k % 2],
    "transpose": lambda a, k: rows(a).T,
    "column": lambda a, k: rows(a)[:, k % WIDTH],
    "expand": lambda a, k: flat(a, most=500).unsqueeze(0).expand(2 + k % 3, -1),
    "detach": lambda a, k: a.detach(),
    "dlpack": lambda a, k: torch.from_dlpack(a.detach().contiguous()),
}
#: Of two values.
BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": lambda a, b: torch.add(*both(a, b)),
    "mul": lambda a, b: torch.mul(*both(a, b)),
    "maximum": lambda a, b: torch.maximum(*both(a, b)),
    "lerp": lambda a, b: torch.lerp(*both(a, b), 0.25),
    "cat": lambda a, b: torch.cat([flat(a), flat(b)]),
    "stack": lambda a, b: torch.stack(both(a, b), 1),
    "outer": lambda a, b: torch.outer(flat(a)[:60], flat(b)[:60]),
    "attention": attention,
    "out": with_out,
}
#: Written into the first of two values, if nobody would mind.
IN_PLACE: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "add_": lambda a, b: a.add_(flat(b)[0]),
    "mul_": lambda a, b: a.mul_(0.75),
    "relu_": lambda a, b: a.relu_(),
    "copy_": lambda a, b: a.copy_(b if a.shape == b.shape else flat(b)[1]),
    "fill_": lambda a, b: a.fill_(0.375),
    "slice_": lambda a, b: a[: max(1, a.shape[0] // 2)].sub_(1),
}


class Program:
    """One function: a list of operations on a few registers, and its weights."""

    def __init__(self, name: str, ops: list[Op], linear: list[Any], conv: Any) -> None:
        self.name, self.ops, self.linear, self.conv = name, ops, linear, conv

    def __call__(self, values: torch.Tensor) -> Any:
        here = world()
        here.counts[self.name] += 1
        here.depth += 1
        here.inputs.append(values)
        try:
            registers = [values] * NUM_REGISTERS
            self._run(self.ops, registers)
            return registers[0], {"second": registers[1]}
        finally:
            here.inputs.pop()
            here.depth -= 1

    def _run(self, ops: list[Op], registers: list[torch.Tensor]) -> None:
        for op in ops:
            self._step(op, registers)

    def _holds(self, kind: str, k: int, a: torch.Tensor) -> bool:
        if kind == "data":
            return bool(flat(a).sum() > k - 4)
        return world().counts[self.name] % (2 + k) == 0

    def _step(self, op: Op, registers: list[torch.Tensor]) -> None:
        word, to, first, second, k, *rest = op
        a, b = registers[first], registers[second]
        here = world()
        if word in UNARY:
            registers[to] = fit(UNARY[word](a, k))
        elif word in BINARY:
            registers[to] = fit(BINARY[word](a, b))
        elif word in IN_PLACE:
            # A tensor that needs gradients, or an expanded one, cannot be written to.
            if not (here.protects(a) or a.requires_grad or 0 in a.stride()):
                IN_PLACE[word](a, b)
        elif word == "linear":
            registers[to] = fit(self.linear[k % len(self.linear)](rows(a, most=16_000)))
        elif word == "conv":
            size = 4 + k % 5
            registers[to] = fit(self.conv(flat(a, 3 * size * size, 8000).reshape(-1, 3, size, size)) if
                                flat(a).numel() >= 3 * size * size else a + 1)  # fmt: skip
        elif word == "move":
            registers[to] = a
        elif word == "drop":
            registers[to] = here.inputs[-1]
        elif word == "vary":
            part = 1 + here.counts[self.name] % (2 + k)
            registers[to] = fit(flat(a)[: max(FEWEST, flat(a).numel() * part // (2 + k))] * 2)
        elif word == "if":
            self._run(rest[1] if self._holds(rest[0], k, a) else rest[2], registers)
        elif word == "loop":
            for _ in range(here.counts[self.name] % (2 + k) if rest[0] == "count" else 2 + k % 3):
                self._run(rest[1], registers)
        elif word == "raise":
            if self._holds(rest[0], k + 1, a):
                raise StrayError(self.name)
        elif word == "keep":
            kept = a if k % 3 else flat(a)[k : k + 40]
            here.held.append(Held.of([kept.detach()], 1 + k, rest[0]))
        elif word == "cache":
            last = here.caches.get(self.name)
            if last is None or last.numel() > 20_000:
                last = a.detach().clone()
            here.caches[self.name] = torch.cat([flat(last), flat(a.detach(), most=100 * (1 + k))])
            registers[to] = here.caches[self.name]
        elif word == "generator":
            if k % 4 == 0:
                here.generators.pop(self.name, None)
            generator = here.generators.get(self.name)
            if generator is None:
                generator = here.generators[self.name] = self._yields(a, rest[0])
            found = next(generator, None)
            if found is None:
                del here.generators[self.name]
            registers[to] = a if found is None else fit(found)
        elif word == "thread":
            registers[to] = a  # first of all, so that the last reference may be there
            found_there: list[torch.Tensor] = []
            there = threading.Thread(target=lambda value: found_there.append(value.detach() * 3), args=(a,))
            there.start()
            there.join()
            registers[to] = found_there.pop()
        elif word == "let_go":
            registers[to] = here.inputs[-1]
            shared = [a]
            del a, b
            LET_GO.put(shared)
        elif word == "collect":
            gc.collect(0)
        elif word == "cycle":
            cycle: list[Any] = [a + 1]
            cycle.append(cycle)
        elif word in ("call", "try", "recurse"):
            name = self.name if word == "recurse" else rest[0]
            function = here.functions.get(name)
            if function is None or here.depth >= MAX_DEPTH:
                return
            try:
                found = function(flat(a, most=600 * (1 + k)) * 0.5)
            except StrayError:
                if word != "try":
                    raise
                return
            registers[to] = fit(found[0])
        else:
            raise ValueError(f"no operation {word!r}")

    def _yields(self, values: torch.Tensor, ops: list[Op]) -> Iterator[torch.Tensor]:
        values = values.detach()
        for number in range(4):
            values = fit(flat(values) * 1.25 + number)
            more = values.tanh()
            yield more + values
            del more


class ProgramModule(torch.nn.Module):
    """The same as a module."""

    def __init__(self, name: str, ops: list[Op]) -> None:
        super().__init__()
        self.linears = torch.nn.ModuleList(torch.nn.Linear(WIDTH, width) for width in (WIDTH, 48, 8))
        self.conv = torch.nn.Conv2d(3, 5, 3, padding=1)
        self.name, self.ops = name, ops
        numbers = torch.Generator().manual_seed(len(name))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=numbers) - 0.5)

    def forward(self, values: torch.Tensor) -> Any:
        return Program(self.name, self.ops, list(self.linears), self.conv)(values)


def function_of(name: str, ops: list[Op]) -> Callable[[torch.Tensor], Any]:
    numbers = torch.Generator().manual_seed(len(name))
    weights = [torch.rand(WIDTH, width, generator=numbers) - 0.5 for width in (WIDTH, 48, 8)]
    kernel = torch.rand(5, 3, 3, 3, generator=numbers) - 0.5
    linear = [lambda values, weight=weight: values @ weight for weight in weights]
    return Program(name, ops, linear, lambda values: torch.nn.functional.conv2d(values, kernel, padding=1))


#: What is let go on a thread that does nothing else.
LET_GO: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()


def _let_go() -> None:
    while (entry := LET_GO.get()) is not None:
        entry.clear()
        del entry


# --- Running a program -----------------------------------------------------------------------------------------------


class Lane:
    """A thread that takes steps; the first one is the main thread."""

    def __init__(self, number: int, plain: dict[str, Any], optimized: dict[str, Any]) -> None:
        self.number = number
        self.worlds = {"plain": World(plain), "optimized": World(optimized)}
        self.plans: list[memomalloc.Plan] = []
        self.left_half_way: list[Any] = []
        self.error: BaseException | None = None
        self.num_calls = 0
        self._steps: queue.SimpleQueue[tuple[Callable[..., None], Step] | None] = queue.SimpleQueue()
        self._is_idle = threading.Event()
        self._thread: threading.Thread | None = None

    def do(self, act: Callable[..., None], step: Step) -> None:
        if self.number == 0:
            act(self, step)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._steps.put((act, step))

    def _work(self) -> None:
        while (entry := self._steps.get()) is not None:
            act, step = entry
            try:
                if self.error is None:
                    act(self, step)
            except BaseException as error:  # told by join()
                self.error = error

    def join(self) -> None:
        """Wait until all is done; the thread ends."""
        if self._thread is not None:
            self._steps.put(None)
            self._thread.join()
            self._thread = None
        if self.error is not None:
            raise self.error


def outcome(function: Callable[..., Any], values: torch.Tensor) -> tuple[list[torch.Tensor], BaseException | None, str]:
    """The tensors that came back, or what was raised, and both in words that can be compared."""
    try:
        first, rest = function(values)
    except MismatchError:
        raise
    except Exception as error:
        return [], error, f"{type(error).__name__}: {error}"
    return [first, rest["second"]], None, ""


class Runner:
    """Takes the steps of a program."""

    def __init__(self) -> None:
        self.plain: dict[str, Callable[..., Any]] = {}
        self.optimized: dict[str, Callable[..., Any]] = {}
        self.definitions: dict[str, tuple[str, list[Op]]] = {}
        self.lanes = [Lane(number, self.plain, self.optimized) for number in range(NUM_LANES)]
        self.profiler: Any = None

    def run(self, steps: list[Step]) -> None:
        """Take all steps.

        Raises:
            MismatchError: something is wrong.
        """
        releaser = threading.Thread(target=_let_go, daemon=True)
        releaser.start()
        for step in steps:
            getattr(self, f"do_{step[0]}")(*step[1:])
        self.do_join()
        self.do_profiler(False)
        for lane in self.lanes:
            for kind, here in lane.worlds.items():
                for held in here.held:
                    held.check(f"at the end, {kind}")
                here.generators.clear()
            lane.left_half_way.clear()
        LET_GO.put(None)
        releaser.join()
        gc.collect()
        if (bad := memomalloc.stats().num_bad_frees) != 0:
            raise MismatchError(f"num_bad_frees is {bad}")
        in_use = memomalloc.stats().num_regions_in_use
        if in_use != 0:
            raise MismatchError(f"num_regions_in_use is {in_use} when all calls are over")

    # --- Steps, by their first word

    def do_define(self, name: str, kind: str, ops: list[Op]) -> None:
        build = ProgramModule if kind == "module" else function_of
        self.definitions[name] = (kind, ops)
        self.plain[name] = build(name, ops)
        self.optimized[name] = build(name, ops)

    def do_optimize(self, name: str, options: dict[str, Any]) -> None:
        model = self.optimized.get(name)
        if model is None or is_optimized(model):
            return
        options = dict(options)
        if "arenas" in options:
            options["arenas"] = memomalloc.ArenaSettings(**options["arenas"])
        if self.definitions[name][0] != "module":
            options.pop("inplace", None)
        self.optimized[name] = memomalloc.optimize(model, **options)  # type: ignore[arg-type]

    def do_deepcopy(self, name: str, new: str) -> None:
        if name in self.optimized and self.definitions[name][0] == "module":
            self.plain[new] = self.plain[name]
            self.definitions[new] = self.definitions[name]
            self.optimized[new] = copy.deepcopy(self.optimized[name])

    def do_forget(self, name: str) -> None:
        if is_optimized(self.optimized.get(name)):
            memomalloc.forget(self.optimized[name])

    def do_lose(self, name: str) -> None:
        """The optimized model goes, and another comes."""
        if is_optimized(self.optimized.get(name)):
            self.do_define(name, *self.definitions[name])

    def do_call(self, lane: int, name: str, options: dict[str, Any]) -> None:
        self.lanes[lane].do(self._call, [name, options])

    def do_record(self, lane: int, name: str, options: dict[str, Any]) -> None:
        self.lanes[lane].do(self._record, [name, options])

    def do_replay(self, lane: int, name: str, options: dict[str, Any]) -> None:
        self.lanes[lane].do(self._replay, [name, options])

    def do_leave(self, lane: int, where: str) -> None:
        self.lanes[lane].do(self._leave, [where])

    def do_resume(self, lane: int) -> None:
        self.lanes[lane].do(self._resume, [])

    def do_join(self) -> None:
        for lane in self.lanes:
            lane.join()

    def do_collect(self) -> None:
        gc.collect()

    def do_release(self) -> None:
        memomalloc.release()

    def do_limit(self, limit_bytes: int | None) -> None:
        memomalloc.set_memory_limit(limit_bytes)

    def do_release_after(self, seconds: float | None) -> None:
        memomalloc.set_release_after(seconds)

    def do_sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def do_look(self) -> None:
        memomalloc.memory_stats()
        memomalloc.memory_summary()
        for model in self.optimized.values():
            if is_optimized(model):
                memomalloc.stats(model)
                memomalloc.deviations(model)

    def do_switch(self, on: bool) -> None:
        (memomalloc.enable if on else memomalloc.disable)()

    def do_profiler(self, on: bool) -> None:
        if on and self.profiler is None:
            self.profiler = torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            )
            self.profiler.start()
        elif not on and self.profiler is not None:
            self.profiler.stop()
            self.profiler = None

    # --- On a lane

    def _call(self, lane: Lane, step: Step, around: Callable[[], Any] | None = None) -> None:
        name, options = step
        plain, optimized = self.plain.get(name), self.optimized.get(name)
        if plain is None or optimized is None:
            return
        for number in range(options["times"]):
            seed = options["seed"] + number
            mode = {"inference": torch.inference_mode, "no_grad": torch.no_grad}.get(options["mode"], torch.enable_grad)
            lane.num_calls += 1
            what = f"{lane.num_calls} of lane {lane.number}, {name}"
            self._let_held_go(lane, what)
            with mode():
                numbers = torch.Generator().manual_seed(seed)
                values = torch.rand(options["size"], generator=numbers) * 2 - 1
                HERE.world = lane.worlds["plain"]
                expected, stray, expected_words = outcome(plain, values)
                HERE.world = lane.worlds["optimized"]
                if around is None:
                    found, error, words = outcome(optimized, values)
                else:
                    with around():
                        found, error, words = outcome(optimized, values)
            if words != expected_words:
                if error is not None:
                    traceback.print_exception(error)
                raise MismatchError(f"call {what}: {words or 'a result'}, and not {expected_words or 'a result'}")
            for index, (one, other) in enumerate(zip(found, expected, strict=True)):
                if one.shape != other.shape or one.stride() != other.stride() or content(one) != content(other):
                    raise MismatchError(f"call {what}: output {index} of {tuple(other.shape)} is another")
            hold, how = options["hold"], options["free"]
            if hold > 0:
                lane.worlds["plain"].held.append(Held.of(expected, hold, how, stray))
                lane.worlds["optimized"].held.append(Held.of(found, hold, how, error))
            elif how == "elsewhere":
                LET_GO.put(found)
            del found, expected, error, stray, values

    def _let_held_go(self, lane: Lane, what: str) -> None:
        for kind, here in lane.worlds.items():
            staying = []
            for held in here.held:
                held.check(f"before call {what}, {kind}")
                held.num_calls -= 1
                if held.num_calls > 0:
                    staying.append(held)
                elif held.how == "elsewhere":
                    LET_GO.put(held.tensors)
            here.held = staying

    def _record(self, lane: Lane, step: Step) -> None:
        recording = memomalloc.record()
        name, options = step
        self._call(lane, [name, {**options, "times": 1}], around=lambda: recording)
        if recording._native is not None:
            lane.plans = [*lane.plans[-2:], memomalloc.plan(recording.trace, time_limit_s=0.01)]

    def _replay(self, lane: Lane, step: Step) -> None:
        if lane.plans:
            plan = lane.plans[step[1]["seed"] % len(lane.plans)]
            self._call(lane, step, around=lambda: memomalloc.replay(plan))

    def _leave(self, lane: Lane, step: Step) -> None:
        """Leave a generator in the middle of a replay or a recording; other calls run meanwhile."""
        if step[0] == "replay" and not lane.plans:
            return

        def generate() -> Iterator[torch.Tensor]:
            with memomalloc.replay(lane.plans[-1]) if step[0] == "replay" else memomalloc.record():
                values = torch.full((500,), 0.5)
                for _ in range(3):
                    values = values * 1.5
                    yield values

        generator = generate()
        values = next(generator)
        lane.left_half_way.append(generator)
        lane.worlds["optimized"].held.append(Held.of([values], 3))

    def _resume(self, lane: Lane, step: Step) -> None:
        if lane.left_half_way:
            generator = lane.left_half_way.pop()
            next(generator, None)
            shared = [generator]
            del generator
            LET_GO.put(shared) if lane.num_calls % 2 else shared.clear()


def is_optimized(model: Any) -> bool:
    return isinstance(model, (memomalloc.OptimizedFunction, memomalloc.OptimizedModule))


# --- Making one up ---------------------------------------------------------------------------------------------------


def random_ops(choose: random.Random, others: list[str], *, length: int, depth: int = 0) -> list[Op]:
    """Operations of a function that may call others."""
    # The words that make a program unlike others are rarer.
    words = [*UNARY, *UNARY, *BINARY, *BINARY, *BINARY, *IN_PLACE, *["linear"] * 6, *["conv"] * 2, *["drop"] * 6]
    rare = ["vary", "if", "if", "loop", "keep", "keep", "cache", "generator", "let_go", "let_go", "move", "move"]
    rarer = ["raise", "thread", "collect", "cycle", "call", "try", "recurse"]
    ops: list[Op] = []
    for _ in range(length):
        draw = choose.random()
        word = choose.choice(words if draw < 0.82 else rare if draw < 0.95 else rarer)
        op: Op = [word, *(choose.randrange(NUM_REGISTERS) for _ in range(3)), choose.randrange(8)]
        kind = choose.choice(["data", "count", "count"])
        if word in ("if", "loop"):
            if depth >= 2:
                continue
            op.append(kind)
            for _ in range(2 if word == "if" else 1):
                op.append(random_ops(choose, others, length=choose.randrange(1, 5), depth=depth + 1))
        elif word == "raise":
            op.append(kind)
        elif word == "keep":
            op.append(choose.choice(["here", "elsewhere"]))
        elif word == "generator":
            op.append([])
        elif word in ("call", "try"):
            if not others:
                continue
            op.append(choose.choice(others))
        ops.append(op)
    return ops


def random_options(choose: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {"time_limit_s": choose.choice([0.0, 0.01])}
    options["shapes"] = choose.choice(["auto", "auto", "exact", "bucketed", "merged"])
    options["match"] = choose.choice(["auto", "size", "origin"])
    options["keep_plans"] = choose.random() < 0.5
    if choose.random() < 0.2:
        options["warm_up_calls"] = choose.choice([0, 2])
    if choose.random() < 0.15:
        options["max_plans"] = choose.choice([1, 2])
    if choose.random() < 0.1:
        options["max_bytes"] = choose.choice([10_000, 400_000, 2_000_000])
    if choose.random() < 0.2:
        options["inplace"] = True
    if choose.random() < 0.25:
        options["arenas"] = choose.choice(
            [{"max_arenas": 1, "wait_s": 0.01}, {"max_arenas": 2}, {"prefault": True}, {"huge_pages": True}]
        )
    return options


def random_program(seed: int) -> list[Step]:
    """The program of a number, the same each time."""
    choose = random.Random(seed)
    names = [f"f{number}" for number in range(choose.randrange(1, 5))]
    steps: list[Step] = []
    for number, name in enumerate(names):
        ops = random_ops(choose, names[:number], length=choose.randrange(4, 30))
        steps.append(["define", name, choose.choice(["module", "function"]), ops])
        steps.append(["optimize", name, random_options(choose)])
    sizes = {name: choose.sample([64, 100, 500, 640, 1200, 3000, 9000], choose.choice([1, 1, 2, 3])) for name in names}
    num_lanes = choose.choice([1, 1, 2, 3])
    is_grave = choose.random() < 0.5  # settings of the process are tried, too
    mode = choose.choice(["inference", "inference", "no_grad", "grad"])
    hold = choose.choice([0, 1, 1, 3, 10])

    def call_options() -> dict[str, Any]:
        return {
            "size": choose.choice(sizes[name]),
            "seed": choose.randrange(1000),
            "times": choose.choice([1, 1, 2, 3, 6]),
            "hold": choose.choice([0, 1, hold, hold]),
            "free": choose.choice(["here", "here", "elsewhere"]),
            "mode": mode if choose.random() < 0.9 else choose.choice(["inference", "no_grad", "grad"]),
        }

    others: list[Callable[[], Step]] = [
        lambda: ["record", lane, name, call_options()],
        lambda: ["replay", lane, name, call_options()],
        lambda: ["replay", lane, name, call_options()],
        lambda: ["leave", lane, choose.choice(["replay", "record"])],
        lambda: ["resume", lane],
        lambda: ["join"],
        lambda: ["join"],
        lambda: ["collect"],
        lambda: ["look"],
        lambda: ["forget", name],
        lambda: ["lose", name],
        lambda: ["deepcopy", name, f"{name}{choose.randrange(3)}"],
    ]
    grave: list[Callable[[], Step]] = [
        lambda: ["release"],
        lambda: ["release"],
        lambda: ["limit", choose.choice([None, 0, 50_000, 1_000_000, 10**8])],
        lambda: ["limit", None],
        lambda: ["release_after", choose.choice([None, 0, 1e-6, 0.001, 0.01])],
        lambda: ["sleep", 0.005],
        lambda: ["profiler", True],
        lambda: ["profiler", False],
        lambda: ["switch", False],
        lambda: ["switch", True],
    ]
    for _ in range(choose.choice([20, 40, 80])):
        name, lane = choose.choice(names), choose.randrange(num_lanes)
        draw = choose.random()
        if draw < 0.8:
            steps.append(["call", lane, name, call_options()])
        elif draw < 0.9 or not is_grave:
            step = choose.choice(others)()
            steps.append(step)
            if step[0] == "deepcopy":
                sizes.setdefault(step[2], sizes[name])
                if step[2] not in names:
                    names.append(step[2])
        else:
            step = choose.choice(grave)()
            steps.append(step)
            if step == ["switch", False]:
                steps.append(["call", lane, name, call_options()])
                steps.append(["switch", True])
    return steps


# --- In a process of its own -----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Tally:
    """What became of programs."""

    programs: int = 0
    calls: int = 0
    replayed: int = 0
    outermost: int = 0
    served: int = 0
    upstream: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)

    def add(self, counts: dict[str, int]) -> None:
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + count)

    @property
    def served_share(self) -> float:
        """Requests that were served from a plan, of all that optimized functions made, as far as calls ask alike."""
        replayed = self.replayed / max(1, self.outermost)
        return replayed * self.served / max(1, self.served + self.upstream)

    def __str__(self) -> str:
        return (
            f"{self.programs} programs, {self.calls} calls, {self.replayed} of {self.outermost} runs replayed, "
            f"{self.served:,} requests served ({100 * self.served_share:.0f} % of all), {len(self.failures)} failures"
        )


def run_here(steps: list[Step]) -> dict[str, int]:
    """Run a program in this process; what it did."""
    warnings.simplefilter("ignore")
    sys.setswitchinterval(0.0005)
    runner = Runner()
    runner.run(steps)
    stats = memomalloc.stats()
    unplanned = sum(count for reason, count in stats.runs_unplanned.items() if reason != "nested")
    return {
        "programs": 1,
        "calls": sum(lane.num_calls for lane in runner.lanes),
        "replayed": stats.runs_replayed,
        "outermost": stats.runs_replayed + stats.runs_recorded + unplanned,
        "served": stats.requests_served,
        "upstream": sum(stats.requests_upstream.values()),
    }


@dataclasses.dataclass
class Child:
    """A program that runs in a forked process."""

    steps: list[Step]
    process: int
    pipe: int
    said: Any
    until_s: float

    @classmethod
    def start(cls, steps: list[Step]) -> Child:
        reader, writer = os.pipe()
        said = tempfile.TemporaryFile()  # noqa: SIM115
        process = os.fork()
        if process != 0:
            os.close(writer)
            return cls(steps, process, reader, said, time.monotonic() + TIME_LIMIT_S)
        status = 1
        try:
            os.close(reader)
            os.dup2(said.fileno(), 2)
            faulthandler.enable()
            faulthandler.dump_traceback_later(TIME_LIMIT_S - 5, exit=False)
            os.write(writer, json.dumps(run_here(steps)).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def finish(self) -> tuple[dict[str, int], str]:
        """Wait for it: what it did, and what went wrong, if anything did."""
        is_late = not select.select([self.pipe], [], [], max(0.0, self.until_s - time.monotonic()))[0]
        if is_late:
            os.kill(self.process, signal.SIGKILL)
        told = b""
        while chunk := os.read(self.pipe, 65536):
            told += chunk
        os.close(self.pipe)
        _, status = os.waitpid(self.process, 0)
        self.said.seek(0)
        said = self.said.read().decode(errors="replace").strip()
        self.said.close()
        if is_late:
            return {}, f"hangs: no end after {TIME_LIMIT_S:g} s\n{said[-4000:]}"
        if os.WIFSIGNALED(status):
            return {}, f"died of {signal.Signals(os.WTERMSIG(status)).name}\n{said[-4000:]}"
        if status != 0:
            return {}, f"{said.splitlines()[-1] if said else 'no word'}\n{said[-4000:]}"
        return json.loads(told), ""


def failure_of(steps: list[Step]) -> str:
    """What goes wrong in a program; empty where nothing does."""
    return Child.start(steps).finish()[1]


def fuzz(first_seed: int, seconds: float, *, jobs: int = 1) -> Tally:
    """Run programs for so long, and reduce the first that fail."""
    tally = Tally()
    until_s = time.monotonic() + seconds
    seed = first_seed
    running: collections.deque[tuple[int, Child]] = collections.deque()
    while running or time.monotonic() < until_s:
        while len(running) < jobs and time.monotonic() < until_s and len(tally.failures) < MOST_FAILURES:
            running.append((seed, Child.start(random_program(seed))))
            seed += 1
        if not running:
            break
        number, child = running.popleft()
        counts, failure = child.finish()
        tally.add(counts)
        if failure:
            print(f"program {number}: {failure}", file=sys.stderr, flush=True)
            if len(tally.failures) < 3:
                failure = f"{failure.splitlines()[0]}\n{command(reduced(child.steps, failure))}"
                print(failure, file=sys.stderr, flush=True)
            tally.failures.append(f"program {number}: {failure}")
    return tally


# --- Reducing one that fails -----------------------------------------------------------------------------------------


def reduced(steps: list[Step], failure: str, *, seconds: float = REDUCTION_S) -> list[Step]:
    """As few steps, and operations in them, as still fail, by delta debugging within a time limit."""
    until_s = time.monotonic() + seconds
    # What fails by chance, on threads, is tried several times before a part is believed to be needed.
    again = sum(bool(failure_of(steps)) for _ in range(4))
    num_tries = 1 if again == 4 else 3 if again > 1 else 8
    is_hang = failure.startswith("hangs")

    def fails(candidate: list[Step]) -> bool:
        return any(
            (found := failure_of(candidate)) != "" and (is_hang or not found.startswith("hangs"))
            for _ in range(num_tries)
            if time.monotonic() < until_s
        )

    if not again and not fails(steps):
        return steps
    before = -1
    while before != (before := len(json.dumps(steps))) and time.monotonic() < until_s:
        steps = smallest_list(steps, fails, until_s)
        for path in lists_of(steps):
            whole, holder = steps, inside(steps, path[:-1])
            if path[-1] < len(holder) and isinstance(holder[path[-1]], list):  # else what was around it is gone

                def still(part: list[Any], whole: list[Step] = whole, path: tuple[int, ...] = path) -> bool:
                    return fails(with_part(whole, path, part))

                steps = with_part(whole, path, smallest_list(holder[path[-1]], still, until_s))
        for number, step in enumerate(steps):
            for simpler in simplified(step):
                candidate = [*steps[:number], simpler, *steps[number + 1 :]]
                if time.monotonic() < until_s and fails(candidate):
                    steps = candidate
                    step = simpler
    return steps


def smallest_list(entries: list[Any], fails: Callable[[list[Any]], bool], until_s: float) -> list[Any]:
    """A part of a list that fails as well, from which no run of entries can be left out (A. Zeller's ddmin)."""
    size = max(1, len(entries) // 2)
    while entries and time.monotonic() < until_s:
        start, is_smaller = 0, False
        while start < len(entries) and time.monotonic() < until_s:
            candidate = entries[:start] + entries[start + size :]
            if fails(candidate):
                entries, is_smaller = candidate, True
            else:
                start += size
        if size == 1 and not is_smaller:
            break
        size = max(1, size // 2)
    return entries


def lists_of(steps: list[Step]) -> list[tuple[int, ...]]:
    """Where lists of operations are: in definitions, branches and loops, the outer ones first."""
    found: list[tuple[int, ...]] = []

    def look(ops: list[Op], path: tuple[int, ...]) -> None:
        found.append(path)
        for number, op in enumerate(ops):
            for index, part in enumerate(op):
                if isinstance(part, list):
                    look(part, (*path, number, index))

    for number, step in enumerate(steps):
        if step[0] == "define":
            look(step[3], (number, 3))
    return found


def with_part(steps: list[Step], path: tuple[int, ...], part: list[Any]) -> list[Step]:
    """The same steps with another list at a path."""
    steps = copy.deepcopy(steps)
    inside(steps, path[:-1])[path[-1]] = part
    return steps


def inside(steps: list[Any], path: tuple[int, ...]) -> Any:
    """The list at a path; an empty one where a part of the path is gone."""
    for index in path:
        if not isinstance(steps, list) or index >= len(steps):
            return []
        steps = steps[index]
    return steps


def simplified(step: Step) -> Iterator[Step]:
    """The same step with less in it."""
    if step[0] == "call" and step[1] != 0:
        yield [step[0], 0, *step[2:]]
    if isinstance(step[-1], dict) and step[0] == "call":
        for name, plain in (("times", 1), ("times", 3), ("hold", 0), ("free", "here"), ("mode", "inference")):
            if step[-1][name] != plain:
                yield [*step[:-1], {**step[-1], name: plain}]
    if step[0] == "optimize":
        for name in step[-1]:
            yield [*step[:-1], {key: value for key, value in step[-1].items() if key != name}]


def command(steps: list[Step]) -> str:
    """What runs the program again."""
    return f"python tests/fuzz/programs.py --steps {shlex.quote(json.dumps(steps))}"


def main() -> int:
    """Run from the command line; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="only this program")
    parser.add_argument("--steps", help="only this program, as JSON")
    parser.add_argument("--reduce", action="store_true", help="reduce that program")
    args = parser.parse_args()
    if args.seed is not None or args.steps is not None:
        steps = json.loads(args.steps) if args.steps is not None else random_program(args.seed)
        counts, failure = Child.start(steps).finish()
        if failure and args.reduce:
            steps = reduced(steps, failure)
            print(command(steps))
        print(failure or f"nothing is wrong: {counts}")
        return int(bool(failure))
    seconds = float(os.environ.get("MEMOMALLOC_FUZZ_S", "60"))
    first = int(os.environ.get("MEMOMALLOC_FUZZ_SEED", str(random.SystemRandom().randrange(2**40))))
    jobs = int(os.environ.get("MEMOMALLOC_FUZZ_JOBS", "2"))
    print(f"memomalloc {memomalloc.__version__}: {seconds:g} s, from program {first}", flush=True)
    tally = fuzz(first, seconds, jobs=jobs)
    print(tally, *tally.failures, sep="\n")
    return int(bool(tally.failures))


if __name__ == "__main__":
    sys.exit(main())
