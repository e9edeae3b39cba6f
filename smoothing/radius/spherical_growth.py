"""The growth integral of spherical laws along any direction: what two classes need, where level sets serve one.

Along a unit vector v the score of q = exp(-psi(|z|)) is Z = psi'(r) c, r = |z|, c = <v, z> / r the cosine of the angle
between them, which is independent of r and distributed like a coordinate of a point on the unit sphere. With

    h(a) = E(c - a)_+ = b (1 - a^2)^((d - 1) / 2) - a P(c >= a),    b = Gamma(d / 2) / (2 sqrt(pi) Gamma((d + 1) / 2)),

every threshold t >= 0 gives Phi(p) <= t p + H(t), H(t) = E psi'(r) h(t / psi'(r)) (weak duality; see
`smoothing.radius.differential`). The summand grows with psi', so that H is rounded up by cells of r: mass of the cell,
rounded up, times the summand at the largest psi' in it, which the elasticity of the growth r psi'(r) bounds. h is convex:
linear interpolation between points of it lies above. What lies outside all cells has its mean of psi' bounded: log r has a
log-concave density, that falls towards 0 at least as fast as r^D, D = d - s psi'(s), below s, and towards infinity likewise.

The radius of a single class is better by level sets, found for the whole shift at once; their radii of two classes may not
be averaged, those of this integral may.

Reference: Yang et al. 2020, Theorem 1 and Appendix (differential method); the rounding is our own.
"""

import math
from functools import lru_cache

import numpy as np
from scipy.special import betainc, ndtr

from smoothing.radius.differential import GrowthIntegral
from smoothing.radius.special import log_gamma_ratio
from smoothing.radius.spherical import Array, SphericalProfile

_FIRST_CELLS, _MOST_CELLS = 3000, 40_000
_ROUNDS = 10
_COARSE = 8
"""Cells that are taken together where shares are estimated."""

_CANDIDATES, _LINES = 1000, 900
_OUTSIDE = 1e-17
"""Mass that is left outside the cells on either side, about."""

_FURTHEST = 9.0
"""Largest x of the shares P(N(0, 1) > x) that lines are laid at: 1e-19."""

_REACH = (1e-200, 1e200)
"""Lengths between which cells lie at most."""

_LEAST_SLOPE = 1e-300
"""A slope below this has lost digits: it counts as this much."""

_MASS_ERROR = 1e-11
"""Of `SphericalProfile.cumulative`, relative."""

_CAP_ERROR = 2e-11
"""Of both parts of h, relative: incomplete beta functions, measured against mpmath below 5e-12."""


