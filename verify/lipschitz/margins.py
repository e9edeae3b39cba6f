"""From a Lipschitz constant to certified l2 radii: by all logits at once, or pair by pair."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.rounding import down
from verify.lipschitz.lipsdp import SLOPES, LipschitzBound, lipsdp

LOGIT_SLACK = 1e-5
"""Allowance, relative to the largest logit, for logits computed in float32 rather than exactly."""


def margin_radius(
    logits: Float[ndarray, "batch classes"], lipschitz: float, *, slack: float = LOGIT_SLACK
) -> Float[ndarray, " batch"]:
    """Return the l2 radius min_t (f_y - f_t) / (sqrt(2) L) in which the prediction y cannot change.

    ||e_y - e_t||_2 = sqrt(2), so each margin is sqrt(2) L-Lipschitz. Global: no clipping to the pixel box is used or needed.

    Args:
        logits: f(x), float64; y is the largest.
        lipschitz: A proved bound on the l2 Lipschitz constant of f, positive.
        slack: Allowance for the rounding of the logits, relative to the largest magnitude among them.

    Returns:
        float64, rounded down; 0 where the two largest logits are equal or a logit is not finite.

    Reference: Tsuzuku, Sato, Sugiyama 2018, "Lipschitz-Margin Training", Proposition 1.

    Example:
        >>> margin_radius(np.array([[1.0, 0.0]]), 2.0).round(3).tolist()
        [0.354]
    """
    constants = np.full((logits.shape[1], logits.shape[1]), np.nextafter(np.sqrt(2.0), 2.0) * lipschitz)
    return pairwise_radius(logits, constants, slack=slack)


def pairwise_radius(
    logits: Float[ndarray, "batch classes"],
    constants: Float[ndarray, "classes classes"],
    *,
    slack: float = LOGIT_SLACK,
) -> Float[ndarray, " batch"]:
    """Return the l2 radius min_t (f_y - f_t) / L_yt, L_yt a Lipschitz bound of the margin f_y - f_t itself.

    Args:
        logits: f(x), float64; y is the largest.
        constants: L_yt for every pair; the diagonal is not read.
        slack: As in `margin_radius`.

    Returns:
        float64, rounded down; 0 where the two largest logits are equal or a number is not finite.

    Raises:
        InvalidArgumentError: If a constant off the diagonal is not positive.
    """
    logits = np.asarray(logits, dtype=np.float64)
    classes = logits.shape[1]
    off_diagonal = ~np.eye(classes, dtype=bool)
    if not (constants[off_diagonal] > 0).all():
        raise InvalidArgumentError("Lipschitz constants must be positive, got one that is not")
    predicted: Int[ndarray, " batch"] = logits.argmax(axis=1)
    rows = np.arange(len(logits))
    allowance = 2.0 * slack * np.abs(logits).max(axis=1, keepdims=True)
    margins = logits[rows, predicted][:, None] - logits - allowance
    ratios = np.where(off_diagonal[predicted], margins / np.where(off_diagonal, constants, 1.0)[predicted], np.inf)
    smallest = np.where(np.isfinite(logits).all(axis=1), ratios.min(axis=1), 0.0)
    return np.asarray(down(np.maximum(smallest, 0.0)))


def pairwise_constants(
    weights: Sequence[Float[ndarray, "_ _"]],
    *,
    solver: str,
    slopes: tuple[float, float] = SLOPES["relu"],
    labels: Sequence[int] | None = None,
    solver_options: dict[str, Any] | None = None,
) -> Float[ndarray, "classes classes"]:
    """Return L_yt for every pair of classes: LipSDP on the rows (e_y - e_t)^T W_K, one program per pair.

    Args:
        weights: W_1, ..., W_K.
        solver: As in `lipsdp`.
        slopes: As in `lipsdp`.
        labels: Only pairs with one of these classes are computed (45 programs for ten classes if None); infinity elsewhere.
        solver_options: As in `lipsdp`.

    Returns:
        Symmetric, with infinity (nothing certified) where not computed and on the diagonal.
    """
    *hidden, last = [np.asarray(weight, dtype=np.float64) for weight in weights]
    classes = last.shape[0]
    wanted = set(range(classes) if labels is None else labels)
    constants = np.full((classes, classes), np.inf)
    for first in range(classes):
        for second in range(first + 1, classes):
            if first in wanted or second in wanted:
                # The difference of two rows is rounded once; one part in 1e15 on top covers it.
                row = (last[first] - last[second])[None, :]
                bound: LipschitzBound = lipsdp(
                    [*hidden, row], solver=solver, slopes=slopes, solver_options=solver_options
                )
                rounding = 2.0**-52 * float(np.abs(last[[first, second]]).sum()) * _hidden_product(hidden, slopes)
                constants[first, second] = constants[second, first] = max(
                    (bound.value + rounding) * (1 + 1e-15), 1e-300
                )
    return constants


def _hidden_product(hidden: Sequence[Float[ndarray, "_ _"]], slopes: tuple[float, float]) -> float:
    from verify.lipschitz.spectral import spectral_product

    return spectral_product(hidden) * slopes[1] ** len(hidden)
