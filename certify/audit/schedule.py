"""When a run looks and when it gives up, once more: both are fixed before the votes, by what run.json says.

Looks are at 4 votes and then at the smallest integer that is at least `ratio` times the one before, and above it; a cap is
the last look. A radius is given up at a look with f failures of n where the predictive probability that its last limit L
is kept,

    P(f + Bin(N - n, q) <= L),   q ~ Beta(f + 1/2, n - f + 1/2),   taken at the 48 Gauss-Legendre nodes of q's quantiles,

is below futility (n / N)^(3/4); before 64 votes, and with futility 0, only where L is passed.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np
from scipy.stats import beta, binom

_FIRST, _NODES, _PATIENCE, _EARLY = 4, 48, 64, 0.75
_CLOSE = 1e-6
"""Relative rounding of the predictive probability: where it decides, either is right."""


def endless_looks(ratio: float) -> Iterator[int]:
    """Yield the numbers of votes at which there are looks, without end."""
    n = _FIRST
    while True:
        yield n
        n = max(n + 1, math.ceil(n * ratio))


def is_capped_schedule(looks: Sequence[int], ratio: float, cap: int) -> bool:
    """Return whether `looks` are those below a cap, and the cap."""
    before = islice(endless_looks(ratio), len(looks) - 1)
    following = next(islice(endless_looks(ratio), len(looks) - 1, None))
    return looks[-1] == cap <= following and all(n == m < cap for n, m in zip(looks[:-1], before, strict=True))


@lru_cache(maxsize=256)
def give_up_limits(looks: tuple[int, ...], last: int, futility: float) -> tuple[tuple[int, int], ...]:
    """Return for each look the fewest failures that may give a radius up, and those from which on they must.

    The two differ where rounding decides.

    Args:
        looks: Votes at each look.
        last: L, the largest limit on failures.
        futility: In [0, 1).
    """
    n = np.asarray(looks, dtype=np.int64)
    never = np.minimum(last + 1, n + 1)
    if futility == 0.0:
        return tuple((int(limit), int(limit)) for limit in never)
    wanted = futility * (n / n[-1]) ** _EARLY
    low, high = np.full_like(n, -1), never.copy()
    while (high - low > 1).any():
        middle = (low + high) // 2
        hopeless = _predictive(np.maximum(middle, 0), n, last) < wanted
        high = np.where(hopeless & (middle > low), middle, high)
        low = np.where(~hopeless & (middle < high), middle, low)
    # The probability falls with the failures: only next to the limit can rounding have decided.
    maybe = (high > 0) & (_predictive(np.maximum(high - 1, 0), n, last) < wanted * (1 + _CLOSE))
    unsure = (high < never) & (_predictive(high, n, last) > wanted * (1 - _CLOSE))
    early = n < _PATIENCE
    least, sure = np.where(early, never, high - maybe), np.where(early, never, high + unsure)
    return tuple((int(a), int(b)) for a, b in zip(least, sure, strict=True))


def _predictive(failures: np.ndarray, n: np.ndarray, last: int) -> np.ndarray:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    rates = beta.ppf(0.5 * (nodes + 1.0)[:, None], failures + 0.5, n - failures + 0.5)
    room, left = last - failures, n[-1] - n
    kept = np.where(room >= left, 1.0, binom.cdf(np.clip(room, 0, left), left, rates))
    return np.asarray(0.5 * weights @ np.where(room < 0, 0.0, kept))
