"""Plan archives: all plans of a model in one file, to be shipped with the model.

A zip file with ``manifest.json``, and for plan ``n`` the files ``n.plan.json`` and ``n.trace.jsonl``, in the formats of
:mod:`memomalloc.data.plan_file` and :mod:`memomalloc.data.trace_file` and checked as such. The manifest is
``{"format": "memomalloc-plans", "version": 1, "checksum": "sha256:...", "manifest": {"fingerprint": {...}, "plans":
[...]}}``; it has the SHA-256 of every other file. As with plan files, the checksums find damage; against malice
everything is validated, and what the files unpack to is counted while they are unpacked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from memomalloc.data.columns import INT64_MAX
from memomalloc.data.input_file import MAX_UNKNOWN_BYTES, MAX_UNPACKED_RATIO, read_all
from memomalloc.data.json_document import parse_json
from memomalloc.data.plan import Plan
from memomalloc.data.plan_file import checksum, dump_plan, load_plan
from memomalloc.data.trace import Trace
from memomalloc.data.trace_file import dump_trace, load_trace
from memomalloc.errors import FileFormatError
from memomalloc.runtime.learning.learned_calls import LearnedCalls

FORMAT = "memomalloc-plans"
VERSION = 1
MAX_MANIFEST_BYTES = 2**22
MAX_PLANS = 4096
ALIGNMENT_BYTES = 64
"""Of tensors: a plan that is aligned in another way serves none."""
_REMEDY = "save the plans again"
_DIRECTORY_ENTRY = b"PK\x01\x02"
_LISTS = ("lowest", "highest")
_NUMBERS = ("upstream_peak_bytes", "num_threads")
_DIGESTS = ("calls", "plan_sha256", "trace_sha256")


@dataclasses.dataclass(frozen=True)
class PlanArchive:
    """The plans of one model.

    Attributes:
        fingerprint: what they were learned with, see :func:`memomalloc.runtime.shipping.fingerprint.fingerprint`.
        learned: by digest of the kind of call.
    """

    fingerprint: Mapping[str, str]
    learned: Mapping[str, LearnedCalls]

    def to_bytes(self) -> bytes:
        """The archive as a file; equal archives give equal bytes."""
        entries: list[dict[str, Any]] = []
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for number, (calls, learned) in enumerate(sorted(self.learned.items())):
                entry: dict[str, Any] = {"calls": calls}
                entry |= {name: list(getattr(learned, name)) for name in _LISTS}
                entry |= {name: getattr(learned, name) for name in (*_NUMBERS, "by_origin")}
                plan, trace = io.BytesIO(), io.BytesIO()
                dump_plan(learned.plan, plan)
                dump_trace(learned.trace, trace)
                entry["plan_sha256"] = _add(archive, f"{number}.plan.json", plan.getvalue())
                entry["trace_sha256"] = _add(archive, f"{number}.trace.jsonl", trace.getvalue())
                entries.append(entry)
            manifest = {"fingerprint": dict(self.fingerprint), "plans": entries}
            document = {"format": FORMAT, "version": VERSION, "checksum": checksum(manifest), "manifest": manifest}
            _add(archive, "manifest.json", json.dumps(document, indent=1, sort_keys=True).encode("ascii"))
        return packed.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, path: str | Path) -> PlanArchive:
        """Read and check an archive.

        Args:
            content: the file.
            path: where it came from, for messages.

        Raises:
            FileFormatError: it is not a whole, undamaged archive of valid plans.
        """
        return _Reader(path).read(content)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> str:
    # No time inside: equal content gives equal bytes.
    archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return hashlib.sha256(content).hexdigest()


def _mismatch(plan: Plan, trace: Trace) -> str:
    """Why calls could not be served from a plan that was made of a trace; empty if they can."""
    if plan.alignment_bytes % ALIGNMENT_BYTES != 0:
        return f"is aligned to {plan.alignment_bytes} bytes, tensors need {ALIGNMENT_BYTES}"
    if len(plan) != len(trace):
        return f"has {len(plan)} buffers, its trace {len(trace)}"
    for name in ("starts", "ends"):
        if not np.array_equal(getattr(plan, name), getattr(trace, name)):
            return f"has other {name} than its trace"
    if (trace.sizes > plan.sizes).any():
        return "has buffers that are smaller than those of its trace"
    if (plan.escapes & ~trace.escapes).any():
        return "has escapes that are none in its trace"
    return ""


class _Reader:
    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._left_bytes = 0

    def read(self, content: bytes) -> PlanArchive:
        self._left_bytes = max(MAX_UNKNOWN_BYTES, MAX_UNPACKED_RATIO * len(content))
        # A directory of a million files would take a gigabyte before the first of them is looked at.
        if content.count(_DIRECTORY_ENTRY) > 2 * MAX_PLANS + 16:
            raise self._fault(f"more files than {MAX_PLANS} plans have")
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                names = archive.namelist()
                if len(set(names)) < len(names):
                    raise self._fault("two of its files have one name")
                return self._read(archive)
        except (FileFormatError, MemoryError):
            raise
        except Exception as error:  # zipfile raises a dozen classes for damaged files, not all of them documented
            raise self._fault(f"not a whole zip file ({error!s:.200})") from error

    def _read(self, archive: zipfile.ZipFile) -> PlanArchive:
        manifest = self._manifest(archive)
        fingerprint, entries = manifest.get("fingerprint"), manifest.get("plans")
        if manifest.keys() != {"fingerprint", "plans"} or not isinstance(entries, list) or len(entries) > MAX_PLANS:
            raise self._fault("the manifest must have a fingerprint and a list of plans")
        if not isinstance(fingerprint, dict) or not all(isinstance(value, str) for value in fingerprint.values()):
            raise self._fault("the fingerprint must be an object of texts")
        learned: dict[str, LearnedCalls] = {}
        for number, entry in enumerate(entries):
            self._check(entry)
            plan_name, trace_name = f"{number}.plan.json", f"{number}.trace.jsonl"
            content = self._checked(archive, plan_name, entry["plan_sha256"])
            plan = load_plan(content, self._within(plan_name))
            content = self._checked(archive, trace_name, entry["trace_sha256"])
            trace = load_trace(content, self._within(trace_name))
            if fault := _mismatch(plan, trace):
                raise self._fault(f"plan {number} {fault}")
            learned[entry["calls"]] = LearnedCalls(
                plan,
                trace,
                tuple(entry["lowest"]),
                tuple(entry["highest"]),
                **{name: entry[name] for name in _NUMBERS},
                by_origin=entry["by_origin"],
            )
        if len(learned) != len(entries):
            raise self._fault("two plans are for the same calls")
        return PlanArchive(fingerprint, learned)

    def _within(self, name: str) -> str:
        return f"{self._path}, in it {name}"

    def _manifest(self, archive: zipfile.ZipFile) -> dict[str, Any]:
        document = parse_json(
            self._member(archive, "manifest.json", MAX_MANIFEST_BYTES), self._path, what="manifest of a plan archive"
        )
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise self._fault(f'not a plan archive: the manifest has no "format": "{FORMAT}"')
        if type(document.get("version")) is not int or document["version"] != VERSION:
            raise self._fault(f"version {document.get('version')!r:.20}, this memomalloc reads {VERSION}")
        manifest = document.get("manifest")
        if not isinstance(manifest, dict) or document.get("checksum") != checksum(manifest):
            raise self._fault("the checksum of the manifest does not match: it is damaged or was edited")
        return manifest

    def _check(self, entry: Any) -> None:
        if not isinstance(entry, dict) or entry.keys() != {*_LISTS, *_NUMBERS, *_DIGESTS, "by_origin"}:
            raise self._fault("an entry of the manifest has not the keys that it should have")
        for name in _DIGESTS:
            if not isinstance(entry[name], str):
                raise self._fault(f"{name} must be a text")
        if not isinstance(entry["by_origin"], bool):
            raise self._fault("by_origin must be true or false")
        whole = [entry[name] for name in _NUMBERS]
        for name in _LISTS:
            if not isinstance(entry[name], list) or len(entry[name]) != len(entry["lowest"]):
                raise self._fault(f"{name} must be a list as long as lowest")
            whole += entry[name]
        if not all(type(value) is int and -INT64_MAX <= value <= INT64_MAX for value in whole):
            raise self._fault("a size or count is not a whole number of 64 bits")

    def _checked(self, archive: zipfile.ZipFile, name: str, digest: str) -> io.BytesIO:
        content = self._member(archive, name, self._left_bytes)
        if hashlib.sha256(content).hexdigest() != digest:
            raise self._fault(f"the checksum of {name} does not match: it is damaged or was edited")
        return io.BytesIO(content)

    def _member(self, archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
        try:
            entry = archive.getinfo(name)
        except KeyError:
            raise self._fault(f"there is no {name} in it") from None
        # The other ways to compress may take gigabytes to unpack a byte.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._fault(f"{name} is compressed in a way that plans are not")
        with archive.open(entry) as member:
            content = read_all(member, self._path, max_bytes, what=f"{name} of an archive of this size")
        self._left_bytes -= len(content)
        return content

    def _fault(self, message: str) -> FileFormatError:
        return FileFormatError(self._path, f"{message}; {_REMEDY}")
