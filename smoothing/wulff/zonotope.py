"""Zonotopes: sums of segments, with their support function, volume, vertices and faces."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from smoothing.errors import InvalidArgumentError

LARGEST_VOLUME_SUM = 1_000_000
"""Determinants that a volume may need: one for every choice of d segments."""

_TOLERANCE = 1e-9
"""Relative size below which a determinant of segments counts as 0."""


@dataclass(frozen=True, eq=False)
class Zonotope:
    """The sum of the segments [-g, g] over all rows g of `generators`, centred at 0.

    Attributes:
        generators: [n, d], float64.

    Raises:
        InvalidArgumentError: If the generators are not a finite matrix whose rows span all dimensions.
    """

    generators: Float64[ndarray, "n dimension"]

    def __post_init__(self) -> None:
        g = self.generators
        if not np.isfinite(g).all() or np.linalg.matrix_rank(g) < g.shape[1]:
            raise InvalidArgumentError(f"generators must be finite and span all {g.shape[1]} dimensions")

    @property
    def dimension(self) -> int:
        """Number of coordinates, d."""
        return int(self.generators.shape[1])

    def support(self, x: Float64[ndarray, "*batch dimension"]) -> Float64[ndarray, "*batch"]:
        """Return max <x, z> over all z in the zonotope: sum_g |<x, g>|."""
        return np.asarray(np.abs(x @ self.generators.T).sum(-1))

    @property
    def volume(self) -> float:
        """2^d times the sum of |det| over all choices of d generators (McMullen; Shephard 1974).

        Raises:
            InvalidArgumentError: If there are more than `LARGEST_VOLUME_SUM` choices.
        """
        n, d = self.generators.shape
        if math.comb(n, d) > LARGEST_VOLUME_SUM:
            raise InvalidArgumentError(
                f"the volume of a zonotope needs at most {LARGEST_VOLUME_SUM:,} determinants, got {n} segments in "
                f"{d} dimensions: {math.comb(n, d):,}"
            )
        choices = itertools.combinations(range(n), d)
        total = 0.0
        while rows := list(itertools.islice(choices, 20_000)):
            total += math.fsum(np.abs(np.linalg.det(self.generators[np.array(rows)])).tolist())
        return float(2**d) * total

    def vertices(self) -> Float64[ndarray, "vertices dimension"]:
        """Return all vertices, in 1, 2 (counter-clockwise) and 3 dimensions.

        Raises:
            InvalidArgumentError: In more dimensions.
        """
        if self.dimension == 1:
            end = np.abs(self.generators).sum(0)
            return np.stack([-end, end])
        if self.dimension == 2:
            return _polygon(self.generators)
        corners = np.concatenate(self.faces())
        size = np.abs(corners).max()
        _, first = np.unique(np.round(corners / size, 8) + 0.0, axis=0, return_index=True)
        unique: Float64[ndarray, "vertices dimension"] = corners[np.sort(first)]
        return unique

    def faces(self) -> list[Float64[ndarray, "corners dimension"]]:
        """Return the faces in 3 dimensions, each a polygon given by its corners in order.

        The face in direction x is the sum of sign(<x, g>) g over all generators, plus the zonogon of the generators that
        are orthogonal to x; x is orthogonal to a face if it is to two generators of different directions.

        Raises:
            InvalidArgumentError: In other than 3 dimensions.
        """
        if self.dimension != 3:
            raise InvalidArgumentError(
                f"faces and vertices are listed in up to 3 dimensions only, got dimension={self.dimension}"
            )
        g = _merge_parallel(self.generators)
        normals: list[Float64[ndarray, "3"]] = []
        for a, b in itertools.combinations(g, 2):
            normal = np.cross(a, b)
            normal /= np.linalg.norm(normal)
            if all(abs(abs(float(normal @ other)) - 1.0) > _TOLERANCE for other in normals):
                normals.append(normal)
        faces = []
        for normal in normals:
            along = g @ normal
            flat = np.abs(along) <= _TOLERANCE * np.linalg.norm(g, axis=1)
            centre = (np.sign(along) * ~flat) @ g
            first = g[flat][0] / np.linalg.norm(g[flat][0])
            plane = np.stack([first, np.cross(normal, first)])
            face = _polygon(g[flat] @ plane.T) @ plane + centre
            faces += [face, -face]
        return faces


def _polygon(generators: Float64[ndarray, "n 2"]) -> Float64[ndarray, "corners 2"]:
    """Return the vertices of a zonogon: from one of them along the segments, in the order of their directions."""
    g = _merge_parallel(generators)
    g = np.where((g[:, 1:] < 0) | ((g[:, 1:] == 0) & (g[:, :1] < 0)), -g, g)
    g = g[np.argsort(np.arctan2(g[:, 1], g[:, 0]))]
    steps = np.concatenate([2.0 * g, -2.0 * g])
    start = -g.sum(0)
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)[:-1]])


def _merge_parallel(generators: Float64[ndarray, "n dimension"]) -> Float64[ndarray, "m dimension"]:
    """Return one generator a direction: parallel segments add up to one segment."""
    merged: list[Float64[ndarray, " dimension"]] = []
    for g in generators:
        length = float(np.linalg.norm(g))
        if length == 0.0:
            continue
        for i, other in enumerate(merged):
            cosine = float(g @ other) / (length * float(np.linalg.norm(other)))
            if abs(cosine) > 1.0 - 1e-14:
                merged[i] = other + math.copysign(1.0, cosine) * g
                break
        else:
            merged.append(g.copy())
    return np.stack(merged)
