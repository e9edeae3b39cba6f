"""Exact one-sided confidence bounds on the probability of failure, never on the wrong side of the truth.

`scipy.special.betainccinv` gives the Clopper-Pearson quantile with a relative error of up to 5e-8 in the tail, of either
sign: about half of the bounds computed that way claim a little more than alpha allows. Here it is only a starting point,
corrected by Newton steps on a tail evaluated independently (`smoothing.statistics.tail`), and a bound is returned only after
its own tail has been seen to be below alpha by more than that evaluation can be wrong.

Everything is in terms of the failure probability q = 1 - p: float64 resolves q near 0, where radii are decided, but not p
near 1.
"""

import math
from typing import Any, overload

import numpy as np
from jaxtyping import Float, Float64, Int
from numpy import ndarray
from scipy.special import betainccinv

from smoothing.errors import InvalidArgumentError
from smoothing.rounding import complement_down, up
from smoothing.statistics.arguments import (
    as_counts,
    as_probabilities,
    broadcast,
    check_alpha,
)
from smoothing.statistics.tail import MAX_VOTES, binomial_tails

__all__ = ["check_alpha", "failure_upper_bound", "log_binomial_cdf", "minimum_votes", "success_lower_bound"]

TAIL_SLACK = 1e-9
"""Relative margin by which a verified tail stays below alpha: a thousand times the error of the evaluated tail."""

_AIM = 1.002e-9
"""Newton's target, a little beyond the margin, so that its own error does not spoil the verification."""
_LOOSEST = 1.01e-9
"""A margin above this one is not accepted, unless neighbouring float64 values of q are further apart."""
_NEWTON_STEPS = 12
_BISECTIONS = 72
"""Halvings of log q in [-80, 0]: down to the resolution of float64."""

_Number = int | float | np.floating[Any] | np.integer[Any]
_Count = int | np.integer[Any]
_Counts = _Count | Int[ndarray, "..."]
_Numbers = _Number | Float[ndarray, "..."]


@overload
def failure_upper_bound(failures: _Count, n: _Count, alpha: _Number) -> float: ...
@overload
def failure_upper_bound(failures: _Counts, n: _Counts, alpha: _Numbers) -> Float64[ndarray, "..."]: ...
def failure_upper_bound(failures: object, n: object, alpha: object) -> float | Float64[ndarray, "..."]:
    """Return the exact one-sided upper confidence bound on the probability of failure, rounded up.

    The bound q(f) of Clopper and Pearson solves P(Bin(n, q) <= f) = alpha; it is 1 - alpha^(1/n) for f = 0 and 1 for
    f = n. Whatever the true probability, P(q(X) < truth) <= alpha over X ~ Bin(n, truth).

    Two promises, both tested against exact arithmetic. Sound: P(Bin(n, q) <= f) <= alpha holds in exact arithmetic for the
    float64 returned. Tight: it is less than 1e-9 (relative, or two units in the last place if that is more) above the
    exact bound; the margin is `TAIL_SLACK` of the smaller of alpha and 1 - alpha in the tail, hence typically 1e-10 or
    less in q.

    Args:
        failures: f, failures seen; integer or integer array in [0, n].
        n: Trials, in [1, MAX_VOTES]; integer or integer array.
        alpha: One-sided error probability, in (0, 1); scalar or array.

    Returns:
        float64 in (0, 1]: a float if all arguments are scalars, else an array of their broadcast shape. An element of
        an array is bit for bit what the scalar call gives.

    Raises:
        InvalidArgumentError: If an argument is out of range, not an integer, or the shapes do not broadcast.

    Reference: Clopper and Pearson 1934; estimate of p_A in Cohen et al. 2019, CERTIFY.

    Example:
        >>> round(failure_upper_bound(0, 100_000, 0.001), 12)
        6.9075167e-05
    """
    count, total = as_counts(failures, n)
    count, total, level = broadcast(count, total, as_probabilities("alpha", alpha, closed=False))
    shape = count.shape
    f, m, a = (array.astype(np.float64).reshape(-1) for array in (count, total, level))

    bound = np.ones_like(a)
    none = f == 0
    if none.any():
        # log, division and expm1 are correct to a few units in the last place, far below the allowance of `up`.
        bound[none] = np.minimum(up(-np.expm1(np.log(a[none]) / m[none])), 1.0)
    some = (f > 0) & (f < m)
    if some.any():
        bound[some] = _solve(f[some], m[some], a[some])
    return bound.reshape(shape) if shape else float(bound[0])


