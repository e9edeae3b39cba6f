"""C(t, e) = P(psi(|x|) - psi(|x - v|) > t) for spherical noise x and a shift v of length e, between proved bounds.

Given |x| = r, the event is a cap of the sphere; with s = psi^-1(psi(r) - t) and I the regularised incomplete beta function,

    C = E I_V((d - 1)/2, (d - 1)/2),    V = 1/2 - (r^2 - s^2 + e^2) / (4 e r), clipped to [0, 1].

The expectation is a sum over cells in y = log r. On a cell, I_V is bounded below by its value at the least V and by the two
lines through its ends with the extreme slopes that interval arithmetic allows, averaged over y with bounds on the mean of a
log-concave density. Cells are halved where the bounds above and below are far apart. All pairs (t, e) of a call go through
together, so that the work is done by few operations on long arrays.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln

from smoothing.radius.spherical import Array, SphericalProfile

SPECIAL_SLACK = 2e-11
"""Relative allowance for gammainc, gammaincc and betainc; their measured errors are below 1e-12 in the ranges used."""

_ROUNDS = 40
_TAIL = 1e-20
_MOST_CELLS = 40_000
_BATCH = 64
_THREADS = 2
"""More gain nothing: what remains runs under the interpreter's lock."""

# Rows of an array of points: what is known at the ends of cells, so that halving a cell computes its middle only.
_Y, _R, _BELOW, _ABOVE, _LOG_DENSITY, _V, _ERROR, _DELTA, _SPREAD, _SHARE_LOW = range(10)


