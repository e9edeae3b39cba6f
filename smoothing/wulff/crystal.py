"""The Wulff crystal of a norm, in closed form or as a zonotope."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import gammaln, poch

from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm
from smoothing.wulff.polytope import check_dimension, half_of_vertices, unit_ball_vertices
from smoothing.wulff.zonotope import Zonotope

LARGEST_EXACT_SIGN_DIMENSION = 6
"""Up to here the crystal of linf is computed as a zonotope of 2^(d - 1) segments (at 7 its volume has 6e8 terms)."""


@dataclass(frozen=True)
class WulffCrystal(ABC):
    """The convex body whose support function is ||x||_* = E |<x, y>|, y uniform on the vertices of a norm's unit ball.

    (On the unit sphere, if the ball is round.) It is the unit ball of the norm dual to ||.||_*. Among all sets of a
    given volume, the set of its shape loses least when it is moved by a random vertex of the ball (Wulff 1901; Taylor
    1978), which is why noise with such level sets is the best at p = 1/2: see `smoothing.wulff.bound`.

    Attributes:
        dimension: d, at least 1.

    Raises:
        InvalidArgumentError: If the dimension is below 1.

    Reference: Yang et al. 2020.
    """

    dimension: int

    def __post_init__(self) -> None:
        check_dimension(self.dimension)

    @abstractmethod
    def support(self, x: Float64[ndarray, "*batch dimension"]) -> Float64[ndarray, "*batch"]:
        """Return ||x||_*, the largest <x, z> over all z in the crystal."""

    @property
    @abstractmethod
    def log_volume(self) -> float:
        """Logarithm of the volume."""

    @property
    def log_volume_lower(self) -> float:
        """A lower bound on `log_volume`, for crystals whose volume is out of reach."""
        return self.log_volume

    @property
    def volume(self) -> float:
        """The volume; infinity or 0 where float64 cannot hold it."""
        return float(np.exp(self.log_volume))


@dataclass(frozen=True)
class CubeCrystal(WulffCrystal):
    """The crystal of l1: the cube of half-width 1/d, since ||x||_* = ||x||_1 / d."""

    def support(self, x: Float64[ndarray, "*batch dimension"]) -> Float64[ndarray, "*batch"]:
        """Return ||x||_1 / d."""
        return np.asarray(np.abs(x).sum(-1) / self.dimension)

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume, d log(2 / d)."""
        return self.dimension * math.log(2.0 / self.dimension)


@dataclass(frozen=True)
class BallCrystal(WulffCrystal):
    """The crystal of l2: a ball, whose radius is the mean of |y_1| for y uniform on the sphere.

    Gamma(d/2) / (sqrt(pi) Gamma((d + 1)/2)): 1 for d = 1, 2 / pi for d = 2, 1/2 for d = 3.
    """

    @property
    def radius(self) -> float:
        """Radius of the ball."""
        # The ratio of the gammas in one go: a difference of their logarithms would lose digits at large d.
        return float(1.0 / (math.sqrt(math.pi) * poch(self.dimension / 2, 0.5)))

    def support(self, x: Float64[ndarray, "*batch dimension"]) -> Float64[ndarray, "*batch"]:
        """Return the radius times ||x||_2."""
        return np.asarray(self.radius * np.linalg.norm(x, axis=-1))

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume of the ball."""
        return log_ball_volume("l2", self.dimension) + self.dimension * math.log(self.radius)


@dataclass(frozen=True, eq=False)
class ZonotopeCrystal(WulffCrystal):
    """The crystal of a norm whose unit ball is a polytope: the zonotope E [-y, y]."""

    dimension: int = field(init=False)
    zonotope: Zonotope

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimension", self.zonotope.dimension)

    def support(self, x: Float64[ndarray, "*batch dimension"]) -> Float64[ndarray, "*batch"]:
        """Return the mean of |<x, y>| over all vertices y."""
        return self.zonotope.support(x)

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume of the zonotope."""
        return math.log(self.zonotope.volume)


