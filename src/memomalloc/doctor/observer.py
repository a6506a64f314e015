"""Runs a program and watches the process from a thread: ``python -m memomalloc.doctor.observer OUT PROGRAM ...``."""

from __future__ import annotations

import contextlib
import gc
import runpy
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memomalloc.bench.process import Usage, resident_bytes
from memomalloc.data.origin import Origin
from memomalloc.data.trace import Trace
from memomalloc.doctor.arenas import read_arenas
from memomalloc.doctor.live_tensors import live_tensor_bytes
from memomalloc.doctor.observation import Holder, Observation, Sample

#: Samples begin this close together; of a long run only every second one is kept, again and again.
FIRST_PERIOD_S = 0.02
MAX_SAMPLES = 400
#: Looking for live tensors stops the program; it may take this share of the time.
LIVE_SHARE = 0.05
#: Holders that are worth telling.
MAX_HOLDERS = 10

RECORD_OPTION = "--record"


class Watch:
    """Samples of this process, taken by a thread of its own."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.live_bytes: list[tuple[float, int]] = []
        self._began_s = time.monotonic()
        self._before = Usage.now()
        self._period_s = FIRST_PERIOD_S
        self._next_live_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memomalloc doctor", daemon=True)

    def __enter__(self) -> Watch:
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        gc.collect()
        self.look_for_tensors()
        self.sample()

    def sample(self) -> None:
        """Take a sample now."""
        used = Usage.now() - self._before
        self.samples.append(
            Sample(
                at_s=time.monotonic() - self._began_s,
                resident_bytes=resident_bytes(),
                minor_faults=used.minor_faults,
                cpu_s=used.cpu_s,
                kernel_s=used.kernel_s,
            )
        )
        if len(self.samples) >= MAX_SAMPLES:
            del self.samples[1::2]
            self._period_s *= 2

    def look_for_tensors(self) -> None:
        """Count the tensors that are reachable now, if the program has imported torch."""
        if getattr(sys.modules.get("torch"), "Tensor", None) is None:
            return
        began_s = time.monotonic()
        with contextlib.suppress(Exception):  # an object of the program may raise anything when it is looked at
            self.live_bytes.append((began_s - self._began_s, live_tensor_bytes()))
        spent_s = time.monotonic() - began_s
        self._next_live_s = time.monotonic() + max(spent_s / LIVE_SHARE, 0.1)

    def _watch(self) -> None:
        while not self._stop.wait(self._period_s):
            self.sample()
            if time.monotonic() > self._next_live_s:
                self.look_for_tensors()


def observe(program: Path, arguments: list[str], *, record: bool) -> Observation:
    """Run a program as ``python PROGRAM ARGUMENTS`` would, and watch it.

    Args:
        program: a Python file.
        arguments: its own.
        record: record its tensors, to say who asked for those that are alive at the end. It then runs more slowly, and
            its heap is another one.
    """
    from memomalloc.runtime import extension

    native = extension.load()
    sys.argv = [str(program), *arguments]
    sys.path.insert(0, str(program.resolve().parent))
    error = ""
    holders: tuple[Holder, ...] = ()
    names: dict[str, Any] = {}
    with Watch() as watch:
        try:
            if record:
                names, holders = _run_recorded(program)
            else:
                names = runpy.run_path(str(program), run_name="__main__")
        except SystemExit as exit_:
            error = f"it ended with status {exit_.code}" if exit_.code not in (None, 0) else ""
        except Exception as raised:  # a program that fails can be diagnosed until then
            error = " ".join(f"{type(raised).__name__}: {raised}".split())
    arenas = read_arenas()
    native.release_upstream_memory()
    retained = max(watch.samples[-1].resident_bytes - resident_bytes(), 0)
    del names  # the program's globals lived until here
    return Observation(
        samples=tuple(watch.samples),
        live_bytes=tuple(watch.live_bytes),
        retained_bytes=retained,
        arenas=arenas if native.upstream_name() == "glibc" else None,
        allocator=native.upstream_name(),
        holders=holders,
        error=error,
    )


def _run_recorded(program: Path) -> tuple[dict[str, Any], tuple[Holder, ...]]:
    from memomalloc.runtime.learning.recorder import record

    with record() as recording:
        names = runpy.run_path(str(program), run_name="__main__")
        gc.collect()
    return names, tuple(_holders(recording.trace))


def _holders(trace: Trace) -> Iterator[Holder]:
    """Who asked for the tensors that were allocated after the warm-up and are still alive."""
    num_tensors: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    for buffer in trace.buffers:
        if buffer.escape and buffer.start >= Observation.WARM_UP_SHARE * trace.end_tick:
            name = _name_of(buffer.origin)
            num_tensors[name] += 1
            num_bytes[name] += buffer.size_bytes
    for name, size in num_bytes.most_common(MAX_HOLDERS):
        yield Holder(name, num_tensors[name], size)


def _name_of(origin: Origin | None) -> str:
    if origin is None:
        return "unknown"
    where = [part for part in (origin.operator, origin.module_path, str(origin.source or "")) if part]
    return ", ".join(where) or "unknown"


def main() -> None:
    """Observe the program that the command line names."""
    out, *rest = sys.argv[1:]
    record = rest[0] == RECORD_OPTION
    program, *arguments = rest[1:] if record else rest
    observe(Path(program), arguments, record=record).save(Path(out))


if __name__ == "__main__":
    main()
