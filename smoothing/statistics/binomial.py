"""Exact one-sided confidence bounds on the probability of failure, never on the wrong side of the truth.

`scipy.special.betainccinv` gives the quantile of Clopper and Pearson with a relative error of up to 5e-8 in the tail,
of either sign: about half of the bounds computed that way claim a little more than alpha allows. Here it is only a
start, corrected by Newton steps on a tail that is evaluated independently (`smoothing.statistics.tail`), and a bound is
returned only after its own tail has been seen to be below alpha by far more than that evaluation can be wrong.

Everything is in terms of the failure probability q = 1 - p: float64 resolves q near 0, where radii are decided, but not
p near 1.
"""

import math
from typing import overload

import numpy as np
from jaxtyping import Float, Float64, Integer
from numpy import ndarray
from scipy.special import betainccinv

from smoothing.errors import InvalidArgumentError
from smoothing.rounding import complement_down, up
from smoothing.statistics.arguments import as_counts, as_probabilities, broadcast, check_alpha
from smoothing.statistics.tail import MAX_VOTES, binomial_tails

__all__ = ["check_alpha", "failure_upper_bound", "log_binomial_cdf", "minimum_votes", "success_lower_bound"]

TAIL_SLACK = 1e-9
"""Relative margin by which a verified tail stays below alpha: ten thousand times the error of the evaluated tail."""

_AIM = 1.002e-9
"""Newton's target, a little beyond the margin, so that its own error does not spoil the verification."""
_LOOSEST = 1.01e-9
"""A margin above this one is not accepted, unless neighbouring float64 values of q are further apart."""
_NEWTON_STEPS = 12
_LOWEST_LOG_Q = -80.0
"""Below the logarithm of every bound with at least one failure, even for alpha one float64 below 1."""
_BISECTIONS = 72
"""Halvings of log q in [_LOWEST_LOG_Q, 0]: down to the resolution of float64."""

_SMALLEST_Q = 1e-290
"""log P(Bin(n, q) <= f) is 0 to any precision below."""

_Number = int | float | np.integer | np.floating
_Count = int | np.integer


@overload
def failure_upper_bound(failures: _Count, n: _Count, alpha: _Number) -> float: ...  # type: ignore[overload-overlap]
@overload
def failure_upper_bound(
    failures: _Count | Integer[ndarray, "..."],
    n: _Count | Integer[ndarray, "..."],
    alpha: _Number | Float[ndarray, "..."],
) -> Float64[ndarray, "..."]: ...
def failure_upper_bound(failures: object, n: object, alpha: object) -> float | Float64[ndarray, "..."]:
    """Return the exact one-sided upper confidence bound on the probability of failure, rounded up.

    The bound q(f) of Clopper and Pearson solves P(Bin(n, q) <= f) = alpha; it is 1 - alpha^(1/n) for f = 0, and 1 for
    f = n. Whatever the true probability, P(q(X) < truth) <= alpha over X ~ Bin(n, truth).

    Two promises, both tested against exact arithmetic. Sound: P(Bin(n, q) <= f) <= alpha holds exactly for the float64
    that is returned. Tight: it is above the exact bound by a relative 1e-9 at most, or a few units in the last place if
    that is more. The margin is `TAIL_SLACK` of the smaller of alpha and 1 - alpha in the tail; in q it shrinks with
    the number of failures, and is 1e-12 for none.

    Args:
        failures: f, failures seen; integer or integer array, in [0, n].
        n: Trials, in [1, MAX_VOTES]; integer or integer array.
        alpha: One-sided error probability, in (0, 1); scalar or array.

    Returns:
        float64 in (0, 1]: a float if all arguments are scalars, else an array of their broadcast shape. An element of
        an array is, bit for bit, what the scalar call gives.

    Raises:
        InvalidArgumentError: If an argument is out of range or not an integer, or the shapes do not broadcast.

    Reference: Clopper and Pearson 1934; LowerConfBound in CERTIFY of Cohen, Rosenfeld, Kolter 2019.

    Example:
        >>> round(failure_upper_bound(0, 100_000, 0.001), 12)
        6.9075167e-05
    """
    count, total = as_counts("failures", failures, n)
    count, total, level = broadcast(count, total, as_probabilities("alpha", alpha, closed=False))
    f, m, a = (array.astype(np.float64).reshape(-1) for array in (count, total, level))

    bound = np.ones_like(a)
    none = f == 0.0
    if none.any():
        # log, division and expm1 are correct to a few units in the last place, far below the allowance of `up`.
        bound[none] = np.minimum(up(-np.expm1(np.log(a[none]) / m[none])), 1.0)
    some = (f > 0.0) & (f < m)
    if some.any():
        bound[some] = _solve(f[some], m[some], a[some])
    return bound.reshape(count.shape) if count.ndim else float(bound[0])


