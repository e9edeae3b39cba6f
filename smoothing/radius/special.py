"""Gamma functions where scipy's are not accurate enough for a proof."""

import math

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import erfcx, gammainc


def log_gamma_ratio(b: float, shift: float) -> float:
    """Return log(Gamma(b + shift) / Gamma(b)).

    A difference of two logarithms of gamma functions loses 1e-9 at b = 10^6, and `scipy.special.poch` up to 3e-12.
    Here both are moved above 20 by the recurrence, where the difference of Stirling's series has no large terms; the
    absolute error is a few 1e-16 of max(1, |shift| log(b + 20)).

    Args:
        b: Positive.
        shift: Above -b.
    """
    moved, product = b, 1.0
    result = 0.0
    while min(moved, moved + shift) < 20.0:
        product *= moved / (moved + shift)
        if not 1e-100 < product < 1e100:
            result, product = result + math.log(product), 1.0
        moved += 1.0
    top = moved + shift
    result += math.log(product)
    # (b + s - 1/2) log(b + s) - (b - 1/2) log b - s, in terms of log1p(s / b).
    result += (moved - 0.5) * math.log1p(shift / moved) + shift * math.log(top) - shift
    return result + (_stirling(top) - _stirling(moved))


def _stirling(x: float) -> float:
    """The asymptotic series of log Gamma beyond its leading terms; the first omitted one is below 2e-15 at x = 20."""
    y = 1.0 / (x * x)
    return (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188)))) / x


def lower_gamma(a: float, u: Float64[ndarray, "..."]) -> Float64[ndarray, "..."]:
    """Return the regularised lower incomplete gamma function P(a, u), to a relative 1e-11, also far below u = a.

    `scipy.special.gammainc` sums at most 2,000 terms of a series there, too few for large a: at a = 1.5 10^6 and P = 10^-6
    it returns 10^-4 too little. Above a = 5 * 10^4, Temme's uniform expansion (DLMF 8.12.7 to 8.12.10) is used instead, with
    the terms 1, 1/a; the next is below 1e-12 of the sum.
    """
    if a < 5e4:
        return np.asarray(gammainc(a, u))
    mu = (u - a) / a
    far = mu < -3.0 / math.sqrt(a)
    # There the sum of scipy is of no use, and takes long.
    regular = np.asarray(gammainc(a, np.where(far, a, u)))
    mu = np.where(far, mu, -0.5)
    with np.errstate(divide="ignore"):
        half_square = _minus_log1p(mu)  # eta^2 / 2
    eta = -np.sqrt(2.0 * half_square)
    first = 1.0 / mu - 1.0 / eta
    second = 1.0 / eta**3 - 1.0 / mu**3 - 1.0 / mu**2 - 1.0 / (12.0 * mu)
    series = (first + second / a) / math.sqrt(2.0 * math.pi * a)
    with np.errstate(invalid="ignore"):
        value = np.exp(-a * half_square) * (0.5 * erfcx(-eta * math.sqrt(0.5 * a)) - series)
    return np.where(far, np.where(u > 0, value, 0.0), regular)


def _minus_log1p(x: Float64[ndarray, "..."]) -> Float64[ndarray, "..."]:
    """Return x - log(1 + x) without cancellation near 0: 2 (y^2 / (1 - y) - y^3 / 3 - y^5 / 5 ...), y = x / (2 + x)."""
    y = x / (2.0 + x)
    small = np.abs(y) < 0.1
    z = np.where(small, y, 0.0) ** 2
    # log(1 + x) = 2 artanh y, and x = 2 y / (1 - y).
    tail = z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * (1 / 9 + z * (1 / 11 + z * (1 / 13 + z * (1 / 15 + z / 17)))))))
    near = 2.0 * (y * y / (1.0 - y) - y * tail)
    return np.asarray(np.where(small, near, x - np.log1p(x)))
