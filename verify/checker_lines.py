"""The checker's own ranges and lines of activations; numpy only, and written without a look at the fast path.

`relax` turns rows of an activation's outputs into rows of its inputs that lie below on the box, and says by how much
rounding may have lifted the result. Slopes are positions in [0, 1]; any of them is valid.
"""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from numpy import ndarray

from verify.certificate import Slopes
from verify.graph import LeakyReLU, MaxPool, Operator, Sigmoid, Tanh

UNIT = 2.0**-53
FUNCTION_ERROR = 1e-14
"""Allowance for one evaluation of sigmoid or tanh, absolute; their values are below 1 and accurate to a few units."""
TIE = 1e-9

Relaxed = tuple[Float[ndarray, "rows size"], Float[ndarray, " rows"], Float[ndarray, " rows"]]


def activation_range(op: Operator, lower: ndarray, upper: ndarray) -> tuple[ndarray, ndarray]:
    """Return bounds of the activation's values on a box, rounded outwards."""
    if isinstance(op, LeakyReLU):
        low, high = op.slope * lower, op.slope * upper
        if 0 < op.slope < 1:
            low, high = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
        return np.where(lower > 0, lower, low), np.where(upper > 0, upper, high)
    if isinstance(op, Sigmoid | Tanh):
        return _value(op, lower) - FUNCTION_ERROR, _value(op, upper) + FUNCTION_ERROR
    assert isinstance(op, MaxPool)
    low, high = _windows(op, lower), _windows(op, upper)
    return low.max(1), high.max(1)


def relax(op: Operator, rows: ndarray, lower: ndarray, upper: ndarray, rule: str, slopes: Slopes | None) -> Relaxed:
    """Return rows of the inputs, constants, and how much rounding may have lifted each."""
    if isinstance(op, MaxPool):
        return _relax_max_pool(op, rows, lower, upper)
    position = np.broadcast_to(_default(op, lower, upper, rule), (len(rows), len(lower)))
    if slopes is not None:
        position = position.copy()
        given = slopes.values.astype(np.float64)
        position[:, slopes.columns] = np.where(np.isnan(given), position[:, slopes.columns], given)
    if isinstance(op, LeakyReLU):
        low_slope, low_offset, high_slope, high_offset = _triangle(op.slope, lower, upper, position)
    else:
        assert isinstance(op, Sigmoid | Tanh)
        low_slope, low_offset = _below(op, lower, upper, position)
        shift = 1.0 if isinstance(op, Sigmoid) else 0.0  # f(-x) = shift - f(x)
        high_slope, mirrored = _below(op, -upper, -lower, position)
        high_offset = shift - mirrored
    up, down = np.maximum(rows, 0), np.minimum(rows, 0)
    back = up * low_slope + down * high_slope
    constant = (up * low_offset + down * high_offset).sum(1)
    largest = np.maximum(np.abs(lower), np.abs(upper))
    heights = (np.abs(low_slope) + np.abs(high_slope)) * largest
    offsets = np.abs(low_offset) + np.abs(high_offset)
    spare = 16 * UNIT * (heights + offsets) + (rows.shape[1] + 8) * UNIT * offsets
    return back, constant, (np.abs(rows) * spare).sum(1)


def _default(op: Operator, lower: ndarray, upper: ndarray, rule: str) -> ndarray:
    if isinstance(op, LeakyReLU):
        if rule == "adaptive":
            return (upper > -lower * (1 + TIE)).astype(np.float64)
        undecided = (lower < 0) & (upper > 0)
        # The chord's slope is c + (1 - c) u / (u - l).
        return np.where(undecided, upper / np.where(undecided, upper - lower, 1.0), 1.0)
    return np.where((lower < 0) & (upper > 0), 1.0, 0.5)


def _triangle(slope: float, lower: ndarray, upper: ndarray, position: ndarray) -> tuple[ndarray, ...]:
    undecided = (lower < 0) & (upper > 0)
    width = np.where(undecided, upper - lower, 1.0)
    chord = np.where(undecided, (upper - slope * lower) / width, np.where(lower >= 0, 1.0, slope))
    below = np.where(undecided, slope + (1 - slope) * position, chord)
    offset = np.where(undecided, (slope - chord) * lower, 0.0)
    return below, np.zeros_like(below), np.broadcast_to(chord, below.shape), np.broadcast_to(offset, below.shape)


