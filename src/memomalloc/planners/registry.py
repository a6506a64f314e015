"""Every planner there is, a line each. The order is that of tables."""

from __future__ import annotations

from dataclasses import dataclass

from memomalloc.errors import UnknownPlannerError


@dataclass(frozen=True, slots=True)
class Planner:
    """What a user may want to know of a planner before using it.

    Attributes:
        name: what ``plan(planner=...)`` takes.
        description: one sentence.
        complexity: in the number of buffers n.
        source: the paper or program that the algorithm is from.
        exact: it proves optimality or infeasibility, given the time.
        extra: the optional extra of this package that it needs, empty for none.
        max_buffers: larger problems are refused, None: any size.
    """

    name: str
    description: str
    complexity: str
    source: str
    exact: bool = False
    extra: str = ""
    max_buffers: int | None = None


_PLANNERS = (
    Planner(
        "auto",
        "The portfolio: every quick planner, then searches until the lower bound, a proof or the time limit.",
        "O(n log n), then anytime",
        "this project",
        exact=True,
    ),
    Planner(
        "skyline",
        "Fills the lowest place of the roof, with five orders of priority.",
        "O(n sqrt n) at worst",
        "after Sekiyama et al. 2018, Profile-guided memory optimization for deep neural networks",
    ),
    Planner(
        "skyline_restarts",
        "The skyline planner again and again with perturbed priorities, until the time limit.",
        "O(n log n) and more per run, anytime",
        "this project",
    ),
    Planner(
        "branch_and_bound",
        "Searches the placements in which nothing can be moved down; proves optimality or that nothing fits.",
        "exponential, anytime",
        "after Moffitt 2023, MiniMalloc",
        exact=True,
        max_buffers=5000,
    ),
    Planner(
        "greedy_by_size",
        "Largest buffer first, lowest gap that fits.",
        "O(n^2)",
        "Pisarchyk and Lee 2020, Efficient memory management for deep neural net inference; TFLite; ExecuTorch",
    ),
    Planner(
        "greedy_by_size_best_fit",
        "Largest buffer first, smallest gap that fits.",
        "O(n^2)",
        "Pisarchyk and Lee 2020; XLA",
    ),
    Planner("greedy_by_area", "Largest size times lifetime first, lowest gap.", "O(n^2)", "common practice"),
    Planner("greedy_by_area_best_fit", "Largest size times lifetime first, smallest gap.", "O(n^2)", "common practice"),
    Planner("greedy_by_duration", "Longest lifetime first, lowest gap that fits.", "O(n^2)", "common practice"),
    Planner("greedy_by_duration_best_fit", "Longest lifetime first, smallest gap.", "O(n^2)", "XLA"),
    Planner("greedy_by_breadth", "Buffers of the fullest tick first, lowest gap.", "O(n^2)", "Pisarchyk and Lee 2020"),
    Planner(
        "greedy_by_breadth_best_fit", "Buffers of the fullest tick first, smallest gap.", "O(n^2)",
        "Pisarchyk and Lee 2020",
    ),
    Planner(
        "linear_scan",
        "In order of birth, each at the lowest free place: what an online allocator would do at best.",
        "O(n w), w buffers alive at a time; O(n log n) for equal sizes",
        "Poletto and Sarkar 1999, Linear scan register allocation",
    ),
    Planner(
        "linear_scan_best_fit",
        "In order of birth, each at the smallest free place that fits.",
        "O(n w), w buffers alive at a time; O(n log n) for equal sizes",
        "after Poletto and Sarkar 1999",
    ),
    Planner(
        "next_fit",
        "The arena as a ring: in order of birth, each at the next free place after the last; its height is bisected.",
        "O(n log n) where those die first that are born first",
        "Knuth 1968, The Art of Computer Programming 2.5",
    ),
    Planner(
        "gergov",
        "Builds towers within the lower bound, then separates what overlaps by colours.",
        "O(n^2)",
        "after Gergov 1999, Algorithms for compile-time memory optimization",
        max_buffers=20_000,
    ),
    Planner(
        "min_cost_flow",
        "Buffers hand whole blocks on to later ones along the cheapest flow; the blocks lie side by side.",
        "O(n^3)",
        "Lee et al. 2019, On-device neural net inference with mobile GPUs",
        max_buffers=1500,
    ),
    Planner("bump", "One after the other, nothing reused: the cost of never freeing.", "O(n)", "folklore"),
    Planner(
        "mip",
        "A mixed-integer program with one binary per pair of neighbours, solved by HiGHS within SciPy.",
        "exponential",
        "Levental 2022, Memory planning for deep neural networks; Sekiyama et al. 2018",
        exact=True,
        extra="solvers",
        max_buffers=2000,
    ),
    Planner(
        "cp_sat",
        "Rectangles that do not overlap and a cumulative resource, solved by OR-Tools CP-SAT.",
        "exponential",
        "Perron and Didier, OR-Tools CP-SAT",
        exact=True,
        extra="solvers",
        max_buffers=10_000,
    ),
)  # fmt: skip


def available() -> tuple[Planner, ...]:
    """Every registered planner, those included whose extra is not installed."""
    return _PLANNERS


def find(name: str) -> Planner:
    """The planner of that name.

    Raises:
        UnknownPlannerError: the message lists the names there are.
    """
    for planner in _PLANNERS:
        if planner.name == name:
            return planner
    names = ", ".join(planner.name for planner in _PLANNERS)
    raise UnknownPlannerError(f"there is no planner {name!r}; there are: {names}")