@dataclass(frozen=True)
class Caps:
    """V, its slope and the share of the sphere for pairs (t, e) of a profile, at as many values of log r.

    Attributes:
        profile: The law.
        t: Log of the density ratio at the edge of the set.
        e: Length of the shift.
    """

    profile: SphericalProfile
    t: Array
    e: Array

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
            moved = np.where(np.isfinite(delta), r / (4 * self.e) * np.exp(-2 * delta) * np.expm1(2 * error), 0.0)
        return 0.5 + first - second, 4e-15 * (0.5 + np.abs(first) + second) + moved, delta, error

    def estimate(self, r: Array) -> Array:
        """Return the share at each r without regard to rounding."""
        v, *_ = self.height(r)
        return self.share(np.where(np.isnan(v), np.where(self.t > 0, 0.0, 1.0), v))

    def density(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return bounds on the derivative of I_V for V in [lower, upper], where it exists."""
        ends = _beta_density(self.shape, np.clip(lower, 0.0, 1.0)), _beta_density(self.shape, np.clip(upper, 0.0, 1.0))
        low, high = np.minimum(*ends), np.maximum(*ends)
        middle = float(_beta_density(self.shape, np.array([0.5]))[0])
        inside = (lower < 0.5) & (upper > 0.5)
        low, high = np.where(inside, np.minimum(low, middle), low), np.where(inside, np.maximum(high, middle), high)
        # Outside [0, 1] the share is constant.
        low = np.where((lower < 0) | (upper > 1), 0.0, low)
        high = np.where((lower >= 1) | (upper <= 0), 0.0, high)
        return low * (1 - 1e-8), high * (1 + 1e-8)

    def points(self, y: Array) -> Array:
        """Return the rows of what is known at each y."""
        profile = self.profile
        # Neighbouring pairs (t, e) halve the same cells: the law's own numbers are computed once for all of them.
        distinct, place = np.unique(y, return_inverse=True)
        r = np.exp(distinct)
        below, above = profile.cumulative(r)
        own = np.stack((r, below, above, _log_density(profile, distinct)))[:, place]
        v, error, delta, spread = self.height(own[0])
        with np.errstate(invalid="ignore"):
            low = v - error
        return np.stack((y, *own, v, error, delta, spread, self.share(low)))

    def cells(self, left: Array, right: Array) -> tuple[Array, Array]:
        """Return a bound below and an estimate from above of E[I_V; log r in cell] for each cell.

        Args:
            left: `points` of the lower ends.
            right: `points` of the upper ends.
        """
        profile, e = self.profile, self.e
        y0, y1, r0, r1 = left[_Y], right[_Y], left[_R], right[_R]
        width = y1 - y0
        mass = _masses(left, right)
        v0, v1, d0, d1 = left[_V], right[_V], left[_DELTA], right[_DELTA]
        spread0, spread1 = left[_SPREAD], right[_SPREAD]
        # log(r / s) is monotone, falling for t > 0 and rising for t < 0, because h is nondecreasing.
        with np.errstate(all="ignore"):
            d_low, d_high = np.minimum(d0 - spread0, d1 - spread1), np.maximum(d0 + spread0, d1 + spread1)
            # s rises with r.
            s = r0 * np.exp(-d0 - spread0) * (1 - 1e-14), r1 * np.exp(-d1 + spread1) * (1 + 1e-14)
            square = np.expm1(-2 * d_high), np.expm1(-2 * d_low)
            growth = self._growth_ratio(left, right, s, (d_low, d_high))
            bend = _corners(
                (2 * np.exp(-2 * d_high), 2 * np.exp(-2 * d_low)), (np.expm1(growth[0]), np.expm1(growth[1]))
            )
            gone = np.isposinf(d_low)  # no s in all of the cell: V = 1/2 - (r^2 + e^2) / (4 e r)
            bend = np.where(gone, 0.0, bend[0]), np.where(gone, 0.0, bend[1])
            size = r0 / (4 * e), r1 / (4 * e)
            moving = _corners(size, (square[0] + bend[0], square[1] + bend[1]))
            near_e, far_e = e / (4 * r0), e / (4 * r1)
            slope_low, slope_high = moving[0] + far_e, moving[1] + near_e
            allowance = 1e-9 * (np.abs(moving[0]) + np.abs(moving[1]) + near_e)
            slope_low, slope_high = slope_low - allowance, slope_high + allowance
            slope_low = np.where(np.isnan(slope_low), -np.inf, slope_low)
            slope_high = np.where(np.isnan(slope_high), np.inf, slope_high)
            plain = _corners(size, square)
            v_low = np.fmax(
                0.5 + plain[0] - near_e,
                np.fmax(v0 + np.minimum(slope_low, 0) * width, v1 - np.maximum(slope_high, 0) * width),
            )
            v_high = np.fmin(
                0.5 + plain[1] - far_e,
                np.fmin(v0 + np.maximum(slope_high, 0) * width, v1 - np.minimum(slope_low, 0) * width),
            )
        error = np.maximum(left[_ERROR], right[_ERROR])
        with np.errstate(invalid="ignore"):
            v_low = np.minimum(v_low, np.minimum(v0, v1)) - error
            v_high = np.maximum(v_high, np.maximum(v0, v1)) + error
        v_low = np.where(np.isnan(v_low), -np.inf, v_low)
        v_high = np.where(np.isnan(v_high), np.inf, v_high)
        lower = self.share(v_low)
        if profile.dimension == 1:
            upper = self.share(v_high)
        else:
            first, second = left[_SHARE_LOW], right[_SHARE_LOW]
            with np.errstate(all="ignore"):
                slope = _corners(self.density(v_low, v_high), (slope_low, slope_high))
                near, far = _mean_fraction(profile, left, right)
                rise_low = np.where(slope[0] < 0, far, near) * slope[0] * width
                fall_low = -np.where(slope[1] > 0, far, near) * slope[1] * width
                rise_high = np.where(slope[1] > 0, far, near) * slope[1] * width
                fall_high = -np.where(slope[0] < 0, far, near) * slope[0] * width
                linear = 0.5 * ((first + second) * (1 - 3 * SPECIAL_SLACK) + rise_low + fall_low)
                lower = np.fmax(lower, linear)
                upper = np.fmin(0.5 * (first + second + rise_high + fall_high), 1.0)
            upper = np.where(v_high <= 0, 0.0, upper)
        return mass * lower * (1 - 5 * SPECIAL_SLACK), mass * np.maximum(upper, lower)

    def _growth_ratio(
        self, left: Array, right: Array, s: tuple[Array, Array], delta: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        """Return bounds on L = log(h(r) / h(s)) in each cell.

        L is the integral of the elasticity from log s to log r; it is also known at both ends, from where it moves at the
        rate of eta(r) - eta(s) h(r) / h(s), as log s moves at the rate of h(r) / h(s).
        """
        profile = self.profile
        r0, r1, width = left[_R], right[_R], right[_Y] - left[_Y]
        between = profile.elasticity(np.minimum(r0, s[0]), np.maximum(r1, s[1]))
        low, high = _corners(between, delta)
        product = _corners(profile.elasticity(*s), (np.exp(low), np.exp(high)))
        own = profile.elasticity(r0, r1)
        rate = np.minimum(own[0] - product[1], 0.0), np.maximum(own[1] - product[0], 0.0)
        for end, r in ((left, r0), (right, r1)):
            over, under = (np.log(profile.growth(at)) for at in (r, r * np.exp(-end[_DELTA])))
            error = 2e-15 * (8 + between[1] + np.abs(over) + np.abs(under)) + 2 * between[1] * end[_SPREAD]
            back, ahead = (rate[0], rate[1]) if end is left else (-rate[1], -rate[0])
            low = np.fmax(low, over - under - error + back * width)
            high = np.fmin(high, over - under + error + ahead * width)
        return low, high


def caps_bounds(
    profile: SphericalProfile, t: Array, e: Array, tolerance: Array, relative: Array | float = 0.0
) -> tuple[Array, Array]:
    """Return C(t, e) from below, proved, and from above, up to rounding, for each of n pairs.

    Args:
        profile: The law.
        t: Logs of the density ratio, [n].
        e: Lengths of the shift, positive, in the profile's units, [n].
        tolerance: Distances between the two bounds to aim at, [n]; they are sound whatever it is.
        relative: A distance that will do as well, as a share of the smaller of C and 1/2 - C, [n] or one for all.
    """
    relative = np.broadcast_to(np.asarray(relative, dtype=np.float64), t.shape)
    parts = [slice(i, i + _BATCH) for i in range(0, len(t), _BATCH)]

    def bounds(part: slice) -> tuple[Array, Array]:
        return _batch(profile, t[part], e[part], tolerance[part], relative[part])

    if len(parts) == 1:
        return bounds(parts[0])
    # Most of the time goes to special functions, which numpy runs without the interpreter's lock.
    with ThreadPoolExecutor(min(len(parts), _THREADS)) as pool:
        results = list(pool.map(bounds, parts))
    return np.concatenate([low for low, _ in results]), np.concatenate([high for _, high in results])


class _Rows:
    """A growing matrix: rows of numbers, or one row, whose columns are appended in place."""

    def __init__(self, first: Any) -> None:
        self.size = 0
        self._all = np.empty((*first.shape[:-1], 4 * first.shape[-1]), dtype=first.dtype)
        self.append(first)

    @property
    def now(self) -> Any:
        """All columns so far."""
        return self._all[..., : self.size]

    def append(self, more: Any) -> None:
        size = self.size + more.shape[-1]
        if size > self._all.shape[-1]:
            larger = np.empty((*self._all.shape[:-1], 2 * size), dtype=self._all.dtype)
            larger[..., : self.size] = self.now
            self._all = larger
        self._all[..., self.size : size] = more
        self.size = size


def _batch(profile: SphericalProfile, t: Array, e: Array, tolerance: Array, relative: Array) -> tuple[Array, Array]:
    n, edges = len(t), first_edges(profile)
    count_edges = len(edges)
    each = np.repeat(np.arange(n), count_edges)
    points = _Rows(Caps(profile, t[each], e[each]).points(np.tile(edges, n)))
    # Cells name their ends by columns of the points: halving a cell moves its upper end and appends one cell.
    start = np.delete(np.arange(n * count_edges), np.arange(1, n + 1) * count_edges - 1)
    job, left, right = _Rows(each[start]), _Rows(start), _Rows(start + 1)
    first, last = points.now[:, start], points.now[:, start + 1]
    low, high = (_Rows(part) for part in Caps(profile, t[each[start]], e[each[start]]).cells(first, last))
    open_ = np.ones(n, dtype=bool)
    lower, upper = np.zeros(n), np.zeros(n)
    for index in range(_ROUNDS + 1):
        jobs, lows, highs = job.now, low.now, high.now
        count = np.bincount(jobs, minlength=n)
        # A sum of positive numbers, rounded down.
        total, top = np.bincount(jobs, lows, n) * (1 - (count + 10) * 2.0**-52), np.bincount(jobs, highs, n)
        lower[open_], upper[open_] = total[open_], top[open_]
        known, possible = np.minimum(lower, 0.5 - upper), np.minimum(upper, 0.5 - lower)
        # As long as C itself is open, no cell needs to be better than a hundredth of what may come out.
        aim = np.maximum(tolerance, relative * np.maximum(known, 0.01 * possible))
        open_ &= (upper - lower > np.maximum(tolerance, relative * known)) & (count <= _MOST_CELLS)
        if not open_.any() or index == _ROUNDS:
            break
        enough = np.where(open_, np.minimum(aim / 1500, 0.5 * (upper - lower) / count), np.inf)
        chosen = np.flatnonzero(highs - lows > enough[jobs])
        y0, y1 = points.now[_Y, left.now[chosen]], points.now[_Y, right.now[chosen]]
        wide = y1 - y0 > 1e-13 * (1 + np.abs(y0))
        chosen, middle = chosen[wide], 0.5 * (y0 + y1)[wide]
        if not len(chosen):
            break
        parent, begin, end = jobs[chosen], left.now[chosen], right.now[chosen]
        between = np.arange(len(chosen)) + points.size
        points.append(Caps(profile, t[parent], e[parent]).points(middle))
        parents = np.concatenate((parent, parent))
        halves = points.now[:, np.concatenate((begin, between))], points.now[:, np.concatenate((between, end))]
        more_low, more_high = Caps(profile, t[parents], e[parents]).cells(*halves)
        half = len(chosen)
        right.now[chosen], lows[chosen], highs[chosen] = between, more_low[:half], more_high[:half]
        for rows, more in (
            (job, parent),
            (left, between),
            (right, end),
            (low, more_low[half:]),
            (high, more_high[half:]),
        ):
            rows.append(more)
    return lower, upper


def caps_from_below(profile: SphericalProfile, t: float, e: float, tolerance: float) -> float:
    """Return a proved lower bound on C(t, e), aiming at a loss of about `tolerance`.

    Args:
        profile: The law.
        t: Log of the density ratio.
        e: Length of the shift, positive, in the profile's units.
        tolerance: Absolute loss aimed at; the bound is sound whatever it is.
    """
    one = np.ones(1)
    return float(caps_bounds(profile, t * one, e * one, tolerance * one)[0][0])


def _masses(left: Array, right: Array) -> Array:
    """Return lower bounds on the masses of the cells."""
    near = right[_BELOW] < left[_ABOVE]
    small, large = np.where(near, left[_BELOW], right[_ABOVE]), np.where(near, right[_BELOW], left[_ABOVE])
    result: Array = np.maximum(large * (1 - SPECIAL_SLACK) - small * (1 + SPECIAL_SLACK), 0.0)
    return result


def _mean_fraction(profile: SphericalProfile, left: Array, right: Array) -> tuple[Array, Array]:
    """Return bounds on (E y - y0) / (y1 - y0) in a cell, from the extremes of the log-concave density of y.

    A density between m and M has its mean between the shares 1 / (1 + sqrt(M / m)) and one minus that: the extreme
    one jumps from m to M once.
    """
    low, high = left[_LOG_DENSITY], right[_LOG_DENSITY]
    mode, peak = _peak(profile)
    # Wider by far than the error of the mode.
    around = (left[_Y] - 1e-8 < mode) & (mode < right[_Y] + 1e-8)
    top = np.maximum(low, high)
    top = np.where(around, np.maximum(top, peak), top)
    # The terms d y and psi of the densities cancel.
    rounding = 1e-9 + 4e-15 * (profile.dimension * (1 + np.abs(left[_Y]) + np.abs(right[_Y])) + np.abs(top))
    ratio = np.exp(0.5 * (top - np.minimum(low, high)) + rounding)
    return 1 / (1 + ratio), ratio / (1 + ratio)


@lru_cache(maxsize=64)
def _peak(profile: SphericalProfile) -> tuple[float, float]:
    """The mode of y = log |x| and the log of its density there."""
    mode = math.log(profile.mode())
    return mode, float(_log_density(profile, np.array([mode]))[0])


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
    low, high = (
        pick(pick(products[0], products[1]), pick(products[2], products[3])) for pick in (np.minimum, np.maximum)
    )
    unknown = np.isnan(low)  # minimum and maximum both pass on what is not a number
    return np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)


@lru_cache(maxsize=64)
def first_edges(profile: SphericalProfile, widest: float = 8.0) -> NDArray[np.float64]:
    """Return edges of the first cells in log r, no wider than `widest`: quantiles, far into both tails."""
    tails = np.concatenate((10.0 ** np.arange(math.log10(_TAIL), -1.0, 1.0), np.linspace(0.1, 0.5, 13)))
    below = [profile.quantile(float(q), upper=False) for q in tails]
    above = [profile.quantile(float(q), upper=True) for q in tails[::-1]]
    values = np.unique(np.array([r for r in (*below, *above) if 1e-290 < r < 1e290]))
    edges = np.log(values)
    # A tail may stretch over many decades.
    pieces = [np.linspace(a, b, 2 + int((b - a) // widest))[:-1] for a, b in pairwise(edges)]
    return np.concatenate((*pieces, edges[-1:]))


@lru_cache(maxsize=64)
def quadrature(profile: SphericalProfile, points: int) -> tuple[Array, Array]:
    """Return nodes r and weights for estimates: Gauss-Legendre in the cells of `first_edges`."""
    edges = first_edges(profile, 1.0)
    at, weights = np.polynomial.legendre.leggauss(points)
    half = 0.5 * np.diff(edges)[:, None]
    y = (0.5 * (edges[1:] + edges[:-1])[:, None] + half * at).ravel()
    log_density = _log_density(profile, y)
    density = np.exp(log_density - log_density.max()) * (half * weights).ravel()
    return np.exp(y), density / density.sum()