@overload
def success_lower_bound(successes: _Count, n: _Count, alpha: _Number) -> float: ...
@overload
def success_lower_bound(successes: _Counts, n: _Counts, alpha: _Numbers) -> Float64[ndarray, "..."]: ...
def success_lower_bound(successes: object, n: object, alpha: object) -> float | Float64[ndarray, "..."]:
    """Return the exact one-sided lower confidence bound on the probability of success, rounded down.

    It is 1 - `failure_upper_bound(n - successes, n, alpha)`, the next float64 below where that difference is not exact. Near 1
    it has lost most of what the failure bound knows; radii are computed from the failure bound.

    Args:
        successes: Integer or integer array in [0, n].
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
    count, total = as_counts(successes, n, "successes")
    return complement_down(failure_upper_bound(total - count, total, alpha))  # type: ignore[arg-type]


@overload
def log_binomial_cdf(failures: _Count, n: _Count, q: _Number) -> float: ...
@overload
def log_binomial_cdf(failures: _Counts, n: _Counts, q: _Numbers) -> Float64[ndarray, "..."]: ...
def log_binomial_cdf(failures: object, n: object, q: object) -> float | Float64[ndarray, "..."]:
    """Return log P(Bin(n, q) <= f).

    The relative error of the probability is below 1e-10 (measured: 1e-12) wherever the probability is above 1e-300,
    for n up to `MAX_VOTES`; further out, where float64 cannot hold the probability itself, the relative error of the
    logarithm is below 1e-14. See `smoothing.statistics.tail` for the method.

    Args:
        failures: f; integer or integer array in [0, n].
        n: Trials, in [1, MAX_VOTES]; integer or integer array.
        q: Probability of one failure, in [0, 1]; scalar or array.

    Returns:
        float64 in [-inf, 0], scalar or array as in `failure_upper_bound`; -inf where q = 1 and f < n.

    Raises:
        InvalidArgumentError: If an argument is out of range, not an integer, or the shapes do not broadcast.

    Example:
        >>> round(math.exp(log_binomial_cdf(1, 3, 0.5)), 12)
        0.5
    """
    count, total = as_counts(failures, n)
    count, total, probability = broadcast(count, total, as_probabilities("q", q, closed=True))
    shape = count.shape
    f, m, x = (array.astype(np.float64).reshape(-1) for array in (count, total, probability))

    result = np.where((x == 1.0) & (f < m), -np.inf, 0.0)
    inner = (f < m) & (x > 0.0) & (x < 1.0)
    if inner.any():
        result[inner] = binomial_tails(f[inner], m[inner], x[inner]).log_lower
    return result.reshape(shape) if shape else float(result[0])


def minimum_votes(q_upper: float, alpha: float) -> int:
    """Return the smallest n for which no failure at all gives `failure_upper_bound(0, n, alpha) <= q_upper`.

    In exact arithmetic ceil(log(alpha) / log(1 - q_upper)); here decided by the rounded bound itself, so that a plan built on
    it is kept by the certificates. No number of votes below it can certify what needs q_upper.

    Args:
        q_upper: The failure probability to be excluded, in (0, 1].
        alpha: One-sided error probability, in (0, 1).

    Raises:
        InvalidArgumentError: If an argument is out of range, or more than `MAX_VOTES` votes are needed.

    Example:
        >>> minimum_votes(0.5, 0.001)
        10
    """
    check_alpha(alpha)
    target = as_probabilities("q_upper", q_upper, closed=True)
    if target.ndim or target == 0.0:
        raise InvalidArgumentError(f"q_upper must be in (0, 1], got q_upper={q_upper!r}")
    if target == 1.0:
        return 1
    needed = math.log(alpha) / math.log1p(-float(target))
    if needed > MAX_VOTES / 2:
        raise InvalidArgumentError(f"q_upper={q_upper!r} needs n of about {needed:.3g}, above the limit of {MAX_VOTES}")
    n = max(1, math.ceil(needed))
    while failure_upper_bound(0, n, alpha) > target:
        n += 1
    while n > 1 and failure_upper_bound(0, n - 1, alpha) <= target:
        n -= 1
    return n


def _solve(
    f: Float64[ndarray, " m"], n: Float64[ndarray, " m"], alpha: Float64[ndarray, " m"]
) -> Float64[ndarray, " m"]:
    """Return q with alpha (1 - TAIL_SLACK) >= P(Bin(n, q) <= f), and only just; 0 < f < n."""
    q = _start(f, n, alpha)
    settled = np.zeros(q.shape, dtype=np.bool_)
    for _ in range(_NEWTON_STEPS):
        todo = np.flatnonzero(~settled)
        if not todo.size:
            return q
        at = q[todo]
        # A start at 0 or 1, or a NaN, gives the Newton step nothing to stand on; bisection takes those.
        usable = (at > 0.0) & (at < 1.0)
        todo, at = todo[usable], at[usable]
        if not todo.size:
            break
        excess, slope = _excess(f[todo], n[todo], alpha[todo], at)
        with np.errstate(all="ignore"):
            step = at + (excess + _AIM) / slope
        # Rounding up is both the safe side and what makes a step of less than one unit in the last place move.
        step = np.minimum(np.nextafter(step, np.inf), 1.0)
        sound = excess <= -TAIL_SLACK
        tight = (excess >= -_LOOSEST) | (at - step <= 4.0 * np.spacing(at))
        settled[todo] = sound & tight
        q[todo] = np.where(sound & tight, at, step)
        # 1.0 is sound without a check, and the only float64 above one that was refused just now.
        settled[todo] |= (q[todo] == 1.0) & (at == np.nextafter(1.0, 0.0)) & ~sound
    rest = np.flatnonzero(~settled)
    q[rest] = _bisect(f[rest], n[rest], alpha[rest])
    return q


def _start(
    f: Float64[ndarray, " m"], n: Float64[ndarray, " m"], alpha: Float64[ndarray, " m"]
) -> Float64[ndarray, " m"]:
    """Return scipy's quantile, which may be wrong in either direction, or NaN."""
    with np.errstate(all="ignore"):
        return np.asarray(betainccinv(f + 1.0, n - f, alpha), dtype=np.float64)


