"""The exact chance that a count of failures crosses a boundary, by dynamic programming over the looks.

Between two looks m votes apart, the law of the count over the paths that have not crossed is convolved with Bin(m, q0).
All numbers are non-negative, so that nothing cancels: the relative error of a crossing probability is at most the number of
looks times that of one convolution (measured against exact arithmetic in the tests: below 1e-11). What is cut off, at the
far end of the law and at both ends of the binomial steps, is counted as if it had crossed: the sum errs to the safe side.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.statistics.boundary import Boundary, Side
from smoothing.statistics.tail import log_binomial_pmf

SIZE_SLACK = 1e-9
"""Share of alpha that a boundary leaves unspent, far above the rounding error of its computed size."""

SMALLEST_ALPHA = 1e-280
"""Smallest alpha of a boundary. The cuts, 1e-13 of it, are then normal numbers, and what single probabilities lose by
underflow (at most 2e-308 each, of fewer than 1e16 in all) is far below the slack."""

_HALVING = 0.25
"""Least share of alpha that a test may be built for: a radius has alpha (1 - q0) where the votes choose the class."""

_CUT = 1e-13
"""Share of alpha that one cut may drop; there are three cuts per look."""


class Step(NamedTuple):
    """The law of the count over m votes: probabilities of low, low + 1, ..., and a bound on what lies outside."""

    low: int
    law: Float64[ndarray, " counts"]
    outside: float


class Steps:
    """The steps between the looks of one schedule, counted towards one side: computed once, walked many times.

    Args:
        q0: Probability of a failure.
        alpha: The level that cuts are measured against.
        looks: Votes at each look.
        side: "below" counts failures; "above" counts successes, few of which are many failures.

    Raises:
        InvalidArgumentError: If alpha is too small for float64.
    """

    def __init__(self, q0: float, alpha: float, looks: Sequence[int], side: Side) -> None:
        if alpha < SMALLEST_ALPHA * _HALVING:
            raise InvalidArgumentError(
                f"alpha must be at least {SMALLEST_ALPHA:g}, below which boundaries cannot be computed in float64, got "
                f"alpha={alpha}"
            )
        self.looks = np.asarray(looks, dtype=np.int64)
        self.cut = _CUT * alpha
        self._q0, self._side = q0, side
        self._known: dict[int, Step] = {}

    def __len__(self) -> int:
        return len(self.looks)

    def step(self, look: int) -> Step:
        """Return the step that leads to look number `look`."""
        m = int(self.looks[look] - (self.looks[look - 1] if look else 0))
        if m not in self._known:
            self._known[m] = self._step(m)
        return self._known[m]

    def _step(self, m: int) -> Step:
        # Bernstein: P(|X - m q| >= w) <= 2 exp(-w^2 / (2 (m p q + w / 3))), which is `cut` at this w.
        depth = math.log(2.0 / self.cut)
        width = depth / 3.0 + math.sqrt(depth * depth / 9.0 + 2.0 * depth * m * self._q0 * (1.0 - self._q0))
        low, high = max(0, math.floor(m * self._q0 - width)), min(m, math.ceil(m * self._q0 + width))
        outside = 0.0 if (low, high) == (0, m) else self.cut
        law = np.exp(log_binomial_pmf(np.arange(low, high + 1, dtype=np.float64), m, self._q0))
        return Step(low, law, outside) if self._side == "below" else Step(m - high, law[::-1].copy(), outside)


class Walk:
    """The law of the count over the paths that have not crossed, look by look.

    Attributes:
        crossed: Probability of having crossed, what was cut off included: an upper bound.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._look = 0
        self._low, self._law = 0, np.ones(1)
        self.crossed = 0.0

    def advance(self) -> None:
        """Go to the next look, without crossing anything yet."""
        step = self._steps.step(self._look)
        self._look += 1
        if not self._law.size:
            return
        self._low += step.low
        self._law = np.convolve(self._law, step.law)
        self.crossed += step.outside
        # Large counts have far to go: where hardly any path is left, they are dropped as if they had crossed.
        upper = np.cumsum(self._law[::-1])
        drop = int(np.searchsorted(upper, self._steps.cut, side="right"))
        if drop:
            self.crossed += float(upper[drop - 1])
            self._law = self._law[: self._law.size - drop]

    def largest(self, budget: float) -> int:
        """Return the largest count for which crossing at or below it costs at most `budget`; -1 where there is none."""
        within = int(np.searchsorted(np.cumsum(self._law), budget, side="right"))
        # Counts below the vector are impossible: rejecting them would be free, but nobody could see it.
        return self._low + within - 1 if within else -1

    def cross(self, limit: int) -> None:
        """Let the paths with a count of at most `limit` cross."""
        count = min(max(limit + 1 - self._low, 0), self._law.size)
        if count:
            self.crossed += float(self._law[:count].sum())
            self._low, self._law = self._low + count, self._law[count:]


def crossing_probability(steps: Steps, limits: Sequence[int]) -> float:
    """Return an upper bound on the chance that the count is ever at or below its limit; -1 where nothing can be."""
    walk = Walk(steps)
    last = max((look for look, limit in enumerate(limits) if limit >= 0), default=-1)
    for limit in limits[: last + 1]:
        walk.advance()
        walk.cross(int(limit))
    return walk.crossed


def finished_boundary(
    q0: float, alpha: float, side: Side, looks: Sequence[int], limits: Sequence[int], crossed: float, method: str
) -> Boundary:
    """Return the boundary with `limits` on the count that the side counts, its size being `crossed` and the slack.

    Raises:
        InvalidArgumentError: If that is above alpha.
    """
    size = crossed + SIZE_SLACK * alpha
    if size > alpha:
        raise InvalidArgumentError(f"the size must be at most alpha, got size={size} at alpha={alpha}")
    counts = [int(limit) for limit in limits]
    if side == "above":
        counts = [n - limit if limit >= 0 else n + 1 for n, limit in zip(looks, counts, strict=True)]
    return Boundary(q0, alpha, side, tuple(int(n) for n in looks), tuple(counts), size, method)
