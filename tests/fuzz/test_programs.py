"""Random torch programs beside plain ones: the same results, held tensors intact, and most requests from plans.

``MEMOMALLOC_FUZZ_S`` sets the seconds: 60 unless said. ``MEMOMALLOC_FUZZ_SEED`` sets the first
program, ``MEMOMALLOC_FUZZ_JOBS`` how many run at a time.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from child_process import run_python

pytest.importorskip("torch")

SECONDS = float(os.environ.get("MEMOMALLOC_FUZZ_S", "60"))
FIRST_SEED = int(os.environ.get("MEMOMALLOC_FUZZ_SEED", "0"))
JOBS = int(os.environ.get("MEMOMALLOC_FUZZ_JOBS", "1"))

#: A fuzzer of calls that run without a plan proves nothing.
LEAST_SERVED_SHARE = 0.3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 1200)]

FUZZ = """
import dataclasses, json, programs
tally = programs.fuzz({seed}, {seconds}, jobs={jobs})
print(json.dumps(dict(dataclasses.asdict(tally), served_share=tally.served_share, text=str(tally))))
"""

REDUCTION = """
import itertools, programs

def optimize(model, **options):
    calls = itertools.count()
    last = [programs.torch.zeros(100)]
    def wrong(values):
        first, rest = model(values)
        {fault}
        return first, rest
    return wrong

programs.memomalloc.optimize = optimize
ops = [["tanh", 0, 0, 0, 0], ["if", 0, 0, 0, 1, "count", [["scale", 1, 0, 0, 1], ["sort", 1, 1, 0, 0]], []]]
call = dict(size=100, times=2, hold=3, free="here", mode="inference")
steps = [["look"], ["define", "f0", "function", ops], ["collect"], ["optimize", "f0", dict(shapes="merged")]]
steps += [["call", 0, "f0", dict(call, seed=seed)] for seed in range(5)] + [["look"]]
failure = programs.failure_of(steps)
assert {word!r} in failure.splitlines()[0], failure
steps = programs.reduced(steps, failure)
assert [step[0] for step in steps[:2]] == ["define", "optimize"], steps
assert {{step[0] for step in steps[2:]}} == {{"call"}}, steps
assert len(steps) < 6, steps
assert steps[0][3] in ([], [["tanh", 0, 0, 0, 0]]), steps
assert programs.failure_of(steps)
"""


def test_random_programs() -> None:
    program = FUZZ.format(seed=FIRST_SEED, seconds=SECONDS, jobs=JOBS)
    child = run_python(program, paths=(Path(__file__).parent,), timeout_s=SECONDS + 1100)
    assert child.returncode == 0, child.stderr
    told = json.loads(child.stdout.splitlines()[-1])
    print(told["text"])
    assert told["failures"] == [], "\n".join(told["failures"])
    assert told["programs"] > 0
    assert told["served_share"] > LEAST_SERVED_SHARE, told


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        pytest.param("first = first + (next(calls) > 4)", "is another", id="another_result"),
        pytest.param("last[0].numpy()[:] = 0; last[0] = first", "was overwritten", id="an_output_used_again"),
    ],
)
def test_a_fault_is_found_and_reduced(fault: str, word: str) -> None:
    child = run_python(REDUCTION.format(fault=fault, word=word), paths=(Path(__file__).parent,), timeout_s=600)
    assert child.returncode == 0, child.stderr
