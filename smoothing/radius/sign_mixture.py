"""The growth function of exp(-||z||_1^k) noise at linf: a radial score times a sum of d random signs."""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import gammaincc, gammainccinv, gammaincinv

from smoothing.radius.differential import GrowthIntegral, cell_bounds
from smoothing.radius.radial import first_shells
from smoothing.radius.signs import SignSum, sign_sum
from smoothing.radius.special import log_gamma_ratio, lower_gamma
from smoothing.radius.table import kept_growth

_TOLERANCE = 4e-7
"""Relative gap of every cell down to p = 1e-16; below, a thousand times as much."""

_ROUNDS = 40
_DEEP_ROUNDS = 10
"""The same for shares below 1e-16: next to the smallest ones, sums of underflowing terms keep cells wide for ever."""

_SMALLEST = 1e-250
_LAST_SHARE = 1e-240
_CHUNK = 64

Array = Float64[ndarray, " n"]


@dataclass(frozen=True)
class _Score:
    """Z = W S: W = k r^(k-1) with r^k of the Gamma(d / k) law, S the sum of d fair signs; for k other than 1."""

    signs: SignSum
    k: float

    @property
    def a(self) -> float:
        return self.signs.dimension / self.k

    @property
    def mean_w(self) -> float:
        return self.k * math.exp(log_gamma_ratio(self.a, 1.0 - 1.0 / self.k))

    def tails(self, w: Float64[ndarray, "..."]) -> tuple[Float64[ndarray, "..."], Float64[ndarray, "..."]]:
        """P(W >= w) and E[W; W >= w]: far shells for k > 1, near ones for k < 1."""
        k, a = self.k, self.a
        with np.errstate(over="ignore", divide="ignore"):
            u = (w / k) ** (k / (k - 1.0))
        side = gammaincc if k > 1 else lower_gamma
        return side(a, u), self.mean_w * side(a + 1.0 - 1.0 / k, u)

    def range(self) -> tuple[float, float]:
        """Values of W below which, and above which, it falls with probability 1e-18 and 1e-300 only."""
        rare = (1e-18, 1e-300) if self.k > 1 else (1e-300, 1e-18)
        ends = float(gammaincinv(self.a, rare[0])), float(gammainccinv(self.a, rare[1]))
        low, high = sorted(self.k * max(u, 1e-300) ** (1.0 - 1.0 / self.k) for u in ends)
        return low, high

    def partial(self, t: Array) -> tuple[Array, Array]:
        """P(Z >= t) and E[Z; Z >= t] for t > 0, sums over the positive values s of S of P(W >= t / s) and E[W; ...].

        Where t / s is below the range of W, all of W counts (to 1e-18); where it is above, nothing does.
        """
        s, mass = self.signs.values.astype(np.float64), np.ldexp(self.signs.mass, -200)
        above = np.append(np.cumsum(mass[::-1])[::-1], 0.0)
        weighted = np.append(np.cumsum((s * mass)[::-1])[::-1], 0.0)
        low, high = self.range()
        order = np.argsort(t)
        share, mean = np.empty_like(t), np.empty_like(t)
        for start in range(0, len(t), _CHUNK):
            rows = order[start : start + _CHUNK]
            first, last = np.searchsorted(s, (t[rows[0]] / high, t[rows[-1]] / low))
            part, part_mean = self.tails(t[rows, None] / s[None, first:last])
            share[rows] = part @ mass[first:last] + above[last]
            mean[rows] = part_mean @ (s * mass)[first:last] + self.mean_w * weighted[last]
        return share, mean


