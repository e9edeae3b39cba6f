"""A second, independent computation of a boundary's error, for audits: it shares no code with the one that built it.

The law of the failures is carried forward over short blocks of votes, whose own law comes from Pascal's recursion
v'[f] = (1 - q) v[f] + q v[f - 1]: no formula for binomial probabilities and no special function. Rejecting paths are taken
out at the looks. Small boundaries are computed vote by vote in rational arithmetic, exactly.
"""

from fractions import Fraction
from functools import lru_cache

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from smoothing.statistics.boundary import Boundary

EXACT_VOTES = 64
"""Up to here in fractions."""
_BLOCK = 32
_DROP = 1e-10
"""Share of alpha that may be dropped at the far end of the law, over all blocks together; it is counted as rejecting."""


def verify_boundary(boundary: Boundary) -> float:
    """Return the exact probability, at q0, that the boundary rejects: its error at the worst p.

    An upper bound within a relative 1e-9 of the exact value: what is dropped is counted as rejecting. By the argument of
    `smoothing.statistics.boundary` no p of the hypothesis has more.

    Example:
        >>> from smoothing.statistics.spending import spending_boundary
        >>> boundary = spending_boundary(0.5, 0.01, (10, 20))
        >>> abs(verify_boundary(boundary) - boundary.size) < 1e-10
        True
    """
    return float(exact_size(boundary)) if boundary.looks[-1] <= EXACT_VOTES else _by_blocks(boundary)


def exact_size(boundary: Boundary) -> Fraction:
    """Return the error in rational arithmetic; for small boundaries, since its time grows with the cube of the votes."""
    q = Fraction(boundary.q0)
    limits = dict(zip(boundary.looks, boundary.limits, strict=True))
    law: dict[int, Fraction] = {0: Fraction(1)}
    rejected = Fraction(0)
    for n in range(1, boundary.looks[-1] + 1):
        after: dict[int, Fraction] = {}
        for failures, mass in law.items():
            after[failures] = after.get(failures, Fraction(0)) + mass * (1 - q)
            after[failures + 1] = after.get(failures + 1, Fraction(0)) + mass * q
        law = after
        if n in limits:
            gone = [f for f in law if (f <= limits[n] if boundary.side == "below" else f >= limits[n])]
            rejected += sum((law.pop(f) for f in gone), Fraction(0))
    return rejected


def _by_blocks(boundary: Boundary) -> float:
    """Return the error by carrying the law forward over blocks of at most `_BLOCK` votes."""
    # Towards the boundary the count is small: failures for "below", successes for "above".
    below = boundary.side == "below"
    rate = boundary.q0 if below else 1.0 - boundary.q0
    limits = [limit if below else n - limit for n, limit in zip(boundary.looks, boundary.limits, strict=True)]
    drop = _DROP * boundary.alpha / (boundary.looks[-1] / _BLOCK + len(limits))
    low, law, rejected, n = 0, np.ones(1), 0.0, 0
    for look, limit in zip(boundary.looks, limits, strict=True):
        while n < look and law.size:
            votes = min(_BLOCK, look - n)
            n += votes
            law = np.convolve(law, _pascal(votes, rate))
            far = np.cumsum(law[::-1])
            small = int(np.count_nonzero(far <= drop))
            if small:
                rejected += float(far[small - 1])
                law = law[:-small]
        count = min(max(limit + 1 - low, 0), law.size)
        rejected += float(law[:count].sum())
        low, law = low + count, law[count:]
        if not law.size:
            break
    return rejected


@lru_cache(maxsize=256)
def _pascal(votes: int, rate: float) -> Float64[ndarray, " counts"]:
    """Return the law of the count over so many votes by Pascal's recursion, one vote at a time."""
    row = np.ones(1)
    for _ in range(votes):
        row = np.concatenate((row * (1.0 - rate), [0.0])) + np.concatenate(([0.0], row * rate))
    return row
