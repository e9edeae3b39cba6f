"""The lines of activations that have no triangle: max pooling, sigmoid and tanh, as bound propagation draws them.

A certificate can only carry what the checker can draw again. So a linear program over these activations uses the very
lines of `verify.relaxation`, and its optimum is no better than theirs; all its freedom lies in the ReLUs around them.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from verify.graph import MaxPool, Sigmoid, Tanh
from verify.relaxation import relaxation_of
from verify.relaxation.base import Box as TorchBox
from verify.relaxation.base import Elementwise

Vector = Float[ndarray, " size"]


def s_shaped_lines(op: Sigmoid | Tanh, lower: Vector, upper: Vector) -> tuple[Vector, Vector, Vector, Vector]:
    """Return (slope, offset) of the lower line and (slope, offset) of the upper line of every neuron, by rule."""
    relaxation = relaxation_of(op)
    assert isinstance(relaxation, Elementwise)
    box = TorchBox(torch.from_numpy(lower)[None], torch.from_numpy(upper)[None])
    lines = relaxation.lines(box, relaxation.position(box, "adaptive"))
    nothing = torch.zeros_like(lines.lower_slope)
    parts = (lines.lower_slope, lines.lower_offset, lines.upper_slope, lines.upper_offset)
    low, low_shift, high, high_shift = ((nothing if part is None else part)[0].detach().numpy() for part in parts)
    return low, low_shift, high, high_shift


def s_shaped_range(op: Sigmoid | Tanh, lower: Vector, upper: Vector) -> tuple[Vector, Vector]:
    """Return bounds of the activation's values."""
    box = TorchBox(torch.from_numpy(lower)[None], torch.from_numpy(upper)[None])
    values = relaxation_of(op).interval(box)
    return values.lower[0].numpy(), values.upper[0].numpy()


def pool_lines(
    op: MaxPool, lower: Vector, upper: Vector
) -> tuple[Int[ndarray, " out"], Float[ndarray, "out window"], Float[ndarray, " out"], Bool[ndarray, " out"]]:
    """Return the lines of `verify.relaxation.max_pool`, window by window.

    Returns:
        The (flat) entry that bounds each window from below; weights and offset of its upper line; and whether that entry is
        the maximum everywhere.
    """
    present = op.index >= 0
    low = np.where(present, lower[op.index], -np.inf)
    high = np.where(present, upper[op.index], -np.inf)
    windows = np.arange(len(low))
    best = low.argmax(axis=1)
    floor, highest = low[windows, best], high.max(axis=1)
    gain = np.maximum(high - floor[:, None], 0.0)
    weight = np.where(gain > 0, gain / np.where(gain > 0, high - np.where(present, low, 0.0), 1.0), 0.0)
    flat = gain.sum(axis=1) > 2 * (highest - floor)
    weight = np.where(flat[:, None], 0.0, weight)
    offset = np.where(flat, highest, floor - (weight * np.where(weight > 0, low, 0.0)).sum(axis=1))
    others = high.copy()
    others[windows, best] = -np.inf
    return op.index[windows, best], weight, offset, floor >= others.max(axis=1)