@kept_growth
def signed_exponential_growth(dimension: int, k: float) -> GrowthIntegral:
    """Return the growth integral of Z = W S (scale 1), W = k r^(k-1) and S a sum of d independent fair signs.

    Along a vector v of signs the score of exp(-||z||_1^k) is W sum v_i sign(z_i); signs and r are independent. Given S = s,
    the set {Z >= t} is {W >= t / s}, whose probability and expectation of W are incomplete gamma functions, so that both
    are finite sums over s. For large d, Z lies in clusters around the multiples of E W: thresholds are added where the
    bounds differ most, rather than on a grid.

    Args:
        dimension: d, at least 2.
        k: Exponent, positive and not 1.
    """
    score = _Score(sign_sum(dimension), k)
    half_mean = score.mean_w * float(np.sum(score.signs.values * np.ldexp(score.signs.mass, -200)))
    low, high = score.range()
    values = score.signs.values
    t = np.geomspace(float(values[0]) * low * 1e-3, float(values[-1]) * high, 400)[::-1].copy()
    share, mean = score.partial(t)
    for turn in range(_ROUNDS):
        kept = (share > _SMALLEST) & (mean > 0)
        # All of the last interval, down to the threshold 0, is a cell too.
        ends = (np.append(array[kept], end) for array, end in ((t, 0.0), (share, 0.5), (mean, half_mean)))
        nodes, shares, means = ends
        lower, upper = cell_bounds(nodes, np.maximum.accumulate(shares), np.maximum.accumulate(means))
        tolerance = np.where(shares[1:] > 1e-16, _TOLERANCE, 1e3 * _TOLERANCE)
        wide = (upper - lower > tolerance * lower) & (nodes[1:] < nodes[:-1] * (1.0 - 1e-9))
        wide &= (shares[1:] > 1e-16) | (turn < _DEEP_ROUNDS)
        wide[-1] &= bool(shares[-2] < 0.5 - float(score.signs.inner[0]) - 1e-12)
        if not wide.any():
            break
        middle = np.where(nodes[1:] > 0, np.sqrt(nodes[1:] * nodes[:-1]), 0.5 * nodes[:-1])[wide]
        more_share, more_mean = score.partial(middle)
        t, share, mean = (np.concatenate(pair) for pair in ((t, middle), (share, more_share), (mean, more_mean)))
        order = np.argsort(-t)
        t, share, mean = t[order], share[order], mean[order]
    kept = (share > _SMALLEST) & (mean > 0)
    growth = GrowthIntegral(
        thresholds=t[kept],
        shares=np.maximum.accumulate(np.minimum(share[kept], 0.5)),
        means=np.maximum.accumulate(np.minimum(mean[kept], half_mean)),
        half_mean=half_mean,
        limit=math.inf if k > 1 else None,
    )
    if k > 1:
        return growth
    # S <= d: below a small share, Phi is at most d times that of W alone, whose sets are the first shells.
    u = max(float(gammaincinv(score.a, _LAST_SHARE)), 1e-300)
    reached = float(lower_gamma(score.a, np.array(u))) * (1.0 + 1e-10)
    start = float(growth.bounds(np.array([reached]))[0][0])
    return replace(growth, limit=start + first_shells(math.log(u) / k, dimension, k, 0.0) / dimension)


def signed_shells_from_above(dimension: int, k: float) -> float:
    """Return an upper bound on R(0) for k < 1, by sets next to the origin where all signs agree; infinite for d > 900.

    The set {|z| <= s, S = d} has the share F(s) / 2^d, and E[W; |z| <= s] >= k s^(k-1) F(s). With s f / F <= d, the integral
    of dp / Phi over shares below F(r) / 2^d is at most int_0^r s^-k / k ds = r^(1-k) / (k (1 - k)), and R there is added.
    """
    if dimension > 900:  # no share F(r) / 2^d of float64 belongs to a shell near the origin
        return math.inf
    a = dimension / k
    u = float(gammaincinv(a, math.ldexp(1e-285, dimension))) * (1.0 + 1e-9)
    if not 0.0 < u < math.inf:
        return math.inf
    reached = math.ldexp(float(lower_gamma(a, np.array(u))), -dimension) * (1.0 - 1e-9)
    upper = signed_exponential_growth(dimension, k).bounds(np.array([reached]))[1]
    return float(upper[0]) + math.exp((1.0 - k) / k * math.log(u)) / (k * (1.0 - k)) * (1.0 + 1e-9)
