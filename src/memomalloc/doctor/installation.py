"""Whether memomalloc can work here, tried out."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memomalloc.errors import MemomallocError
from memomalloc.runtime.switch import DISABLE_VARIABLE, is_enabled

GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        text: what was found.
        fine: nothing is wrong with it.
        remedy: what helps where something is.
    """

    text: str
    fine: bool = True
    remedy: str = ""


def examine_installation() -> tuple[Finding, ...]:
    """Look at the build, the limits of this process, and whether a small model is really served from a plan."""
    return tuple(_findings())


def _findings() -> Iterator[Finding]:
    from memomalloc.runtime import extension

    if not is_enabled():
        yield Finding(f"{DISABLE_VARIABLE} is set: every call runs unplanned", fine=False, remedy="unset it")
    try:
        native = extension.install()
    except MemomallocError as error:
        yield Finding("the runtime cannot run here", fine=False, remedy=str(error))
        return
    yield Finding(f"the runtime is in front of torch's allocator, which is {native.upstream_name()}")
    yield _address_space(native.reserved_bytes())
    yield _threads()
    yield Finding(f"huge pages: {_huge_pages()}")
    yield _trial()


def _address_space(reserved_bytes: int) -> Finding:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limited = "not limited" if limit == resource.RLIM_INFINITY else f"limited to {limit / GIB:.1f} GiB"
    text = f"address space is {limited}; {reserved_bytes / GIB:,.1f} GiB of it are reserved for arenas"
    return Finding(
        text,
        fine=reserved_bytes >= memory,
        remedy="arenas may not find room: lift the limit on address space (ulimit -v unlimited)",
    )


def _threads() -> Finding:
    import torch

    num_threads, num_cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    return Finding(
        f"torch uses {num_threads} threads in an operator, and this process may use {num_cores} cores",
        fine=num_threads <= num_cores,
        remedy="threads that have no core wait for each other: OMP_NUM_THREADS or torch.set_num_threads()",
    )


def _huge_pages() -> str:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    try:
        return path.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return "unknown"


def _trial() -> Finding:
    import torch

    from memomalloc.runtime.models.optimizing import optimize

    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64)).eval()
    inputs = torch.ones(8, 64)
    with torch.inference_mode():
        planned: Any = optimize(model, example_inputs=inputs)
        expected = model(inputs)
        equal = all(torch.equal(planned(inputs), expected) for _ in range(3))
    stats = planned.stats()
    text = (
        f"a trial: {stats.requests_served} of {stats.requests_planned} requests of a small model served from its plan"
    )
    return Finding(
        text + (", with equal results" if equal else ", with DIFFERENT results"),
        fine=equal and stats.requests_planned > 0 and stats.requests_served == stats.requests_planned,
        remedy="please report this, with the output of this command",
    )
