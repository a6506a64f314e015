"""Plan archives: all plans of a model in one file, to be shipped with the model.

A zip file with ``manifest.json``, and for plan ``n`` the files ``n.plan.json`` and ``n.trace.jsonl``, in the formats of
:mod:`memomalloc.data.plan_file` and :mod:`memomalloc.data.trace_file` and checked as such. The manifest is
``{"format": "memomalloc-plans", "version": 1, "checksum": "sha256:...", "manifest": {"fingerprint": {...}, "plans":
[...]}}``; it has the SHA-256 of every other file. As with plan files, the checksums find damage; against malice
everything is validated.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from memomalloc.data.columns import INT64_MAX
from memomalloc.data.json_document import parse_json
from memomalloc.data.plan import Plan
from memomalloc.data.plan_file import checksum
from memomalloc.data.trace import Trace
from memomalloc.errors import FileFormatError
from memomalloc.runtime.learning.learned_calls import LearnedCalls

FORMAT = "memomalloc-plans"
VERSION = 1
MAX_MEMBER_BYTES = 2**28
MAX_PLANS = 4096
_REMEDY = "save the plans again"
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
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, tempfile.TemporaryDirectory() as folder:
            for number, (calls, learned) in enumerate(sorted(self.learned.items())):
                entry: dict[str, Any] = {"calls": calls}
                entry |= {name: list(getattr(learned, name)) for name in _LISTS}
                entry |= {name: getattr(learned, name) for name in (*_NUMBERS, "by_origin")}
                for part, suffix in (("plan", "plan.json"), ("trace", "trace.jsonl")):
                    file = Path(folder) / f"{number}.{suffix}"
                    getattr(learned, part).save(file)
                    entry[f"{part}_sha256"] = _add(archive, file.name, file.read_bytes())
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


class _Reader:
    def __init__(self, path: str | Path) -> None:
        self._path = path

    def read(self, content: bytes) -> PlanArchive:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive, tempfile.TemporaryDirectory() as folder:
                return self._read(archive, Path(folder))
        except FileFormatError:
            raise
        except Exception as error:  # zipfile raises a dozen classes for damaged files, not all of them documented
            raise self._fault(f"not a whole zip file ({error})") from error

    def _read(self, archive: zipfile.ZipFile, folder: Path) -> PlanArchive:
        manifest = self._manifest(archive)
        fingerprint, entries = manifest.get("fingerprint"), manifest.get("plans")
        if manifest.keys() != {"fingerprint", "plans"} or not isinstance(entries, list) or len(entries) > MAX_PLANS:
            raise self._fault("the manifest must have a fingerprint and a list of plans")
        if not isinstance(fingerprint, dict) or not all(isinstance(value, str) for value in fingerprint.values()):
            raise self._fault("the fingerprint must be an object of texts")
        learned: dict[str, LearnedCalls] = {}
        for number, entry in enumerate(entries):
            self._check(entry)
            # Under names of our own: what the archive calls its files is never used as a path.
            plan = Plan.load(self._unpack(archive, f"{number}.plan.json", entry["plan_sha256"], folder))
            trace = Trace.load(self._unpack(archive, f"{number}.trace.jsonl", entry["trace_sha256"], folder))
            if not np.array_equal(plan.starts, trace.starts) or (trace.sizes > plan.sizes).any():
                raise self._fault(f"plan {number} is not one of its trace")
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

    def _manifest(self, archive: zipfile.ZipFile) -> dict[str, Any]:
        document = parse_json(self._member(archive, "manifest.json"), self._path, what="manifest of a plan archive")
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

    def _unpack(self, archive: zipfile.ZipFile, name: str, digest: str, folder: Path) -> Path:
        content = self._member(archive, name)
        if hashlib.sha256(content).hexdigest() != digest:
            raise self._fault(f"the checksum of {name} does not match: it is damaged or was edited")
        file = folder / name
        file.write_bytes(content)
        return file

    def _member(self, archive: zipfile.ZipFile, name: str) -> bytes:
        with archive.open(name) as member:
            content = member.read(MAX_MEMBER_BYTES + 1)
        if len(content) > MAX_MEMBER_BYTES:
            raise self._fault(f"{name} is larger than {MAX_MEMBER_BYTES} bytes")
        return content

    def _fault(self, message: str) -> FileFormatError:
        return FileFormatError(self._path, f"{message}; {_REMEDY}")
