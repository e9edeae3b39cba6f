"""Integrals of the differential method in extended precision, sharing nothing with the package: for tests.

The density of y = log r is integrated by Gauss-Legendre panels in long double (64 bits of mantissa on x86), without any
special function, from which R = int f(y) / M(y) dy follows, with M the partial expectation of the score on the set whose
edge is at y.
"""

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

Long = np.longdouble
Array = np.ndarray
Function = Callable[[Array], Array]


def gauss_legendre(n: int) -> tuple[Array, Array]:
    """Nodes and weights on [-1, 1] in long double: numpy's, after two steps of Newton's method."""
    x = np.polynomial.legendre.leggauss(n)[0].astype(Long)
    for _ in range(3):
        before, here = np.ones_like(x), x
        for m in range(2, n + 1):
            before, here = here, ((2 * m - 1) * x * here - (m - 1) * before) / m
        slope = n * (x * here - before) / (x * x - 1)
        x = x - here / slope
    return x, 2 / ((1 - x * x) * slope * slope)


POINTS, WEIGHTS = gauss_legendre(24)


class Shells:
    """The law of y = log r by its log-density (up to a constant), and a positive score g of y, by its logarithm."""

    def __init__(self, log_density: Function, log_score: Function, mode: float, depth: float = 75.0) -> None:
        self.log_density, self.log_score, self.depth = log_density, log_score, depth
        self.top = log_density(Long(mode))
        left, right = self._edges(Long(mode), -1), self._edges(Long(mode), 1)
        self.edges = np.array([*left[:0:-1], *right], dtype=Long)
        self.parts = {kind: self._integrate(self.edges[:-1], self.edges[1:], kind) for kind in (0, 1)}
        total = self.parts[0].sum()
        self.top = self.top + np.log(total)
        self.parts = {kind: part / total for kind, part in self.parts.items()}

    def _edges(self, start: Any, sign: int) -> list[Any]:
        """From the mode outwards until the density, and it times the score, have fallen by exp(-depth)."""
        edges, step = [start], Long(1) / 64

        def levels(y: Any) -> Array:
            value = self.log_density(y)
            return np.array([value, value + self.log_score(y)])

        here = levels(start)
        highest = here
        while np.any(here > highest - self.depth):
            while True:
                end, middle = levels(edges[-1] + sign * step), levels(edges[-1] + sign * step / 2)
                if np.all(np.abs(end - here) < 4) and np.all(np.abs(middle - (end + here) / 2) < 0.5):
                    break
                step = step / 2
            edges.append(edges[-1] + sign * step)
            here, highest, step = end, np.maximum(highest, end), step * 2
        return edges

    def density(self, y: Array) -> Array:
        return np.exp(self.log_density(y) - self.top)

    def _integrate(self, low: Array, high: Array, kind: int) -> Array:
        """The integral of the density (kind 0), or of the score times it (kind 1), over each interval."""
        half = 0.5 * (high - low)
        y = 0.5 * (high + low)[..., None] + half[..., None] * POINTS
        level = self.log_density(y) - self.top + (self.log_score(y) if kind else 0)
        return np.asarray(half * (np.exp(level) @ WEIGHTS))

    def partial(self, y: Array, kind: int, below: bool) -> Array:
        """The integral up to y, or from y on, from the nearest edge and the panels beyond."""
        y = np.clip(y, self.edges[0], self.edges[-1])
        panel = np.clip(np.searchsorted(self.edges, y, side="right") - 1, 0, len(self.edges) - 2)
        part = self.parts[kind]
        if below:
            return np.concatenate(([Long(0)], np.cumsum(part)))[panel] + self._integrate(self.edges[panel], y, kind)
        beyond = np.append(np.cumsum(part[::-1])[::-1], Long(0))[panel + 1]
        return np.asarray(beyond + self._integrate(y, self.edges[panel + 1], kind))

    def quantile(self, share: Any, below: bool) -> Any:
        """The y with that share on one side; `share` is in long double, so that 1 - share keeps its digits."""
        small = share <= 0.5
        side, goal = (below, share) if small else (not below, 1 - share)
        low, high = self.edges[0], self.edges[-1]
        for _ in range(110):
            middle = (low + high) / 2
            more = self.partial(np.array([middle]), 0, side)[0] < goal
            low, high = (middle, high) if more == side else (low, middle)
        return (low + high) / 2

    def integrate(self, ratio: Function, low: Any, high: Any, cuts: Array) -> Any:
        inside = cuts[(cuts > low) & (cuts < high)]
        edges = np.concatenate(([low], inside, [high]))
        half = 0.5 * np.diff(edges)
        y = 0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * POINTS
        return np.sum(half * (ratio(y.ravel()).reshape(y.shape) @ WEIGHTS))

    def radius(self, q: Any, below: bool) -> Any:
        """R(q) where the sets of high score are {y <= c} (below), or {y >= c}, and the sign of the score is fair."""
        end = self.quantile(2 * q, below)

        def ratio(y: Array) -> Array:
            return np.asarray(self.density(y) / self.partial(y, 1, below))

        if below:
            return self.integrate(ratio, end, self.edges[-1], self.edges)
        return self.integrate(ratio, self.edges[0], end, self.edges)

    def radius_of_both_sides(self, q: Any, lowest: float) -> Any:
        """R(q) where they are {y <= c_1 or y >= c_2}, the score being least at `lowest`."""
        bottom = Long(lowest)

        def other(y: Array) -> Array:
            """The point on the other side of the same score."""
            goal, left = self.log_score(y), y < bottom
            far = np.where(left, self.edges[-1], self.edges[0])
            beyond = self.log_score(far) < goal
            low, high = np.where(left, bottom, far), np.where(left, far, bottom)
            for _ in range(75):
                middle = (low + high) / 2
                outside = (self.log_score(middle) > goal) == left
                low, high = np.where(outside, low, middle), np.where(outside, middle, high)
            return np.asarray(np.where(beyond, far, (low + high) / 2))

        def share(y: Array, kind: int) -> Array:
            z = other(y)
            return self.partial(np.minimum(y, z), kind, True) + self.partial(np.maximum(y, z), kind, False)

        low, high = bottom, self.edges[-1]
        goal = 2 * q
        inner = self.edges[0]
        # The edge of the set on the right, or, where all of it is on the left, that on the left.
        right = share(np.array([high]), 0)[0] < goal
        low, high = (bottom, high) if right else (inner, bottom)
        for _ in range(75):
            middle = (low + high) / 2
            more = share(np.array([middle]), 0)[0] > goal
            low, high = (middle, high) if more == right else (low, middle)
        end = (low + high) / 2
        ends = np.sort(np.array([end, other(np.array([end]))[0]]))
        cuts = np.unique(np.concatenate((self.edges, other(self.edges), [bottom])))
        return self.integrate(lambda y: self.density(y) / share(y, 1), ends[0], ends[1], cuts)