def _value(op: Operator, x: ndarray) -> ndarray:
    if isinstance(op, Tanh):
        return np.asarray(np.tanh(x))
    with np.errstate(over="ignore"):
        positive = 1 / (1 + np.exp(-np.abs(x)))
    return np.asarray(np.where(x >= 0, positive, 1 - positive))


def _derivative(op: Operator, x: ndarray) -> ndarray:
    with np.errstate(over="ignore"):
        if isinstance(op, Tanh):
            return np.asarray(1 / np.cosh(np.clip(x, -300, 300)) ** 2)
        return np.asarray(1 / (4 * np.cosh(np.clip(x, -600, 600) / 2) ** 2))


def _below(op: Operator, lower: ndarray, upper: ndarray, position: ndarray) -> tuple[ndarray, ndarray]:
    """Return a line below the function on [lower, upper], per row.

    Whatever slope k > 0 comes out, f(x) - k x on the box is smallest at an end, or at the point left of zero where f' = k
    (f is convex there and concave to the right). The offset is the least of these three values, so it is valid even if the
    slope is not the one that was meant.
    """
    at_lower, at_upper = _value(op, lower), _value(op, upper)
    wide = upper - lower > 1e-5
    chord = (at_upper - at_lower) / np.where(wide, upper - lower, 1.0)
    use_chord = (lower >= 0) | ((upper > 0) & (_derivative(op, lower) >= chord))
    valid, invalid = lower, np.zeros_like(lower)
    for _ in range(50):
        middle = (valid + invalid) / 2
        fits = _value(op, middle) + _derivative(op, middle) * (upper - middle) <= at_upper
        valid, invalid = np.where(fits, middle, valid), np.where(fits, invalid, middle)
    last = np.where(upper <= 0, upper, valid)
    point = lower + position * (last - lower)
    slope = np.where(wide, np.where(use_chord, chord, _derivative(op, point)), 0.0)
    offset = np.minimum(at_lower - slope * lower, at_upper - slope * upper)
    # The tangent point, if it is one: an exact f' is not needed, for near it the gap is of second order in the error.
    inner = _value(op, point) - slope * point
    offset = np.where(use_chord | ~wide, offset, np.minimum(offset, inner))
    spare = FUNCTION_ERROR * (4 + 4 * np.abs(slope) * np.maximum(np.abs(lower), np.abs(upper)))
    return slope, offset - spare


def _windows(op: MaxPool, values: ndarray) -> ndarray:
    return np.where(op.index >= 0, values[np.maximum(op.index, 0)], -np.inf)


def _relax_max_pool(op: MaxPool, rows: ndarray, lower: ndarray, upper: ndarray) -> Relaxed:
    low, high = _windows(op, lower), _windows(op, upper)
    best, highest = low.max(1), high.max(1)

    def nearly(values: ndarray) -> ndarray:
        largest = values.max(1, keepdims=True)
        return np.asarray(values >= largest - TIE * (1 + np.abs(largest)))

    entry = nearly(np.where(nearly(low), high, -np.inf)).argmax(1)
    gain = np.maximum(high - best[:, None], 0.0)
    width = np.where(gain > 0, high, 1.0) - np.where(gain > 0, low, 0.0)  # absent entries are -inf
    weight = gain / width
    constant_line = gain.sum(1) > 2 * (highest - best) * (1 + TIE)
    weight[constant_line] = 0.0
    finite = np.where(weight > 0, low, 0.0)
    offset = np.where(constant_line, highest, best - (weight * finite).sum(1))
    up, down = np.maximum(rows, 0), np.minimum(rows, 0)
    outputs, size = np.arange(len(entry)), len(lower)
    copy = sp.csr_array((np.ones(len(entry)), (outputs, op.index[outputs, entry])), shape=(len(entry), size))
    place, column = np.nonzero(op.index >= 0)
    spread = sp.csr_array((weight[place, column], (place, op.index[place, column])), shape=(len(entry), size))
    back = (copy.T @ up.T + spread.T @ down.T).T
    absolute = np.abs(rows)
    inside = np.where(op.index >= 0, np.maximum(np.abs(lower), np.abs(upper))[np.maximum(op.index, 0)], 0.0).sum(1)
    busiest = int(np.bincount(op.index[op.index >= 0]).max())
    spare = (8 * op.index.shape[1] + 2 * busiest + rows.shape[1] + 64) * UNIT * 4 * inside
    return back, down @ offset, absolute @ spare
