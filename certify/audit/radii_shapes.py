"""Integrals behind the radii of the laws of Yang et al. 2020, in fixed-point series and mpmath; none of the laws' code.

Incomplete gamma and beta functions are summed as series of positive terms in integers of 2^-`_BITS`, so that 1 - P is good
to 1e-20 for every failure probability of at least `LEAST_FAILURE`. Integrals of dp / Phi(p) are taken by Gauss-Legendre
panels in a logarithmic variable, to about 1e-13; everything is for scale 1.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from certify.audit.exact import context

LEAST_FAILURE = 1e-25
"""The digits of the complements below are spent beyond this failure probability, which no number of votes proves."""

_BITS = 176
_PANEL_NODES = 16


@cache
def _nodes() -> list[tuple[float, float]]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(_PANEL_NODES)
    return [(float(x), float(w)) for x, w in zip(nodes, weights, strict=True)]


def integrate(f: Callable[[Any], Any], start: Any, first: Any, cap: Any) -> Any:
    """Return |integral of a positive f from `start` on|, in panels of width `first`, growing to `cap`, until f is spent.

    Args:
        f: Positive, smooth on the scale of `cap`, with exponentially small ends.
        start: Where to begin.
        first: Signed width of the first panel.
        cap: Largest width of a panel, positive.
    """
    mp = context()
    total, position, width, last = mp.zero, start, mp.mpf(first), mp.zero
    for _ in range(4000):
        part = sum((w * f(position + width * (1 + x) / 2) for x, w in _nodes()), mp.zero) * abs(width) / 2
        total += part
        if part < last and part <= total * mp.mpf(10) ** -19:
            return total
        last, position = part, position + width
        if abs(width) < cap:
            width = mp.sign(width) * min(abs(width) * mp.mpf("1.3"), cap)
    raise ArithmeticError("an integral of the audit did not converge")


def _fixed(value: Any) -> int:
    return int(context().ldexp(value, _BITS))


def _positive_series(ratio: Callable[[int], tuple[int, int]], falling: Callable[[int], bool]) -> Any:
    """Return 1 + r_0 + r_0 r_1 + ..., r_n = the quotient of two integers; ends once the terms fall and vanish."""
    term = total = 1 << _BITS
    n = 0
    while True:
        over, under = ratio(n)
        term = term * over // under
        total += term
        n += 1
        if term <= total >> _BITS and falling(n):
            return context().ldexp(context().mpf(total), -_BITS)


def lower_gamma(a: Any, log_u: Any, log_gamma: Any) -> Any:
    """Return P(a, u), regularised; `log_gamma` is log Gamma(a + 1)."""
    mp = context()
    u = mp.exp(log_u)
    if u > a + 40 * mp.sqrt(a) + 400:
        return mp.one
    over, under = _fixed(u), _fixed(a)
    total = _positive_series(lambda n: (over, under + ((n + 1) << _BITS)), lambda n: u < a + n)
    return mp.exp(a * log_u - u - log_gamma) * total


def lower_beta(a: Any, b: Any, v: Any) -> Any:
    """Return I_v(a, b), regularised, 0 < v < 1."""
    if v > 0.5:
        return 1 - _beta_series(b, a, 1 - v)
    return _beta_series(a, b, v)


@lru_cache(maxsize=256)
def _log_beta(a: Any, b: Any) -> Any:
    mp = context()
    return mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(a + b)


def _beta_series(a: Any, b: Any, v: Any) -> Any:
    mp = context()
    both, one, share = _fixed(a + b), _fixed(a + 1), _fixed(v)
    total = _positive_series(
        lambda n: ((both + (n << _BITS)) * share >> _BITS, one + (n << _BITS)),
        lambda n: (a + b + n) * v < a + 1 + n,
    )
    return mp.exp(a * mp.log(v) + b * mp.log1p(-v) - _log_beta(a, b)) / a * total


def _solve(value: Callable[[Any], Any], slope: Callable[[Any], Any], low: Any, step: Any, target: Any) -> Any:
    """Return x >= low with value(x) = target; value rises: doubling steps, bisection, then Newton's method."""
    high = low + step
    while value(high) < target:
        low, step = high, 2 * step
        high = low + step
    for _ in range(34):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) < target else (low, middle)
    x = (low + high) / 2
    for _ in range(2):
        x -= (value(x) - target) / slope(x)
    return x


def gamma_log_quantile(b: Any, target: Any) -> Any:
    """Return log u with P(b, u) = target, 0 < target < 1."""
    mp = context()
    log_gamma = mp.loggamma(b + 1)
    # P(b, u) <= u^b / Gamma(b + 1).
    low = (mp.log(target) + log_gamma) / b
    return _solve(
        lambda x: lower_gamma(b, x, log_gamma),
        lambda x: mp.exp(b * x - mp.exp(x) - log_gamma) * b,
        low,
        mp.one / (1 + mp.sqrt(b)),
        target,
    )


