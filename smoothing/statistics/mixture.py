"""Boundaries from a mixture of likelihood ratios, its threshold calibrated by exact dynamic programming.

M(f, n) = Sum_i w_i (q_i / q0)^f ((1 - q_i) / (1 - q0))^(n - f), over alternatives q_i = Phi(Phi^-1(q0) -+ delta_i): equally
spaced margins in units of the radius over sigma, and the end of the scale, where no vote fails. Where 1 - p = q0, M is a
martingale of mean 1, so that by Ville's inequality M >= 1/alpha happens ever with probability alpha at most. Up to a cap,
and seen at looks only, it happens less often: the threshold is lowered until the exact probability is alpha.

Reference: Robbins 1970, "Statistical methods related to the law of the iterated logarithm" (mixtures); Ville 1939.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy.special import logsumexp, ndtr, ndtri

from smoothing.statistics.boundary import Boundary, Side
from smoothing.statistics.crossing import SIZE_SLACK, Steps, Walk, crossing_probability, finished_boundary

MARGINS = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 1.6)
"""Distances of the alternatives from q0, in standard normal quantiles: 0.03 needs about 100,000 votes, 1.6 a few dozen."""
END_WEIGHT = 3.0
"""Weight of "no vote fails", beside 1 for each margin: most inputs are nearly unanimous."""
_STEPS = 8
"""Halvings of the logarithm of the threshold, once it is known to within a step of its search downwards."""
_STRIDE = 0.5


def mixture_boundary(q0: float, alpha: float, looks: Sequence[int], *, side: Side = "below") -> Boundary:
    """Return the boundary {M >= threshold} with the smallest threshold whose exact size is within alpha.

    What discreteness leaves over is spent at the last look.

    Args:
        q0: Failure probability of the hypothesis, in (0, 1).
        alpha: Level, in (0, 1).
        looks: Votes at each look, increasing.
        side: See `Boundary`.

    Example:
        >>> boundary = mixture_boundary(0.5, 0.001, (20, 40, 80))
        >>> boundary.limits, 0.0007 < boundary.size <= 0.001
        ((2, 9, 25), True)
    """
    steps = Steps(q0, alpha, looks, side)
    rate = q0 if side == "below" else 1.0 - q0
    n = np.asarray(looks, dtype=np.int64)

    def sound(log_threshold: float) -> bool:
        crossed = crossing_probability(steps, limits_of(rate, n, log_threshold).tolist())
        return crossed <= alpha * (1.0 - SIZE_SLACK)

    # Ville's inequality proves the first threshold; with few looks, or near the end of the scale, much less will do.
    high = math.log(1.0 / alpha)
    while high > 0.0 and sound(high - _STRIDE):
        high -= _STRIDE
    low = high - _STRIDE
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if sound(middle) else (middle, high)
    limits = limits_of(rate, n, high).tolist()
    walk = Walk(steps)
    for look, limit in enumerate(limits):
        walk.advance()
        if look == len(limits) - 1:
            left = walk.largest(alpha * (1.0 - SIZE_SLACK) - walk.crossed)
            limits[look] = max(limit, min(left, int(rate * (int(n[-1]) - 1))))
        walk.cross(limits[look])
    return finished_boundary(q0, alpha, side, looks, limits, walk.crossed, "mixture of likelihood ratios, calibrated")


def limits_of(rate: float, n: Int64[ndarray, " looks"], log_threshold: float) -> Int64[ndarray, " looks"]:
    """Return the largest count at each look with log M >= log_threshold, at most rate (n - 1); -1 where there is none."""
    low, high = np.full_like(n, -1), np.maximum((rate * (n - 1)).astype(np.int64), 0) + 1
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = log_mixture(rate, np.maximum(middle, 0), n) >= log_threshold
        low, high = np.where(enough & (middle > low), middle, low), np.where(enough, high, np.maximum(middle, low + 1))
    return np.maximum.accumulate(low)


def log_mixture(
    rate: float, count: Int64[ndarray, " looks"], n: Int64[ndarray, " looks"]
) -> Float64[ndarray, " looks"]:
    """Return log M for `count` of `n`, against the hypothesis that the chance of each is `rate`; it falls with the count."""
    with np.errstate(under="ignore"):
        rates = ndtr(ndtri(rate) - np.asarray(MARGINS))[:, None]
        terms = count * (np.log(rates) - math.log(rate)) + (n - count) * (np.log1p(-rates) - math.log1p(-rate))
        end = np.where(count == 0, math.log(END_WEIGHT) - n * math.log1p(-rate), -np.inf)
        total = logsumexp(np.concatenate((terms, end[None, :])), axis=0)
    return np.asarray(total - math.log(len(MARGINS) + END_WEIGHT))
