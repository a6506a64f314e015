"""The process that measures cases of one upstream: started with its library preloaded, it forks for every row.

Reads a request from stdin and writes a line of JSON for each row, and for news of its progress, to the file
descriptor that was its stdout; what models print goes to stderr.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from memomalloc.bench.case import Case
from memomalloc.bench.measurement import Effort, attempt
from memomalloc.bench.suite import models_of
from memomalloc.bench.upstream import UPSTREAMS
from memomalloc.errors import MemomallocError
from memomalloc.runtime import extension

# One process compiles for one row at a time, and a pool of compiling processes would not survive the fork.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


@dataclass(frozen=True)
class Request:
    """What an upstream process is asked to measure.

    Attributes:
        suite: of all cases.
        user_references: of the suite ``user``.
        seed: of torch's generator.
        effort: how long to measure.
        cases: all of the same upstream.
    """

    suite: str
    user_references: tuple[str, ...]
    seed: int
    effort: Effort
    cases: tuple[Case, ...]

    def as_json(self) -> str:
        """The request as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        """The request in a text that :meth:`as_json` made."""
        values = json.loads(text)
        return cls(
            suite=values["suite"],
            user_references=tuple(values["user_references"]),
            seed=values["seed"],
            effort=Effort(**values["effort"]),
            cases=tuple(Case(**case) for case in values["cases"]),
        )


def serve(request: Request, send: Callable[[dict[str, Any]], None]) -> None:
    """Measure the cases of a request, and send what is found."""
    models = models_of(request.suite, request.user_references)
    require_upstream(request.cases[0].upstream)
    for case in request.cases:
        build = functools.partial(models[case.model].build, case.batch, case.input_size)
        row = attempt(
            case,
            build,
            request.effort,
            seed=request.seed,
            on_progress=lambda stage, share: send({"stage": stage, "share": share}),
        )
        send({"row": row.as_dict()})


def require_upstream(name: str) -> None:
    """See that this process runs with an allocator.

    Raises:
        MemomallocError: it runs with another one.
    """
    wanted, found = UPSTREAMS[name].native_name, extension.load().upstream_name()
    if found != wanted:
        raise MemomallocError(f"{wanted} was to be preloaded, but the allocator of the process is {found}")


@contextmanager
def answers() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that sends a line to whoever started this process."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as stream:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def send(answer: dict[str, Any]) -> None:
            stream.write(json.dumps(answer) + "\n")
            stream.flush()

        yield send


def main() -> None:
    """Serve the request on stdin."""
    with answers() as send:
        try:
            serve(Request.from_json(sys.stdin.read()), send)
        except MemomallocError as error:
            send({"error": str(error), "kind": type(error).__name__})


if __name__ == "__main__":
    main()