@overload
def success_lower_bound(successes: _Count, n: _Count, alpha: _Number) -> float: ...  # type: ignore[overload-overlap]
@overload
def success_lower_bound(
    successes: _Count | Integer[ndarray, "..."],
    n: _Count | Integer[ndarray, "..."],
    alpha: _Number | Float[ndarray, "..."],
) -> Float64[ndarray, "..."]: ...
def success_lower_bound(successes: object, n: object, alpha: object) -> float | Float64[ndarray, "..."]:
    """Return the exact one-sided lower confidence bound on the probability of success, rounded down.

    It is 1 - `failure_upper_bound(n - successes, n, alpha)`, or the next float64 below where that difference is none.
    Near 1 it has lost most of what the failure bound knows, so radii are computed from the failure bound.

    Args:
        successes: Successes seen; integer or integer array, in [0, n].
        n: Trials, in [1, MAX_VOTES]; integer or integer array.
        alpha: One-sided error probability, in (0, 1); scalar or array.

    Returns:
        float64 in [0, 1), scalar or array as in `failure_upper_bound`.

    Raises:
        InvalidArgumentError: As `failure_upper_bound`.

    Example:
        >>> round(success_lower_bound(99_000, 100_000, 0.001), 7)
        0.9889893
    """
    count, total = as_counts("successes", successes, n)
    level = as_probabilities("alpha", alpha, closed=False)
    return complement_down(failure_upper_bound(total - count, total, level))


@overload
def log_binomial_cdf(failures: _Count, n: _Count, q: _Number) -> float: ...  # type: ignore[overload-overlap]
@overload
def log_binomial_cdf(
    failures: _Count | Integer[ndarray, "..."],
    n: _Count | Integer[ndarray, "..."],
    q: _Number | Float[ndarray, "..."],
) -> Float64[ndarray, "..."]: ...
def log_binomial_cdf(failures: object, n: object, q: object) -> float | Float64[ndarray, "..."]:
    """Return log P(Bin(n, q) <= f).

    The error of the logarithm is at most 1e-13 + 1e-14 |log|, for every n up to `MAX_VOTES`: the relative error of the
    probability is below 1e-11 wherever float64 can hold the probability itself. See `smoothing.statistics.tail` for the
    method.

    Args:
        failures: f; integer or integer array, in [0, n].
        n: Trials, in [1, MAX_VOTES]; integer or integer array.
        q: Probability of one failure, in [0, 1]; scalar or array.

    Returns:
        float64 in [-inf, 0], scalar or array as in `failure_upper_bound`; -inf where q = 1 and f < n.

    Raises:
        InvalidArgumentError: If an argument is out of range or not an integer, or the shapes do not broadcast.

    Example:
        >>> round(math.exp(log_binomial_cdf(1, 3, 0.5)), 12)
        0.5
    """
    count, total = as_counts("failures", failures, n)
    count, total, probability = broadcast(count, total, as_probabilities("q", q, closed=True))
    f, m, x = (array.astype(np.float64).reshape(-1) for array in (count, total, probability))

    result = np.where((x == 1.0) & (f < m), -np.inf, 0.0)
    inner = (f < m) & (x > _SMALLEST_Q) & (x < 1.0)
    if inner.any():
        result[inner] = binomial_tails(f[inner], m[inner], x[inner]).log_lower
    return result.reshape(count.shape) if count.ndim else float(result[0])


def minimum_votes(q_upper: _Number, alpha: _Number) -> int:
    """Return the smallest n for which n votes without a failure give `failure_upper_bound(0, n, alpha) <= q_upper`.

    In exact arithmetic ceil(log(alpha) / log(1 - q_upper)); here decided by the rounded bound itself, so that what is
    planned with it comes true. With fewer votes, nothing that needs q_upper can be certified.

    Args:
        q_upper: The failure probability that is to be excluded, in (0, 1].
        alpha: One-sided error probability, in (0, 1).

    Raises:
        InvalidArgumentError: If an argument is out of range, or more than MAX_VOTES votes are needed.

    Example:
        >>> minimum_votes(0.5, 0.001)
        10
    """
    check_alpha(alpha)
    target = float(as_probabilities("q_upper", q_upper, closed=True))
    if target == 0.0:
        raise InvalidArgumentError(f"q_upper must be in (0, 1], got q_upper={q_upper!r}")
    if target == 1.0:
        return 1
    estimate = math.log(float(alpha)) / math.log1p(-target)
    # The allowance of the rounded bound moves the answer by a relative 1e-12 at most: a few votes near the limit.
    if estimate > MAX_VOTES - 100:
        raise InvalidArgumentError(
            f"n must be at most {MAX_VOTES}, but q_upper={target} at alpha={alpha} needs about {estimate:.3g} votes"
        )
    n = max(1, math.ceil(estimate))
    while failure_upper_bound(0, n, alpha) > target:
        n += 1
    while n > 1 and failure_upper_bound(0, n - 1, alpha) <= target:
        n -= 1
    return n


