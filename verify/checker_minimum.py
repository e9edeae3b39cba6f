"""The checker's own minima of linear functions over balls, boxes and their intersections; numpy only."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from smoothing.threat import Norm

UNIT = 2.0**-53


@dataclass(frozen=True, eq=False)
class InputSet:
    """One set of inputs, flat; see `verify.region.Region`."""

    center: Float[ndarray, " size"]
    lower: Float[ndarray, " size"]
    upper: Float[ndarray, " size"]
    norm: Norm | None
    eps: float
    clipped: bool


def minimum(rows: Float[ndarray, "rows size"], inputs: InputSet) -> Float[ndarray, " rows"]:
    """Return a lower bound of min aᵀx for every row a, below the exact minimum by rounding only.

    For a ball cut by a box, the multiplier of the ball is found by bisection and the dual function is evaluated there:
    every multiplier is valid (weak duality), so the bisection is not trusted either.
    """
    size = rows.shape[1]
    unit = (4 * size + 32) * UNIT
    absolute = np.abs(rows)
    if inputs.norm is None:
        value = np.maximum(rows, 0) @ inputs.lower + np.minimum(rows, 0) @ inputs.upper
        return np.asarray(value - unit * (absolute @ np.maximum(np.abs(inputs.lower), np.abs(inputs.upper))))
    center = rows @ inputs.center
    slack = unit * (absolute @ np.abs(inputs.center))
    if not inputs.clipped:
        dual = np.sqrt((rows**2).sum(1)) if inputs.norm is Norm.L2 else absolute.max(1)
        return np.asarray(center - inputs.eps * dual * (1 + unit) - slack)
    room = np.where(rows > 0, inputs.center - inputs.lower, inputs.upper - inputs.center)
    room = np.nextafter(np.maximum(room, 0.0), np.inf)
    gain, terms = (_l2 if inputs.norm is Norm.L2 else _l1)(absolute, room, inputs.eps)
    return np.asarray(center - gain - slack - unit * terms)


def _l2(absolute: ndarray, room: ndarray, eps: float) -> tuple[ndarray, ndarray]:
    """Max |a|ᵀs over 0 <= s <= room, ||s|| <= eps is at most |a|ᵀs - μ (||s||² - eps²) at s = min(|a|/2μ, room)."""
    step = np.where(absolute > 0, room, 0.0)
    inside = (step**2).sum(1) <= eps**2  # μ = 0: the box alone decides
    low, high = np.zeros(len(absolute)), np.full(len(absolute), 1e-300)
    norms = np.sqrt((absolute**2).sum(1))
    high = np.maximum(high, norms / max(2 * eps, 1e-300))  # unconstrained by the box, ||s|| = ||a|| / 2μ = eps here
    for _ in range(60):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", over="ignore"):
            length = (np.minimum(absolute / np.maximum(2 * middle, 1e-300)[:, None], room) ** 2).sum(1)
        low, high = np.where(length > eps**2, middle, low), np.where(length > eps**2, high, middle)
    mu = np.where(inside, 0.0, high)
    with np.errstate(divide="ignore", over="ignore"):
        step = np.where(mu[:, None] > 0, np.minimum(absolute / np.maximum(2 * mu, 1e-300)[:, None], room), step)
    product, length = (absolute * step).sum(1), (step**2).sum(1)
    return product - mu * (length - eps**2), product + mu * (length + eps**2)


def _l1(absolute: ndarray, room: ndarray, eps: float) -> tuple[ndarray, ndarray]:
    """Max |a|ᵀs over 0 <= s <= room, Σs <= eps is at most λ eps + Σ room (|a| - λ)₊; the best λ is one of the |a|."""
    order = np.argsort(-absolute, axis=1)
    filled = np.cumsum(np.take_along_axis(room, order, 1), axis=1)
    first = np.minimum((filled < eps).sum(1), absolute.shape[1] - 1)
    level = np.take_along_axis(np.take_along_axis(absolute, order, 1), first[:, None], 1)[:, 0]
    level = np.where(filled[:, -1] < eps, 0.0, level)
    dual = level * eps + (room * np.maximum(absolute - level[:, None], 0.0)).sum(1)
    return dual, dual
