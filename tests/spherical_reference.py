"""C(t, e) and w(e) of spherical laws by quadrature that shares nothing with the level-set method: for tests."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(10)


@dataclass(frozen=True)
class Density:
    """exp(-psi(|x|)) at scale 1 by y = log r: psi = r^k + j log r, or a log(1 + r^k) if a is given."""

    d: int
    k: float
    j: float = 0.0
    a: float | None = None

    def psi(self, y: np.ndarray) -> np.ndarray:
        if self.a is not None:
            return np.asarray(self.a * np.logaddexp(0.0, self.k * y))
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(self.k * y) + self.j * y)

    def log_share(self, y: np.ndarray) -> np.ndarray:
        """The log of the density of y, up to a constant."""
        return self.d * y - self.psi(y)

    def drop(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """psi(r) - psi(r exp(-x)), of either sign, without cancellation."""
        with np.errstate(over="ignore", invalid="ignore"):
            if self.a is not None:
                share = 1 / (1 + np.exp(-self.k * y))  # r^k / (1 + r^k)
                far = np.logaddexp(0.0, self.k * y) - np.logaddexp(0.0, self.k * (y - x))
                moved = np.expm1(-self.k * x) * share
                return np.asarray(self.a * np.where(np.abs(moved) < 0.5, -np.log1p(np.maximum(moved, -0.5)), far))
            return np.asarray(-np.exp(self.k * y) * np.expm1(-self.k * x) + self.j * x)

    def contraction(self, y: np.ndarray, t: float) -> np.ndarray:
        """The x with psi(r) - psi(r exp(-x)) = t, by bisection in log |x|; infinite where there is none."""
        sign = math.copysign(1.0, t)
        low, high = np.full_like(y, -710.0), np.full_like(y, 7.5)
        for _ in range(52 if len(y) > 100 else 64):
            middle = 0.5 * (low + high)
            value = sign * self.drop(y, sign * np.exp(middle))
            below = value < abs(t)  # not so where the value is not a number: beyond float64
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return sign * np.where(low > 7.4, np.inf, np.exp(0.5 * (low + high)))


class Reference:
    """The largest failure probability that a shift of length e forgives, to about 1e-8 of it.

    Logs of r end at 700: a law with more than 1e-9 of its mass beyond is none for it (exponents of the tail below .03).
    """

    def __init__(self, density: Density, e: float) -> None:
        self.density, self.e, self.d = density, e, density.d
        grid = np.linspace(-700.0, 700.0, 40_001)
        for _ in range(4):
            level = np.nan_to_num(density.log_share(grid), nan=-np.inf, neginf=-np.inf)
            inside = np.flatnonzero(level > level.max() - 42)
            low, high = grid[max(inside[0] - 1, 0)], grid[min(inside[-1] + 1, len(grid) - 1)]
            last, grid = (grid, level), np.linspace(low, high, 20_001)
        grid, level = last
        level = np.maximum(level, level.max() - 50)
        way = np.concatenate(([0.0], np.cumsum(np.diff(grid) / (high - low) + np.abs(np.diff(level)) / 84)))
        steep = max(1, round(density.k / 5))  # the corners of psi at |x| = 1 and |x - v| = 1 are as sharp as k is large
        panels = np.interp(np.linspace(0.0, way[-1], 300 * steep), way, grid)
        # Closer to r = e, where |x - v| may be small.
        aside = np.geomspace(1e-15, 30.0, 120 * steep)
        near = math.log(e) + np.concatenate((aside, -aside))
        self.edges = np.unique(np.concatenate((panels, near[(near > panels[0]) & (near < panels[-1])])))
        self.top = level.max()

    def _height(self, y: np.ndarray, t: float) -> np.ndarray:
        """V: the event is a cap of this height, between 0 and 1."""
        x = self.density.contraction(y, t)
        with np.errstate(over="ignore", invalid="ignore"):
            value = 0.5 + np.exp(y) / (4 * self.e) * np.expm1(-2 * x) - self.e / (4 * np.exp(y))
        return np.where(np.isnan(value), -np.inf if t > 0 else np.inf, value)

    def chance(self, t: float) -> float:
        """P(psi(|x|) - psi(|x - v|) > t): Gauss-Legendre between edges and the y at which V passes certain values."""
        edges, d = self.edges, self.d
        spread = 0.5 / math.sqrt(d + 2)
        levels = (0.0, 1.0) if d == 1 else (0.0, 1.0, *(v for i in range(-6, 7) if 0 < (v := 0.5 + i * spread) < 1))
        heights = self._height(edges, t)
        crossed = [(i, v) for v in levels for i in np.flatnonzero((heights[1:] > v) != (heights[:-1] > v))]
        if crossed:
            where, level = np.array([i for i, _ in crossed]), np.array([v for _, v in crossed])
            low, high, rising = edges[where], edges[where + 1], heights[where] <= level
            for _ in range(48):
                middle = 0.5 * (low + high)
                before = (self._height(middle, t) > level) != rising
                low, high = np.where(before, middle, low), np.where(before, high, middle)
            edges = np.unique(np.concatenate((edges, low)))
        # The substitution evens out the square roots at both ends of a panel that caps in the plane have.
        centre, half = 0.5 * (edges[1:] + edges[:-1])[:, None], 0.5 * np.diff(edges)[:, None]
        y = (centre + half * 0.5 * _POINTS * (3 - _POINTS**2)).ravel()
        weights = (half * 1.5 * (1 - _POINTS**2) * _WEIGHTS).ravel()
        mass = np.exp(self.density.log_share(y) - self.top) * weights
        v = np.clip(self._height(y, t), 0.0, 1.0)
        shape = (d - 1) / 2
        share = np.where(v >= 1, 1.0, np.where(v > 0, 0.5, 0.0)) if d == 1 else betainc(shape, shape, v)
        return float(mass @ share / mass.sum())

    def failure(self) -> float:
        """C(t, e) - e^-t (1/2 - C(-t, e)) at the threshold with C(-t, e) = 1/2, where it is largest."""
        low = high = -3.0
        while self.chance(-math.exp(low)) > 0.5 and low > -60.0:
            low -= 3.0
        while self.chance(-math.exp(high)) < 0.5 and high < 6.5:
            high += 1.0
        low, high = max(low, -60.0), max(high, low + 1.0)
        lead = [self.chance(-math.exp(at)) - 0.5 for at in (low, high)]
        log_t = low
        if lead[0] < 0 < lead[1]:
            log_t = brentq(lambda at: self.chance(-math.exp(at)) - 0.5, low, high, xtol=1e-5)
        return self.failure_at(math.exp(log_t))

    def failure_at(self, t: float) -> float:
        """The same at another threshold."""
        return self.chance(t) - math.exp(-t) * (0.5 - self.chance(-t))