@lru_cache(maxsize=64)
def spherical_growth(profile: SphericalProfile) -> GrowthIntegral | None:
    """Return the growth integral of the score of a profile along a unit vector, in the profile's units.

    Of its bounds the lower one alone is proved. A second of work; None where E psi'(r) is infinite, or not found finite:
    then nothing is proved by it.

    Args:
        profile: The law.
    """
    cells = _cells(profile)
    if cells is None:
        return None
    mass, slope, typical, outside = cells
    a, above, share = _caps(profile.dimension)
    # Thresholds where shares are those of a normal law at equidistant points: any will do, these suit any score.
    top = float(slope.max())
    spread = float(np.sum(mass * slope)) / math.sqrt(profile.dimension)
    near = np.geomspace(1e-13, 0.5, _CANDIDATES // 2)  # where a score that is bounded has its mass
    candidates = np.concatenate((np.geomspace(min(1e-5 * spread, 1e-3 * top), top, _CANDIDATES), top * (1 - near)))
    candidates = np.unique(np.concatenate(([0.0], candidates)))
    groups = np.arange(0, len(mass), _COARSE)
    few = np.add.reduceat(mass, groups)
    shares = _means(candidates, np.add.reduceat(mass * typical, groups) / few, few, a, share)
    wanted = ndtr(-np.linspace(0.0, _FURTHEST, _LINES + 1)[1:])
    falls = np.concatenate(([True], np.diff(shares) < 0))
    logs = np.log(np.maximum(shares[falls], 1e-300))
    thresholds = np.interp(-np.log(wanted), -logs, candidates[falls])
    thresholds = np.unique(np.append(thresholds[(thresholds > 0) & (thresholds < top)], top))
    offsets = _means(thresholds, slope, mass * slope, a, above) + outside
    shares = np.interp(thresholds, candidates, shares)
    half_mean = float(_means(np.zeros(1), slope, mass * slope, a, above)[0]) + outside
    # In the order of rising shares; raised, a mean raises its line, which stays a bound.
    thresholds, offsets = thresholds[::-1], offsets[::-1] * (1 + 1e-11)
    shares = np.minimum(np.maximum.accumulate(shares[::-1]), 0.5)
    means = np.maximum.accumulate(offsets + thresholds * shares)
    half_mean = max(half_mean * (1 + 1e-11), float(means[-1]))
    if not (np.all(np.isfinite(means)) and np.isfinite(half_mean)):
        return None
    return GrowthIntegral(thresholds, shares, means, half_mean, error=1e-14)


def _means(t: Array, slope: Array, weight: Array, a: Array, values: Array) -> Array:
    """Return the sum of weight f(t / slope) over all cells for each of the thresholds, f given at the points `a`."""
    result = np.empty_like(t)
    for start in range(0, len(t), 64):
        with np.errstate(over="ignore"):
            part = t[start : start + 64, None] / slope[None, :]
        result[start : start + 64] = np.interp(part, a, values, right=0.0) @ weight
    return result


@lru_cache(maxsize=16)
def _caps(d: int) -> tuple[Array, Array, Array]:
    """Return points a in [0, 1], h(a) from above, and P(c >= a)."""
    if d == 1:
        a = np.array([0.0, 1.0])
        return a, np.array([0.5, 0.0]), np.array([0.5, 0.5])
    ends = 1.0 - np.geomspace(1e-13, 1.0, 6000)
    a = np.concatenate((np.linspace(0.0, 40.0, 12_000) / math.sqrt(d), ends, np.linspace(0.0, 1.0, 2000)))
    a = np.unique(a[a <= 1.0])
    rest = (1.0 - a) * (1.0 + a)
    b = math.exp(-log_gamma_ratio(d / 2, 0.5)) / (2.0 * math.sqrt(math.pi))  # logs of Gamma would cancel for a large d
    mean, share = b * rest ** ((d - 1) / 2), 0.5 * betainc((d - 1) / 2, 0.5, rest)
    above = np.maximum(mean - a * share, 0.0) + (_CAP_ERROR + 1e-15 * d) * (mean + a * share)
    return a, above, share


def _cells(profile: SphericalProfile) -> tuple[Array, Array, Array, float] | None:
    """Return masses and slopes of cells from above, slopes about their middles, and what E psi'/2 has outside them."""
    d = profile.dimension
    low = max(profile.quantile(_OUTSIDE, upper=False), _REACH[0])
    high = min(profile.quantile(_OUTSIDE, upper=True), _REACH[1])
    if not low < high:
        return None
    edges = np.geomspace(low, high, _FIRST_CELLS)
    for _ in range(_ROUNDS):
        mass, most, least, middle = _over(profile, edges)
        loss = mass * (most - least)
        wide = loss > max(float(np.sum(loss)) / len(loss), 1e-6 * float(np.sum(mass * most)) / len(loss))
        if len(edges) + np.count_nonzero(wide) > _MOST_CELLS or not np.any(wide):
            break
        edges = np.sort(np.concatenate((edges, np.sqrt(edges[:-1][wide] * edges[1:][wide]))))
    mass, most, least, middle = _over(profile, edges)
    # Outside: psi' = h(r) / r, and h moves by its elasticity at most.
    ends = np.array([edges[0], edges[-1]])
    (below, _), (_, above) = profile.cumulative(ends[:1]), profile.cumulative(ends[1:])
    growth = profile.growth(ends)
    with np.errstate(all="ignore"):
        flattest = float(profile.elasticity(np.zeros(1), ends[:1])[0][0])
        steepest = float(profile.elasticity(ends[1:], np.full(1, np.inf))[1][0])
    flattest = flattest if math.isfinite(flattest) else 0.0
    towards, away = d - float(growth[0]), float(growth[1]) - d
    # E (s / r)^(1 - elasticity) under a law of log r that is at least as steep as exp(D log r), and likewise beyond.
    near = _moment(towards, 1.0 - flattest)
    far = _moment(away, steepest - 1.0)
    outside = 0.5 * (growth[0] / ends[0] * float(below[0]) * near + growth[1] / ends[1] * float(above[0]) * far)
    if not (math.isfinite(outside) and np.all(np.isfinite(most))):
        return None
    kept = mass > 0
    return mass[kept], most[kept], middle[kept], outside * (1 + 1e-9)


def _moment(rate: float, power: float) -> float:
    """E exp(power x) for x of an exponential law, or one that is shorter; infinite where that is not known to be finite."""
    if power <= 0:
        return 1.0
    return rate / (rate - power) if rate > power * (1 + 1e-9) else math.inf


def _over(profile: SphericalProfile, edges: Array) -> tuple[Array, Array, Array, Array]:
    """Return the masses of the cells, from above, and psi' from above, from below and about in the middle."""
    below, above = profile.cumulative(edges)
    # Both ends of a cell may be off.
    from_left = np.diff(below) + _MASS_ERROR * (below[1:] + below[:-1])
    mass = np.minimum(from_left, -np.diff(above) + _MASS_ERROR * (above[1:] + above[:-1]))
    slope = np.maximum(profile.growth(edges) / edges, _LEAST_SLOPE)
    flattest, steepest = profile.elasticity(edges[:-1], edges[1:])
    ratio = edges[1:] / edges[:-1]
    first, last = slope[:-1], slope[1:]
    with np.errstate(over="ignore", invalid="ignore"):
        # log psi' moves by elasticity - 1 per log r: from the left end up, and from the right end up.
        most = np.fmin(first * ratio ** np.maximum(steepest - 1, 0), last * ratio ** np.maximum(1 - flattest, 0))
        least = np.fmax(first * ratio ** np.minimum(flattest - 1, 0), last * ratio ** np.minimum(1 - steepest, 0))
    return np.maximum(mass, 0.0), most * (1 + 1e-12), np.minimum(least, most), np.sqrt(first * last)
