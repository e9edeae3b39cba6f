"""Radii at p_A = 1: what sets of probabilities far below float64 add to R(0) = int_0^{1/2} dp / Phi(p), in logarithms.

Let l(t) = log P(Z >= t) for a score Z, known between bounds at rising thresholds 0 < t_0 < ... < t_n, and let c_i be its
lower bounds. Over [exp(c_(i+1)), exp(c_i)],

* Phi(p) >= t_i p, as Phi is concave, Phi(0) = 0 and Phi(P(Z >= t_i)) >= t_i P(Z >= t_i): an upper bound on the integral;
* Phi(p) <= t p + h(t) for every t, h(t) = E(Z - t)_+ = int_t^inf P(Z >= x) dx (weak duality): a lower bound. With t = t_i, h
  is at most the sum of (t_(m+1) - t_m) P(Z >= t_m) over m >= i, and of E(Z - t_n)_+.

What is lost between the two is of the order of 1/d, and of the distance of thresholds.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from smoothing.radius.differential import GrowthIntegral
from smoothing.radius.radial import _roots, exponential_growth, first_shells, shells_from_above
from smoothing.radius.sign_mixture import signed_exponential_growth, signed_shells_from_above
from smoothing.radius.special import log_gamma_ratio

Array = NDArray[np.float64]

_SLACK = 1e-7
"""Allowance for every logarithm of a probability, beside what the size of its terms calls for."""

_UNIT = 2e-15
"""Relative error of a product, a logarithm, or log Gamma: some units of rounding."""

_ROOT = 1e-12
"""Relative error of a score, above that of evaluating it."""

_DEEP = -500.0
"""Logarithm of the probability from which on logarithms take over from float64."""

_CELLS = 40_000_000
_THRESHOLDS = 3000


def deep_integral(t: Array, low: Array, high: Array, rest: float) -> tuple[float, float]:
    """Return bounds, below and above, on the integral of dp / Phi(p) from p = exp(low[-1]) to exp(low[0]).

    Args:
        t: Rising positive thresholds, [n].
        low: log P(Z >= t) from below, falling, [n].
        high: The same from above, [n].
        rest: log E(Z - t[-1])_+ from above.
    """
    # All logarithms, and their running sum, are rounded in proportion to the largest of them.
    size = max(float(np.max(np.abs(part))) for part in (low, high, np.log(t), np.array([rest])))
    slack = _SLACK + _UNIT * (len(t) + 10) * size
    steps = np.log(np.diff(t)) + high[:-1]
    log_h = np.logaddexp.accumulate(np.append(steps, rest)[::-1])[::-1] + slack
    fall = low[:-1] - low[1:]
    lower = np.zeros_like(fall)
    for line in (slice(None, -1), slice(1, None)):
        at, share = t[line], log_h[line] - np.log(t[line])
        # log of (t p + h) at both ends of the cell, relative to t p.
        first, last = np.logaddexp(0.0, share - low[:-1]), np.logaddexp(0.0, share - low[1:])
        lower = np.maximum(lower, (fall + first - last - slack) / at)
    return float(np.sum(lower)) * (1 - 1e-9), float(np.sum((np.maximum(fall, 0.0) + slack) / t[:-1])) * (1 + 1e-9)


def _log_lower(a: float, log_u: Array, error: Array | float = 0.0) -> tuple[Array, Array]:
    """Return bounds on the log of P(a, u) = u^a exp(-u) / Gamma(a + 1) sum_n u^n / ((a + 1) ... (a + n)).

    `error` is that of log u, absolute: log P moves by at most a times that.
    """
    with np.errstate(over="ignore", under="ignore"):
        u = np.exp(np.minimum(log_u, 700.0))
    log_gamma = float(gammaln(a + 1.0))
    first = a * log_u - u - log_gamma
    terms = np.where(u < a, a * np.abs(log_u) + u + abs(log_gamma), 0.0)
    slack = _SLACK + _UNIT * terms + 1.01 * a * error
    # The sum is below the geometric one of u / (a + 1), and its first terms above that of u / (a + m).
    m = math.ceil(math.sqrt(a)) + 1
    x, y = np.minimum(u / (a + 1.0), 1 - 1e-12), np.minimum(u / (a + m), 1 - 1e-12)
    high = np.where(u < a, np.minimum(first - np.log1p(-x), 0.0), 0.0)
    # The median of the gamma law lies below a.
    low = np.where(u < a, first + np.log1p(-(y ** (m + 1))) - np.log1p(-y), math.log(0.5))
    return low - slack, high + slack


def _log_upper(a: float, log_u: Array, error: Array | float = 0.0) -> tuple[Array, Array]:
    """Return bounds on the log of Q(a, u): for u > a, u^(a-1) exp(-u) / Gamma(a) and that times u / (u + 1 - a).

    `error` is that of log u, absolute: log Q moves by at most u + 1 times that.
    """
    with np.errstate(over="ignore", under="ignore"):
        u = np.exp(np.minimum(log_u, 600.0))  # beyond, what holds there is an upper bound
    # Below a, what holds at a is a lower bound, and 1 an upper one.
    beyond = np.maximum(u, a + 1e-9)
    log_gamma = float(gammaln(a))
    first = (a - 1.0) * np.log(beyond) - beyond - log_gamma
    terms = np.abs(a - 1.0) * np.abs(np.log(beyond)) + beyond + abs(log_gamma)
    slack = _SLACK + _UNIT * terms + 1.01 * (beyond + 1.0) * error
    other = first - np.log1p((1.0 - a) / beyond)
    # The median of the gamma law lies above a - 1/3 (Chen and Rubin 1986), for small a above 0.
    low = np.where(u <= a - 1.0 / 3.0, math.log(0.5), np.minimum(first, other))
    high = np.where(u > a + 1e-9, np.minimum(np.maximum(first, other), 0.0), 0.0)
    return np.where(log_u > 600.0, -np.inf, low - slack), high + slack


def _exp(x: float) -> float:
    return math.exp(x) if x < 700.0 else math.inf


def _quantile_above(a: float, log_share: float) -> float:
    """Return log u with log P(a, u) >= log_share, nearly the least one; infinite where float64 finds none."""
    target = log_share + float(gammaln(a + 1.0))
    log_u = target / a
    for _ in range(50):  # u^a exp(-u) / Gamma(a + 1) is below P
        log_u = (target + _exp(log_u)) / a
    log_u += (4 * _SLACK + _UNIT * (abs(log_share) + 2 * abs(target))) / a
    proved = log_u < 700.0 and float(_log_lower(a, np.array([log_u]))[0][0]) >= log_share
    return log_u if proved else math.inf


def _log_sum(logs: Array) -> float:
    """Return the log of a sum of positive numbers from their logs."""
    top = float(logs.max())
    return top + math.log(float(np.sum(np.exp(logs - top))))


def _joined(
    growth: GrowthIntegral, log_share: float, deep: tuple[float, float], known: tuple[float, float]
) -> tuple[float, float]:
    """Return bounds on R(0) from those on the part below the share exp(log_share), and others that are known."""
    share = math.exp(max(log_share, -700.0))
    if not (1e-240 < share < 0.4 and math.isfinite(deep[0]) and deep[0] <= deep[1]):
        return known
    lower = float(growth.bounds(np.array([share * (1 + 1e-9)]))[0][0]) + deep[0]
    upper = float(growth.bounds(np.array([share * (1 - 1e-9)]))[1][0]) + deep[1]
    return max(lower, known[0]), max(min(upper, known[1]), lower, known[0])


@lru_cache(maxsize=64)
def signed_limit(dimension: int, k: float) -> tuple[float, float]:
    """Return bounds, below and above, on R(0) at linf for exp(-||z||_1^k) with k < 1, d >= 2, scale 1.

    Z = W S, W = k r^(k-1) with r^k = u of the Gamma(a) law, a = d / k, and S a sum of d fair signs, so that P(Z >= t) is the
    sum over s of P(S = s) P(a, (k s / t)^(k / (1 - k))). Beyond the last threshold, where only S = d matters: S <= d gives a
    lower bound by the first shells of W alone (`first_shells`), and the sets {|z| <= x, S = d} an upper one: with the
    share F(x) / 2^d, x F'(x) / F(x) <= d and E[W; |z| <= x] >= k x^(k-1) F(x), int dp / Phi over shares below it is at most
    int_0^x y^-k / k dy = x^(1-k) / (k (1 - k)).
    """
    d, a = dimension, dimension / k
    growth = signed_exponential_growth(d, k)
    known = float(growth.bounds(np.zeros(1))[0][0]), signed_shells_from_above(d, k)
    s = np.arange(2 - d % 2, d + 1, 2, dtype=np.float64)
    heads = (d + s) / 2
    log_mass = gammaln(d + 1.0) - gammaln(heads + 1) - gammaln(d - heads + 1) - d * math.log(2.0)
    log_s, power = np.log(s), k / (1.0 - k)
    largest = _SLACK + _UNIT * (d + 1.0) * math.log(d + 1.0)  # rounding of log_mass and of sums

    def log_u_of(at: float) -> tuple[Array, float]:
        """Log u of {W >= at / s} for each s, and its error."""
        log_u = power * (math.log(k) + log_s - math.log(at))
        return log_u, _UNIT * power * (abs(math.log(k)) + float(log_s[-1]) + abs(math.log(at)))

    def log_shares(t: Array) -> tuple[Array, Array]:
        rows = []
        for at in t:
            low, high = _log_lower(a, *log_u_of(float(at)))
            rows.append([_log_sum(log_mass + side) for side in (low, high)])
        low, high = np.array(rows).T
        return low - largest - _UNIT * np.abs(low), high + largest + _UNIT * np.abs(high)

    mean_w = k * math.exp(log_gamma_ratio(a, 1.0 - 1.0 / k))
    start, end = math.sqrt(d) * mean_w, 3e3 * d * mean_w / (1.0 - k)
    for _ in range(40):  # to where the share is exp(_DEEP), if thresholds go that far
        middle = math.sqrt(start * end)
        start, end = (middle, end) if log_shares(np.array([middle]))[0][0] > _DEEP else (start, middle)
    # Where no threshold is that deep, they all lie next to the last one, and some are equal.
    t = np.unique(np.geomspace(start, 3e3 * d * mean_w / (1.0 - k), max(min(_THRESHOLDS, _CELLS // len(s)), 100)))
    low, high = log_shares(t)
    low = np.minimum.accumulate(low)
    _, last = _log_lower(a + 1.0 - 1.0 / k, *log_u_of(float(t[-1])))
    rest = _log_sum(log_mass + log_s + last) + math.log(mean_w)
    rest += largest + _UNIT * abs(rest)
    lower, upper = deep_integral(t, low, high, rest)
    # The radius of the shells of those shares, from below (for u < a / 2, P(a, u) <= u^a / Gamma(a + 1)) and from above.
    end_share, log_gamma = float(low[-1]), float(gammaln(a + 1.0))
    log_u = (end_share + log_gamma - _SLACK - _UNIT * (abs(end_share) + log_gamma)) / a
    inner = first_shells(log_u / k, d, k, 0.0) / d if log_u < min(math.log(a / 2), 700.0 * k) else 0.0
    log_u = _quantile_above(a, end_share + d * math.log(2.0) + _UNIT * (abs(end_share) + d))
    outer = _exp((1.0 - k) / k * log_u) / (k * (1.0 - k))
    return _joined(growth, float(low[0]), (lower + inner, upper + outer), known)


@lru_cache(maxsize=64)
def cubical_limit(dimension: int, k: float, j: float) -> tuple[float, float]:
    """Return bounds, below and above, on R(0) at linf for exp(-r^k) r^-j, r = ||z||_inf, k > 1 and 0 < j < d - 1, scale 1.

    Z is +-g(r), g = (k r^k + j) / r, with a fair sign, and {g >= t} is {r <= r_1} and {r >= r_2}: two incomplete gamma
    functions. Beyond the last threshold the inner part alone gives an upper bound, (d - j) x / j for shells of radius x, as
    in `smoothing.radius.radial.shells_from_above`; nothing is counted from below.
    """
    d, b = dimension, (dimension - j) / k
    growth = exponential_growth(d, k, j)
    known = float(growth.bounds(np.zeros(1))[0][0]), shells_from_above(d, k, j)
    a1 = (d - 1.0 - j) / k
    rising = k * math.exp(log_gamma_ratio(b, 1.0 - 1.0 / k))
    means = j * rising / (d - 1.0 - j), rising

    def sides(t: Array, first: float, second: float) -> list[tuple[Array, Array]]:
        """Bounds on the logs of P(first, u) for the inner sets and of Q(second, u) for the outer ones."""
        log_u = [k * root for root in _roots(t, k, j)]
        return [
            side(shape, at, _UNIT * np.abs(at))
            for side, shape, at in zip((_log_lower, _log_upper), (first, second), log_u, strict=True)
        ]

    def log_shares(t: Array) -> tuple[Array, Array]:
        # Thresholds beside t take the error of roots.
        (low, _), (far_low, _) = sides(t * (1 + _ROOT), b, b)
        (_, high), (_, far_high) = sides(t * (1 - _ROOT), b, b)
        low, high = np.logaddexp(low, far_low) + math.log(0.5), np.logaddexp(high, far_high) + math.log(0.5)
        return low - _SLACK - _UNIT * np.abs(low), high + _SLACK + _UNIT * np.abs(high)

    start = 1.000001 * j * k / (k - 1.0) * (k * (k - 1.0) / j) ** (1.0 / k)  # above the least score
    end = max(start, sum(means))
    while log_shares(np.array([end]))[0][0] > _DEEP:
        end *= 100.0
        if end > 1e200:
            return known
    for _ in range(60):
        middle = math.sqrt(start * end)
        start, end = (middle, end) if log_shares(np.array([middle]))[0][0] > _DEEP else (start, middle)
    last = 1e4 * end
    t = np.geomspace(start, last, _THRESHOLDS)
    low, high = log_shares(t)
    low = np.minimum.accumulate(low)
    parts = [
        math.log(0.5 * mean) + float(high_there[0])
        for mean, a in zip(means, (a1, a1 + 1.0), strict=True)
        for _, high_there in sides(t[-1:] * (1 - _ROOT), a, a)
    ]
    rest = float(np.logaddexp.reduce(parts)) + _SLACK
    lower, upper = deep_integral(t, low, high, rest + _UNIT * abs(rest))
    log_u = _quantile_above(b, float(low[-1]) + math.log(2.0) + _UNIT * abs(float(low[-1])))
    beyond = (d - j) / j * _exp(log_u / k)
    return _joined(growth, float(low[0]), (lower, upper + beyond), known)
