"""Exact group-sequential boundaries: alpha is spent over the looks as a plan says, and counted to the last path.

Reference: Lan and DeMets 1983, "Discrete sequential boundaries for clinical trials"; Stallard and Todd 2000, "Exact
sequential tests for single samples of discrete responses using spending functions".
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from smoothing.statistics.boundary import Boundary, Side
from smoothing.statistics.crossing import SIZE_SLACK, Steps, Walk, finished_boundary

FIRST_SHARE = 0.2
"""Share of alpha that is released as soon as it could be spent: most inputs are nearly unanimous."""
LAST_SHARE = 0.25
"""Share of alpha that is kept for the last look, where a claim that was close all along is decided."""

OTHER_LAST_SHARES = (0.2, 0.3, 0.15, 0.35, 0.1, 0.4)
"""Tried one after the other where the usual share leaves more of alpha unused than `ENOUGH` allows."""
ENOUGH = 0.96
"""Share of alpha that a boundary should use."""

FEW = 100.0
"""Failures expected at the last look, at q0, below which one count more or less at that look is a loss that one can see."""
FEW_LAST_SHARES = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
"""Tried there until the last look rejects as many failures as a test with that look alone."""
FEW_FIRST_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_LEAST_BETWEEN = 0.05


def spending_boundary(
    q0: float,
    alpha: float,
    looks: Sequence[int],
    *,
    side: Side = "below",
    first_share: float = FIRST_SHARE,
    last_share: float = LAST_SHARE,
) -> Boundary:
    """Return the boundary that spends `first_share` at once, `last_share` at the last look, and the rest evenly between.

    Evenly over the looks, whose numbers of votes grow by a ratio: the same for every margin, seen on a scale of votes. Of a
    dozen shares tried, these take the fewest votes for equal losses on published logs; they hardly matter.

    The limit of a look is the largest for which the probability of having crossed by then, if 1 - p = q0, is within the part
    of alpha released so far: what discreteness leaves unspent at one look is spent at a later one.

    Counts are whole, and where only a few failures are expected, a fixed sample leaves a good part of alpha unused: what 9
    failures may cost at 23 expected is two thirds of it. There (fewer than `FEW` expected at the last look) the earlier
    looks live on that unused part as far as possible, and the last look rejects what a fixed sample would: the larger part
    of what a sequential test loses at high radii is the one failure fewer that its last look allows.

    Args:
        q0: Failure probability of the hypothesis, in (0, 1).
        alpha: Level, in (0, 1).
        looks: Votes at each look, increasing.
        side: See `Boundary`.
        first_share: Released at the first look at which a unanimous vote could be rejected with all of alpha.
        last_share: Kept for the last look; the two shares add up to less than 1.

    Example:
        >>> boundary = spending_boundary(0.5, 0.001, (20, 40, 80))
        >>> boundary.limits, 0.0007 < boundary.size <= 0.001
        ((2, 9, 25), True)
    """
    steps = Steps(q0, alpha, looks, side)
    best = _spend(q0, alpha, looks, side, steps, first_share, last_share)
    if side == "below" and looks[-1] * q0 < FEW:
        return _as_a_fixed_sample(best, steps, first_share)
    for other in OTHER_LAST_SHARES:
        if best.size >= ENOUGH * alpha or first_share + other >= 1.0:
            break
        # Counts are whole: the last look may have no limit that uses what is left. Another share gives it another one.
        candidate = _spend(q0, alpha, looks, side, steps, first_share, other)
        best = max(best, candidate, key=lambda boundary: boundary.size)
    return best


def _as_a_fixed_sample(best: Boundary, steps: Steps, first_share: float) -> Boundary:
    """Return the boundary that keeps the least for the last look among those with the largest limit there."""
    q0, alpha, looks = best.q0, best.alpha, best.looks
    alone = Walk(Steps(q0, alpha, looks[-1:], "below"))
    alone.advance()
    most = alone.largest(alpha * (1.0 - SIZE_SLACK))
    for last_share in FEW_LAST_SHARES:
        if best.limits[-1] >= most:
            break
        first = min(first_share, 1.0 - last_share - _LEAST_BETWEEN)
        candidate = _spend(q0, alpha, looks, "below", steps, first, last_share)
        best = max(best, candidate, key=lambda boundary: boundary.limits[-1])
    for first in FEW_FIRST_SHARES:
        if best.size >= ENOUGH * alpha:
            break
        # What the last look cannot use is worth most at the first: a unanimous vote is enough there.
        candidate = _spend(q0, alpha, looks, "below", steps, first, min(LAST_SHARE, 1.0 - first - _LEAST_BETWEEN))
        if candidate.limits[-1] >= best.limits[-1]:
            best = max(best, candidate, key=lambda boundary: boundary.size)
    return best


def _spend(
    q0: float, alpha: float, looks: Sequence[int], side: Side, steps: Steps, first_share: float, last_share: float
) -> Boundary:
    rate = q0 if side == "below" else 1.0 - q0
    walk, limits = Walk(steps), [-1]
    for n, share in zip(looks, _released(looks, rate, alpha, first_share, last_share), strict=True):
        walk.advance()
        budget = alpha * (1.0 - SIZE_SLACK) * share - walk.crossed
        # A limit above the mean would reject what the votes speak against, and Lemma A needs rate (n - 1) as its bound.
        limit = min(walk.largest(budget), int(rate * (n - 1))) if budget > 0.0 else -1
        # A count at most the limit of an earlier look was so at that look already: limits that do not fall cost nothing.
        limits.append(max(limit, limits[-1]))
        walk.cross(limits[-1])
    name = f"group-sequential, first {first_share:g}, last {last_share:g}"
    return finished_boundary(q0, alpha, side, looks, limits[1:], walk.crossed, name)


def _released(
    looks: Sequence[int], rate: float, alpha: float, first_share: float, last_share: float
) -> Float64[ndarray, " looks"]:
    """Return the share of alpha released by each look; nothing before the first look at which alpha could be spent."""
    n = np.asarray(looks, dtype=np.float64)
    able = n * np.log1p(-rate) <= np.log(alpha)
    able[-1] = False
    rank = np.cumsum(able)
    between = (1.0 - first_share - last_share) / max(int(rank[-1]), 1)
    shares = np.where(able, first_share + between * rank, 0.0)
    shares[-1] = 1.0
    return np.minimum(shares, 1.0)
