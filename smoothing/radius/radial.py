"""Growth functions of scores that depend on a radius alone: a random sign times psi'(r).

For noise of density f(||z||) with f = exp(-psi), the score along a vertex of the unit ball is +-psi'(r) with a fair sign
that is independent of r = ||z||, if the norm of the law is linf and the vertices are sign vectors, or l1 and +-e_i. For linf
noise and the vertices +-e_i it is that with probability 1/d (coordinate i is the largest), and 0 otherwise. Everything here
is for scale 1.
"""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import betaincc, betainccinv, gammaincc, gammainccinv, gammaincinv, gammaln

from smoothing.radius.differential import GrowthIntegral, share_grid
from smoothing.radius.special import log_gamma_ratio, lower_gamma
from smoothing.radius.table import kept_growth

_THRESHOLDS = 50_000
"""Lines per growth function: the relative gap falls with the square, and is below 1e-6 with these."""

Array = Float64[ndarray, " n"]


@kept_growth
def exponential_growth(dimension: int, k: float, j: float) -> GrowthIntegral:
    """Return the growth integral of the score +-(k r^k + j) / r, r of density proportional to r^(d-1-j) exp(-r^k).

    With u = r^k, b = (d - j) / k and regularised incomplete gamma functions P and Q, u has the Gamma(b) law, and over
    {u <= c} (over {u >= c}, with Q instead of P)

        E[1/r] = M P(b - 1/k, c),    E[k r^(k-1)] = (d - 1 - j) M P(b + 1 - 1/k, c),    M = Gamma(b - 1/k) / Gamma(b)

    (for j = 0, where only the second is needed, k Gamma(b + 1 - 1/k) / Gamma(b) stands for (d - 1) M). The sets {score >= t}
    are {r <= r_1} for k < 1 and for k = 1, {r >= r_2} for k > 1 and j = 0, and both together for k > 1 and j > 0, where the
    score falls and then rises.

    Args:
        dimension: d.
        k: Exponent, positive; not 1 if j = 0 (a constant score, Phi(p) = p).
        j: Power at the origin, in [0, d - 1) (beyond, E[1/r] is infinite).
    """
    d = dimension
    b, a1, a2 = (d - j) / k, (d - 1 - j) / k, (d - 1 - j) / k + 1.0
    mean_rising = k * math.exp(log_gamma_ratio(b, 1.0 - 1.0 / k))
    # Not by Gamma(b - 1/k), whose argument loses its digits where j is close to d - 1.
    mean_falling = j * mean_rising / (d - 1.0 - j) if j else 0.0

    def inner(log_r: Array) -> tuple[Array, Array]:
        """P(r <= r_1) and E[score; r <= r_1]."""
        mean = mean_rising * _lower_gamma(a2, k, log_r)
        if j:
            mean = mean + mean_falling * _lower_gamma(a1, k, log_r)
        return _lower_gamma(b, k, log_r), mean

    def outer(log_r: Array) -> tuple[Array, Array]:
        """P(r >= r_2) and E[score; r >= r_2]."""
        with np.errstate(over="ignore"):
            u = np.exp(k * log_r)
        mean = mean_rising * gammaincc(a2, u)
        if j:
            mean = mean + mean_falling * gammaincc(a1, u)
        return gammaincc(b, u), mean

    def score(log_r: Array) -> Array:
        return np.asarray((j * np.exp(-log_r) if j else 0.0) + k * np.exp((k - 1.0) * log_r))

    both = j > 0 and k > 1
    with np.errstate(over="ignore"):
        if not both:
            doubled = 2.0 * share_grid(_THRESHOLDS)
            near = k <= 1
            log_r = _lower_quantile(b, k, doubled) if near else _upper_quantile(b, k, doubled)
            thresholds = score(log_r)
            share, mean = inner(log_r) if near else outer(log_r)
        else:
            doubled = 2.0 * share_grid(_THRESHOLDS // 2)
            log_r = np.concatenate((_lower_quantile(b, k, doubled), _upper_quantile(b, k, doubled)))
            thresholds = np.unique(score(log_r))[::-1]
            thresholds = thresholds[np.isfinite(thresholds)]
            low, high = _roots(thresholds, k, j)
            share, mean = (x + y for x, y in zip(inner(low), outer(high), strict=True))
    limit = math.inf if j == 0 and k >= 1 else None
    growth = _half(thresholds, share, mean, mean_rising + mean_falling, limit)
    if k > 1 or limit is not None:
        return growth
    # The first shells, from a share far above the smallest float64: R(0) is R there and what they carry.
    first = int(np.argmax(share > 1e-280))
    start = float(growth.bounds(np.array([0.5 * float(share[first]) * (1.0 + 1e-10)]))[0][0])
    return replace(growth, limit=start + first_shells(float(log_r[first]), d, k, j))


@kept_growth
def power_growth(dimension: int, a: float) -> GrowthIntegral:
    """Return the growth integral of the score +-a / (1 + r), r of the beta prime law (d, a - d): density (1 + ||z||)^-a.

    1 / (1 + r) has the Beta(a - d, d) law; over {1 / (1 + r) >= v}, the sets of high score, its probability is
    Q(a - d, d; v) and E[a / (1 + r)] = (a - d) Q(a - d + 1, d; v) with the regularised upper incomplete beta function Q.
    The score is at most a, so that R(q) >= log(1 / (2 q)) / a is infinite at q = 0.

    Args:
        dimension: d.
        a: Exponent, above d.
    """
    excess = a - dimension
    v = betainccinv(excess, dimension, 2.0 * share_grid(_THRESHOLDS))
    share, mean = betaincc(excess, dimension, v), excess * betaincc(excess + 1.0, dimension, v)
    return _half(a * v, share, mean, excess, math.inf)


def first_shells(log_r: float, d: int, k: float, j: float) -> float:
    """Return a lower bound on int dp / Phi(p) over the sets {|z| <= s}, s <= r, for k <= 1, close to it for small shares.

    With h(s) = k s^k + j and the density f(s) ~ s^(d-1-j) exp(-s^k) of |z|, dp / Phi = f ds / int_0^s (h(x) / x) f(x) dx. As
    s^k - (xs)^k <= -k s^k log x for x < 1, the inner integral is at most f(s) (j / (D - v) + v / (D + k - v)) for
    v = k s^k < D = d - 1 - j. For j = 0 what is left integrates to (D + k) s^(1 - k) / (k (1 - k)) - s. The loss is of the
    relative order of v for small d and of 1 / d for large d.
    """
    rest, r = d - 1.0 - j, math.exp(log_r)
    if not k * r**k < rest:
        return 0.0
    if j == 0:
        return max((rest + k) * math.exp((1.0 - k) * log_r) / (k * (1.0 - k)) - r, 0.0) * (1.0 - 1e-11)
    s = r * np.linspace(0.0, 1.0, 20_001) ** 4
    v = k * s[1:] ** k
    # Falls with s: the upper end of each cell.
    return float(np.sum(np.diff(s) / (j / (rest - v) + v / (rest + k - v)))) * (1.0 - 1e-11)


def shells_from_above(d: int, k: float, j: float) -> float:
    """Return an upper bound on R(0) for j > 0, by the sets {|z| <= s} next to the origin.

    They are among the sets that Phi is the supremum over. The score is at least j / s on {|z| <= s}, and with the share
    F(s) and its density f, s f / F <= d - j (the derivative of log F by log s, which falls with s). So int dp / Phi over
    shares below F(r) is at most int_0^r (f s / F) / j ds <= (d - j) r / j, and R there is added.
    """
    share = 1e-290
    r = math.exp(float(_lower_quantile((d - j) / k, k, np.array([2.0 * share]))[0])) * (1.0 + 1e-9)
    reached = 0.5 * float(_lower_gamma((d - j) / k, k, np.array([math.log(r)]))[0]) * (1.0 - 1e-9)
    upper = exponential_growth(d, k, j).bounds(np.array([min(share, reached)]))[1]
    return float(upper[0]) + (d - j) / j * r * (1.0 + 1e-9)


def _half(thresholds: Array, share: Array, mean: Array, total: float, limit: float | None) -> GrowthIntegral:
    """The sign of the score is fair: half of all probabilities and expectations; in the order of rising shares."""
    kept = np.isfinite(thresholds) & (share > 0) & (mean > 0)
    thresholds, share, mean = thresholds[kept], share[kept], mean[kept]
    # Quantiles repeat in their last digits; the order is restored without moving any number by more than that.
    return GrowthIntegral(
        thresholds=np.minimum.accumulate(thresholds),
        shares=np.maximum.accumulate(np.minimum(0.5 * share, 0.5)),
        means=np.maximum.accumulate(np.minimum(0.5 * mean, 0.5 * total)),
        half_mean=0.5 * total,
        limit=limit,
    )


def _lower_gamma(a: float, k: float, log_r: Array) -> Array:
    """P(a, r^k), also where r^k is below the smallest float64: r^(k a) / Gamma(a + 1) then."""
    with np.errstate(over="ignore"):
        regular = lower_gamma(a, np.exp(k * log_r))
        leading = np.exp(k * a * log_r - gammaln(a + 1.0))
    return np.asarray(np.where(k * log_r < -600.0, leading, regular))


def _lower_quantile(a: float, k: float, probability: Array) -> Array:
    """Log r with P(a, r^k) = probability, nearly."""
    leading = (np.log(probability) + gammaln(a + 1.0)) / a
    with np.errstate(divide="ignore"):
        regular = np.log(gammaincinv(a, probability))
    return np.asarray(np.where(leading < -600.0, leading, np.maximum(regular, leading)) / k)


def _upper_quantile(a: float, k: float, probability: Array) -> Array:
    """Log r with Q(a, r^k) = probability, nearly."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.maximum(np.log(gammainccinv(a, probability)), -700.0) / k)


def _roots(t: Array, k: float, j: float) -> tuple[Array, Array]:
    """Return log r_1 < log r_2 with j / r + k r^(k-1) = t on both sides of the score's minimum, by bisection.

    An error in the root changes E(score - t)_+ by its square only.
    """
    bottom = math.log(j / (k * (k - 1.0))) / k
    results = []
    for start in (math.log(j) - np.log(t), np.log(t / k) / (k - 1.0)):
        # The score is above t at `start` and below it at the minimum.
        outside, inside = start, np.full_like(t, bottom)
        for _ in range(60):
            middle = 0.5 * (outside + inside)
            above = j * np.exp(-middle) + k * np.exp((k - 1.0) * middle) >= t
            outside, inside = np.where(above, middle, outside), np.where(above, inside, middle)
        results.append(outside)
    return results[0], results[1]
