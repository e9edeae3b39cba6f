"""When more votes are not worth their price: the claim would hardly be proved by the cap.

A futility rule may be anything: it only ever stops earlier, so it can cost claims and never add a wrong one. It is kept as
whole numbers of failures, computed once per boundary, so that a replay compares integers and no special functions.
"""

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy.special import bdtr, betaincinv

from smoothing.errors import InvalidArgumentError
from smoothing.statistics.boundary import Boundary

_NODES = 48
PATIENCE = 64
"""Nothing that is still possible is given up on fewer votes: they cost next to nothing, and most claims that are far from
true are refuted by them, which says more than that they were given up."""

_EARLY = 0.75
"""The power of n / N; 0.5 and 1 are nearly as good."""


def futility_limits(boundary: Boundary, chance: float) -> tuple[int, ...]:
    """Return, for each look, the smallest number of failures at which the claim is given up; n + 1 for never.

    Given up is a claim whose predictive probability of being within the limit of the last look is below
    `chance` (n / N)^(3/4): failures of the votes to come are binomial, their rate has the posterior law
    Beta(f + 1/2, n - f + 1/2). Early looks are many, cheap, and say little: being as strict at each of them loses claims
    for hardly any votes. (On the published logs a constant loses more than twice the claims, or saves a tenth less.)

    Args:
        boundary: Of the side "below"; N is its last look.
        chance: In [0, 1); 0 gives up only what has become impossible.

    Raises:
        InvalidArgumentError: If `chance` is out of range.
    """
    if not 0.0 <= chance < 1.0:
        raise InvalidArgumentError(f"futility must be in [0, 1), got futility={chance}")
    looks = np.asarray(boundary.looks, dtype=np.int64)
    last = max(boundary.limits)
    # Failures never become fewer: beyond the largest limit nothing can be proved, whatever follows.
    impossible = np.full_like(looks, last + 1)
    if chance == 0.0:
        return tuple(int(limit) for limit in np.minimum(impossible, looks + 1))
    wanted = chance * (looks / looks[-1]) ** _EARLY
    low, high = np.full_like(looks, -1), np.minimum(impossible, looks + 1)
    # low: still worth it; high: not. The predictive probability falls with the failures.
    while (high - low > 1).any():
        middle = (low + high) // 2
        hopeless = _predictive(np.maximum(middle, 0), looks, last) < wanted
        high = np.where(hopeless & (middle > low), middle, high)
        low = np.where(~hopeless & (middle < high), middle, low)
    high = np.where(looks < PATIENCE, np.minimum(impossible, looks + 1), high)
    return tuple(int(limit) for limit in high)


def _predictive(f: Int64[ndarray, " looks"], n: Int64[ndarray, " looks"], last: int) -> Float64[ndarray, " looks"]:
    """Return P(f + Bin(N - n, q) <= last) for q ~ Beta(f + 1/2, n - f + 1/2); N is the last look."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    u = 0.5 * (nodes + 1.0)[:, None]
    q = betaincinv(f + 0.5, n - f + 0.5, u)
    left = np.broadcast_to(n[-1] - n, q.shape)
    room = np.broadcast_to(last - f, q.shape)
    chance = np.where(room >= left, 1.0, bdtr(np.clip(room, 0, left).astype(np.float64), left, q))
    chance = np.where(room < 0, 0.0, chance)
    return np.asarray(0.5 * weights @ chance)