@dataclass(frozen=True)
class SignCrystal(WulffCrystal):
    """The crystal of linf in any dimension: ||x||_* is the mean of |+-x_1 +- ... +- x_d| over all signs.

    ||x||_2 / sqrt(2) <= ||x||_* <= ||x||_2 (Szarek 1976, the best constants), so that it lies between balls whose radii
    are 1 / sqrt(2) and 1. In few dimensions `wulff_crystal` gives it as a zonotope.
    """

    def support(self, x: Float64[ndarray, "*batch dimension"]) -> Float64[ndarray, "*batch"]:
        """Return the mean over all 2^(d - 1) patterns of signs.

        Raises:
            InvalidArgumentError: In more dimensions than patterns can be listed for.
        """
        signs = unit_ball_vertices(Norm.LINF, self.dimension)
        return np.asarray(np.abs(x @ signs[: len(signs) // 2].T).mean(-1))

    @property
    def log_volume(self) -> float:
        """Not known beyond few dimensions.

        Raises:
            InvalidArgumentError: If the dimension is above `LARGEST_EXACT_SIGN_DIMENSION`.
        """
        if self.dimension > LARGEST_EXACT_SIGN_DIMENSION:
            raise InvalidArgumentError(
                f"the volume of the linf crystal is computed in up to {LARGEST_EXACT_SIGN_DIMENSION} dimensions, got "
                f"dimension={self.dimension}: log_volume_lower bounds it"
            )
        return wulff_crystal(Norm.LINF, self.dimension).log_volume

    @property
    def log_volume_lower(self) -> float:
        """The volume of the ball of radius 1 / sqrt(2) inside."""
        return log_ball_volume("l2", self.dimension) - 0.5 * self.dimension * math.log(2.0)


def wulff_crystal(norm: Norm | str | Any, dimension: int | None = None) -> WulffCrystal:
    """Return the Wulff crystal of l1, l2 or linf, or of the norm whose unit ball is a polytope.

    Args:
        norm: l1, l2, linf, or all vertices of the unit ball, [n, d].
        dimension: d; needed for a norm given by name, and not allowed beside vertices.

    Raises:
        InvalidArgumentError: If the norm is l0, the dimension does not fit, or the points are not the vertices of a
            symmetric polytope.

    Example:
        >>> wulff_crystal("linf", 3).volume  # the rhombic dodecahedron
        2.0
    """
    if not isinstance(norm, Norm | str):
        if dimension is not None:
            raise InvalidArgumentError(f"dimension must be left out beside vertices, got dimension={dimension}")
        half = half_of_vertices(norm)
        return ZonotopeCrystal(Zonotope(half / len(half)))
    norm = Norm.parse(norm)
    if dimension is None:
        raise InvalidArgumentError(f"dimension must be given for the crystal of {norm}, got none")
    check_dimension(dimension)
    if norm is Norm.L1:
        return CubeCrystal(dimension)
    if norm is Norm.L2:
        return BallCrystal(dimension)
    if norm is Norm.LINF:
        if dimension > LARGEST_EXACT_SIGN_DIMENSION:
            return SignCrystal(dimension)
        signs = unit_ball_vertices(norm, dimension)
        # Opposite vertices give the same segment: one half of them, each with twice its share.
        half = signs[: len(signs) // 2]
        return ZonotopeCrystal(Zonotope(half / len(half)))
    raise InvalidArgumentError("norm must be l1, l2, linf or the vertices of a unit ball, got norm=l0")


def log_ball_volume(norm: Norm | str, dimension: int) -> float:
    """Return the logarithm of the volume of the unit ball of l1, l2 or linf.

    Raises:
        InvalidArgumentError: For l0, or a dimension below 1.
    """
    norm = Norm.parse(norm)
    check_dimension(dimension)
    if norm is Norm.L1:
        return dimension * math.log(2.0) - float(gammaln(dimension + 1))
    if norm is Norm.L2:
        return 0.5 * dimension * math.log(math.pi) - float(gammaln(dimension / 2 + 1))
    if norm is Norm.LINF:
        return dimension * math.log(2.0)
    raise InvalidArgumentError("norm must be l1, l2 or linf, got norm=l0: its unit ball has no volume")
