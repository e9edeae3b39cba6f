"""Both tails of the binomial law in float64, to about 1e-14 of the tail itself, for any q and n up to `MAX_VOTES`.

A confidence bound is only as sound as the tail that it is checked against, so this evaluation shares nothing with the
quantile that it checks (`scipy.special.betainccinv`). Three steps, none of which subtracts nearly equal numbers:

1. delta = n q - f is formed from the exact product of two floats (Dekker 1971), since everything below is a function of
   how far the count is from its mean.
2. Saddle-point form of the probability of a single count (Loader 2000, "Fast and accurate computation of binomial
   probabilities"): Stirling's formula with its error term s(k), and with h(t) = t - log(1 + t) >= 0

       log P(X = f) = s(n) - s(f) - s(n - f) + log(n / (2 pi f (n - f))) / 2
                      - f h(delta / f) - (n - f) h(-delta / (n - f)),

   in which the linear terms of the two logarithms have cancelled on paper instead of in float64.
3. The tail over that probability is an integral of a log-concave function (DLMF 8.17.2 and 8.17.5, t = q + (1 - q) s):

       P(X <= f) / P(X = f) = (n - f) Integral_0^1 (1 + s (1 - q) / q)^f (1 - s)^(n - f - 1) ds,

   by Gauss-Legendre quadrature over the part where the integrand is above exp(-40) of its start; again written with h,
   so that its exponent has no cancellation either.

The side of the mean decides which tail is computed; the other one is 1 minus it.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

MAX_VOTES = 10**12
"""Largest n that the tests against exact arithmetic cover; the published protocols use 1e5."""

_NODES = 32
"""24 nodes already reach the rounding error of float64, 20 nodes 1e-10."""
_DEPTH = 40.0
"""The integral is cut where its integrand has fallen to exp(-40) = 4e-18 of its first value."""
_CHUNK = 512
"""Elements evaluated at once: times 2 `_NODES` float64 they stay in the processor's cache."""
_TINY = 1e-200
"""Keeps divisors away from 0 where their quotient is discarded."""
_STIRLING_TABLE = 16
"""From here on Stirling's series, with the terms used below, is exact to float64."""


class Tails(NamedTuple):
    """log P(X <= f), log P(X >= f + 1) and log(-d/dq P(X <= f)), for X ~ Bin(n, q)."""

    log_lower: Float64[ndarray, " m"]
    log_upper: Float64[ndarray, " m"]
    log_slope: Float64[ndarray, " m"]


