"""int dp / Phi(p) between chords and tangents, for scores whose growth function has no integral of one variable.

For the score Z along the worst direction, Phi(p) = E[Z; Z >= z] at p = P(Z >= z): concave in p, of slope z. Between two
points of it Phi lies above the chord and below both tangents, which encloses R(q), the integral from q to 1/2. The
points come from the tables of `certify.audit.densities`; everything is for scale 1.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from certify.audit.densities import LogConcave
from certify.audit.exact import context
from certify.audit.level_sets import ExponentialProfile

ALLOWANCE = 1e-10
"""Of the points' coordinates, relative, and more than the tables' error."""

_GAP = 2e-7
"""Relative distance between chords and tangents, cell by cell, that more points are put in for."""

_ROUNDS, _MOST_POINTS = 30, 20_000
_LEAST = 1e-27

Points = Callable[[Any], tuple[Any, Any]]
"""Thresholds z, falling, to P(Z >= z) and E[Z; Z >= z]."""


class Growth:
    """R(q) of one score, enclosed.

    Args:
        points: The points of Phi.
        thresholds: Where to begin, falling and positive.
        half_mean: E|Z| / 2 = Phi(1/2).
        bottom: Threshold at which P(Z >= z) = 1/2: 0, or the least value of |Z|.
    """

    def __init__(self, points: Points, thresholds: Any, half_mean: float, bottom: float) -> None:
        import numpy as np

        z, (p, phi) = thresholds, points(thresholds)
        for _ in range(_ROUNDS):
            kept = (p > _LEAST) & (phi > 0) & (p < 0.5)
            z, p, phi = z[kept], p[kept], phi[kept]
            ends = [np.append(array, end) for array, end in ((z, bottom), (p, 0.5), (phi, half_mean))]
            low, high = _cells(*ends)
            apart = (ends[0][1:] < ends[0][:-1] * (1 - 1e-9)) & (np.diff(ends[1]) > 1e-12 * ends[1][:-1])
            wide = apart & (high - low > _GAP * high)
            if not wide.any() or len(z) > _MOST_POINTS:
                break
            upper, lower = ends[0][:-1][wide], ends[0][1:][wide]
            middle = np.where(lower > 0, np.sqrt(upper * np.maximum(lower, 1e-300)), 0.5 * upper)
            more_p, more_phi = points(middle)
            z, p, phi = (np.concatenate(pair) for pair in ((z, middle), (p, more_p), (phi, more_phi)))
            order = np.argsort(-z)
            z, p, phi = z[order], p[order], phi[order]
        self._z, self._p, self._phi = ends
        # From each point on, to p = 1/2.
        self._low = np.append(np.cumsum(low[::-1])[::-1], 0.0)
        self._high = np.append(np.cumsum(high[::-1])[::-1], 0.0)

    def radius(self, q: float) -> tuple[float, float]:
        """Return bounds below and above on R(q), 0 < q < 1/2."""
        import numpy as np

        z, p, phi = self._z, self._p, self._phi
        at = int(np.searchsorted(p, q, side="right"))  # p[at] is the first point beyond q
        if at == 0:
            # Phi(p) is above the chord from the origin, and below its value at the first point.
            low, high = (p[0] - q) / phi[0] + self._low[0], p[0] / phi[0] * math.log(p[0] / q) + self._high[0]
        else:
            # Part of a cell: its chord, and its tangents, taken from q on.
            width, rest = p[at] - p[at - 1], p[at] - q
            inner = phi[at] - (phi[at] - phi[at - 1]) * (rest / width)
            first = phi[at - 1] + z[at - 1] * (q - p[at - 1])
            low = float(_tangents(first, z[at - 1], phi[at], z[at], rest)) + self._low[at]
            high = float(_logarithmic(inner, phi[at], rest)) + self._high[at]
        # The points may lie beside the curve by the allowance, in p as in Phi.
        spare = 2 * ALLOWANCE / phi[-1]
        return max(low * (1 - 4 * ALLOWANCE) - spare, 0.0), high * (1 + 4 * ALLOWANCE) + spare


def _logarithmic(first: Any, last: Any, width: Any) -> Any:
    """Return the integral of 1 / f over `width`, f linear from `first` to `last`."""
    import numpy as np

    ratio = (last - first) / first
    with np.errstate(divide="ignore", invalid="ignore"):
        return width / first * np.where(np.abs(ratio) > 1e-9, np.log1p(ratio) / ratio, 1 - 0.5 * ratio)


def _tangents(first: Any, steep: Any, last: Any, flat: Any, width: Any) -> Any:
    """Return the integral of 1 / f, f the lower of the line of slope `steep` from `first` and that of `flat` to `last`."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        # first + steep x = last - flat (width - x)
        x = np.where(steep > flat, (last - flat * width - first) / (steep - flat), 0.0)
    x = np.clip(np.where(np.isfinite(x), x, 0.0), 0.0, width)
    top = np.maximum(last - flat * (width - x), first)
    return _logarithmic(first, top, x) + _logarithmic(top, np.maximum(last, top), width - x)


def _cells(z: Any, p: Any, phi: Any) -> tuple[Any, Any]:
    """Return bounds below and above on the integral over each cell."""
    import numpy as np

    width = np.maximum(np.diff(p), 0.0)
    high = _logarithmic(phi[:-1], np.maximum(phi[1:], phi[:-1]), width)
    return np.minimum(_tangents(phi[:-1], z[:-1], phi[1:], z[1:], width), high), high


