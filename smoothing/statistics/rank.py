"""The rank-verification test: is the outcome with the most votes really the most probable one?"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Integer
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.rounding import up
from smoothing.statistics.arguments import as_integers, check_alpha
from smoothing.statistics.binomial import TAIL_SLACK, log_binomial_cdf

_EXACT_VOTES = 2000
"""Up to here the p-value is a ratio of whole numbers, in a millisecond at most; predict asks for 1,000 by default."""


def rank_test(counts: Integer[ndarray, "..."] | Sequence[int], alpha: float) -> int | None:
    """Return the class that is proved to be the prediction of the smoothed classifier, or None.

    PREDICT of Cohen et al. 2019: the class with the most votes is compared with its strongest rival by an exact
    binomial test, as if the two had been named in advance. Hung and Fithian 2019 prove that this needs no correction
    for the number of outcomes: whatever the probabilities, a class that is not the one most probable outcome is
    returned with probability at most alpha.

    Why two-sided: the top class is chosen after seeing the counts. If two classes have probability 1/2 each, either may
    win, and a one-sided test is passed by whichever it is: at the tie it errs with probability up to 2 alpha.

    Why "invalid" is a rival: a vote that counts for no class is an outcome of the base classifier like any other. With
    it among the rivals the theorem holds as it stands, over K + 1 outcomes; without it, a classifier that fails on most
    inputs would look certain. It is never returned, and more invalid votes can only turn a prediction into None.

    Args:
        counts: Votes per outcome, [K + 1]: classes 0..K-1, then "invalid".
        alpha: Error probability, in (0, 1).

    Returns:
        The class with the most votes (the lowest, on ties, though a tie proves nothing) if its `rank_p_value` against
        the largest other outcome is at most alpha; None otherwise.

    Raises:
        InvalidArgumentError: If alpha is outside (0, 1), or the counts are not one row of at least two integers >= 0.

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
            f"counts must be one row of at least 2 outcomes (the classes, then invalid), got shape {votes.shape}"
        )
    if (votes < 0).any():
        raise InvalidArgumentError(f"counts must be at least 0, got {votes.min()}")
    top = int(np.argmax(votes[:-1]))
    rival = np.delete(votes, top).max()
    return top if rank_p_value(votes[top], rival) <= alpha else None


def rank_p_value(top: int | np.integer, rival: int | np.integer) -> float:
    """Return the two-sided exact binomial p-value of `top` votes against `rival` votes, rounded up.

    min(1, 2 P(Bin(top + rival, 1/2) >= top)), and 1.0 unless `top` is ahead.

    Args:
        top: Votes of the class in front.
        rival: Votes of its strongest rival.

    Returns:
        float64 in (0, 1]: for up to 2,000 votes the smallest float64 that is not below the exact value, for more votes
        a relative 2e-9 above it at most.

    Raises:
        InvalidArgumentError: If a count is negative or not an integer, or both together exceed MAX_VOTES.

    Example:
        >>> rank_p_value(10, 0)
        0.001953125
    """
    ahead, behind = int(as_integers("top", top)), int(as_integers("rival", rival))
    if min(ahead, behind) < 0:
        raise InvalidArgumentError(f"votes must be at least 0, got top={ahead} and rival={behind}")
    total = ahead + behind
    if ahead <= behind:
        return 1.0
    if total <= _EXACT_VOTES:
        return _exact_p_value(behind, total)
    # By symmetry the upper tail at `top` is the lower tail at `rival`.
    return min(up(2.0 * math.exp(log_binomial_cdf(behind, total, 0.5)), TAIL_SLACK), 1.0)


def _exact_p_value(rival: int, total: int) -> float:
    """Return 2 P(Bin(total, 1/2) <= rival), the smallest float64 that is not below it; for rival < total / 2."""
    ways = term = 1
    for k in range(rival):
        term = term * (total - k) // (k + 1)
        ways += term
    exact = Fraction(ways, 2 ** (total - 1))
    nearest = float(exact)
    return nearest if Fraction(nearest) >= exact else math.nextafter(nearest, math.inf)
