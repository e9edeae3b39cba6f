"""LipSDP: the semidefinite bound on the Lipschitz constant of a dense network, made a proof.

For activations whose slopes lie in [a, b] and diagonal multipliers T = diag(t), t >= 0 (LipSDP-Neuron; the coupled
variant with off-diagonal T was refuted), with A x = (W_1 x_0, ..., W_{K-1} x_{K-2}) and B x = (x_1, ..., x_{K-1}):

    minimise rho  subject to
    M(t, rho) = [A; B]^T [[-2ab T, (a+b) T], [(a+b) T, -2 T]] [A; B] + diag(-rho I, 0, ..., W_K^T W_K) <= 0,

and L = sqrt(rho) bounds ||f(x) - f(y)||_2 / ||x - y||_2. A first-order solver's rho is not a bound: its t violates the
constraint a little, and rho with it. So only t is taken from the solver. With S the block of M of the hidden variables,
S < 0 and the Schur complement give the smallest rho for that t, and `proves_positive_semidefinite` of -M, formed from the
network's own weights, decides. No solver is trusted.

Reference: Fazlyab, Robey, Hassani, Morari, Pappas 2019, "Efficient and Accurate Estimation of Lipschitz Constants for
Deep Neural Networks", Theorem 2; Pauli, Koch, Berberich, Kohler, Allgöwer 2021 for the diagonal multipliers.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from verify.lipschitz.semidefinite import gamma, proves_positive_semidefinite
from verify.lipschitz.spectral import spectral_product
from verify.modelling import load_cvxpy

SLOPES = {"relu": (0.0, 1.0), "leaky_relu": (0.01, 1.0), "sigmoid": (0.0, 0.25), "tanh": (0.0, 1.0)}
"""Smallest and largest slope of the usual activations; those of a LeakyReLU are its own `negative_slope` and 1."""

SHARES = (1e-6, 1e-5, 1e-4, 1e-3)
"""What is added to all multipliers, relative to the largest, where some are almost zero."""

SIZE_LIMITS = {"CLARABEL": 100, "SCS": 600}
"""Largest semidefinite size (input after the QR reduction, plus hidden units) measured to fit in about a minute."""


@dataclass(frozen=True)
class LipschitzBound:
    """A proved bound ||f(x) - f(y)||_2 <= `value` * ||x - y||_2, for all x and y.

    Attributes:
        value: The bound, rounded up.
        method: "lipsdp" or "spectral-product", whichever is smaller.
        multipliers: t of the proof, one per hidden unit (empty for the spectral product).
        solver: Name of the solver that proposed t, None if none did.
        solver_value: sqrt(rho) as the solver reported it: *not* a bound; NaN where there is none.
        note: Why the method is not the one that was asked for; empty otherwise.
        seconds: Wall-clock time.
    """

    value: float
    method: str
    multipliers: Float[ndarray, " hidden"]
    solver: str | None
    solver_value: float
    note: str
    seconds: float


def lipsdp(
    weights: Sequence[Float[ndarray, "_ _"]],
    *,
    solver: str,
    slopes: tuple[float, float] = SLOPES["relu"],
    solver_options: dict[str, Any] | None = None,
) -> LipschitzBound:
    """Bound the l2 Lipschitz constant of x -> W_K s(W_{K-1} ... s(W_1 x + b_1) ... + b_{K-1}) + b_K.

    Args:
        weights: W_1, ..., W_K, each [outputs, inputs], at least one. Biases do not matter.
        solver: Name of a cvxpy solver for semidefinite programs ("SCS", "CLARABEL", "MOSEK", ...). Not guessed: see
            `SIZE_LIMITS` for what fits in a minute.
        slopes: (a, b), the range of the activations' slopes, b > 0, a >= 0.
        solver_options: Passed to the solver.

    Returns:
        The smaller of LipSDP and the product of spectral norms, both proved. Where the solver fails, or proposes
        multipliers from which nothing follows, the spectral product, with a note that says so.

    Raises:
        InvalidArgumentError: If shapes do not fit together or a number is not finite.

    Example:
        >>> bound = lipsdp([np.eye(2), np.eye(2)], solver="CLARABEL")
        >>> 1.0 <= bound.value < 1.001
        True
    """
    started = time.perf_counter()
    layers = [np.asarray(weight, dtype=np.float64) for weight in weights]
    _check(layers, slopes)
    # A slope of at most b per layer: the product of spectral norms with b^(K-1).
    product = float(np.nextafter(spectral_product(layers) * slopes[1] ** (len(layers) - 1) * (1 + 1e-15), np.inf))
    nothing = np.zeros(0)

    def fallback(note: str, claimed: float = float("nan")) -> LipschitzBound:
        elapsed = time.perf_counter() - started
        return LipschitzBound(product, "spectral-product", nothing, solver, claimed, note, elapsed)

    if len(layers) == 1:
        return LipschitzBound(
            product, "spectral-product", nothing, None, float("nan"), "", time.perf_counter() - started
        )
    if not all(layer.any() for layer in layers):
        return fallback("a layer is zero: the network is constant")
    multipliers, claimed, note = _propose(layers, slopes, solver, solver_options or {})
    if multipliers is None:
        return fallback(note)
    best, kept = float("inf"), multipliers
    # A solver's t is off by a common factor more than in its shape: S < 0 may only hold for a larger t, and a smaller rho
    # may follow from another. Units that hardly matter get a t of almost zero, and S < 0 fails by rounding: a small share of
    # the largest t is added to all. Every candidate gives a valid bound; the smallest is kept.
    factors = (1.0, *np.geomspace(0.5, 2.0, 25), 1 + 1e-4, 1 + 1e-3, 1 - 1e-4, 1 - 1e-3)
    largest = float(multipliers.max())
    candidates = [multipliers * factor for factor in factors]
    candidates += [multipliers * factor + share * largest for share in SHARES for factor in (1.0, 1.01, 1.05)]
    for candidate in candidates:
        value = prove_lipschitz(layers, candidate, slopes)
        if value < best:
            best, kept = value, candidate
    if not best < product:
        reason = "nothing follows from the solver's multipliers" if np.isinf(best) else "LipSDP is no smaller"
        return fallback(f"{solver}: {reason}; the product of spectral norms is used", claimed)
    return LipschitzBound(best, "lipsdp", kept, solver, claimed, "", time.perf_counter() - started)


def prove_lipschitz(
    weights: Sequence[Float[ndarray, "_ _"]],
    multipliers: Float[ndarray, " hidden"],
    slopes: tuple[float, float] = SLOPES["relu"],
    errors: Sequence[float] | None = None,
) -> float:
    """Return the smallest L that can be proved from these multipliers, rounded up; infinity if none can.

    rho = lambda_max(M_00 - M_0h S^-1 M_h0) by the Schur complement, then enlarged until -M(t, rho), formed from the
    weights as they are, is proved positive semidefinite in float64.

    Args:
        weights: W_1, ..., W_K.
        multipliers: t, one per hidden unit in order; negative entries are clipped to 0.
        slopes: (a, b).
        errors: How far each layer's exact matrix may be from the one given, in spectral norm; 0 for all if None. What is
            proved holds for all networks within that.
    """
    layers = [np.asarray(weight, dtype=np.float64) for weight in weights]
    t = np.maximum(np.asarray(multipliers, dtype=np.float64), 0.0)
    if not np.isfinite(t).all():
        return float("inf")
    negated, error = _negated_matrix(layers, t, slopes)
    if errors is not None:
        error += _shifted(layers, t, slopes, errors)
    inputs = layers[0].shape[1]
    hidden = negated[inputs:, inputs:]
    try:
        factor = np.linalg.cholesky(hidden)
        half = np.linalg.solve(factor, negated[inputs:, :inputs])
    except np.linalg.LinAlgError:
        return float("inf")
    rho = float(np.linalg.eigvalsh(half.T @ half - negated[:inputs, :inputs])[-1])
    if not np.isfinite(rho):
        return float("inf")
    identity = np.zeros_like(negated)
    identity[:inputs, :inputs] = np.eye(inputs)
    for exponent in range(-13, -1):
        bound = max(rho, 0.0) * (1.0 + 10.0**exponent) + 1e-300
        candidate = negated + bound * identity
        rounding = 4e-16 * float(np.linalg.norm(np.diagonal(candidate)[:inputs]))
        if proves_positive_semidefinite(candidate, error + rounding):
            return float(np.nextafter(np.sqrt(bound), np.inf))
    return float("inf")


def _negated_matrix(
    layers: Sequence[Float[ndarray, "_ _"]], t: Float[ndarray, " hidden"], slopes: tuple[float, float]
) -> tuple[Float[ndarray, "size size"], float]:
    """-M(t, 0) over (x_0, ..., x_{K-1}), and a bound on the spectral norm of its rounding error."""
    a, b = slopes
    widths = [layers[0].shape[1], *(layer.shape[0] for layer in layers[:-1])]
    starts = np.concatenate([[0], np.cumsum(widths)])
    size = int(starts[-1])
    negated, magnitude = np.zeros((size, size)), np.zeros((size, size))
    offset = 0
    for index, layer in enumerate(layers[:-1]):
        block = t[offset : offset + layer.shape[0]]
        offset += layer.shape[0]
        before = slice(starts[index], starts[index + 1])
        after = slice(starts[index + 1], starts[index + 2])
        scaled = block[:, None] * layer
        cross = (a + b) * scaled
        negated[after, before] -= cross
        negated[before, after] -= cross.T
        negated[after, after] += 2.0 * np.diag(block)
        magnitude[after, before] += np.abs(cross)
        magnitude[before, after] += np.abs(cross).T
        magnitude[after, after] += 2.0 * np.diag(block)
        if a != 0.0:
            negated[before, before] += 2 * a * b * (layer.T @ scaled)
            magnitude[before, before] += 2 * abs(a * b) * (np.abs(layer).T @ np.abs(scaled))
    last = slice(starts[-2], starts[-1])
    negated[last, last] -= layers[-1].T @ layers[-1]
    magnitude[last, last] += np.abs(layers[-1]).T @ np.abs(layers[-1])
    # Every entry is a sum of at most max(height) products of at most four factors, and of four such terms.
    operations = max(layer.shape[0] for layer in layers) + 8
    return (negated + negated.T) / 2, gamma(operations) * float(np.linalg.norm(magnitude))


def _shifted(
    layers: Sequence[Float[ndarray, "_ _"]],
    t: Float[ndarray, " hidden"],
    slopes: tuple[float, float],
    errors: Sequence[float],
) -> float:
    """By how much M may change, in spectral norm, while each W_k moves by a matrix of norm at most its error e_k.

    The blocks T W_k move by |T| e_k, a block W^T T W by |T| (2 |W| e + e^2).
    """
    a, b = slopes
    total, offset = 0.0, 0
    for layer, error in zip(layers[:-1], errors[:-1], strict=True):
        largest = float(t[offset : offset + layer.shape[0]].max(initial=0.0))
        offset += layer.shape[0]
        total += (a + b) * largest * error
        if a != 0.0:
            total += 2 * a * b * largest * (2 * float(np.linalg.norm(layer)) + error) * error
    total += (2 * float(np.linalg.norm(layers[-1])) + errors[-1]) * errors[-1]
    return total * (1.0 + 1e-9)


def _propose(
    layers: list[Float[ndarray, "_ _"]], slopes: tuple[float, float], solver: str, options: dict[str, Any]
) -> tuple[Float[ndarray, " hidden"] | None, float, str]:
    """Ask the solver for multipliers: (t, claimed L, note), t None where it failed."""
    import warnings

    cp = load_cvxpy()

    # Layers of spectral norm 1: first-order solvers need the conditioning. With c_k the product of the first k norms,
    # x_k = c_k x'_k, t_k = t'_k c_K^2 / c_k^2 and rho = rho' c_K^2 (slopes do not change under positive scaling).
    norms = [float(np.linalg.norm(layer, 2)) for layer in layers]
    scaled = [layer / norm for layer, norm in zip(layers, norms, strict=True)]
    # W_1 = R^T Q^T with orthonormal columns in Q: Q^T x fills the ball of the smaller dimension, so L is the same.
    if scaled[0].shape[1] > scaled[0].shape[0]:
        scaled[0] = np.linalg.qr(scaled[0].T)[1].T
    a, b = slopes
    widths = [scaled[0].shape[1], *(layer.shape[0] for layer in scaled[:-1])]
    starts = np.concatenate([[0], np.cumsum(widths)])
    size, hidden = int(starts[-1]), int(starts[-1]) - widths[0]
    first, second = np.zeros((hidden, size)), np.zeros((hidden, size))
    for index, layer in enumerate(scaled[:-1]):
        rows = slice(starts[index + 1] - widths[0], starts[index + 2] - widths[0])
        first[rows, starts[index] : starts[index + 1]] = layer
        second[rows, starts[index + 1] : starts[index + 2]] = np.eye(layer.shape[0])
    output = np.zeros((size, size))
    output[starts[-2] :, starts[-2] :] = scaled[-1].T @ scaled[-1]
    corner = np.zeros((size, size))
    corner[: widths[0], : widths[0]] = np.eye(widths[0])
    t, rho = cp.Variable(hidden, nonneg=True), cp.Variable()
    diagonal = cp.diag(t)
    cross = (a + b) * (first.T @ diagonal @ second)
    matrix = cross + cross.T - 2 * second.T @ diagonal @ second + output - rho * corner
    if a != 0.0:
        matrix = matrix - 2 * a * b * first.T @ diagonal @ first
    problem = cp.Problem(cp.Minimize(rho), [matrix << 0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "solution may be inaccurate": nothing of it is trusted anyway
            problem.solve(solver=solver, **options)
    except (cp.SolverError, ValueError) as error:
        return None, float("nan"), f"{solver} failed ({error}); the product of spectral norms is used"
    if t.value is None or rho.value is None or not np.isfinite(t.value).all():
        return None, float("nan"), f"{solver} found no multipliers ({problem.status}); the product is used"
    products = np.cumprod(norms)
    back = np.concatenate(
        [np.full(width, products[-1] / c) for width, c in zip(widths[1:], products[:-1], strict=True)]
    )
    # Multipliers of 0 make S singular.
    proposed = np.maximum(np.asarray(t.value, dtype=np.float64), 1e-9) * back**2
    return proposed, float(np.sqrt(max(float(rho.value), 0.0)) * products[-1]), ""


def _check(layers: Sequence[Float[ndarray, "_ _"]], slopes: tuple[float, float]) -> None:
    if not layers:
        raise InvalidArgumentError("a network needs at least one layer, got none")
    for position, layer in enumerate(layers):
        if layer.ndim != 2 or not np.isfinite(layer).all():
            raise InvalidArgumentError(
                f"weights must be finite matrices, got shape {layer.shape} at layer {position + 1}"
            )
        if position and layer.shape[1] != layers[position - 1].shape[0]:
            raise InvalidArgumentError(
                f"each layer must take what the one before gives ({layers[position - 1].shape[0]} values), "
                f"got {layer.shape[1]} inputs at layer {position + 1}"
            )
    a, b = slopes
    if not (np.isfinite(b) and 0 <= a <= b and b > 0):
        raise InvalidArgumentError(f"slopes must satisfy 0 <= a <= b, b > 0 and be finite, got slopes={slopes}")