def _solve(
    f: Float64[ndarray, " m"], n: Float64[ndarray, " m"], alpha: Float64[ndarray, " m"]
) -> Float64[ndarray, " m"]:
    """Return q with P(Bin(n, q) <= f) below alpha by `TAIL_SLACK`, and hardly more; for 0 < f < n."""
    q = _start(f, n, alpha)
    open_ = np.arange(q.size)
    for _ in range(_NEWTON_STEPS):
        # At 0, 1 or NaN a Newton step has nothing to stand on; those are left to the bisection.
        moving = open_[(q[open_] > 0.0) & (q[open_] < 1.0)]
        if not moving.size:
            break
        at = q[moving]
        excess, slope = _excess(f[moving], n[moving], alpha[moving], at)
        with np.errstate(all="ignore"):
            target = at + (excess + _AIM) / slope
        # Rounding up is the safe side, and makes a step of less than one unit in the last place move nevertheless.
        target = np.minimum(np.nextafter(target, np.inf), 1.0)
        sound = excess <= -TAIL_SLACK
        tight = (excess >= -_LOOSEST) | (at - target <= 4.0 * np.spacing(at))
        q[moving] = np.where(sound & tight, at, target)
        # P(Bin(n, 1) <= f) = 0: 1.0 needs no verification, and is tight if the float64 below it was refused.
        settled = (sound & tight) | (~sound & (at == np.nextafter(1.0, 0.0)))
        open_ = np.setdiff1d(open_, moving[settled], assume_unique=True)
    if open_.size:
        q[open_] = _bisect(f[open_], n[open_], alpha[open_])
    return q


def _start(
    f: Float64[ndarray, " m"], n: Float64[ndarray, " m"], alpha: Float64[ndarray, " m"]
) -> Float64[ndarray, " m"]:
    """Return scipy's quantile, which may be wrong in either direction, or NaN."""
    with np.errstate(all="ignore"):
        quantile = np.asarray(betainccinv(f + 1.0, n - f, alpha), dtype=np.float64)
    # Where the bound is nearer to 1 than float64 can say, Newton has to start below it.
    return np.minimum(quantile, np.nextafter(1.0, 0.0))


def _excess(
    f: Float64[ndarray, " m"], n: Float64[ndarray, " m"], alpha: Float64[ndarray, " m"], q: Float64[ndarray, " m"]
) -> tuple[Float64[ndarray, " m"], Float64[ndarray, " m"]]:
    """Return how far the tail at q is above alpha, as a difference of logarithms, and how fast it falls with q.

    For alpha above 1/2 the other tail is compared, P(Bin(n, q) >= f + 1) with 1 - alpha: near 1 only the difference to
    1 carries information, and 1 - alpha is exact in float64.
    """
    tails = binomial_tails(f, n, q)
    small = alpha <= 0.5
    log_level = np.log(np.where(small, alpha, 1.0 - alpha))
    log_tail = np.where(small, tails.log_lower, tails.log_upper)
    excess = np.where(small, log_tail - log_level, log_level - log_tail)
    with np.errstate(over="ignore"):
        slope = np.exp(tails.log_slope - log_tail)
    return excess, slope


def _bisect(
    f: Float64[ndarray, " m"], n: Float64[ndarray, " m"], alpha: Float64[ndarray, " m"]
) -> Float64[ndarray, " m"]:
    """Return what `_solve` returns, by halving log q: for starts that are NaN or far off. The upper end stays sound."""
    low, high = np.full_like(f, _LOWEST_LOG_Q), np.zeros_like(f)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        q = np.exp(middle)
        sound = np.ones(f.shape, dtype=np.bool_)
        inner = q < 1.0
        sound[inner] = _excess(f[inner], n[inner], alpha[inner], q[inner])[0] <= -TAIL_SLACK
        low, high = np.where(sound, low, middle), np.where(sound, middle, high)
    return np.asarray(np.exp(high))
