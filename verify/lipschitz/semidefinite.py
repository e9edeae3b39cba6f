"""Proofs in float64 that a symmetric matrix is positive semidefinite, and upper bounds on eigenvalues and spectral norms.

A Cholesky factorisation that runs to its end proves that a nearby matrix is positive definite; how near is known
(Demmel; Higham, "Accuracy and Stability of Numerical Algorithms", Theorem 10.3; Rump, "Verification of positive
definiteness", BIT 2006): if Cholesky of the float64 matrix P - shift * I succeeds with

    shift >= gamma_{n+1} / (1 - gamma_{n+1}) * trace(P),      gamma_m = m u / (1 - m u),  u = 2^-53,

then P itself is positive semidefinite. No eigenvalue solver is trusted.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

UNIT = 2.0**-53
"""Unit roundoff u of float64."""


def gamma(operations: int) -> float:
    """gamma_m = m u / (1 - m u), doubled: the relative error of a sum of m products, whatever the order.

    Doubled, so that the float64 evaluation of the bounds built from it cannot eat the margin.
    """
    return 2.0 * operations * UNIT / (1.0 - operations * UNIT)


def proves_positive_semidefinite(matrix: Float[ndarray, "n n"], error: float = 0.0) -> bool:
    """Whether every symmetric matrix within `error` (spectral norm) of `matrix` is proved positive semidefinite.

    Args:
        matrix: Symmetric float64 matrix; only its lower triangle is read.
        error: Bound on the spectral norm of (exact matrix - `matrix`), at least 0.

    Returns:
        True only with a proof; False says nothing.

    Example:
        >>> bool(proves_positive_semidefinite(np.eye(2))), bool(proves_positive_semidefinite(np.diag([1.0, -1e-9])))
        (True, False)
    """
    size = matrix.shape[0]
    if not np.isfinite(matrix).all() or not np.isfinite(error):
        return False
    if size == 0:
        return True
    diagonal = np.diagonal(matrix)
    if (diagonal < 0).any():
        return False
    # The subtraction itself rounds each diagonal entry: another u * |entry|, covered by the doubled gamma.
    shift = gamma(size + 3) * float(diagonal.sum()) + error * (1.0 + 4 * UNIT)
    lower = np.tril(matrix)
    try:
        np.linalg.cholesky(lower + np.tril(lower, -1).T - shift * np.eye(size))
    except np.linalg.LinAlgError:
        return False
    return True


def largest_eigenvalue_bound(matrix: Float[ndarray, "n n"], error: float = 0.0) -> float:
    """Return a proved upper bound on the largest eigenvalue of every symmetric matrix within `error` of `matrix`.

    The eigenvalue solver only proposes; `proves_positive_semidefinite` of bound * I - matrix decides, and the proposal
    grows until it does.

    Args:
        matrix: Symmetric positive semidefinite float64 matrix.
        error: Bound on the spectral norm of (exact matrix - `matrix`).
    """
    size = matrix.shape[0]
    if not np.isfinite(matrix).all() or not np.isfinite(error):
        return float("inf")
    proposal: float = float(np.linalg.eigvalsh(matrix)[-1])
    scale = max(abs(proposal), float(np.abs(matrix).max()), 1e-300)
    slack = size * UNIT * scale + error
    for _ in range(60):
        bound = max(proposal, 0.0) + slack
        difference = bound * np.eye(size) - matrix
        # Each entry of the difference is rounded once; its Frobenius norm bounds the spectral norm of that.
        rounding = 2 * UNIT * float(np.linalg.norm(difference))
        if proves_positive_semidefinite(difference, error + rounding):
            return float(bound)
        slack *= 2.0
    return float("inf")


def spectral_norm_bound(matrix: Float[ndarray, "rows columns"]) -> float:
    """Return a proved upper bound on the spectral norm (largest singular value) of a float64 `matrix`.

    From the smaller Gram matrix G = W W^T or W^T W, whose rounding error is at most gamma_m |W| |W|^T entry by entry.

    Example:
        >>> bound = spectral_norm_bound(np.array([[3.0, 0.0], [0.0, 4.0]]))
        >>> 4.0 <= bound < 4.0 + 1e-12
        True
    """
    if matrix.size == 0:
        return 0.0
    rows = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    gram = rows @ rows.T
    magnitude = np.abs(rows)
    error = gamma(rows.shape[1] + 1) * float(np.linalg.norm(magnitude @ magnitude.T))
    return float(np.nextafter(np.sqrt(largest_eigenvalue_bound((gram + gram.T) / 2, error)), np.inf))
