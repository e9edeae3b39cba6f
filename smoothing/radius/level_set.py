"""The level-set method for spherical laws: Neyman-Pearson radii with directed rounding.

Let q be a density that depends on the Euclidean length only and falls with it, v a shift of length e, and q_v(A) the
probability of A after the shift. Of all sets of probability 1 - w, the set S where q_v / q is smallest loses most
(Neyman and Pearson). *Weak duality*: for every t and every set A, with S = {q_v < e^t q},

    q_v(A) - e^t q(A) >= q_v(S) - e^t q(S),     hence     q_v(A) >= 1/2 + e^t (w(e) - w)   if q(A) >= 1 - w,
    w(e) = C(t, e) - e^-t (1/2 - C(-t, e)),     C(t, e) = P(psi(|x|) - psi(|x - v|) > t),   x of law q.

Any t gives a sound bound, the best one is that with q_v(S) = 1/2; so t is found approximately, and all that has to be
rounded is C, downwards (`smoothing.radius.caps`). By layers, int min(q_v, e^t q) is an integral of volumes of intersections
of two balls, which shrink as their centres part: the bound for the length e holds for every shorter shift.

Tables of radii, and what they rest on between their nodes, are in `smoothing.radius.curve`.

Reference: Yang et al. 2020, Section 4 and Appendix (level-set method); the rounding is our own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from smoothing.radius.caps import Caps, caps_bounds, quadrature
from smoothing.radius.line import is_line, line_bounds, line_estimate
from smoothing.radius.spherical import Array, SphericalProfile

NODE_LOSS = 5e-5
"""Relative loss by rounding w that a node aims at."""

LENGTHS = (1e-270, 1e270)
"""Lengths of shifts that are looked at, in the profile's units."""

_NEAR_HALF = 5e-5
"""Error of C(-t, e) = 1/2 that a threshold may have: w is off by its square only."""