def binomial_tails(failures: Float64[ndarray, " m"], n: Float64[ndarray, " m"], q: Float64[ndarray, " m"]) -> Tails:
    """Return both log tails of Bin(n, q) at the count f = `failures`, and the slope of the lower one in q.

    The error of the logarithm of the smaller tail, which is the relative error of that tail, was never above 3e-14 for
    tails above 1e-11, nor above 3e-15 of the logarithm for smaller ones, in 30,000 comparisons with exact arithmetic;
    the tests assert 1e-13 + 1e-14 |log|. An element's result does not depend, in any bit, on what else is in the array.

    Args:
        failures: f, whole numbers with 0 <= f < n.
        n: Whole numbers in [1, MAX_VOTES].
        q: Probability of one failure, 1e-290 < q < 1.
    """
    log_lower, log_upper, log_slope = np.empty_like(q), np.empty_like(q), np.empty_like(q)
    for start in range(0, q.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        log_lower[part], log_upper[part], log_slope[part] = _tails(failures[part], n[part], q[part])
    return Tails(log_lower, log_upper, log_slope)


def log_binomial_pmf(failures: Float64[ndarray, " m"], n: int, q: float) -> Float64[ndarray, " m"]:
    """Return log P(X = f) for X ~ Bin(n, q), by the saddle-point form; error as in `binomial_tails`.

    Args:
        failures: f, whole numbers with 0 <= f <= n.
        n: In [1, MAX_VOTES].
        q: In (0, 1).
    """
    log_pmf = np.full_like(failures, n * np.log(q))
    inner = failures < n
    f = failures[inner]
    m, x = np.full_like(f, n), np.full_like(f, q)
    log_pmf[inner] = _log_pmf(f, m, 1.0 - x, _distance_from_mean(f, m, x))
    return log_pmf


def _tails(f: Float64[ndarray, " m"], n: Float64[ndarray, " m"], q: Float64[ndarray, " m"]) -> Tails:
    p = 1.0 - q
    delta = _distance_from_mean(f, n, q)
    # Where f is not below the mean, the upper tail P(X >= f + 1) is the smaller one: it is the lower tail of
    # n - X ~ Bin(n, p) at n - f - 1, whose distance from its mean is 1 - delta.
    mirrored = delta < 0.5
    f = np.where(mirrored, n - f - 1.0, f)
    delta = np.where(mirrored, 1.0 - delta, delta)
    q, p = np.where(mirrored, p, q), np.where(mirrored, q, p)
    log_pmf = _log_pmf(f, n, p, delta)
    log_near = log_pmf + np.log(_tail_over_pmf(f, n, q, p, delta))
    log_far = np.log(-np.expm1(log_near))
    log_slope = log_pmf + np.log((n - f) / p)
    return Tails(np.where(mirrored, log_far, log_near), np.where(mirrored, log_near, log_far), log_slope)


def _distance_from_mean(
    f: Float64[ndarray, " m"], n: Float64[ndarray, " m"], q: Float64[ndarray, " m"]
) -> Float64[ndarray, " m"]:
    """Return n q - f, rounded only at the end: the error of the product is found exactly, by Dekker's method."""
    n_high, n_low = _split(n)
    q_high, q_low = _split(q)
    product = n * q
    error = ((n_high * q_high - product) + n_high * q_low + n_low * q_high) + n_low * q_low
    return np.asarray((product - f) + error)


def _split(a: Float64[ndarray, " m"]) -> tuple[Float64[ndarray, " m"], Float64[ndarray, " m"]]:
    """Return the leading 26 bits of `a` and the rest (Veltkamp); products of such halves are exact in float64."""
    scaled = 134217729.0 * a
    high = scaled - (scaled - a)
    return high, a - high


def _log_pmf(
    f: Float64[ndarray, " m"], n: Float64[ndarray, " m"], p: Float64[ndarray, " m"], delta: Float64[ndarray, " m"]
) -> Float64[ndarray, " m"]:
    """Return log P(X = f), where p = 1 - q and delta = n q - f > 0; step 2 of the module's docstring."""
    rest = n - f
    some = f > 0
    positive = np.maximum(f, 1.0)
    excess = delta / positive
    # As f -> 0, f h(delta / f) -> delta, and nothing is left of Stirling's formula.
    low = np.where(some, positive * _h(excess, 1.0 + excess), delta)
    high = rest * _h(-delta / rest, n * p / rest)
    stirling = _stirling_error(n) - _stirling_error(positive) - _stirling_error(rest)
    root = 0.5 * np.log(n / (2.0 * np.pi * positive * rest))
    return np.asarray(np.where(some, stirling + root, 0.0) - (low + high))


def _tail_over_pmf(
    f: Float64[ndarray, " m"],
    n: Float64[ndarray, " m"],
    q: Float64[ndarray, " m"],
    p: Float64[ndarray, " m"],
    delta: Float64[ndarray, " m"],
) -> Float64[ndarray, " m"]:
    """Return P(X <= f) / P(X = f), where delta = n q - f >= 1/2; step 3 of the module's docstring."""
    # The exponent is -(linear s + f h(odds s) + rest h(-s)).
    rest, odds, linear = n - f - 1.0, p / q, (delta - q) / q
    end = _integration_end(f, rest, odds, linear)
    nodes, weights = _gauss_legendre()
    s = nodes * end
    # Both logarithms in one go: the time of a single bound is mostly the overhead of numpy's calls.
    t = np.stack((odds * s, -s))
    h = _h(t, 1.0 + t)
    terms = weights * np.exp(-(linear * s + f * h[0] + rest * h[1]))
    # A running sum adds in one order whatever the number of columns; a plain sum does not.
    integral = np.add.accumulate(terms, axis=0)[-1] * end
    return np.where(f > 0, (rest + 1.0) * integral, 1.0)


def _integration_end(
    f: Float64[ndarray, " m"],
    rest: Float64[ndarray, " m"],
    odds: Float64[ndarray, " m"],
    linear: Float64[ndarray, " m"],
) -> Float64[ndarray, " m"]:
    """Return s in (0, 1] beyond which the integrand is below exp(-_DEPTH) of its first value, or 1.

    Newton steps on a convex function never stop short of its root, so the cut is on the safe side after one step
    already; the second makes the interval short enough for the number of nodes. The cut needs no accuracy, hence the
    plain logarithms.
    """
    curvature = f * odds * odds + rest
    end = 2.0 * _DEPTH / (linear + np.sqrt(linear * linear + 2.0 * _DEPTH * curvature) + _TINY)
    for _ in range(2):
        end = np.minimum(end, 0.9375)
        growth, left = odds * end, 1.0 - end
        depth = linear * end + f * (growth - np.log1p(growth)) - rest * (end + np.log(left))
        gradient = linear + f * odds * growth / (1.0 + growth) + rest * end / left
        # A gradient that is not positive means that the integrand is still rising: there is nothing to cut.
        step = (_DEPTH - depth) / np.maximum(gradient, _TINY)
        end = np.where(gradient > _TINY, np.minimum(end + step, 1.0), 1.0)
    return np.asarray(end)


def _h(t: Float64[ndarray, "*shape"], one_plus_t: Float64[ndarray, "*shape"]) -> Float64[ndarray, "*shape"]:
    """Return t - log(1 + t) to a few units in the last place; `one_plus_t` is passed because it may be known better.

    For small t by log(1 + t) = 2 artanh(r) with r = t / (2 + t): t - log(1 + t) = r (t - 2 r^2 (1/3 + r^2/5 + ...)).
    """
    small = np.abs(t) < 0.25
    r = np.where(small, t, 0.0)
    r /= 2.0 + r
    square = r * r
    series = square * (1.0 / 19.0)
    for k in range(17, 3, -2):
        series += 1.0 / k
        series *= square
    series += 1.0 / 3.0
    return np.where(small, r * (t - 2.0 * square * series), t - np.log(one_plus_t))


def _stirling_error(k: Float64[ndarray, " m"]) -> Float64[ndarray, " m"]:
    """Return s(k) = log k! - (k + 1/2) log k + k - log(2 pi) / 2 for whole k >= 1."""
    row = np.minimum(k, _STIRLING_TABLE - 1.0).astype(np.int64)
    return np.where(k < _STIRLING_TABLE, _stirling_table()[row], _stirling_series(k))


def _stirling_series(k: Float64[ndarray, " m"]) -> Float64[ndarray, " m"]:
    """Return Stirling's series for s(k) (DLMF 5.11.1); its first omitted term, 7e-3 / k^13, is below 2e-18 here."""
    x = 1.0 / (k * k)
    series = -691.0 / 360360.0 * x + 1.0 / 1188.0
    for coefficient in (-1.0 / 1680.0, 1.0 / 1260.0, -1.0 / 360.0, 1.0 / 12.0):
        series = series * x + coefficient
    return np.asarray(series / k)


@cache
def _stirling_table() -> Float64[ndarray, " k"]:
    """Return s(0..15), with s(0) unused.

    With y = 1 / (2k + 1), s(k) - s(k + 1) = (k + 1/2) log(1 + 1/k) - 1 = Sum_{j >= 1} y^(2j) / (2j + 1), all positive.
    """
    table = np.zeros(_STIRLING_TABLE + 1)
    table[-1] = _stirling_series(np.array([float(_STIRLING_TABLE)]))[0]
    for k in range(_STIRLING_TABLE - 1, 0, -1):
        y = 1.0 / (2 * k + 1)
        table[k] = table[k + 1] + sum(y ** (2 * j) / (2 * j + 1) for j in range(20, 0, -1))
    return table[:-1]


@cache
def _gauss_legendre() -> tuple[Float64[ndarray, "nodes 1"], Float64[ndarray, "nodes 1"]]:
    """Return nodes and weights of Gauss-Legendre quadrature on [0, 1], as columns."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return 0.5 * (nodes + 1.0)[:, None], 0.5 * weights[:, None]
