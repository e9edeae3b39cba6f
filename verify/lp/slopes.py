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

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from verify.lp.program import HullProgram

SMALL = 1e-12
"""A coefficient below this share of the largest one is rounding: its quotient means nothing."""


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
        count = len(block.neurons)
        alpha = np.full((len(row_dual), program.graph[block.node].size), np.nan)
        if count:
            nu = row_dual[:, block.row : block.row + count]
            hull = row_dual[:, block.row + count : block.row + 2 * count]
            reduced = column_dual[:, block.upper_column : block.upper_column + count]
            # Column p appears in its own row (u), in p + q <= 1, and, times u, in whatever reads z.
            arriving = (reduced + block.upper * nu + hull) / block.upper
            scale = np.abs(arriving).max(axis=1, keepdims=True)
            used = arriving > np.maximum(SMALL * scale, 1e-300)
            share = nu / np.where(used, arriving, 1.0)
            # For a leaky ReLU a position is (slope - g) / (1 - g) of the lower line; with g = 1 there is one line only.
            if block.slope < 1.0:
                position = np.clip((share - block.slope) / (1.0 - block.slope), 0.0, 1.0)
                alpha[:, block.neurons] = np.where(used, position, np.nan)
        slopes[block.node] = alpha
    return slopes
