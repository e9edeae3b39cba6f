"""The network as all bounds see it: a small immutable graph with float64 numbers.

A `Graph` is a tuple of nodes in topological order. Node 0 is the input, the last node is the output, and every node has
one operator, the indices of the nodes it reads, and its shape without the batch axis. There are eight affine operators
and four activations, and nothing else: whatever the source (`torch.fx`, ONNX) calls its layers, it arrives here as these.

The graph *is* the function that is verified, in real arithmetic. Its numbers are numpy float64, so that a checker can
read it without torch.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from verify.errors import GraphError


@dataclass(frozen=True, eq=False)
class Input:
    """The network's input, in the units in which perturbations are measured."""


@dataclass(frozen=True, eq=False)
class Linear:
    """z = x Wᵀ + b on the last axis."""

    weight: Float[ndarray, "out in_"]
    bias: Float[ndarray, " out"]


@dataclass(frozen=True, eq=False)
class Conv2d:
    """Cross-correlation, as torch's. `padding` is (top, bottom, left, right), with zeros."""

    weight: Float[ndarray, "out in_per_group height width"]
    bias: Float[ndarray, " out"]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True, eq=False)
class Scale:
    """z = scale * x + shift, elementwise; both have the node's full shape (batch norm, normalisation, constants)."""

    scale: Float[ndarray, "*shape"]
    shift: Float[ndarray, "*shape"]


@dataclass(frozen=True, eq=False)
class Add:
    """z = Σ signs[i] * inputs[i], all of one shape; signs are +1 or -1."""

    signs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Concat:
    """Concatenation along `axis`, counted without the batch axis."""

    axis: int


@dataclass(frozen=True, eq=False)
class Reshape:
    """The same numbers in C order; the node's shape is the new one (flatten, view, squeeze)."""


@dataclass(frozen=True, eq=False)
class Gather:
    """z.flat[k] = x.flat[index[k]], or 0 where the index is -1 (slices, permutations, zero padding)."""

    index: Int[ndarray, " out"]


@dataclass(frozen=True, eq=False)
class AvgPool:
    """z.flat[k] = Σ_i weight[k, i] * x.flat[index[k, i]]; entries with index -1 are absent (weight 0)."""

    index: Int[ndarray, "out window"]
    weight: Float[ndarray, "out window"]


@dataclass(frozen=True, eq=False)
class LeakyReLU:
    """z = max(x, slope * x), slope in [0, 1]. ReLU is slope 0."""

    slope: float = 0.0


@dataclass(frozen=True, eq=False)
class Sigmoid:
    """z = 1 / (1 + exp(-x))."""


@dataclass(frozen=True, eq=False)
class Tanh:
    """z = tanh(x)."""


@dataclass(frozen=True, eq=False)
class MaxPool:
    """z.flat[k] = max_i x.flat[index[k, i]]; entries with index -1 are absent. Windows are never empty."""

    index: Int[ndarray, "out window"]


Affine = Linear | Conv2d | Scale | Add | Concat | Reshape | Gather | AvgPool
Activation = LeakyReLU | Sigmoid | Tanh | MaxPool
Operator = Input | Affine | Activation
AFFINE: tuple[type, ...] = (Linear, Conv2d, Scale, Add, Concat, Reshape, Gather, AvgPool)
ACTIVATIONS: tuple[type, ...] = (LeakyReLU, Sigmoid, Tanh, MaxPool)


@dataclass(frozen=True, eq=False)
class Node:
    """One operator in its place: what it reads (node indices, all smaller than its own), and its shape without batch."""

    op: Operator
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    name: str = ""

    @property
    def size(self) -> int:
        """Number of values, the product of the shape."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_activation(self) -> bool:
        """Whether the operator is not affine, and so has to be relaxed."""
        return isinstance(self.op, ACTIVATIONS)


@dataclass(frozen=True, eq=False)
class Graph:
    """A feed-forward network: nodes in topological order, input first, output last.

    Raises:
        GraphError: If the order is not topological, the first node is not the only input, or a number is not finite.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes or not isinstance(self.nodes[0].op, Input):
            raise GraphError("node 0 of a graph must be its input")
        for k, node in enumerate(self.nodes):
            if (k > 0) != bool(node.inputs) or any(not 0 <= i < k for i in node.inputs):
                raise GraphError(
                    f"every node but the input must read earlier nodes, got node {k} reading {node.inputs}"
                )
            for field in fields(node.op):
                value = getattr(node.op, field.name)
                if isinstance(value, np.ndarray):
                    if not np.all(np.isfinite(value)):
                        raise GraphError(f"every parameter must be finite, got others in {field.name} of {node.name!r}")
                    value.setflags(write=False)
        if len(self.nodes[-1].shape) != 1:
            raise GraphError(f"the output must be a vector per input, got the shape {self.nodes[-1].shape}")

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, index: int) -> Node:
        return self.nodes[index]

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.nodes[0].shape

    @property
    def output(self) -> int:
        """Index of the output node."""
        return len(self.nodes) - 1

    @property
    def num_outputs(self) -> int:
        """Length of the output vector."""
        return self.nodes[-1].size

    @cached_property
    def activations(self) -> tuple[int, ...]:
        """Indices of the nodes that are not affine, in topological order."""
        return tuple(k for k, node in enumerate(self.nodes) if node.is_activation)

    @cached_property
    def preactivations(self) -> tuple[int, ...]:
        """Indices of the nodes that some activation reads, in topological order: where tight boxes matter."""
        return tuple(sorted({self.nodes[k].inputs[0] for k in self.activations}))

    def ancestors(self, index: int) -> frozenset[int]:
        """Indices of all nodes that `index` depends on, itself included."""
        found = {index}
        for k in range(index, -1, -1):
            if k in found:
                found.update(self.nodes[k].inputs)
        return frozenset(found)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over operators, wiring, shapes and numbers: equal digests are the same function."""
        state = hashlib.sha256()
        for node in self.nodes:
            state.update(f"{type(node.op).__name__} {node.inputs} {node.shape}".encode())
            for field in fields(node.op):
                value = getattr(node.op, field.name)
                is_array = isinstance(value, np.ndarray)
                state.update(f" {field.name} {value.shape if is_array else value!r}".encode())
                if is_array:
                    state.update(np.ascontiguousarray(value).tobytes())
        return state.hexdigest()