def exponential(d: int, k: float, j: float, depth: float = 75.0) -> Shells:
    """r of density r^(d-1-j) exp(-r^k), with the score (k r^k + j) / r."""
    power, pole = Long(k), Long(j)
    return Shells(
        lambda y: (d - pole) * y - np.exp(power * y),
        lambda y: (np.log(power) + power * y if not j else np.log(power * np.exp(power * y) + pole)) - y,
        math.log((d - j) / k) / k,
        depth,
    )


def power_law(d: int, a: float) -> Shells:
    """r of density r^(d-1) (1 + r)^-a, with the score a / (1 + r)."""
    tail = Long(a)
    return Shells(
        lambda y: d * y - tail * np.logaddexp(Long(0), y),
        lambda y: np.log(tail) - np.logaddexp(Long(0), y),
        math.log(d / (a - d)),
    )


def at_linf(d: int, k: float, j: float, depth: float = 75.0) -> Callable[[Any], Any]:
    """R of ExpInf at linf, and of Exp1 at l1."""
    if k == 1 and j == 0:
        return lambda q: -np.log(2 * q)
    shells = exponential(d, k, j, depth)
    if k > 1 and j > 0:
        lowest = math.log(j / (k * (k - 1))) / k
        return lambda q: shells.radius_of_both_sides(q, lowest)
    return lambda q: shells.radius(q, k <= 1)


def signed(d: int, k: float, depth: float = 75.0) -> Callable[[Any], Any]:
    """R of Exp1 at linf: the score is W S, W = k r^(k-1), and S a sum of d fair signs."""
    shells, rate = exponential(d, k, 0.0, depth), Long(k) - 1
    below = k < 1
    values = np.arange(2 - d % 2, d + 1, 2)
    mass = [mpmath.binomial(d, (d + int(s)) // 2) / mpmath.mpf(2) ** d for s in values]
    kept = [index for index, m in enumerate(mass) if m > mpmath.mpf("1e-40")]
    s, mass = values[kept].astype(Long), np.array([Long(mpmath.nstr(mass[index], 25)) for index in kept])
    centre = Long(mpmath.nstr(mpmath.binomial(d, d // 2) / mpmath.mpf(2) ** d, 25)) if d % 2 == 0 else Long(0)

    def edge(x: Array) -> Array:
        """log r at the edge of {W >= exp(x) / s}, for each s."""
        return np.asarray((x[:, None] - np.log(s) - np.log(Long(k))) / rate)

    def tail(x: Array, kind: int) -> Array:
        y = edge(x)
        return shells.partial(y.ravel(), kind, below).reshape(y.shape) @ (mass * s**kind)

    ends = np.log(Long(k)) + rate * shells.edges
    cuts = np.unique(np.concatenate([ends + at for at in np.log(s)]))
    # Edges of panels that nearly meet are one.
    cuts = cuts[np.concatenate(([True], np.diff(cuts) > 0.3 * np.diff(ends if rate > 0 else ends[::-1]).min()))]
    mean = shells.parts[1].sum() * np.sum(mass * s)

    def ratio(x: Array) -> Array:
        y = edge(x)
        inside = (y > shells.edges[0]) & (y < shells.edges[-1])
        density = np.where(inside, shells.density(np.clip(y, shells.edges[0], shells.edges[-1])), 0)
        return np.asarray(density @ mass / abs(rate) / tail(x, 1))

    def radius(q: Any) -> Any:
        flat = min(0.5 - q, centre / 2) / mean
        if 0.5 - q <= centre / 2:
            return flat
        low, high = cuts[0], cuts[-1]
        for _ in range(75):
            middle = (low + high) / 2
            low, high = (middle, high) if tail(np.array([middle]), 0)[0] > q else (low, middle)
        return flat + shells.integrate(ratio, cuts[0], (low + high) / 2, cuts)

    return radius
