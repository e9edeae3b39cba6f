"""The exact error of a sequential test, once more: a dynamic programme over failures, with everything it drops added back.

At each look a test claims where the failures so far are at most its limit. The failures of those that have not claimed yet
have a distribution that is carried from look to look by convolution with the binomial law of the new failures. What is cut
off (tails below `_DROPPED` of that law) is counted as claimed, so that the result is an upper bound but for rounding, which
is far below the allowance that the caller makes.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binom

_DROPPED = 1e-19
"""Tail of the law of new failures that is cut off on each side; over a thousand looks 2e-16 in all."""


def crossing_probability(q: float, looks: Sequence[int], limits: Sequence[int]) -> float:
    """Return an upper bound on the probability that the failures are ever at most the limit of a look.

    Args:
        q: Probability of a failure, in (0, 1).
        looks: Votes at each look, increasing.
        limits: The most failures that claim at each look; -1 for none.
    """
    open_mass, first = np.array([1.0]), 0  # P(failures = first + i, nothing claimed)
    crossed, before = 0.0, 0
    for n, limit in zip(looks, limits, strict=True):
        trials = n - before
        low, high = (int(binom.ppf(_DROPPED, trials, q)), int(binom.isf(_DROPPED, trials, q)))
        low, high = max(low - 1, 0), min(high + 1, trials)
        step = binom.pmf(np.arange(low, high + 1), trials, q)
        total = float(open_mass.sum())
        open_mass, first, before = np.convolve(open_mass, step), first + low, n
        # Mass that the step dropped may have crossed for all that is known.
        crossed += max(total - float(open_mass.sum()), 0.0)
        claimed = max(min(limit - first + 1, len(open_mass)), 0)
        crossed += float(open_mass[:claimed].sum())
        open_mass, first = open_mass[claimed:], first + claimed
        if len(open_mass) == 0:
            break
        # Values that no longer matter are counted as claimed, so that arrays stay short.
        kept = np.flatnonzero(open_mass > 1e-24)
        if len(kept) == 0:
            return crossed + float(open_mass.sum())
        crossed += float(open_mass[: kept[0]].sum() + open_mass[kept[-1] + 1 :].sum())
        open_mass, first = open_mass[kept[0] : kept[-1] + 1], first + int(kept[0])
    return crossed
