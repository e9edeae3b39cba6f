"""Unit balls that are polytopes: their vertices, and what a list of vertices has to satisfy."""

import itertools
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm

LARGEST_SIGN_DIMENSION = 20
"""The linf ball has 2^d vertices: no list of them is made beyond this dimension."""


def unit_ball_vertices(norm: Norm | str, dimension: int) -> Float64[ndarray, "vertices dimension"]:
    """Return the vertices of the unit ball of l1 (2 d of them) or linf (2^d).

    Raises:
        InvalidArgumentError: For another norm, or a dimension that is below 1 or has too many vertices to list.
    """
    norm = Norm.parse(norm)
    check_dimension(dimension)
    if norm is Norm.L1:
        return np.concatenate([np.eye(dimension), -np.eye(dimension)])
    if norm is Norm.LINF:
        if dimension > LARGEST_SIGN_DIMENSION:
            raise InvalidArgumentError(
                f"dimension must be at most {LARGEST_SIGN_DIMENSION} to list the 2^d vertices of the linf ball, got "
                f"dimension={dimension}"
            )
        return np.array(list(itertools.product((1.0, -1.0), repeat=dimension)))
    raise InvalidArgumentError(f"norm must be l1 or linf for its unit ball to be a polytope, got norm={norm}")


def check_dimension(dimension: int) -> None:
    """Raise unless there is at least one dimension.

    Raises:
        InvalidArgumentError: If there is none.
    """
    if dimension < 1:
        raise InvalidArgumentError(f"dimension must be at least 1, got dimension={dimension}")


def half_of_vertices(vertices: Any) -> Float64[ndarray, "half dimension"]:
    """Return one vertex of every pair y, -y of a polytope that is the unit ball of a norm.

    Args:
        vertices: All vertices, [n, d], in any order: each with its opposite, each once, none inside the hull of the others.

    Raises:
        InvalidArgumentError: If the points are not the vertices of such a polytope.
    """
    points = np.asarray(vertices, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] < 1:
        raise InvalidArgumentError(f"vertices must have the shape [n, d], got {points.shape}")
    if not np.isfinite(points).all():
        raise InvalidArgumentError("vertices must be finite, got a NaN or an infinity among them")
    if len(points) < 2 or np.linalg.matrix_rank(points) < points.shape[1]:
        raise InvalidArgumentError(
            f"vertices must span all {points.shape[1]} dimensions, got {len(points)} points that do not"
        )
    size = np.abs(points).max()
    ordered = points[np.lexsort(np.round(points / size, 9).T[::-1])]
    # In this order the opposite of the first is the last, and so on; equal points would be neighbours.
    if np.abs(ordered + ordered[::-1]).max() > 1e-9 * size:
        raise InvalidArgumentError("vertices must come in pairs y, -y, got one whose opposite is not among them")
    if np.abs(np.diff(ordered, axis=0)).max(axis=1).min() <= 1e-9 * size:
        raise InvalidArgumentError("vertices must be listed once each, got one twice")
    inner = len(points) - _hull_size(points)
    if inner:
        raise InvalidArgumentError(
            f"vertices must be the corners of their convex hull, got {inner} points that are not corners"
        )
    half: Float64[ndarray, "half dimension"] = ordered[: len(ordered) // 2]
    return half


def _hull_size(points: Float64[ndarray, "n dimension"]) -> int:
    if points.shape[1] == 1:
        return 2
    from scipy.spatial import ConvexHull

    return len(ConvexHull(points).vertices)