def exponential_radius(k: Any, j: Any, q: Any, dimension: int) -> Any:
    """Return int_q^{1/2} dp / Phi for the score +-(k r^k + j) / r with a fair sign, r of density ~ r^(d-1-j) exp(-r^k).

    u = r^k has the Gamma(b) law, b = (d - j) / k. For k <= 1 the worst sets are {u <= c}, for k > 1 (only j = 0 here) they
    are {u >= c}: R is the integral of the density of u over E[score; the set], from the quantile of 2 q on.
    """
    mp = context()
    if k == 1 and j == 0:
        return -mp.log(2 * q)
    if j > 0 and (k > 1 or j >= dimension - 1):
        if j >= dimension - 1:
            return mp.zero
        raise ArithmeticError("no integral is written for k > 1 and j > 0")
    near = k <= 1
    b = (dimension - j) / k
    a = b + 1 - 1 / k
    log_gamma_b, log_gamma_a = mp.loggamma(b), mp.loggamma(a)
    log_gamma_next = mp.loggamma(a + 1)
    rising = k * mp.exp(log_gamma_a - log_gamma_b)
    falling = j * mp.exp(mp.loggamma(a - 1) - log_gamma_b) if j else mp.zero

    def integrand(x: Any) -> Any:
        u = mp.exp(x)
        share = lower_gamma(a, x, log_gamma_next)
        mean = rising * (share if near else 1 - share)
        if j:
            mean += falling * (share + mp.exp((a - 1) * x - u - log_gamma_a))
        return mp.exp(b * x - u - log_gamma_b) / mean

    start = gamma_log_quantile(b, 2 * q if near else 1 - 2 * q)
    width = 1 / mp.sqrt(b) if b > 1 else mp.one
    if near:
        width = min(width, 2 * k)
        return integrate(integrand, start, width, 2 * width)
    return integrate(integrand, start, -width, 3 * width / min(mp.sqrt(b), 1) ** 2)


def power_radius(a: Any, q: Any, dimension: int) -> Any:
    """Return the same for the score a v with a fair sign, v = 1 / (1 + r) of the Beta(a - d, d) law, sets {v >= c}."""
    mp = context()
    d = mp.mpf(dimension)
    e = a - d

    def survival(shape: Any, x: Any) -> Any:
        return 1 - lower_beta(shape, d, mp.exp(x)) if mp.exp(x) <= 0.5 else _beta_series(d, shape, -mp.expm1(x))

    def density(x: Any) -> Any:
        return mp.exp(e * x + (d - 1) * mp.log(-mp.expm1(x)) - _log_beta(e, d))

    # In y = -log v, so that P(V >= e^-y) rises from 0 at y = 0.
    y = _solve(
        lambda y: survival(e, -y) if y > 0 else mp.zero,
        lambda y: density(-y),
        mp.zero,
        mp.one / (1 + e),
        2 * q,
    )
    # The standard deviation of log V.
    width = mp.sqrt(mp.psi(1, e) - mp.psi(1, a))
    first = -min(width, y, mp.one)
    return integrate(lambda x: density(x) / (e * survival(e + 1, x)), -y, first, 3 * width)


def sign_radius(q: Any, dimension: int) -> Any:
    """Return the same for the sum S of `dimension` random signs, whose Phi is piecewise linear: an exact finite sum.

    Phi is b C(d, b) / 2^d at P(S >= s), s = 2 b - d, and has slope s from there down to P(S >= s + 2).
    """
    mp = context()
    d = dimension
    b = d // 2 + 1
    mass = mp.exp(mp.loggamma(d + 1) - mp.loggamma(b + 1) - mp.loggamma(d - b + 1) - d * mp.log(2))
    tail, total = mp.mpf(1) / 2, mp.zero
    if d % 2 == 0:
        tail -= mass * b / (d - b + 1) / 2
        flat = b * mass
        if q >= tail:
            return (mp.mpf(1) / 2 - q) / flat
        total = (mp.mpf(1) / 2 - tail) / flat
    while True:
        s, top = 2 * b - d, b * mass
        below = tail - mass if b < d else mp.zero
        if q >= below:
            return total - mp.log1p(-s * (tail - q) / top) / s
        total += mp.log(mp.mpf(b) / (d - b)) / s
        mass = mass * (d - b) / (b + 1)
        tail, b = below, b + 1


def quantile_radius(p: Any, q: Any) -> Any:
    """Return c with P(x >= c) = q for a coordinate of density proportional to exp(-|x|^p), p >= 1."""
    return context().exp(gamma_log_quantile(1 / p, 1 - 2 * q) / p)


def bose_radius(p: Any, q: Any) -> Any:
    """Return int_c^inf dx / (exp(x^p) - 1), P(|x| <= c) = 2 q, for the same density and p < 1."""
    mp = context()
    s = 1 / p
    start = gamma_log_quantile(s, 2 * q)
    width = min(1 / mp.sqrt(s), mp.mpf(1) / 2)
    return integrate(lambda x: mp.exp(s * x) / mp.expm1(mp.exp(x)), start, width, width) / p


def ball_radius(q: Any, dimension: int) -> Any:
    """Return 2 y with P(|z_1| <= y) = 1/2 - q for a uniform point z of the unit ball.

    The probability is concave in y, so that Newton's method comes from below and stays there.
    """
    mp = context()
    half, m = mp.mpf(1) / 2, mp.mpf(dimension + 1) / 2
    target = half - q
    peak = 2 / mp.exp(_log_beta(half, m))
    y = target / peak
    for _ in range(200):
        step = (target - lower_beta(half, m, y * y)) / (peak * (1 - y * y) ** (m - 1))
        y += step
        if abs(step) <= mp.mpf(10) ** -40 * y:
            return 2 * y
    raise ArithmeticError("no convergence of the overlap of two balls")
