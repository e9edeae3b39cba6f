"""Lipschitz constants of a whole `Graph`: how far each node's values move when the input moves by at most 1 in l2.

The product of spectral norms, generalised to any wiring: with L_i the constant of what a node reads,

    affine: |W| L,   sum: sum_i L_i,   concatenation: (sum_i L_i^2)^{1/2},   activation with slopes in [a, b]: b L,
    gathering and max pooling: m^{1/2} L, every value being read at most m times.

Spectral norms are proved bounds (`verify.lipschitz.semidefinite`); where a convolution's matrix is too large for that,
(|W|_1 |W|_inf)^{1/2} stands in for its norm. LipSDP takes dense chains only: see `dense_chain`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from numpy import ndarray

from verify.errors import UnsupportedOperatorError
from verify.graph import (
    Add,
    AvgPool,
    Concat,
    Gather,
    Graph,
    Input,
    LeakyReLU,
    Linear,
    MaxPool,
    Node,
    Reshape,
    Scale,
    Sigmoid,
    Tanh,
)
from verify.lipschitz.semidefinite import gamma, spectral_norm_bound
from verify.matrices import affine_matrices

LARGEST_GRAM = 2048
"""Largest side of a Gram matrix that is factorised; some seconds on one core."""

DERIVED = 8
"""Roundings that a factor of the graph may hold which is computed from stored numbers: 1 / m of a mean, batch norm's
gamma / sqrt(v + eps). Stored weights are exact."""


def up(value: float) -> float:
    """Return the value moved up by a few units in the last place: more than a handful of operations can round."""
    return float(value * (1.0 + 2.0**-48) + 5e-324)


@lru_cache(maxsize=8)
def spectral_constants(graph: Graph) -> tuple[float, ...]:
    """Return a proved l2 Lipschitz constant of every node, as a function of the input.

    Reference: Szegedy et al. 2014, "Intriguing properties of neural networks", section 4.3.
    """
    constants: list[float] = []
    for k, node in enumerate(graph):
        before = [constants[i] for i in node.inputs]
        constants.append(_constant(graph, k, node, before))
    return tuple(constants)


def _constant(graph: Graph, k: int, node: Node, before: list[float]) -> float:
    op = node.op
    if isinstance(op, Input):
        return 1.0
    if isinstance(op, Add):
        return up(math.fsum(before))
    if isinstance(op, Concat):
        return up(math.sqrt(math.fsum(up(value * value) for value in before)))
    (value,) = before
    if isinstance(op, Reshape):
        return value
    if isinstance(op, Gather | MaxPool):
        return up(math.sqrt(_most_read(op.index)) * value)
    if isinstance(op, LeakyReLU | Sigmoid | Tanh):
        return value * slopes_of(op)[1]
    if isinstance(op, Scale):
        return up(float(np.abs(op.scale).max()) * value)
    if isinstance(op, Linear):
        return up(spectral_norm_bound(op.weight) * value)
    (matrix,), _ = affine_matrices(graph, k)
    norm = _mixed_norm(matrix)
    if not isinstance(op, AvgPool) and min(matrix.shape) <= LARGEST_GRAM:
        norm = min(norm, spectral_norm_bound(matrix.toarray()))
    return up(norm * value)


def slopes_of(op: LeakyReLU | Sigmoid | Tanh) -> tuple[float, float]:
    """Return the smallest and the largest slope of an activation."""
    if isinstance(op, LeakyReLU):
        return op.slope, 1.0
    return (0.0, 0.25) if isinstance(op, Sigmoid) else (0.0, 1.0)


def _most_read(index: Int[ndarray, "..."]) -> int:
    places = index[index >= 0]
    return int(np.bincount(places).max()) if places.size else 0


def _mixed_norm(matrix: sp.csr_array) -> float:
    """(|W|_1 |W|_inf)^{1/2} >= |W|_2."""
    size = abs(matrix)
    terms = max(matrix.shape)
    columns, rows = float(size.sum(axis=0).max(initial=0.0)), float(size.sum(axis=1).max(initial=0.0))
    return up(math.sqrt(columns * rows) * (1.0 + gamma(terms)))


@dataclass(frozen=True, eq=False)
class Chain:
    """A network as W_K s(W_{K-1} ... s(W_1 x)), biases left out.

    Attributes:
        layers: W_1, ..., W_K.
        errors: How far each may be from the exact product of the affine nodes that it joins, in spectral norm.
        slopes: (a, b): all activations' slopes lie in it.
    """

    layers: tuple[Float[ndarray, "_ _"], ...]
    errors: tuple[float, ...]
    slopes: tuple[float, float]


def chain_sizes(graph: Graph) -> list[int]:
    """Return the sizes of the input and of every activation of a chain.

    Raises:
        UnsupportedOperatorError: If the network is no chain of affine maps and elementwise activations; names all others.
    """
    refused = [
        f"{node.name or k}: {type(node.op).__name__}, which LipSDP cannot take"
        for k, node in enumerate(graph)
        if isinstance(node.op, MaxPool | Add | Concat)
    ]
    readers = [sum(k in node.inputs for node in graph) for k in range(len(graph))]
    refused += [f"{graph[k].name or k}: read by {count} nodes" for k, count in enumerate(readers) if count > 1]
    if refused:
        raise UnsupportedOperatorError(refused, "chains of affine maps and elementwise activations")
    return [graph[0].size, *(graph[k].size for k in graph.activations)]


def dense_chain(graph: Graph) -> Chain:
    """Return the layers of a chain, consecutive affine nodes joined.

    Raises:
        UnsupportedOperatorError: As `chain_sizes`.
    """
    chain_sizes(graph)
    layers: list[ndarray] = []
    errors: list[float] = []
    low, high = 1.0, 0.0
    # The current product, and the entrywise bound on its error; None stands for the identity.
    product: ndarray | None = None
    error: ndarray | None = None

    def close(size: int) -> None:
        nonlocal product, error
        layers.append(np.eye(size) if product is None else product)
        errors.append(0.0 if error is None else up(float(np.linalg.norm(error))))
        product = error = None

    for k, node in enumerate(graph):
        if isinstance(node.op, LeakyReLU | Sigmoid | Tanh):
            close(node.size)
            a, b = slopes_of(node.op)
            low, high = min(low, a), max(high, b)
        elif not isinstance(node.op, Input | Reshape):
            (matrix,), _ = affine_matrices(graph, k)
            derived = DERIVED if isinstance(node.op, Scale | AvgPool) else 0
            if product is None:
                product = matrix.toarray()
                error = gamma(derived) * np.abs(product) if derived else None
                continue
            terms = int(np.diff(matrix.indptr).max(initial=1)) + derived
            size = abs(matrix)
            fresh = gamma(terms + 1) * (size @ np.abs(product))
            carried = 0.0 if error is None else size @ error
            product, error = np.asarray(matrix @ product), (fresh + carried) * (1.0 + gamma(terms + 2))
    close(graph.num_outputs)
    return Chain(tuple(layers), tuple(errors), (low, high) if high > 0 else (0.0, 1.0))
