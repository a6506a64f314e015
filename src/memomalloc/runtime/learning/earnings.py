"""What a plan is worth in the program that it serves: calls with it and without it, timed side by side."""

from __future__ import annotations

import math

#: One comparison in so many runs. It takes two calls with the plan and two without, one after the other. Of each two
#: the first warms up what had gone cold, and the second counts: at most one call in a thousand runs without the plan.
RUNS_PER_COMPARISON = 2000
TIMED_PER_COMPARISON = 2
PROBES_PER_COMPARISON = 2
#: Comparisons before the first verdict, and before the last.
MIN_COMPARISONS = 8
MAX_COMPARISONS = 48
#: A plan that makes calls slower by less than this share is kept.
TOLERATED_LOSS = 0.02
#: A verdict is clear if chance alone gives one as clear in fewer cases than this.
MAX_CHANCE = 0.005


class Earnings:
    """Comparisons of one plan, and the verdict: it earns its place, it is a loss, or it is too early to say.

    The verdict counts signs of paired comparisons, so that it needs no idea of how noisy a machine is: calls disturbed
    by others are a few signs that are wrong. Between a gain and a loss of two percent there is no verdict; then a plan
    is kept.
    """

    def __init__(self) -> None:
        self._ratios: list[float] = []
        self._runs_left = RUNS_PER_COMPARISON
        self._planned_s = 0.0
        self._timed_left = TIMED_PER_COMPARISON
        self._probes_left = PROBES_PER_COMPARISON
        self._is_settled = False

    @property
    def ratio(self) -> float:
        """How many times as long calls take without the plan: the median, 1 before the first comparison."""
        return sorted(self._ratios)[len(self._ratios) // 2] if self._ratios else 1.0

    @property
    def is_loss(self) -> bool:
        """Whether calls are clearly slower with the plan."""
        return self._is_clear(sum(ratio >= 1 - TOLERATED_LOSS for ratio in self._ratios))

    @property
    def is_gain(self) -> bool:
        """Whether calls are clearly faster with the plan."""
        return self._is_clear(sum(ratio <= 1 for ratio in self._ratios))

    def are_due(self, num_runs: int) -> bool:
        """So many more runs have ended; whether it is time to compare."""
        if self._is_settled:
            return False
        self._runs_left -= num_runs
        if self._runs_left > 0:
            return False
        self._runs_left = RUNS_PER_COMPARISON
        self._timed_left = TIMED_PER_COMPARISON
        self._probes_left = PROBES_PER_COMPARISON
        return True

    def timed(self, planned_s: float) -> bool:
        """A call with the plan took so long; whether that was the last of them."""
        self._planned_s = planned_s
        self._timed_left -= 1
        return self._timed_left <= 0

    def probed(self, unplanned_s: float) -> bool:
        """A call without the plan took so long; whether that ends the comparison."""
        self._probes_left -= 1
        if self._probes_left > 0:
            return False
        if self._planned_s > 0:
            self._ratios.append(unplanned_s / self._planned_s)
        self._is_settled = self.is_gain or len(self._ratios) >= MAX_COMPARISONS
        return True

    def _is_clear(self, num_against: int) -> bool:
        """Whether so few comparisons speak against a verdict that it is none of chance."""
        num = len(self._ratios)
        if num < MIN_COMPARISONS:
            return False
        num_cases = sum(math.comb(num, against) for against in range(num_against + 1))
        return num_cases < MAX_CHANCE * (1 << num)
