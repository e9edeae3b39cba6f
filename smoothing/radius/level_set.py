"""The level-set method for spherical laws: Neyman-Pearson radii with directed rounding.

Let q be a density that depends on the Euclidean length only and falls with it, v a shift of length e, and q_v(A) the
probability of A after the shift. Of all sets of probability 1 - w, the set S where q_v / q is smallest loses most
(Neyman and Pearson). *Weak duality*: for every t and every set A, with S = {q_v < e^t q},

    q_v(A) - e^t q(A) >= q_v(S) - e^t q(S),     hence     q_v(A) >= 1/2 + e^t (w(e) - w)   if q(A) >= 1 - w,
    w(e) = C(t, e) - e^-t (1/2 - C(-t, e)),     C(t, e) = P(psi(|x|) - psi(|x - v|) > t),   x of law q.

Any t gives a sound bound, the best one is that with q_v(S) = 1/2; so t is found approximately, and all that has to be
rounded is C, downwards (`smoothing.radius.caps`). By layers, int min(q_v, e^t q) is an integral of volumes of intersections
of two balls, which shrink as their centres part: the bound for the length e holds for every shorter shift.

*Between the nodes* of a table, shifts are composed. beta_{e+f}(p) >= beta_f(beta_e(p)) for the least probability beta_e(p)
after a shift of length e, so that R(w) >= e + R(1/2 - e^t (w(e) - w)), and close to 1/2, R(1/2 - u) >= u / Phi(1/2) with
Phi(1/2) = E psi'(|x|) E|w_1| / 2. For Gaussian noise composing loses nothing.

Reference: Yang et al. 2020, Section 4 and Appendix (level-set method); the rounding and the table are our own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from smoothing.radius.caps import Caps, caps_bounds, quadrature
from smoothing.radius.line import is_line, line_bounds, line_estimate
from smoothing.radius.spherical import Array, SphericalProfile

NODE_GAP = 6e-4
"""Relative loss between neighbouring nodes of a table that its construction aims at."""

COARSE_GAP = 8e-3
"""The same for laws that would need too many nodes: those with a singularity at the origin, above all."""

_LOSS = 5e-5
"""Relative loss by rounding w that a node aims at."""

_LEAST_FAILURE = 1e-13
_INNER = (4e-7, 0.4905)
"""Failure probabilities between which `NODE_GAP` is meant; outside, eight times as much will do."""
_LEAST_LEAD = 1.5e-4
_FEW_NODES, _MOST_NODES = 4000, 9000
_LINE_NODES = 60_000, 100_000
"""The same in one dimension, where a node costs some microseconds."""
_RANGE = (1e-270, 1e270)


def failure_bounds(profile: SphericalProfile, e: Array, t: Array, loss: float) -> tuple[Array, Array]:
    """Return w(e) with the threshold t from below, proved, and from above, up to rounding.

    Args:
        profile: The law.
        e: Lengths of shifts, positive, [n].
        t: Logs of the density ratio, not negative, [n].
        loss: Loss to aim at, relative to the smaller of w and 1/2 - w.
    """
    if is_line(profile):
        low, high, low_there, high_there = line_bounds(profile, t, e)
    else:
        low, high = caps_bounds(profile, t, e, np.full_like(e, 1e-22), 0.6 * loss)
        # The second term counts exp(-t) times; at the best t, w is the first term.
        scale = np.maximum(np.minimum(low, 0.5 - high), 1e-22)
        allowed = np.minimum(0.4 * loss * scale * np.exp(np.minimum(t, 600.0)), 1e-3)
        low_there, high_there = caps_bounds(profile, -t, e, allowed)
    weight = np.exp(-t)
    owed = weight * (0.5 - low_there)
    lower = low - owed - 1e-14 * (low + np.abs(owed))
    return lower, np.maximum(high - weight * (0.5 - high_there), lower)


def thresholds(profile: SphericalProfile, e: Array, guess: Array) -> Array:
    """Return about the t >= 0 with q_v(S) = 1/2, that is C(-t, e) = 1/2, for each length in `e`; `guess` is positive."""

    def excess(t: Array, at: Array) -> Array:
        return _estimate_caps(profile, -t, at) - 0.5

    low, high = np.zeros_like(e), np.asarray(guess, dtype=np.float64).copy()
    below, above = excess(low, e), excess(high, e)
    result = np.where(below >= 0, 0.0, high)
    for _ in range(60):
        rising = np.flatnonzero((above < 0) & (below < 0) & (high < 1e280))
        if not len(rising):
            break
        low[rising], below[rising] = high[rising], above[rising]
        high[rising] *= np.where(high[rising] < 1e-3, 10.0, 2.0)
        above[rising] = excess(high[rising], e[rising])
    # An error f of C(-t, e) moves w by its square only.
    best = np.where(np.abs(above) < np.abs(below), high, low)
    error = np.minimum(np.abs(above), np.abs(below))
    for index in range(60):
        open_ = np.flatnonzero((error > 5e-5) & (below < 0) & (above >= 0) & (high - low > 1e-12 * high))
        if not len(open_):
            break
        a, b, fa, fb = low[open_], high[open_], below[open_], above[open_]
        share = np.clip(-fa / (fb - fa), 0.02, 0.98) if index % 3 < 2 else 0.5
        middle = a + share * (b - a)
        value = excess(middle, e[open_])
        up = value >= 0
        high[open_], above[open_] = np.where(up, middle, b), np.where(up, value, fb)
        low[open_], below[open_] = np.where(up, a, middle), np.where(up, fa, value)
        better = np.abs(value) < error[open_]
        best[open_] = np.where(better, middle, best[open_])
        error[open_] = np.where(better, np.abs(value), error[open_])
    return np.where(below >= 0, result, best)


def _estimate_caps(profile: SphericalProfile, t: Array, e: Array) -> Array:
    """Return C(t, e), t <= 0, estimated."""
    if is_line(profile):
        return line_estimate(profile, -t, e)
    if profile.dimension == 1:  # the share jumps: no quadrature of fixed points sees where
        low, high = caps_bounds(profile, t, e, np.full_like(t, 1e-5))
        return 0.5 * (low + high)
    r, weights = quadrature(profile, 4)
    caps = Caps(profile, np.repeat(t, len(r)), np.repeat(e, len(r)))
    return np.asarray(caps.estimate(np.tile(r, len(t))).reshape(len(t), -1) @ weights)


@dataclass(frozen=True)
class Node:
    """A shift of length `e` leaves at least 1/2 + e^t (w - q) of every set of probability 1 - q."""

    e: float
    w: float
    t: float


def make_node(profile: SphericalProfile, e: float, start: float = 1.0) -> Node:
    """Return a proved node at the length `e`; `start` is a guess of its t."""
    length = np.array([e])
    t = thresholds(profile, length, np.array([start]))
    w, _ = failure_bounds(profile, length, t, _LOSS)
    return Node(e, float(w[0]), float(t[0]))


def slope_at_half(profile: SphericalProfile) -> float:
    """Return a lower bound on 1 / Phi(1/2): R(1/2 - u) >= u / Phi(1/2); 0 where the mean slope is infinite."""
    d = profile.dimension
    mean_cosine = math.exp(float(gammaln(d / 2)) - float(gammaln((d + 1) / 2))) / math.sqrt(math.pi) if d > 1 else 1.0
    return (1 - 1e-9) * 2.0 / (profile.mean_slope() * mean_cosine)


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
    def build(cls, profile: SphericalProfile, gap: float = NODE_GAP) -> "LevelSetCurve":
        """Compute the nodes: few at first, then more wherever the loss between neighbours is above what is aimed at.

        Args:
            profile: The law.
            gap: Relative loss between neighbouring nodes to aim at; the radii are proved whatever it is.
        """
        slope = slope_at_half(profile)
        e, w, t = _first_nodes(profile, slope)
        fair, most_nodes = _LINE_NODES if is_line(profile) else (_FEW_NODES, _MOST_NODES)
        goal = 1.0
        for index in range(12):
            kept = _frontier(w)
            curve = cls(e[kept], w[kept], np.exp(np.minimum(t[kept], 700.0)) * (1 - 1e-14), slope)
            gaps = curve.gaps()
            # Only what lies outside as a whole: a look-up within falls back on the node before, wherever that is.
            outside = (np.concatenate(([0.5], curve.w[:-1])) <= _INNER[0]) | (curve.w >= _INNER[1])
            excess = gaps / np.where(outside, 8.0 * gap, gap)
            if index < 4:  # what is left to do says what can be done
                needed, most = float(np.sum(excess[1:])), max(COARSE_GAP / gap, 1.0)
                few = fair if needed < 1.4 * fair else 0.5 * fair
                goal = min(max(needed / few, 1.0), most) if slope > 0 else most
            parts = np.ceil(np.minimum(excess / goal, 1e3))
            parts = np.where(parts > 30, 12, np.where(parts > 2, 3, parts)).astype(np.int64)
            parts[0] = 1
            parts[1:][curve.e[1:] <= curve.e[:-1] * (1 + 1e-7)] = 1
            if len(curve.e) + int(np.sum(parts - 1)) > most_nodes or not np.any(parts > 1):
                break
            new = np.concatenate(
                [np.geomspace(a, b, n + 1)[1:-1] for a, b, n in zip(curve.e[:-1], curve.e[1:], parts[1:], strict=True)]
            )
            more_w, more_t = _nodes(
                profile, new, np.exp(np.interp(np.log(new), np.log(e), np.log(np.maximum(t, 1e-300))))
            )
            order = np.argsort(np.concatenate((e, new)), kind="stable")
            e, w, t = (np.concatenate(pair)[order] for pair in ((e, new), (w, more_w), (t, more_t)))
        return curve

    def gaps(self) -> Array:
        """Return, for each node, the relative loss just above its w, where the table falls back on smaller nodes."""
        if not len(self.e):
            return np.empty(0)
        before = self._radius(np.minimum(np.nextafter(self.w, 1.0), 0.5), depth=4)
        return np.maximum(1 - before / self.e, 0.0)

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
        # The difference is rounded to the next float64, which may be below what is left.
        rest = np.nextafter(0.5 - np.minimum(left, 0.5), 1.0)
        more = self._radius(rest, depth - 1) if depth > 1 and len(rest) else np.maximum(0.5 - rest, 0) * self.slope
        result[some] = np.maximum(result[some], self.e[at] + more)
        return result * (1 - 1e-15)


def _nodes(profile: SphericalProfile, e: Array, guess: Array) -> tuple[Array, Array]:
    """Return w and t of nodes at the lengths `e`."""
    t = np.concatenate([thresholds(profile, e[i : i + 64], guess[i : i + 64]) for i in range(0, len(e), 64)])
    w, _ = failure_bounds(profile, e, t, _LOSS)
    return w, t


def _first_nodes(profile: SphericalProfile, slope: float) -> tuple[Array, Array, Array]:
    """Return e, w and t of nodes far apart, from where the linear bound is good enough to where w is negligible."""
    typical = min(max(profile.quantile(0.5, upper=False) / math.sqrt(profile.dimension), 1e-200), 1e200)
    found: list[tuple[Array, Array, Array]] = []
    many = 8 if is_line(profile) else 1  # there a node costs next to nothing beside a call
    for outwards, step, size in ((True, 1.35, 8), (False, 0.5, 4 * many)):
        stride, guess = step, 1.0
        start = typical if outwards else typical * step
        for _ in range(200):
            e: Array = start * np.array([stride**index for index in range(size)])
            e = e[(e > _RANGE[0]) & (e < _RANGE[1])]
            if not len(e):
                break
            w, t = _nodes(profile, e, np.full_like(e, guess))
            found.append((e, w, t))
            start, guess = float(e[-1]) * stride, max(float(t[-1]), 1e-8)
            linear = (0.5 - w[-1]) * slope / e[-1]
            if w[-1] < _LEAST_FAILURE if outwards else (0.5 - w[-1] < _LEAST_LEAD or 1 - linear < 0.3 * NODE_GAP):
                break
            # A law whose probabilities hardly move from one shift to the next is followed in longer strides.
            if not outwards and (0.5 - w[-1]) > 0.9 * (0.5 - w[0]):
                stride *= stride
    e, w, t = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(e)
    e, w, t = e[order], w[order], t[order]
    for _ in range(40):  # a steep density: the last w that is not negligible may be far from negligible
        last = int(np.flatnonzero(w > 0.1 * _LEAST_FAILURE)[-1])
        if w[last] < 0.5 * _INNER[0] or last + 1 == len(e) or e[last + 1] < e[last] * (1 + 1e-6):
            break
        new = np.geomspace(e[last], e[last + 1], 6)[1:-1]
        more_w, more_t = _nodes(profile, new, np.full_like(new, max(float(t[last]), 1e-8)))
        e, w, t = (np.insert(old, last + 1, more) for old, more in ((e, new), (w, more_w), (t, more_t)))
    kept = (w > 0.1 * _LEAST_FAILURE) & (w < 0.5)
    return e[kept], w[kept], t[kept]


def _frontier(w: Array) -> NDArray[np.bool_]:
    """Return which nodes matter: those whose w no longer shift has too."""
    later = np.append(np.maximum.accumulate(w[::-1])[::-1][1:], -np.inf)
    return np.asarray((w > later) & (w > 0) & (w < 0.5))


@dataclass(frozen=True)
class LevelSetRadius:
    """One radius of the level-set method.

    Attributes:
        lower: Proved radius.
        estimate: The exact one up to the rounding of the integrals, about 1e-6 of it; not a bound.
    """

    lower: float
    estimate: float

    @property
    def gap(self) -> float:
        """1 - lower / estimate: the relative cost of rounding."""
        return max(1 - self.lower / self.estimate, 0.0) if 0 < self.estimate < math.inf else 0.0


_ZOOM = 8
_SHARPEST = 1e-6


def level_set_radius(profile: SphericalProfile, w: float) -> LevelSetRadius:
    """Return the l2 radius of a spherical law for a top-class probability of at least 1 - w, without a table.

    A second or two of work for a radius that is right to about 1e-6 of itself for w from 1e-12 up to 0.499.

    Args:
        profile: The law.
        w: Upper bound on the failure probability, in [0, 1].
    """
    if w >= 0.5 or w <= 0:
        limit = 0.0 if w >= 0.5 else math.inf
        return LevelSetRadius(limit, limit)
    linear = (0.5 - w) * slope_at_half(profile) * (1 - 1e-15)
    # Below, a radius for more failures is returned.
    at = max(w, 1e-15)
    typical = min(max(profile.quantile(0.5, upper=False) / math.sqrt(profile.dimension), 1e-200), 1e200)
    guess = 1.0

    def trial(e: Array, loss: float) -> tuple[Array, Array]:
        nonlocal guess
        t = thresholds(profile, e, np.full_like(e, guess))
        guess = max(float(np.median(t)), 1e-300)
        return failure_bounds(profile, e, t, loss)

    low, high = _bracket(trial, at, max(linear, typical * _RANGE[0] ** 0.5), typical)
    proved = 0.0
    for loss in (1e-2, 1e-3, 1e-3, 1e-4, 1e-5, _SHARPEST):
        e = np.geomspace(low, high, _ZOOM)
        below, above = trial(e, loss)
        proved = max(proved, *e[below >= at], 0.0)
        inside, outside = e[above >= at], e[above < at]
        low = float(inside[-1]) if len(inside) else low * 0.98
        high = float(outside[0]) if len(outside) else high * 1.02
        if not low < high:  # rounding has the last word
            low, high = high * (1 - 1e-9), low * (1 + 1e-9)
    e = np.geomspace(low, high, _ZOOM)
    below, above = trial(e, _SHARPEST)
    proved = max(proved, *e[below >= at], 0.0)
    middle = 0.5 * (below + above)
    estimate = float(np.interp(-at, -middle, e))
    # What is left between the last two points: a chord of w(e), and a little less.
    aim = float(np.interp(-at, -below, e))
    e = aim * (1 - np.array([1e-9, 1e-8, 1e-7, 1e-6, 1e-5]))
    below, _ = trial(e, _SHARPEST)
    proved = max(proved, *e[below >= at], 0.0)
    lower = max(proved, linear)
    return LevelSetRadius(lower, max(estimate, lower) if w == at else lower)


def _bracket(
    trial: Callable[[Array, float], tuple[Array, Array]], w: float, least: float, typical: float
) -> tuple[float, float]:
    """Return e on both sides of the radius at `w`, within a factor of 2 of each other if that is possible."""
    e = typical
    inside = bool(trial(np.array([e]), 1e-2)[1][0] >= w)
    step = 2.0 if inside else 0.5
    while _RANGE[0] < e * step < _RANGE[1]:
        e *= step
        if bool(trial(np.array([e]), 1e-2)[1][0] >= w) != inside:
            return (e / step, e) if inside else (e, e / step)
        step = step**1.25 if abs(math.log(step)) < 50 else step
    return (e, e * 2) if inside else (max(e, least), max(e, least) * 2)
