"""The rank-verification test: is the outcome with the most votes really the most probable one?"""

import math
from fractions import Fraction

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.rounding import up
from smoothing.statistics.arguments import as_counts, as_integers, check_alpha
from smoothing.statistics.binomial import TAIL_SLACK, log_binomial_cdf

_EXACT_VOTES = 2000
"""Up to here the p-value is a ratio of whole numbers (a millisecond at most); the default of predict is 1,000 votes."""


def rank_test(counts: Int[ndarray, " outcomes"], alpha: float) -> int | None:
    """Return the class that is proved to be the smoothed classifier's prediction, or None.

    PREDICT of Cohen et al. 2019: the class with the most votes is compared with its strongest rival by an exact binomial
    test, as if the two had been named in advance. Hung and Fithian 2019 prove that this needs no correction for the number
    of outcomes: whatever the probabilities, the class returned is not the single most probable outcome with
    probability at most alpha.

    Why two-sided: the top class is chosen after seeing the counts. If two classes tie at 1/2 each, either may win, and a
    one-sided test would be passed by whichever does: its error at the tie is nearly 2 alpha.

    Why "invalid" is a rival: a vote that could not be counted for any class is an outcome of the base classifier like any
    other. With it among the rivals the theorem is used as it stands, over K + 1 outcomes; dropping such votes would
    let a classifier that fails on most of its inputs look certain. It is never returned, and invalid votes can only
    turn a prediction into None.

    Args:
        counts: Votes per outcome: classes 0..K-1, then "invalid".
        alpha: Error probability, in (0, 1).

    Returns:
        The class, if its `rank_p_value` against the rival is at most alpha; ties for the top are never proved.

    Raises:
        InvalidArgumentError: If alpha is outside (0, 1), or the counts are negative, not integers, or fewer than two.

    Reference: Cohen, Rosenfeld, Kolter 2019, PREDICT and Proposition 1; Hung and Fithian 2019, "Rank verification for
    exponential families".

    Example:
        >>> rank_test(np.array([3, 97, 0]), alpha=0.001)
        1
        >>> rank_test(np.array([45, 55, 0]), alpha=0.001) is None
        True
    """
    check_alpha(alpha)
    votes = as_integers("counts", counts)
    if votes.ndim != 1 or votes.size < 2:
        raise InvalidArgumentError(
            f"counts must be one row of at least two outcomes (classes, then invalid), got shape {votes.shape}"
        )
    if (votes < 0).any():
        raise InvalidArgumentError(f"counts must be at least 0, got {int(votes.min())}")
    top = int(np.argmax(votes[:-1]))
    rival = int(np.delete(votes, top).max())
    return top if rank_p_value(int(votes[top]), rival) <= alpha else None


def rank_p_value(top: int, rival: int) -> float:
    """Return the two-sided exact binomial p-value of `top` votes against `rival` votes, rounded up.

    min(1, 2 P(Bin(top + rival, 1/2) >= top)); 1.0 unless `top` is ahead.

    Args:
        top: Votes of the class in front, at least 0.
        rival: Votes of its strongest rival, at least 0.

    Returns:
        float64 in (0, 1]: up to 2,000 votes the float64 next above the exact value (or equal to it), beyond that
        at most 2e-9 above it, relatively.

    Raises:
        InvalidArgumentError: If a count is negative, not an integer, or too large.

    Example:
        >>> rank_p_value(10, 0)
        0.001953125
    """
    total = int(as_integers("top", top)) + int(as_integers("rival", rival))
    if total == 0:
        return 1.0
    as_counts(top, total, "top")
    as_counts(rival, total, "rival")
    if top <= rival:
        return 1.0
    if total <= _EXACT_VOTES:
        return _exact_p_value(int(rival), total)
    # By symmetry the upper tail at `top` is the lower tail at `rival`.
    return min(up(2.0 * math.exp(log_binomial_cdf(rival, total, 0.5)), TAIL_SLACK), 1.0)


def _exact_p_value(rival: int, total: int) -> float:
    """Return 2 P(Bin(total, 1/2) <= rival) as the smallest float64 at or above the exact value."""
    ways = term = 1
    for k in range(rival):
        term = term * (total - k) // (k + 1)
        ways += term
    exact = Fraction(ways, 2 ** (total - 1))
    nearest = float(exact)
    return nearest if Fraction(nearest) >= exact else math.nextafter(nearest, math.inf)
