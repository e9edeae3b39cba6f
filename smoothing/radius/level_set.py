"""The level-set method for spherical laws: Neyman-Pearson radii with directed rounding.

Let q be a density that depends on the Euclidean length only and falls with it, v a shift of length e, and q_v(A) the
probability of A after the shift. Of all sets of probability 1 - w, the set S where q_v / q is smallest loses most
(Neyman and Pearson). *Weak duality*: for every t and every set A, with S = {q_v < e^t q},

    q_v(A) - e^t q(A) >= q_v(S) - e^t q(S),     hence     q_v(A) >= 1/2 + e^t (w(e) - w)   if q(A) >= 1 - w,
    w(e) = C(t, e) - e^-t (1/2 - C(-t, e)),     C(t, e) = P(psi(|x|) - psi(|x - v|) > t),   x of law q.

Any t gives a sound bound, the best one is that with q_v(S) = 1/2; so t is found approximately, and all that has to be
rounded is C, downwards. By layers, int min(q_v, e^t q) is an integral of volumes of intersections of two balls, which
shrink as their centres part: the bound for the length e holds for every shorter shift.

*C from below.* Given |x| = r, the event is a cap of the sphere; with s = psi^-1(psi(r) - t) and I the regularised
incomplete beta function,

    C = E I_V((d - 1)/2, (d - 1)/2),    V = 1/2 - (r^2 - s^2 + e^2) / (4 e r), clipped to [0, 1].

The expectation is a sum over cells in y = log r. On a cell, I_V is bounded below by its value at the least V and by the
two lines through its ends with the extreme slopes that interval arithmetic allows, averaged over y with bounds on the
mean of a log-concave density. Cells are halved where the bounds above and below are far apart.

*Between the nodes* of a table, shifts are composed. beta_{e+f}(p) >= beta_f(beta_e(p)) for the least probability beta_e(p)
after a shift of length e, so that R(w) >= e + R(1/2 - e^t (w(e) - w)), and close to 1/2, R(1/2 - u) >= u / Phi(1/2) with
Phi(1/2) = E psi'(|x|) E|w_1| / 2. For Gaussian noise composing loses nothing.

Reference: Yang et al. 2020, Section 4 and Appendix (level-set method); the rounding and the table are our own.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy.special import betainc, betaln, gammaln

from smoothing.radius.spherical import Array, SphericalProfile

SPECIAL_SLACK = 2e-11
"""Relative allowance for gammainc, gammaincc and betainc; their measured errors are below 1e-12 in the ranges used."""

NODE_GAP = 5e-4
"""Relative loss between neighbouring nodes of a table that its construction aims at."""

_ROUNDS = 40
_TAIL = 1e-20
_LEAST_FAILURE = 1e-13
_FIRST_LENGTH = 1e-6
_FINE_NODES = 1400
_MOST_NODES = 6000


@dataclass(frozen=True)
class Caps:
    """V and its slope for one (t, e) of a profile, at cells of log r.

    Attributes:
        profile: The law.
        t: Log of the density ratio at the edge of the set.
        e: Length of the shift.
    """

    profile: SphericalProfile
    t: float
    e: float

    @property
    def shape(self) -> float:
        """(d - 1)/2, both parameters of the beta law of (1 + cosine) / 2."""
        return (self.profile.dimension - 1) / 2

    def share(self, v: Array) -> Array:
        """Return the share I_V of the sphere in a cap of height `v`."""
        v = np.clip(v, 0.0, 1.0)
        if self.profile.dimension == 1:  # two points
            return np.where(v >= 1.0, 1.0, np.where(v > 0.0, 0.5, 0.0))
        result: Array = betainc(self.shape, self.shape, v)
        return result

    def height(self, r: Array) -> tuple[Array, Array, Array, Array]:
        """Return V (not clipped) and log(r / s), each followed by a bound on its error."""
        delta, error = self.profile.log_contraction(r, self.t)
        # Where this is infinity times 0, the height is not a number, and counts as the least there is.
        with np.errstate(over="ignore", invalid="ignore"):
            first, second = r / (4 * self.e) * np.expm1(-2 * delta), self.e / (4 * r)
            moved = np.where(np.isfinite(delta), r / (2 * self.e) * np.exp(-2 * delta) * error, 0.0)
        return 0.5 + first - second, 4e-15 * (0.5 + np.abs(first) + second) + moved, delta, error

    def estimate(self, r: Array, weights: Array) -> float:
        """Return C by a plain quadrature, without a bound on its error."""
        v, *_ = self.height(r)
        v = np.where(np.isnan(v), 0.0 if self.t > 0 else 1.0, v)
        return float(weights @ self.share(v))

    def density(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return bounds on the derivative of I_V for V in [lower, upper], where it exists."""
        ends = _beta_density(self.shape, np.clip(lower, 0.0, 1.0)), _beta_density(self.shape, np.clip(upper, 0.0, 1.0))
        low, high = np.minimum(*ends), np.maximum(*ends)
        middle = _beta_density(self.shape, np.full_like(lower, 0.5))
        inside = (lower < 0.5) & (upper > 0.5)
        low, high = np.where(inside, np.minimum(low, middle), low), np.where(inside, np.maximum(high, middle), high)
        # Outside [0, 1] the share is constant.
        low = np.where((lower < 0) | (upper > 1), 0.0, low)
        high = np.where((lower >= 1) | (upper <= 0), 0.0, high)
        return low * (1 - 1e-8), high * (1 + 1e-8)

    def cells(self, y0: Array, y1: Array) -> tuple[Array, Array]:
        """Return a bound below and an estimate from above of E[I_V; log r in cell] for each cell [y0, y1]."""
        profile, e = self.profile, self.e
        width = y1 - y0
        r0, r1 = np.exp(y0), np.exp(y1)
        mass = self._masses(r0, r1)
        (v0, error0, d0, spread0), (v1, error1, d1, spread1) = self.height(r0), self.height(r1)
        # log(r / s) is monotone, falling for t > 0 and rising for t < 0, because h is nondecreasing.
        d_low, d_high = np.minimum(d0 - spread0, d1 - spread1), np.maximum(d0 + spread0, d1 + spread1)
        with np.errstate(all="ignore"):
            s_low, s_high = r0 * np.exp(-d0), r1 * np.exp(-d1)
            eta = profile.elasticity(np.minimum(r0, s_low), np.maximum(r1, s_high))
            square = np.expm1(-2 * d_high), np.expm1(-2 * d_low)
            bend = _corners((2 * np.exp(-2 * d_high), 2 * np.exp(-2 * d_low)), _expm1_of_product(eta, (d_low, d_high)))
            size = r0 / (4 * e), r1 / (4 * e)
            moving = _corners(size, (square[0] + bend[0], square[1] + bend[1]))
            slope_low, slope_high = moving[0] + e / (4 * r1), moving[1] + e / (4 * r0)
            allowance = 1e-9 * (np.abs(moving[0]) + np.abs(moving[1]) + e / (4 * r0))
            slope_low, slope_high = slope_low - allowance, slope_high + allowance
            slope_low = np.where(np.isnan(slope_low), -np.inf, slope_low)
            slope_high = np.where(np.isnan(slope_high), np.inf, slope_high)
            plain = _corners(size, square)
            v_low = np.fmax(
                0.5 + plain[0] - e / (4 * r0),
                np.fmax(v0 + np.minimum(slope_low, 0) * width, v1 - np.maximum(slope_high, 0) * width),
            )
            v_high = np.fmin(
                0.5 + plain[1] - e / (4 * r1),
                np.fmin(v0 + np.maximum(slope_high, 0) * width, v1 - np.minimum(slope_low, 0) * width),
            )
        error = np.maximum(error0, error1)
        with np.errstate(invalid="ignore"):
            v_low = np.minimum(v_low, np.minimum(v0, v1)) - error
            v_high = np.maximum(v_high, np.maximum(v0, v1)) + error
        v_low = np.where(np.isnan(v_low), -np.inf, v_low)
        v_high = np.where(np.isnan(v_high), np.inf, v_high)
        lower = self.share(v_low)
        if profile.dimension == 1:
            upper = self.share(v_high)
        else:
            first, second = self.share(v0 - error), self.share(v1 - error)
            with np.errstate(all="ignore"):
                slope = _corners(self.density(v_low, v_high), (slope_low, slope_high))
                near, far = self._mean_fraction(y0, y1)
                rise_low = np.where(slope[0] < 0, far, near) * slope[0] * width
                fall_low = -np.where(slope[1] > 0, far, near) * slope[1] * width
                rise_high = np.where(slope[1] > 0, far, near) * slope[1] * width
                fall_high = -np.where(slope[0] < 0, far, near) * slope[0] * width
                lower = np.fmax(lower, 0.5 * (first + second + rise_low + fall_low))
                upper = np.fmin(0.5 * (first + second + rise_high + fall_high), 1.0)
            upper = np.where(v_high <= 0, 0.0, upper)
        return mass * lower * (1 - 5 * SPECIAL_SLACK), mass * np.maximum(upper, lower)

    def _masses(self, r0: Array, r1: Array) -> Array:
        """Return lower bounds on the masses of the cells."""
        (below0, above0), (below1, above1) = self.profile.cumulative(r0), self.profile.cumulative(r1)
        near = below1 < above0
        small, large = np.where(near, below0, above1), np.where(near, below1, above0)
        return np.maximum(large * (1 - SPECIAL_SLACK) - small * (1 + SPECIAL_SLACK), 0.0)

    def _mean_fraction(self, y0: Array, y1: Array) -> tuple[Array, Array]:
        """Return bounds on (E y - y0) / (y1 - y0) in a cell, from the extremes of the log-concave density of y.

        A density between m and M has its mean between the shares 1 / (1 + sqrt(M / m)) and one minus that: the extreme
        one jumps from m to M once.
        """
        profile = self.profile
        ends = _log_density(profile, y0), _log_density(profile, y1)
        mode = math.log(profile.mode())
        top = np.maximum(*ends)
        # Wider by far than the error of the mode.
        around = (y0 - 1e-8 < mode) & (mode < y1 + 1e-8)
        peak = float(_log_density(profile, np.array([mode]))[0])
        top = np.where(around, np.maximum(top, peak), top)
        ratio = np.exp(0.5 * (top - np.minimum(*ends)) + 1e-9)
        return 1 / (1 + ratio), ratio / (1 + ratio)


