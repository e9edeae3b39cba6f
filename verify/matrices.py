"""Affine operators as sparse matrices, built by index arithmetic in numpy, without torch.

Linear programs need them, and the checker uses them because they share no code with the convolutions of the fast path: a
wrong transposed convolution cannot hide here.
"""

import math
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from numpy import ndarray

from verify.errors import GraphError
from verify.graph import Add, AvgPool, Concat, Conv2d, Gather, Graph, Linear, Node, Reshape, Scale

Matrices = tuple[tuple[sp.csr_array, ...], Float[ndarray, " out"]]

_built: "WeakKeyDictionary[Node, Matrices]" = WeakKeyDictionary()


def affine_matrices(graph: Graph, index: int) -> Matrices:
    """Return z.flat = Σ_i matrices[i] @ inputs[i].flat + bias for an affine node; built once per node and kept with it.

    Returns:
        One CSR matrix [out, in_i] per input of the node, and the bias [out].

    Raises:
        GraphError: If the node is an activation or the input.
    """
    node = graph[index]
    if node not in _built:
        _built[node] = _build(node, [graph[i].shape for i in node.inputs])
    return _built[node]


def _build(node: Node, shapes: Sequence[tuple[int, ...]]) -> Matrices:
    op, size = node.op, node.size
    sizes = [math.prod(shape) for shape in shapes]
    nothing = np.zeros(size)
    if isinstance(op, Linear):
        repeats = size // len(op.bias)
        matrix = sp.kron(sp.eye_array(repeats), sp.csr_array(op.weight), format="csr")
        return (sp.csr_array(matrix),), np.tile(op.bias, repeats)
    if isinstance(op, Conv2d):
        return (_convolution(op, shapes[0], node.shape),), np.repeat(op.bias, size // len(op.bias))
    if isinstance(op, Scale):
        return (sp.csr_array(sp.diags_array(op.scale.reshape(-1))),), op.shift.reshape(-1).copy()
    if isinstance(op, Add):
        return tuple(sp.csr_array(sign * sp.eye_array(size)) for sign in op.signs), nothing
    if isinstance(op, Concat):
        places = np.split(np.arange(size).reshape(node.shape), np.cumsum([s[op.axis] for s in shapes])[:-1], op.axis)
        ones = [(np.ones(n), (place.reshape(-1), np.arange(n))) for n, place in zip(sizes, places, strict=True)]
        return tuple(sp.csr_array(entry, shape=(size, n)) for n, entry in zip(sizes, ones, strict=True)), nothing
    if isinstance(op, Reshape):
        return (sp.csr_array(sp.eye_array(size)),), nothing
    if isinstance(op, Gather | AvgPool):
        index = op.index.reshape(size, -1)
        weight = op.weight if isinstance(op, AvgPool) else np.ones(index.shape)
        row, entry = np.nonzero(index >= 0)
        return (sp.csr_array((weight[row, entry], (row, index[row, entry])), shape=(size, sizes[0])),), nothing
    raise GraphError(f"only affine nodes have matrices, got {type(op).__name__}")


def _convolution(op: Conv2d, old: tuple[int, ...], new: tuple[int, ...]) -> sp.csr_array:
    """Every output position times every kernel entry that falls on an input position."""
    out_channels, group_in, kernel_height, kernel_width = op.weight.shape
    _, height, width = old
    c, i, j, g, k, m = np.meshgrid(
        np.arange(out_channels),
        np.arange(new[1]),
        np.arange(new[2]),
        np.arange(group_in),
        np.arange(kernel_height),
        np.arange(kernel_width),
        indexing="ij",
        sparse=True,
    )
    y = i * op.stride[0] - op.padding[0] + k * op.dilation[0]
    x = j * op.stride[1] - op.padding[2] + m * op.dilation[1]
    channel = c // (out_channels // op.groups) * group_in + g
    full = (out_channels, new[1], new[2], group_in, kernel_height, kernel_width)
    inside = np.broadcast_to((y >= 0) & (y < height) & (x >= 0) & (x < width), full)
    row = np.broadcast_to((c * new[1] + i) * new[2] + j, full)[inside]
    column = np.broadcast_to((channel * height + y) * width + x, full)[inside]
    weight = np.broadcast_to(op.weight[:, None, None, :, :, :], full)[inside]
    return sp.csr_array((weight, (row, column)), shape=(math.prod(new), math.prod(old)))
