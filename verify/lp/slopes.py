"""From the multipliers of a linear program to the slopes of a certificate.

In the dual of the program (C) with fixed boxes, sup over alpha in [0, 1] of the backward pass equals the optimum, and the
optimal alpha of an unstable neuron is the share of its lower line that the dual solution uses:

    alpha = nu / Lambda,   nu = multiplier of y = expression (the coefficient that reaches y),
                           Lambda = the coefficient that arrives at z,

clipped to [0, 1], for Lambda > 0; where Lambda <= 0 the upper line is taken and alpha plays no part. One backward pass with
these slopes gives the optimum back, so the solver that found them need not be trusted.

Reference: Salman et al. 2019, section 4.3 and Corollary 4.3 (strong duality of the layer-wise relaxation); Wong and Kolter
2018, Theorem 1, where alpha is the free slope.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from verify.lp.program import HullProgram, Triangles

SMALL = 1e-12
"""A coefficient below this share of the largest one is rounding: its quotient means nothing. Both count times the width of
their neuron, which is what they contribute.
"""

OUTSIDE = 1e-7
"""How far a multiplier may lie outside what lines can give, relative to the largest coefficient, and be rounding."""


def dual_slopes(
    program: HullProgram,
    row_dual: Float[ndarray, "answers rows"],
    column_dual: Float[ndarray, "answers columns"],
) -> Mapping[int, Float[ndarray, "answers size"]]:
    """Return alpha in [0, 1] of every neuron of every relaxed (leaky) ReLU node; NaN where it plays no part.

    Args:
        program: The program that was solved.
        row_dual: Multipliers y, one answer per row.
        column_dual: Reduced costs c - A^T y.
    """
    slopes = {}
    for block in program.triangles:
        alpha = np.full((len(row_dual), program.graph[block.node].size), np.nan)
        if len(block.neurons):
            nu, arriving = _coefficients(block, row_dual, column_dual)
            contributed = arriving * (block.upper - block.lower)
            scale = np.abs(contributed).max(axis=1, keepdims=True)
            used = (contributed > np.maximum(SMALL * scale, 1e-300)) & (arriving > 1e-300)
            share = nu / np.where(used, arriving, 1.0)
            # For a leaky ReLU a position is (slope - g) / (1 - g) of the lower line; with g = 1 there is one line only.
            if block.slope < 1.0:
                position = np.clip((share - block.slope) / (1.0 - block.slope), 0.0, 1.0)
                alpha[:, block.neurons] = np.where(used, position, np.nan)
        slopes[block.node] = alpha
    return slopes


@dataclass(frozen=True, eq=False)
class Ends:
    """Neurons of one block of triangles whose own box an answer rests on: its lower end, its upper end."""

    lower: Bool[ndarray, " count"]
    upper: Bool[ndarray, " count"]


def ends_used(
    program: HullProgram,
    row_dual: Float[ndarray, "answers rows"],
    column_dual: Float[ndarray, "answers columns"],
) -> Mapping[int, Ends]:
    """Return, by activation node, which triangles some answer uses as a box, so that slopes alone do not give it back.

    The lines give nu in [g Lambda, Lambda] for Lambda > 0 and s Lambda for Lambda <= 0. A smaller nu has y >= l added to
    the lines, a larger one y <= u.
    """
    used = {}
    for block in program.triangles:
        nu, arriving = _coefficients(block, row_dual, column_dual)
        chord = (block.upper - block.slope * block.lower) / (block.upper - block.lower)
        least = np.where(arriving > 0, block.slope * arriving, chord * arriving)
        most = np.where(arriving > 0, arriving, chord * arriving)
        width = block.upper - block.lower
        rounding = OUTSIDE * np.abs(arriving * width).max(axis=1, keepdims=True, initial=0.0) / width
        used[block.node] = Ends((nu < least - rounding).any(axis=0), (nu > most + rounding).any(axis=0))
    return used


def _coefficients(
    block: Triangles, row_dual: Float[ndarray, "answers rows"], column_dual: Float[ndarray, "answers columns"]
) -> tuple[Float[ndarray, "answers count"], Float[ndarray, "answers count"]]:
    """Return nu, which reaches y, and Lambda, which arrives at z."""
    count = len(block.neurons)
    nu = row_dual[:, block.row : block.row + count]
    hull = row_dual[:, block.row + count : block.row + 2 * count]
    reduced = column_dual[:, block.upper_column : block.upper_column + count]
    # Column p appears in its own row (u), in p + q <= 1, and, times u, in whatever reads z.
    return nu, (reduced + block.upper * nu + hull) / block.upper