def _log_density(profile: SphericalProfile, y: Array) -> Array:
    """The log of the density of y = log |x|, up to a constant."""
    return np.asarray(profile.dimension * y - profile.potential(np.exp(y)))


def _beta_density(a: float, v: Array) -> Array:
    """The density of the beta law with both parameters `a`, at v in [0, 1]; at the ends 0, 1 or infinity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.exp((a - 1) * (np.log(v) + np.log1p(-v)) - float(betaln(a, a)))
    return np.where((v <= 0) | (v >= 1), 0.0 if a > 1 else (1.0 if a == 1 else np.inf), value)


def _corners(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the product of two intervals; 0 times infinity makes it unbounded."""
    products = [a * b for a in first for b in second]
    unknown = np.any([np.isnan(p) for p in products], axis=0)
    low, high = np.min(products, axis=0), np.max(products, axis=0)
    return np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)


def _expm1_of_product(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = _corners(first, second)
    return np.expm1(low), np.expm1(high)


def caps_from_below(profile: SphericalProfile, t: float, e: float, tolerance: float) -> float:
    """Return a proved lower bound on C(t, e), aiming at a loss of about `tolerance`.

    Args:
        profile: The law.
        t: Log of the density ratio.
        e: Length of the shift, positive, in the profile's units.
        tolerance: Absolute loss aimed at; the bound is sound whatever it is.
    """
    caps = Caps(profile, t, e)
    edges = _edges(profile)
    y0, y1 = edges[:-1], edges[1:]
    share = tolerance / 400
    total = 0.0
    for index in range(_ROUNDS):
        lower, upper = caps.cells(y0, y1)
        done = (upper - lower <= share) | (index == _ROUNDS - 1) | (len(y0) > 50_000)
        total += math.fsum(lower[done])
        y0, y1 = y0[~done], y1[~done]
        if not len(y0):
            break
        middle = 0.5 * (y0 + y1)
        y0, y1 = np.concatenate((y0, middle)), np.concatenate((middle, y1))
    return total * (1 - 1e-15)


@lru_cache(maxsize=64)
def _edges(profile: SphericalProfile) -> Array:
    """Edges of the first cells in log r: quantiles, far into both tails."""
    tails = np.concatenate((10.0 ** np.arange(math.log10(_TAIL), -1.0, 1.0), np.linspace(0.1, 0.5, 13)))
    below = [profile.quantile(float(q), upper=False) for q in tails]
    above = [profile.quantile(float(q), upper=True) for q in tails[::-1]]
    values = np.unique(np.array([r for r in (*below, *above) if 1e-290 < r < 1e290]))
    edges = np.log(values)
    # A tail that stretches over decades gets more cells.
    pieces = [np.linspace(a, b, 2 + int((b - a) // 1.0))[:-1] for a, b in pairwise(edges)]
    return np.concatenate((*pieces, edges[-1:]))


@lru_cache(maxsize=64)
def _quadrature(profile: SphericalProfile) -> tuple[Array, Array]:
    """Nodes r and weights for estimates: Gauss-Legendre in the cells of `_edges`."""
    edges = _edges(profile)
    points, weights = np.polynomial.legendre.leggauss(8)
    half = 0.5 * np.diff(edges)[:, None]
    y = (0.5 * (edges[1:] + edges[:-1])[:, None] + half * points).ravel()
    r = np.exp(y)
    log_density = profile.dimension * y - profile.potential(r)
    density = np.exp(log_density - log_density.max()) * (half * weights).ravel()
    return r, density / density.sum()


def _excess(t: float, profile: SphericalProfile, e: float) -> float:
    return Caps(profile, -t, e).estimate(*_quadrature(profile)) - 0.5


def neyman_pearson_threshold(profile: SphericalProfile, e: float, start: float) -> float:
    """Return about the t with q_v(S) = 1/2, that is C(-t, e) = 1/2; `start` is a first guess, positive."""
    low, high = 0.0, max(start, 1e-300)
    while _excess(high, profile, e) < 0:
        low, high = high, 2 * high
        if high > 1e280:  # any threshold is sound; this one is useless, but so is such a shift
            return start
    if _excess(low, profile, e) >= 0:
        return low
    from scipy.optimize import brentq

    root: float = brentq(_excess, low, high, (profile, e), xtol=1e-13 * high, rtol=1e-10, maxiter=100, disp=False)
    return root


def estimate_failure(profile: SphericalProfile, e: float, start: float = 1.0) -> tuple[float, float]:
    """Return estimates, not bounds, of the w whose radius is `e`, and of the threshold t."""
    r, weights = _quadrature(profile)
    t = neyman_pearson_threshold(profile, e, start)
    here, there = Caps(profile, t, e).estimate(r, weights), Caps(profile, -t, e).estimate(r, weights)
    return here - math.exp(-t) * (0.5 - there), t


@dataclass(frozen=True)
class Node:
    """A shift of length `e` leaves at least 1/2 + e^t (w - q) of every set of probability 1 - q."""

    e: float
    w: float
    t: float


def make_node(profile: SphericalProfile, e: float, start: float = 1.0) -> Node:
    """Return a proved node at the length `e`."""
    rough, t = estimate_failure(profile, e, start)
    loss = 0.1 * NODE_GAP * max(min(rough, 0.5 - rough), 1e-15)
    first = caps_from_below(profile, t, e, loss)
    second = caps_from_below(profile, -t, e, min(loss * math.exp(min(t, 600.0)), 1e-3))
    owed = math.exp(-t) * (0.5 - second)
    return Node(e, first - owed - 1e-14 * (first + abs(owed)), t)


def slope_at_half(profile: SphericalProfile) -> float:
    """Return a lower bound on 1 / Phi(1/2): R(1/2 - u) >= u / Phi(1/2); 0 where the mean slope is infinite."""
    d = profile.dimension
    mean_cosine = math.exp(float(gammaln(d / 2)) - float(gammaln((d + 1) / 2))) / math.sqrt(math.pi) if d > 1 else 1.0
    return (1 - 1e-9) * 2.0 / (profile.mean_slope() * mean_cosine)


def _least_step(w: float, nodes: int, *, fine: bool) -> float:
    """Return the smallest relative step; coarse where few will look, so that the number of nodes stays bounded."""
    if w > 0.4999:
        return 0.3
    if w < 5e-7 or nodes > _FINE_NODES:
        return 0.03
    if not fine:
        return 0.04 if w > 0.495 else 0.006
    return 0.004 if w > 1e-2 else 0.002


@dataclass(frozen=True)
class LevelSetCurve:
    """R(w) >= a proved lower bound on the l2 radius of a profile, for every failure probability w = 1 - p.

    Attributes:
        e: Lengths of the nodes, rising, in the profile's units.
        w: Their failure probabilities, falling.
        kappa: Their e^t, rounded down.
        slope: Lower bound on 1 / Phi(1/2).
    """

    e: Array
    w: Array
    kappa: Array
    slope: float

    @classmethod
    def build(cls, profile: SphericalProfile) -> "LevelSetCurve":
        """Compute the nodes, from p = 1/2 outwards, with steps that keep the loss between them near `NODE_GAP`."""
        slope = slope_at_half(profile)
        typical = profile.quantile(0.5, upper=False) / math.sqrt(profile.dimension)
        curve = cls(np.empty(0), np.empty(0), np.empty(0), slope)
        e, step, t, target = 0.3 * typical, 0.05, 1.0, NODE_GAP
        for _ in range(_MOST_NODES):
            node = make_node(profile, e, t)
            reached = float(curve.radius(np.array([min(max(node.w, 0.0), 0.5)]))[0])
            gap = 1 - reached / e
            least = _least_step(node.w, len(curve.e), fine=target == NODE_GAP)
            if not len(curve.e):
                if gap > NODE_GAP and e > _FIRST_LENGTH * typical:
                    e *= 0.7 if gap < 0.01 else 0.2
                    continue
                if gap > NODE_GAP:  # a singularity at the origin: the slope at 1/2 is infinite, or might as well be
                    target = 10 * NODE_GAP
            elif gap > 1.5 * target and step > least:
                step = max(step * max(0.2, target / gap), least)
                e = float(curve.e[-1]) * (1 + step)
                continue
            if node.w <= _LEAST_FAILURE:
                break
            if node.w < (curve.w[-1] if len(curve.w) else 0.5):
                kappa = math.exp(min(node.t, 700.0)) * (1 - 1e-14)
                curve = cls(np.append(curve.e, e), np.append(curve.w, node.w), np.append(curve.kappa, kappa), slope)
            t = node.t
            step = min(max(step * min(1.5, max(target / max(gap, 1e-12), 0.5)), least), 0.5)
            e *= 1 + step
        return curve

    def radius(self, w: Array) -> Array:
        """Return the proved radius for probabilities of at least 1 - w; 0 from w = 1/2 on, infinite at w = 0."""
        flat = np.asarray(w, dtype=np.float64).ravel()
        # The support is unbounded: a set of probability 1 keeps it after any shift.
        return np.where(flat > 0, self._radius(flat, depth=4), np.inf).reshape(np.shape(w))

    def _radius(self, w: Array, depth: int) -> Array:
        result = np.maximum(0.5 - w, 0.0) * self.slope * (1 - 1e-15)
        if not len(self.e):
            return result
        # The last node with w(e) >= w.
        index = np.searchsorted(-self.w, -w, side="right") - 1
        some = index >= 0
        at = index[some]
        left = self.kappa[at] * (self.w[at] - w[some]) * (1 - 1e-14)
        rest = 0.5 - np.minimum(left, 0.5)
        more = self._radius(rest, depth - 1) if depth > 1 and len(rest) else np.maximum(0.5 - rest, 0) * self.slope
        result[some] = np.maximum(result[some], self.e[at] + more)
        return result * (1 - 1e-15)


@dataclass(frozen=True)
class LevelSetRadius:
    """One radius of the level-set method.

    Attributes:
        lower: Proved radius.
        estimate: What plain quadrature says about the exact one; not a bound.
    """

    lower: float
    estimate: float

    @property
    def gap(self) -> float:
        """1 - lower / estimate: the relative cost of rounding."""
        return 1 - self.lower / self.estimate if 0 < self.estimate < math.inf else 0.0


def level_set_radius(profile: SphericalProfile, w: float) -> LevelSetRadius:
    """Return the l2 radius of a spherical law for a top-class probability of at least 1 - w, without a table.

    Args:
        profile: The law.
        w: Upper bound on the failure probability, in [0, 1].
    """
    if w >= 0.5 or w <= 0:
        limit = 0.0 if w >= 0.5 else math.inf
        return LevelSetRadius(limit, limit)
    linear = (0.5 - w) * slope_at_half(profile)
    low, high = linear, max(2 * linear, 1e-9 * profile.quantile(0.5, upper=False))
    while estimate_failure(profile, high)[0] > w:
        low, high = high, 2 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if estimate_failure(profile, middle)[0] > w else (low, middle)
        if high - low <= 1e-9 * high:
            break
    loss = 1e-7
    while loss < 0.5:
        e = low * (1 - loss)
        if make_node(profile, e).w >= w:
            return LevelSetRadius(max(e, linear), low)
        loss *= 2
    return LevelSetRadius(linear, low)


def estimate_radius(profile: SphericalProfile, curve: LevelSetCurve, w: float) -> float:
    """Return an estimate, not a bound, of the radius at failure probability `w`, from plain quadrature.

    Where quadrature fails, the proved radius is returned.

    The relative gap between it and `curve.radius(w)` is what rounding and the steps between nodes cost.
    """
    from scipy.optimize import brentq

    if w >= 0.5:
        return 0.0
    lower = float(curve.radius(np.array([w]))[0])
    if w <= 0 or not lower > 0:
        return math.inf if w <= 0 else 0.0
    high = lower * 1.05
    for _ in range(200):
        if estimate_failure(profile, high)[0] <= w:
            break
        high *= 1.2
    low = lower * 0.95
    if estimate_failure(profile, low)[0] <= w:
        return lower
    if estimate_failure(profile, high)[0] > w:
        return lower
    root: float = brentq(lambda e: estimate_failure(profile, e)[0] - w, low, high, rtol=1e-9)
    return root
