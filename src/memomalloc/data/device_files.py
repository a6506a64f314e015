"""Problem files and plan files of devices: JSON that compilers can write, read with suspicion.

``{"format": "memomalloc-problem", "version": 1, ...}`` and ``{"format": "memomalloc-device-plan", "version": 1, ...}``;
docs/file-formats.md says what is in them. Unknown keys are refused, and a plan is checked against its problem.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from memomalloc.data.atomic_file import atomic_file
from memomalloc.data.columns import read_only
from memomalloc.data.device_checker import check_device
from memomalloc.data.device_plan import DevicePlan, columns_of, cost_of
from memomalloc.data.device_problem import DeviceBuffer, DeviceMemory, DeviceProblem, Place
from memomalloc.data.input_file import open_input, read_all
from memomalloc.data.json_document import parse_json
from memomalloc.errors import FileFormatError, InvalidPlanError, InvalidProblemError

PROBLEM_FORMAT = "memomalloc-problem"
PLAN_FORMAT = "memomalloc-device-plan"
VERSION = 1
MAX_FILE_BYTES = 2**27

_MEMORY_KEYS = ("capacity_bytes", "bank_bytes", "chunk_bytes", "cost_per_byte")


def write_device_problem(problem: DeviceProblem, path: str | Path) -> None:
    """Write a problem file, atomically; compressed when the name ends in ``.gz``.

    Raises:
        OSError: the folder cannot be written to.
    """
    document: dict[str, Any] = {
        "format": PROBLEM_FORMAT,
        "version": VERSION,
        "memories": [
            {"name": memory.name}
            | {key: int(getattr(memory, key)) for key in _MEMORY_KEYS if getattr(memory, key) not in (None, 0)}
            for memory in problem.memories
        ],
        "buffers": [_buffer_to_json(buffer) for buffer in problem.buffers],
    }
    if problem.aliases:
        document["aliases"] = [{name: int(offset) for name, offset in group.items()} for group in problem.aliases]
    for name in ("disjoint", "different_banks"):
        if getattr(problem, name):
            document[name] = [list(pair) for pair in getattr(problem, name)]
    _write(document, path, ("memories", "buffers", "aliases", "disjoint", "different_banks"))


def read_device_problem(path: str | Path) -> DeviceProblem:
    """Read a problem file.

    Raises:
        FileFormatError: it is no problem file, or states no problem.
    """
    with open_input(path, what="problem file") as file:
        return load_device_problem(file, path)


def load_device_problem(file: IO[bytes], path: str | Path) -> DeviceProblem:
    """What an open problem file states; ``path`` is for messages.

    Raises:
        FileFormatError: it is no problem file, or states no problem.
    """
    document = _document(file, path, PROBLEM_FORMAT, "problem file")
    reader = _Reader(path)
    reader.keys(
        "the problem",
        document,
        required=("memories", "buffers"),
        optional=("aliases", "disjoint", "different_banks", "alignment"),
    )
    alignment = document.get("alignment", 1)
    try:
        return DeviceProblem.of(
            [reader.memory(entry) for entry in reader.items(document, "memories")],
            [reader.buffer(entry, alignment) for entry in reader.items(document, "buffers")],
            aliases=[reader.mapping("aliases", entry) for entry in reader.items(document, "aliases")],
            disjoint=[reader.pair("disjoint", entry) for entry in reader.items(document, "disjoint")],
            different_banks=[
                reader.pair("different_banks", entry) for entry in reader.items(document, "different_banks")
            ],
        )
    except InvalidProblemError as error:
        raise FileFormatError(path, str(error)) from error


def write_device_plan(plan: DevicePlan, path: str | Path) -> None:
    """Write a device plan file, atomically; compressed when the name ends in ``.gz``.

    Raises:
        OSError: the folder cannot be written to.
    """
    places = {
        name: [place.memory, place.offset, place.chunk] if place.chunk else [place.memory, place.offset]
        for name, place in plan.by_id().items()
    }
    document = {
        "format": PLAN_FORMAT,
        "version": VERSION,
        "cost": plan.cost,
        "lower_bound_cost": plan.lower_bound_cost,
        "proven_cheapest": plan.proven_cheapest,
        "proven_optimal": plan.proven_optimal,
        "elapsed_s": plan.elapsed_s,
        "arena_bytes": plan.arena_bytes,
        "places": places,
    }
    _write(document, path, ("places",))


def read_places(path: str | Path) -> dict[str, Place]:
    """The places that a device plan file has, by id of buffer, whatever problem they are for.

    Raises:
        FileFormatError: it is no device plan file.
    """
    with open_input(path, what="device plan file") as file:
        return _places(_document(file, path, PLAN_FORMAT, "device plan file"), path)


def read_device_plan(path: str | Path, problem: DeviceProblem) -> DevicePlan:
    """Read a device plan file, and check it against its problem.

    Raises:
        FileFormatError: it is no device plan file, or no plan of this problem.
    """
    with open_input(path, what="device plan file") as file:
        document = _document(file, path, PLAN_FORMAT, "device plan file")
    places = _places(document, path)
    columns = columns_of(problem, places)
    for name in places:
        if name not in problem.index_of:
            raise FileFormatError(path, f"it has a place for {name!r:.60}, which is no buffer of the problem")
    for buffer in problem.buffers:
        if buffer.id not in places:
            raise FileFormatError(path, f"it has no place for buffer {buffer.id!r:.60}")
    try:
        check_device(problem, *columns)
    except InvalidPlanError as error:
        raise FileFormatError(path, f"not a plan of this problem: {error}") from error
    reader = _Reader(path)
    plan = DevicePlan(
        problem,
        memories=read_only(columns[0]),
        chunks=read_only(columns[1]),
        offsets=read_only(columns[2]),
        cost=cost_of(problem, columns[0]),
        lower_bound_cost=reader.number(document, "lower_bound_cost"),
        proven_cheapest=reader.flag(document, "proven_cheapest"),
        proven_optimal=reader.flag(document, "proven_optimal"),
        elapsed_s=float(reader.number(document, "elapsed_s", whole=False)),
    )
    if document["cost"] != plan.cost or document["arena_bytes"] != plan.arena_bytes:
        raise FileFormatError(path, f"its places cost {plan.cost} and need {plan.arena_bytes}, it says otherwise")
    return plan


def _buffer_to_json(buffer: DeviceBuffer) -> dict[str, Any]:
    lifetimes = [[int(number) for number in lifetime] for lifetime in buffer.lifetimes]
    entry: dict[str, Any] = {"id": buffer.id, "size": int(buffer.size), "lifetimes": lifetimes}
    if buffer.alignment != 1:
        entry["alignment"] = int(buffer.alignment)
    if buffer.costs is not None:
        entry["costs"] = {name: int(cost) for name, cost in buffer.costs.items()}
    if buffer.pin is not None:
        entry["pin"] = {"memory": buffer.pin.memory, "offset": int(buffer.pin.offset)}
        if buffer.pin.chunk:
            entry["pin"]["chunk"] = int(buffer.pin.chunk)
    return entry


def _write(document: Mapping[str, Any], path: str | Path, long: tuple[str, ...]) -> None:
    """JSON with a line for each entry of what is long."""
    parts = []
    for key, value in document.items():
        if key not in long:
            text = _json(value)
        elif isinstance(value, dict):
            lines = [f"{_json(name)}: {_json(entry)}" for name, entry in value.items()]
            text = "{\n  " + ",\n  ".join(lines) + "\n}" if lines else "{}"
        else:
            text = "[\n  " + ",\n  ".join(map(_json, value)) + "\n]" if value else "[]"
        parts.append(f"{_json(key)}: {text}")
    with atomic_file(path) as file:
        file.write(("{\n" + ",\n".join(parts) + "\n}\n").encode())


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair, which UTF-8 has not
        return json.dumps(value)
    return text


def _document(file: IO[bytes], path: str | Path, form: str, what: str) -> dict[str, Any]:
    document = parse_json(read_all(file, path, MAX_FILE_BYTES, what=what), path, what=what)
    if not isinstance(document, dict) or document.get("format") != form:
        raise FileFormatError(path, f'not a {what}: it has no "format": "{form}"')
    if type(document.get("version")) is not int or document["version"] != VERSION:
        message = f"{what} of version {document.get('version')!r:.20}, this memomalloc reads {VERSION}"
        raise FileFormatError(path, message)
    return document


def _places(document: dict[str, Any], path: str | Path) -> dict[str, Place]:
    reader = _Reader(path)
    names = ("cost", "lower_bound_cost", "proven_cheapest", "proven_optimal", "elapsed_s", "arena_bytes", "places")
    reader.keys("the plan", document, required=names)
    places = reader.mapping("places", document["places"])
    return {name: reader.place(name, entry) for name, entry in places.items()}


class _Reader:
    """Takes JSON apart; whatever is not as it should be is told with its name."""

    def __init__(self, path: str | Path) -> None:
        self._path = path

    def keys(
        self, what: str, found: Any, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise FileFormatError(self._path, f"{what} must be an object, not {found!r:.60}")
        for name in required:
            if name not in found:
                raise FileFormatError(self._path, f"{what} has no {name!r}")
        for name in found:
            if name not in (*required, *optional, "format", "version"):
                known = ", ".join((*required, *optional))
                raise FileFormatError(self._path, f"{what} has the key {name!r:.60}; there are {known}")
        return found

    def items(self, document: dict[str, Any], name: str) -> list[Any]:
        found = document.get(name, [])
        if not isinstance(found, list):
            raise FileFormatError(self._path, f"{name} must be a list")
        return found

    def mapping(self, what: str, found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise FileFormatError(self._path, f"{what} must be an object, not {found!r:.60}")
        return found

    def memory(self, entry: Any) -> DeviceMemory:
        self.keys("a memory", entry, required=("name",), optional=_MEMORY_KEYS)
        return DeviceMemory(entry["name"], **{key: entry[key] for key in _MEMORY_KEYS if entry.get(key) is not None})

    def buffer(self, entry: Any, alignment: Any) -> DeviceBuffer:
        self.keys("a buffer", entry, required=("id", "size", "lifetimes"), optional=("alignment", "costs", "pin"))
        what = f"buffer {entry['id']!r:.60}"
        lifetimes = entry["lifetimes"]
        if not isinstance(lifetimes, list) or not all(isinstance(lifetime, list) for lifetime in lifetimes):
            raise FileFormatError(self._path, f"{what}: lifetimes must be a list of [start, end]")
        costs = entry.get("costs")
        pin = entry.get("pin")
        if pin is not None:
            self.keys(f"the pin of {what}", pin, required=("memory", "offset"), optional=("chunk",))
        return DeviceBuffer(
            entry["id"],
            entry["size"],
            tuple(map(tuple, lifetimes)),
            entry.get("alignment", alignment),
            None if costs is None else self.mapping(f"costs of {what}", costs),
            None if pin is None else Place(pin["memory"], pin["offset"], pin.get("chunk", 0)),
        )

    def pair(self, what: str, entry: Any) -> tuple[str, str]:
        if not isinstance(entry, list) or len(entry) != 2:
            raise FileFormatError(self._path, f"{what} must have pairs of ids, not {entry!r:.60}")
        return entry[0], entry[1]

    def place(self, name: str, entry: Any) -> Place:
        if not isinstance(entry, list) or len(entry) not in (2, 3) or not isinstance(entry[0], str):
            raise FileFormatError(
                self._path, f"the place of {name!r:.60} must be [memory, offset] or [memory, offset, chunk]"
            )
        numbers = [*entry[1:], 0][:2]
        if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
            raise FileFormatError(self._path, f"the place of {name!r:.60} must have whole numbers of at most 64 bits")
        return Place(entry[0], numbers[0], numbers[1])

    def number(self, document: dict[str, Any], name: str, *, whole: bool = True) -> Any:
        value = document[name]
        if type(value) not in ((int,) if whole else (int, float)) or value < 0:
            raise FileFormatError(self._path, f"{name} must be a number, not negative")
        return value

    def flag(self, document: dict[str, Any], name: str) -> bool:
        value = document[name]
        if not isinstance(value, bool):
            raise FileFormatError(self._path, f"{name} must be true or false")
        return value