def _radial(power: float, k: float) -> tuple[LogConcave, float]:
    """The law of log r with r^k of the Gamma(power) law, about the log of its mode, and that log."""
    profile = ExponentialProfile(0, k, -power * k)
    return LogConcave(profile.log_density, profile.slope), math.log(profile.mode)


def _gamma_ratio(x: float, y: float) -> float:
    mp = context()
    return float(mp.exp(mp.loggamma(mp.mpf(x)) - mp.loggamma(mp.mpf(y))))


def _beyond(law: LogConcave, u: Any, k: float) -> Any:
    """P(U > u) where the score grows with u, for k > 1, else P(U <= u)."""
    return law.upper(u) if k > 1 else law.lower(u)


@lru_cache(maxsize=16)
def diamond_growth(dimension: int, k: float) -> Growth:
    """Return the growth of exp(-||z||_1^k) at linf: Z = W S, W = k r^(k-1), S the sum of `dimension` fair signs, k not 1.

    Given S = s > 0, {Z >= z} is {W >= z / s}: far shells for k > 1, near ones for k < 1.
    """
    import numpy as np

    d, mp = dimension, context()
    plain, plain_mode = _radial(d / k, k)
    tilted, tilted_mode = _radial((d + k - 1) / k, k)
    mean = k * _gamma_ratio((d + k - 1) / k, d / k)
    # P(S = s) for s = 2 b - d > 0, from the middle outwards.
    b = np.arange(d // 2 + 1, d + 1, dtype=np.float64)
    middle = float(mp.exp(mp.loggamma(d + 1) - mp.loggamma(d // 2 + 2) - mp.loggamma(d - d // 2) - d * mp.log(2)))
    mass = middle * np.concatenate(([1.0], np.cumprod((d - b[:-1]) / (b[:-1] + 1))))
    kept = mass > 1e-60
    s, mass = (2 * b - d)[kept], mass[kept]

    def points(z: Any) -> tuple[Any, Any]:
        share, moment = np.empty_like(z), np.empty_like(z)
        for start in range(0, len(z), 128):
            rows = slice(start, start + 128)
            with np.errstate(over="ignore"):
                log_r = (np.log(z[rows, None]) - np.log(k * s)) / (k - 1)
            share[rows] = _beyond(plain, log_r - plain_mode, k) @ mass
            moment[rows] = mean * (_beyond(tilted, log_r - tilted_mode, k) @ (s * mass))
        return share, moment

    with np.errstate(under="ignore"):
        w = np.exp(math.log(k) + (k - 1) * (plain_mode + plain.levels(200)))
    values = np.unique(np.concatenate([s[at] * w for at in (0, len(s) // 2, len(s) - 1)]))[::-1]
    thresholds = values[values > 1e-280]
    # Two more below all of them: from there on to p = 1/2 (the share of S = 0) Phi is constant.
    thresholds = np.append(thresholds, [1e-8 * thresholds[-1], 1e-16 * thresholds[-1]])
    return Growth(points, thresholds, mean * float(s @ mass), 0.0)


@lru_cache(maxsize=16)
def cube_growth(dimension: int, k: float, j: float) -> Growth:
    """Return the growth of exp(-r^k) / r^j, r = ||z||_inf, at linf for k > 1 and 0 < j < d - 1.

    The score is g(r) = j / r + k r^(k-1) with a fair sign; g falls and then rises, so that {g >= c} is {r <= r_1} together
    with {r >= r_2}.
    """
    import numpy as np

    d = dimension
    plain, plain_mode = _radial((d - j) / k, k)
    near, near_mode = _radial((d - j - 1) / k, k)
    far, far_mode = _radial((d - j + k - 1) / k, k)
    near_mean = j * _gamma_ratio((d - j - 1) / k, (d - j) / k)
    far_mean = k * _gamma_ratio((d - j + k - 1) / k, (d - j) / k)
    log_bottom = math.log(j / (k * (k - 1))) / k

    def log_score(log_r: Any) -> Any:
        return np.logaddexp(math.log(j) - log_r, math.log(k) + (k - 1) * log_r)

    def root(log_c: Any, side: float) -> Any:
        inner, outer = np.zeros_like(log_c), np.full_like(log_c, 1e-3)
        while (short := log_score(log_bottom + side * outer) < log_c).any():
            outer = np.where(short, 2 * outer, outer)
        for _ in range(70):
            middle = 0.5 * (inner + outer)
            below = log_score(log_bottom + side * middle) < log_c
            inner, outer = np.where(below, middle, inner), np.where(below, outer, middle)
        return log_bottom + side * outer

    def points(z: Any) -> tuple[Any, Any]:
        first, second = root(np.log(z), -1.0), root(np.log(z), 1.0)
        share = plain.lower(first - plain_mode) + plain.upper(second - plain_mode)
        moment = near_mean * (near.lower(first - near_mode) + near.upper(second - near_mode))
        moment += far_mean * (far.lower(first - far_mode) + far.upper(second - far_mode))
        return 0.5 * share, 0.5 * moment

    log_z = np.unique(log_score(plain_mode + plain.levels(800)))[::-1]
    bottom = float(np.exp(log_score(np.array([log_bottom])))[0])
    thresholds = np.exp(log_z[log_z > math.log(bottom) + 1e-9])
    return Growth(points, thresholds, 0.5 * (near_mean + far_mean), bottom)
