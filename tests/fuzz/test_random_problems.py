"""Random problems for every planner, in a process of its own: valid plans, within the limits of time and memory.

``MEMOMALLOC_FUZZ_S`` sets the seconds: 6 unless said, 60 in ``make fuzz``. ``MEMOMALLOC_FUZZ_SEED`` sets the first one.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest
from random_problems import random_problem

from child_process import run_python
from memomalloc.data import Problem, check
from memomalloc.errors import CapacityError
from memomalloc.planners import Planner, available, plan

SECONDS = float(os.environ.get("MEMOMALLOC_FUZZ_S", "6"))
FIRST_SEED = int(os.environ.get("MEMOMALLOC_FUZZ_SEED", "0"))
TIME_LIMITS_S = (0.0, 0.01, 0.05, 0.2)
#: Processor time beyond a limit and a tenth of it: the plan that is made in any case, the check, an interrupted step.
GRACE_S = 0.1
#: Of the whole process, Python and numpy included.
MAX_RESIDENT_BYTES = 256 << 20

pytestmark = pytest.mark.timeout(SECONDS + 240)


def fuzz(first_seed: int, seconds: float) -> dict[str, object]:
    """Plans problems for so long; raises at the first that breaks a promise.

    Returns:
        how many problems were planned, and the largest resident memory in bytes.
    """
    end_s = time.monotonic() + seconds
    planners = [planner for planner in available() if not planner.extra]
    seed = first_seed
    while time.monotonic() < end_s:
        problem = random_problem(seed)
        choose = random.Random(seed)
        # Those that search have more to break.
        planner = choose.choice([*planners, planners[0], *(entry for entry in planners if entry.exact)])
        plan_one(problem, planner, choose.choice(TIME_LIMITS_S), f"problem {seed}")
        seed += 1
    return {"num_problems": seed - first_seed, "resident_bytes": resident_bytes()}


def plan_one(problem: Problem, planner: Planner, limit_s: float, name: str) -> None:
    if planner.max_buffers is not None and len(problem) > planner.max_buffers:
        return
    what = f"{name} with {planner.name}, {limit_s} s"
    start_s = time.process_time()
    try:
        planned = plan(problem, planner=planner.name, time_limit_s=limit_s)
    except CapacityError:
        assert problem.capacity_bytes is not None, what
    else:
        check(problem, planned.offsets)
        assert planned.arena_bytes >= problem.lower_bound_bytes, what
        assert problem.capacity_bytes is None or planned.arena_bytes <= problem.capacity_bytes, what
    elapsed_s = time.process_time() - start_s
    assert elapsed_s <= 1.1 * limit_s + GRACE_S, f"{what}: took {elapsed_s} s"
    assert resident_bytes() <= MAX_RESIDENT_BYTES, what


def resident_bytes() -> int:
    """The largest resident memory of this program so far; getrusage() would count the parent that forked it."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def test_random_problems_within_the_limits() -> None:
    program = f"import json, test_random_problems as t; print(json.dumps(t.fuzz({FIRST_SEED}, {SECONDS})))"
    child = run_python(program, paths=(Path(__file__).parent,), timeout_s=SECONDS + 200)
    assert child.returncode == 0, child.stderr
    told = json.loads(child.stdout)
    print(f"{told['num_problems']} problems, {told['resident_bytes'] >> 20} MiB at most")
    assert told["num_problems"] > 0


OUT_OF_MEMORY = """
import resource
import numpy as np
from memomalloc.data import Problem, check
from memomalloc.planners import plan

random = np.random.default_rng(0)
starts = random.integers(0, 3000, 4000)
problem = Problem.from_arrays(random.integers(1, 10**6, 4000), starts, starts + random.integers(1, 400, 4000))
plan(Problem.from_arrays([1, 2], [0, 1], [2, 3]))  # what is loaded once
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {free_bytes}, resource.RLIM_INFINITY))
planned = plan(problem, planner="{planner}", time_limit_s=0.5)
check(problem, planned.offsets)
assert planned.arena_bytes >= problem.lower_bound_bytes
"""


@pytest.mark.parametrize("planner", ["auto", "branch_and_bound", "skyline_restarts", "greedy_by_size"])
@pytest.mark.parametrize("free_bytes", [1 << 20, 4 << 20, 16 << 20])
def test_out_of_memory_gives_the_best_plan_so_far(planner: str, free_bytes: int) -> None:
    child = run_python(OUT_OF_MEMORY.format(free_bytes=free_bytes, planner=planner))
    assert child.returncode == 0, child.stderr
