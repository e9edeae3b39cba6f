"""The binomial tail, and the Clopper-Pearson bound, in exact arithmetic: no floating-point formula is trusted here.

For X ~ Bin(n, q), P(X <= f) is its largest term times a series whose terms follow from each other by the ratio of
neighbouring probabilities,

    P(X = i - 1) / P(X = i) = i (1 - q) / ((n - i + 1) q),

summed away from the mode, so that it decreases geometrically. q is a rational number (every float64 is one), the ratios
are rational, and the series is summed in integers of 2^-`_BITS`; only its largest term goes through mpmath, with 50
digits.
"""

from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

DIGITS = 50
"""Decimal digits of mpmath's working precision; about 40 of them survive the largest n that is met (1e12)."""

_BITS = 192


@cache
def context() -> Any:
    """Return an mpmath context of `DIGITS` digits, apart from mpmath's global one, which belongs to the caller."""
    from mpmath.ctx_mp import MPContext

    result = MPContext()
    result.dps = DIGITS
    return result


def rational(value: Fraction) -> Any:
    """Return a rational as an mpmath number of `DIGITS` digits."""
    return context().mpf(value.numerator) / value.denominator


@lru_cache(maxsize=65536)
def lower_tail(failures: int, n: int, q: Fraction) -> Any:
    """Return P(Bin(n, q) <= failures) as an mpmath number, to a relative 1e-38.

    Args:
        failures: Any integer.
        n: At least 1.
        q: Probability of one failure, exact.
    """
    mp = context()
    if failures < 0:
        return mp.zero
    if failures >= n or q <= 0:
        return mp.one
    if q >= 1:
        return mp.zero
    if failures <= n * q:
        return _log_largest(failures, n, q, mp) * _downward(failures, n, q)
    # Above the mode the terms up to `failures` would rise before they fall; those beyond it only fall.
    return 1 - _log_largest(failures + 1, n, q, mp) * _downward(n - failures - 1, n, 1 - q)


def _log_largest(count: int, n: int, q: Fraction, mp: Any) -> Any:
    """Return P(X = count), the factor of the series."""
    log_choose = mp.loggamma(n + 1) - mp.loggamma(count + 1) - mp.loggamma(n - count + 1)
    return mp.exp(log_choose + count * mp.log(rational(q)) + (n - count) * mp.log(rational(1 - q)))


def _downward(count: int, n: int, q: Fraction) -> Any:
    """Return P(X <= count) / P(X = count) for count <= n q, where every ratio is at most 1.

    Each step drops less than one unit of 2^-192; 2e5 steps (n = 1e9) leave an error below 1e-45.
    """
    over, under = q.denominator - q.numerator, q.numerator
    term = total = 1 << _BITS
    i = count
    while i > 0 and term:
        term = term * (i * over) // ((n - i + 1) * under)
        total += term
        i -= 1
    return context().mpf(total) / (1 << _BITS)


@lru_cache(maxsize=65536)
def upper_bound(failures: int, n: int, alpha: float) -> Any:
    """Return the exact one-sided Clopper-Pearson bound: the q at which P(Bin(n, q) <= failures) = alpha.

    By bisection on q, to 18 digits: slow and sure, because it only has to say what a wrong bound should have been.
    """
    mp = context()
    if failures >= n:
        return mp.one
    low, high = mp.mpf(failures) / n, mp.one
    target = mp.mpf(alpha)
    if lower_tail(failures, n, _fraction(low)) <= target:
        # alpha is so large that the bound lies below the share of failures.
        low, high = mp.zero, low
    while high - low > mp.mpf(10) ** -18 * high:
        # Halve the exponent first: q may be many orders of magnitude below 1.
        middle = mp.sqrt(low * high) if low > 0 and high > 4 * low else (low + high) / 2
        if lower_tail(failures, n, _fraction(middle)) > target:
            low = middle
        else:
            high = middle
    return high


def _fraction(value: Any) -> Fraction:
    # 64 bits are enough for 18 digits, and keep the integers of the series short.
    sign, mantissa, exponent, bits = value._mpf_
    drop = max(bits - 64, 0)
    return Fraction(int(mantissa >> drop) * (-1 if sign else 1)) * Fraction(2) ** int(exponent + drop)


def digits(value: Any, count: int = 17) -> str:
    """Return an mpmath number as text with `count` significant digits."""
    return str(context().nstr(value, count))
