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
"""Allowance for every logarithm of a probability: sums and differences of numbers up to 10^9, and of log Gamma."""

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
    steps = np.log(np.diff(t)) + high[:-1] + _SLACK
    log_h = np.logaddexp.accumulate(np.append(steps, rest + _SLACK)[::-1])[::-1] + _SLACK
    fall = low[:-1] - low[1:]
    lower = np.zeros_like(fall)
    for line in (slice(None, -1), slice(1, None)):
        at, share = t[line], log_h[line] - np.log(t[line])
        # log of (t p + h) at both ends of the cell, relative to t p.
        first, last = np.logaddexp(0.0, share - low[:-1]), np.logaddexp(0.0, share - low[1:])
        lower = np.maximum(lower, (fall + first - last - _SLACK) / at)
    return float(np.sum(lower)) * (1 - 1e-9), float(np.sum((np.maximum(fall, 0.0) + _SLACK) / t[:-1])) * (1 + 1e-9)


def _log_lower(a: float, log_u: Array) -> tuple[Array, Array]:
    """Return bounds on the log of P(a, u) = u^a exp(-u) / Gamma(a + 1) sum_n u^n / ((a + 1) ... (a + n))."""
    with np.errstate(over="ignore", under="ignore"):
        u = np.exp(log_u)
    first = a * log_u - u - float(gammaln(a + 1.0))
    # The sum is below the geometric one of u / (a + 1), and its first terms above that of u / (a + m).
    m = math.ceil(math.sqrt(a)) + 1
    x, y = np.minimum(u / (a + 1.0), 1 - 1e-12), np.minimum(u / (a + m), 1 - 1e-12)
    high = np.where(u < a, np.minimum(first - np.log1p(-x), 0.0), 0.0)
    # The median of the gamma law lies below a.
    low = np.where(u < a, first + np.log1p(-(y ** (m + 1))) - np.log1p(-y), math.log(0.5))
    return low - _SLACK, high + _SLACK


def _log_upper(a: float, log_u: Array) -> tuple[Array, Array]:
    """Return bounds on the log of Q(a, u): for u > a, u^(a-1) exp(-u) / Gamma(a) and that times u / (u + 1 - a)."""
    with np.errstate(over="ignore", under="ignore"):
        u = np.exp(log_u)
    # Below a, what holds at a is a lower bound, and 1 an upper one.
    beyond = np.maximum(u, a + 1e-9)
    first = (a - 1.0) * np.log(beyond) - beyond - float(gammaln(a))
    other = first - np.log1p((1.0 - a) / beyond)
    # The median of the gamma law lies above a - 1/3 (Chen and Rubin 1986), for small a above 0.
    low = np.where(u <= a - 1.0 / 3.0, math.log(0.5), np.minimum(first, other))
    high = np.where(u > a + 1e-9, np.minimum(np.maximum(first, other), 0.0), 0.0)
    return low - _SLACK, high + _SLACK


def _log_sum(logs: Array) -> float:
    """Return the log of a sum of positive numbers from their logs."""
    top = float(logs.max())
    return top + math.log(float(np.sum(np.exp(logs - top))))


def _joined(
    growth: GrowthIntegral, log_share: float, deep: tuple[float, float], known: tuple[float, float]
) -> tuple[float, float]:
    """Return bounds on R(0) from those on the part below the share exp(log_share), and others that are known."""
    share = math.exp(max(log_share, -700.0))
    if not 1e-240 < share < 0.4:
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
    # log P(a, u) moves by at most a times the rounding of log u.
    slack = _SLACK + 2e-14 * a * power

    def log_shares(t: Array) -> tuple[Array, Array]:
        rows = []
        for at in t:
            low, high = _log_lower(a, power * (math.log(k) + log_s - math.log(float(at))))
            rows.append([_log_sum(log_mass + side) for side in (low, high)])
        low, high = np.array(rows).T
        return low - slack, high + slack

    mean_w = k * math.exp(log_gamma_ratio(a, 1.0 - 1.0 / k))
    start, end = math.sqrt(d) * mean_w, 3e3 * d * mean_w / (1.0 - k)
    for _ in range(40):  # to where the share is exp(_DEEP), if thresholds go that far
        middle = math.sqrt(start * end)
        start, end = (middle, end) if log_shares(np.array([middle]))[0][0] > _DEEP else (start, middle)
    t = np.geomspace(start, 3e3 * d * mean_w / (1.0 - k), max(min(_THRESHOLDS, _CELLS // len(s)), 100))
    low, high = log_shares(t)
    low = np.minimum.accumulate(low)
    _, last = _log_lower(a + 1.0 - 1.0 / k, power * (math.log(k) + log_s - math.log(float(t[-1]))))
    rest = _log_sum(log_mass + log_s + last) + math.log(mean_w) + slack
    lower, upper = deep_integral(t, low, high, rest)
    # The radius of the shells of those shares, from below (for u < a / 2, P(a, u) <= u^a / Gamma(a + 1)) and from above.
    log_u = (float(low[-1]) + float(gammaln(a + 1.0)) - _SLACK) / a
    inner = first_shells(log_u / k, d, k, 0.0) / d if log_u < math.log(a / 2) else 0.0
    log_u = (float(low[-1]) + d * math.log(2.0) + float(gammaln(a + 1.0))) / a
    for _ in range(50):
        log_u = (float(low[-1]) + d * math.log(2.0) + float(gammaln(a + 1.0)) + math.exp(min(log_u, 700.0))) / a
    log_u += 4 * _SLACK / a
    reached = float(_log_lower(a, np.array([log_u]))[0][0]) - d * math.log(2.0) >= float(low[-1])
    outer = math.exp((1.0 - k) / k * log_u) / (k * (1.0 - k)) if reached else math.inf
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
    means = j * math.exp(log_gamma_ratio(b, -1.0 / k)), k * math.exp(log_gamma_ratio(b, 1.0 - 1.0 / k))

    def log_shares(t: Array) -> tuple[Array, Array]:
        inner, outer = _roots(t, k, j)
        (low, high), (far_low, far_high) = _log_lower(b, k * inner), _log_upper(b, k * outer)
        half = math.log(0.5)
        return np.logaddexp(low, far_low) + half - _SLACK, np.logaddexp(high, far_high) + half + _SLACK

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
    inner, outer = (float(root[0]) for root in _roots(t[-1:], k, j))
    parts = [
        math.log(0.5 * mean) + float(side(a, np.array([k * at]))[1][0])
        for mean, a in zip(means, (a1, a1 + 1.0), strict=True)
        for side, at in ((_log_lower, inner), (_log_upper, outer))
    ]
    lower, upper = deep_integral(t, low, high, float(np.logaddexp.reduce(parts)))
    log_u = (float(low[-1]) + math.log(2.0) + float(gammaln(b + 1.0))) / b
    for _ in range(50):
        log_u = (float(low[-1]) + math.log(2.0) + float(gammaln(b + 1.0)) + math.exp(min(log_u, 700.0))) / b
    log_u += 4 * _SLACK / b
    reached = float(_log_lower(b, np.array([log_u]))[0][0]) - math.log(2.0) >= float(low[-1])
    beyond = (d - j) / j * math.exp(log_u / k) if reached else math.inf
    return _joined(growth, float(low[0]), (lower, upper + beyond), known)