def failure_bounds(profile: SphericalProfile, e: Array, t: Array, loss: Array) -> tuple[Array, Array]:
    """Return w(e) with the threshold t from below, proved, and from above, up to rounding.

    Args:
        profile: The law.
        e: Lengths of shifts, positive, [n].
        t: Logs of the density ratio, not negative, [n].
        loss: Losses to aim at, relative to the smaller of w and 1/2 - w, [n].
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
        rising = np.flatnonzero((above < -_NEAR_HALF) & (below < -_NEAR_HALF) & (high < 1e280))
        if not len(rising):
            break
        low[rising], below[rising] = high[rising], above[rising]
        high[rising] *= np.where(high[rising] < 1e-3, 10.0, 2.0)
        above[rising] = excess(high[rising], e[rising])
    best = np.where(np.abs(above) < np.abs(below), high, low)
    error = np.minimum(np.abs(above), np.abs(below))
    for index in range(60):
        open_ = np.flatnonzero((error > _NEAR_HALF) & (below < 0) & (above >= 0) & (high - low > 1e-12 * high))
        if not len(open_):
            break
        a, b, fa, fb = low[open_], high[open_], below[open_], above[open_]
        share = np.clip(-fa / (fb - fa), 0.02, 0.98) if index % 3 < 2 else 0.5
        middle = a + share * (b - a)
        if index % 3 == 2:  # a guess may be off by dozens of decades
            middle = np.where(b > 8 * a, np.sqrt(np.maximum(a, 1e-6 * b) * b), middle)
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
    w, _ = failure_bounds(profile, length, t, np.array([NODE_LOSS]))
    return Node(e, float(w[0]), float(t[0]))


def slope_at_half(profile: SphericalProfile) -> float:
    """Return a lower bound on 1 / Phi(1/2): R(1/2 - u) >= u / Phi(1/2); 0 where the mean slope is infinite."""
    d = profile.dimension
    mean_cosine = math.exp(float(gammaln(d / 2)) - float(gammaln((d + 1) / 2))) / math.sqrt(math.pi) if d > 1 else 1.0
    return (1 - 1e-9) * 2.0 / (profile.mean_slope() * mean_cosine)


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
_FIRST_STEPS = np.array([-1e-5, 0.0, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3])
_LAST_STEPS = np.array([-1e-5, -1e-6, -3e-7, -1e-7, -1e-8, -1e-9, 3e-7, 1e-6])


def level_set_radius(profile: SphericalProfile, w: float) -> LevelSetRadius:
    """Return the l2 radius of a spherical law for a top-class probability of at least 1 - w, without a table.

    Some seconds of work for a radius that is right to about 1e-6 of itself (5e-6 for k = 100) for w from 1e-12 up to 0.499.

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
        guess = min(max(float(np.median(t)), 1e-300), 1e3)  # what lies beyond the support has any t
        below, above = failure_bounds(profile, e, t, np.full_like(e, loss))
        # Beyond where the density has a float64, cells stay open however often they are halved, and above says nothing.
        return below, np.where(above > 2 * below, np.maximum(below, 0.0), above)

    low, high = _bracket(trial, at, max(linear, typical * LENGTHS[0] ** 0.5), typical)
    # In a heavy tail w hardly moves with e: what rounding may take from e decides.
    first, last = trial(np.array([low, high]), 1e-5)[0]
    mean = 0.5 * (first + last)
    speed = abs(first - last) / (math.log(high / low) * max(min(mean, 0.5 - mean), 1e-300))
    scale = min(max(speed, 1e-3), 1.0)
    proved = 0.0
    for loss in (1e-2, 1e-3, 1e-3, 1e-4, 1e-5, _SHARPEST):
        e = np.geomspace(low, high, _ZOOM)
        below, above = trial(e, loss * scale)
        proved = max(proved, *e[below >= at], 0.0)
        inside, outside = e[above >= at], e[above < at]
        # If all are on one side, the coarser values before were too coarse.
        wider = max(high / low, 1 + 4 * loss)
        low, high = (
            float(inside[-1]) if len(inside) else low / wider,
            float(outside[0]) if len(outside) else high * wider,
        )
        if not low < high:  # rounding has the last word
            low, high = high * (1 - 1e-9), low * (1 + 1e-9)
    e = np.geomspace(low, high, _ZOOM)
    below, above = trial(e, _SHARPEST * scale)
    proved = max(proved, *e[below >= at], 0.0)
    estimate, aim = float(np.interp(-at, -0.5 * (below + above), e)), float(np.interp(-at, -below, e))
    # What is left between the last two points: a chord of w(e), and a little less, with the best threshold that there is.
    ratio = _better_threshold(profile, aim, guess, _SHARPEST * scale)
    for steps in (_LAST_STEPS,) if ratio == 1.0 else (_FIRST_STEPS, _LAST_STEPS):
        e = aim * (1 + steps)
        t = ratio * thresholds(profile, e, np.full_like(e, guess))
        below, above = failure_bounds(profile, e, t, np.full_like(e, _SHARPEST * scale))
        proved = max(proved, *e[below >= at], 0.0)
        if ratio != 1.0:
            estimate = max(estimate, float(np.interp(-at, -np.minimum.accumulate(0.5 * (below + above)), e)))
            aim = float(np.interp(-at, -np.minimum.accumulate(below), e))
    lower = max(proved, linear)
    return LevelSetRadius(lower, max(estimate, lower) if w == at else lower)


def _better_threshold(profile: SphericalProfile, e: float, guess: float, loss: float) -> float:
    """Return by what to multiply the threshold at `e` for a larger w: the estimate of steep densities has few digits."""
    length = np.full(7, e)
    start, ratio = thresholds(profile, length, np.full_like(length, guess)), 1.0
    for width in (3e-2, 5e-3, 1e-3):
        ratios = ratio * (1 + width * np.linspace(-1, 1, 7))
        w, _ = failure_bounds(profile, length, start * ratios, np.full_like(length, loss))
        best, middle = int(np.argmax(w)), len(w) // 2
        if w[best] - w[middle] <= 10 * loss * min(w[middle], 0.5 - w[middle]):
            break
        ratio = float(ratios[best])
    return ratio


def _bracket(
    trial: Callable[[Array, float], tuple[Array, Array]], w: float, least: float, typical: float
) -> tuple[float, float]:
    """Return e on both sides of the radius at `w`, within a factor of 2 of each other if that is possible."""
    e = typical
    inside = bool(trial(np.array([e]), 1e-3)[1][0] >= w)
    step = 2.0 if inside else 0.5
    while LENGTHS[0] < e * step < LENGTHS[1]:
        e *= step
        if bool(trial(np.array([e]), 1e-3)[1][0] >= w) != inside:
            return (e / step, e) if inside else (e, e / step)
        step = step**1.25 if abs(math.log(step)) < 50 else step
    return (e, e * 2) if inside else (max(e, least), max(e, least) * 2)