def _excess(
    f: Float64[ndarray, " m"], n: Float64[ndarray, " m"], alpha: Float64[ndarray, " m"], q: Float64[ndarray, " m"]
) -> tuple[Float64[ndarray, " m"], Float64[ndarray, " m"]]:
    """Return how far the tail at q is above alpha, as a relative difference in logarithms, and minus its slope in q.

    For alpha above 1/2 in terms of the other tail, P(Bin(n, q) >= f + 1) >= 1 - alpha: the difference to 1 is what then
    carries the information, and 1 - alpha is exact in float64.
    """
    tails = binomial_tails(f, n, q)
    small = alpha <= 0.5
    excess = np.where(
        small, tails.log_lower - np.log(alpha), np.log(np.where(small, 0.5, 1.0 - alpha)) - tails.log_upper
    )
    with np.errstate(over="ignore"):
        slope = np.exp(tails.log_slope - np.where(small, tails.log_lower, tails.log_upper))
    return excess, slope


def _bisect(
    f: Float64[ndarray, " m"], n: Float64[ndarray, " m"], alpha: Float64[ndarray, " m"]
) -> Float64[ndarray, " m"]:
    """Return the bound by halving log q: for what a wrong start has led astray. The upper end is sound throughout."""
    low, high = np.full_like(f, -80.0), np.zeros_like(f)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        q = np.exp(middle)
        inside = q < 1.0
        excess = np.full_like(f, -np.inf)
        excess[inside], _ = _excess(f[inside], n[inside], alpha[inside], q[inside])
        sound = excess <= -TAIL_SLACK
        low, high = np.where(sound, low, middle), np.where(sound, middle, high)
    return np.exp(high)
