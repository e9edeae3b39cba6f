"""What the level-set method needs to know about a law whose density depends on the Euclidean length only."""

from abc import ABC, abstractmethod
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""float64 of any shape. Not a jaxtyping shape: these functions are called so often that checking it would dominate."""


class Course(Enum):
    """How psi' moves as r grows."""

    FALLS = "falls"
    RISES_THEN_FALLS = "rises, then falls"
    FALLS_THEN_RISES = "falls, then rises"


class SphericalProfile(ABC):
    """A density exp(-psi(r)) on R^d, r the Euclidean length, psi increasing from 0 to infinity.

    Its *growth* h(r) = r psi'(r) has to be positive and nondecreasing: log r then has a log-concave density
    proportional to exp(d log r - psi(r)), and ratios of h bound how fast the edge of a level set moves. exp(-r^k) r^-j,
    (1 + r^k)^-a and every log-concave spherical density are of this kind.

    Write the abstract members for a law of your own and hand it to `LevelSetCurve.build` of `smoothing.radius.curve`. Units
    are the profile's own. Profiles are hashable (frozen dataclasses, say): equal ones share intermediate results.

    Attributes:
        dimension: d, at least 1.
    """

    dimension: int

    @abstractmethod
    def potential(self, r: Array) -> Array:
        """Return psi(r), up to a constant, accurate to a few units in the last place of its largest term."""

    @abstractmethod
    def inverse_potential(self, value: Array) -> Array:
        """Return the r with psi(r) = value, and 0 where value is below psi(0); accurate to a few units in the last place."""

    @abstractmethod
    def growth(self, r: Array) -> Array:
        """Return h(r) = r psi'(r), positive and nondecreasing, accurate to a few units in the last place."""

    @abstractmethod
    def elasticity(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return bounds below and above on r h'(r) / h(r), which is not negative, for all r in [lower, upper].

        `upper` may be infinite; where nothing bounds it then, infinity or no number is a good answer.
        """

    @abstractmethod
    def cumulative(self, r: Array) -> tuple[Array, Array]:
        """Return P(|x| <= r) and P(|x| > r), each to a relative accuracy of 1e-11."""

    @abstractmethod
    def quantile(self, q: float, *, upper: bool) -> float:
        """Return an r with about the mass q below it, or above it if `upper`; no accuracy is relied upon."""

    @abstractmethod
    def mode(self) -> float:
        """Return the r with h(r) = d, to a relative accuracy of 1e-9: the mode of log |x|."""

    def mean_slope(self) -> float:
        """Return an upper bound on E psi'(|x|), infinite where it is infinite or not known (the default).

        No probability changes by more than E psi'(|x|) E|w_1| / 2 per unit of shift, w uniform on the sphere.
        """
        return float("inf")

    def convex_power(self) -> float | None:
        """Return an m > d for which exp(psi(r) / m) is convex in r, infinity where psi is; None (the default): no such m.

        The smaller m is, the closer the chords of a table; see `smoothing.radius.curve`.
        """
        return None

    def log_contraction(self, r: Array, t: Array) -> tuple[Array, Array]:
        """Return log(r / s) for the s with psi(s) = psi(r) - t (infinite where there is none), and a bound on its error.

        `r` and `t` have the same shape.

        The default subtracts; a profile overrides it where the difference is known without cancellation.
        """
        value = self.potential(r)
        with np.errstate(all="ignore"):
            s = self.inverse_potential(value - t)
            delta = np.where(s > 0, np.log(r) - np.log(s), np.inf)
            # An error of psi moves log s by that over h(s).
            moved = (np.abs(value) + np.abs(t)) / self.growth(np.minimum(r, s))
        return delta, np.where(s > 0, 2e-15 * (4.0 + np.abs(np.log(r)) + moved), 0.0)

    def course(self) -> Course | None:
        """Return how psi' moves, None (the default) where it does otherwise or is not known; used on the line only."""
        return None

    def turning_point(self) -> float:
        """Return the r at which psi' turns, where `course` says that it does, to a relative accuracy of 1e-13."""
        raise NotImplementedError(f"{type(self).__name__} does not say where psi' turns")

    def drop(self, r: Array, x: Array) -> tuple[Array, Array]:
        """Return psi(r) - psi(r exp(-x)) for x >= 0, and a bound on its error, r and x being right to a few roundings.

        The default subtracts; a profile overrides it where the difference is known without cancellation.
        """
        first, second = self.potential(r), self.potential(r * np.exp(-x))
        return first - second, 2e-15 * (np.abs(first) + np.abs(second) + self.growth(r))
