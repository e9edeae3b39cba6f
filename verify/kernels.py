"""What each affine operator does to numbers: forward, with absolute values, and backward to the row before it.

All affine operators share four words. For z = W x + b:

- `forward(xs)`: W x + b, with a batch axis in front;
- `absolute(xs)`: |W| x, the map of radii and of rounding allowances;
- `transpose(rows)`: Λ W, one result per input, with a row axis in front, and Λ b per row;
- `terms`: how many products one entry of W x or Λ W sums at most, from which rounding allowances follow.

A `Program` is a graph with its numbers on one device and in one precision.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verify.graph import (
    Activation,
    Add,
    AvgPool,
    Concat,
    Conv2d,
    Gather,
    Graph,
    LeakyReLU,
    Linear,
    MaxPool,
    Node,
    Reshape,
    Scale,
    Sigmoid,
    Tanh,
)


class Kernel(ABC):
    """An affine operator with its numbers in place."""

    terms: int = 0

    @abstractmethod
    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        """Return W x + b."""

    @abstractmethod
    def absolute(self, xs: Sequence[Tensor]) -> Tensor:
        """Return |W| x."""

    @abstractmethod
    def transpose(self, rows: Tensor) -> list[Tensor]:
        """Return Λ W for each input."""

    def rows_of(self, coordinate: Tensor) -> Tensor | None:
        """Return single rows of W, flat, [coordinates, inputs], or None where that is no cheaper than a product."""
        return None

    def bias(self) -> Tensor | None:
        """Return b in a shape that broadcasts to the node's, or None for zero."""
        return None


class _Linear(Kernel):
    def __init__(self, op: Linear, node: Node, load: Callable[[Any], Tensor]) -> None:
        self.flat = node.size == len(op.bias)
        self.weight, self.offset = load(op.weight), load(op.bias)
        self.magnitude = self.weight.abs()
        self.terms = max(op.weight.shape)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        return F.linear(xs[0], self.weight, self.offset)

    def absolute(self, xs: Sequence[Tensor]) -> Tensor:
        return F.linear(xs[0], self.magnitude)

    def transpose(self, rows: Tensor) -> list[Tensor]:
        return [rows @ self.weight]

    def rows_of(self, coordinate: Tensor) -> Tensor | None:
        return self.weight[coordinate] if self.flat else None

    def bias(self) -> Tensor | None:
        return self.offset


class _Conv2d(Kernel):
    def __init__(
        self, op: Conv2d, input_shape: tuple[int, ...], shape: tuple[int, ...], load: Callable[[Any], Tensor]
    ) -> None:
        self.input_shape, self.shape = input_shape, shape
        self.op, self.weight, self.offset = op, load(op.weight), load(op.bias)
        self.magnitude = self.weight.abs()
        self.height, self.width = input_shape[1:]
        top, bottom, left, right = op.padding
        self.symmetric = top == bottom and left == right
        # What the strides skip at the far end: without it the transposed convolution is too small, and wrong.
        self.rest = tuple(
            (length + pads - op.dilation[a] * (op.weight.shape[2 + a] - 1) - 1) % op.stride[a]
            for a, (length, pads) in enumerate(((self.height, top + bottom), (self.width, left + right)))
        )
        self.terms = math.prod(op.weight.shape[1:]) + op.weight.shape[0] // op.groups * math.prod(op.weight.shape[2:])

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        op = self.op
        top, bottom, left, right = op.padding
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            if self.symmetric:
                return F.conv2d(x, weight, bias, op.stride, (top, left), op.dilation, op.groups)
            return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, op.stride, 0, op.dilation, op.groups)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        return self._convolve(xs[0], self.weight, self.offset)

    def absolute(self, xs: Sequence[Tensor]) -> Tensor:
        return self._convolve(xs[0], self.magnitude, None)

    def transpose(self, rows: Tensor) -> list[Tensor]:
        op = self.op
        top, _, left, _ = op.padding
        padding = (top, left) if self.symmetric else (0, 0)
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            spread = F.conv_transpose2d(rows, self.weight, None, op.stride, padding, self.rest, op.groups, op.dilation)
        if not self.symmetric:
            spread = spread[..., top : top + self.height, left : left + self.width]
        return [spread]

    def rows_of(self, coordinate: Tensor) -> Tensor | None:
        op, (channels, height, width) = self.op, self.input_shape
        group_in, kernel_height, kernel_width = op.weight.shape[1:]
        area = self.shape[1] * self.shape[2]
        c, i, j = coordinate // area, coordinate % area // self.shape[2], coordinate % self.shape[2]
        arange = torch.arange(max(op.weight.shape), device=coordinate.device)
        channel = (c // (op.weight.shape[0] // op.groups) * group_in)[:, None] + arange[:group_in]
        y = (i * op.stride[0] - op.padding[0])[:, None] + arange[:kernel_height] * op.dilation[0]
        x = (j * op.stride[1] - op.padding[2])[:, None] + arange[:kernel_width] * op.dilation[1]
        inside = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[:, None, None, :]
        place = (channel[:, :, None, None] * height + y[:, None, :, None]) * width + x[:, None, None, :]
        values = torch.where(inside, self.weight[c], 0.0).flatten(1)
        place = torch.where(inside, place, 0).flatten(1)
        return values.new_zeros(len(c), channels * height * width).scatter_add_(1, place, values)

    def bias(self) -> Tensor | None:
        return self.offset[:, None, None]


class _Scale(Kernel):
    terms = 2

    def __init__(self, op: Scale, load: Callable[[Any], Tensor]) -> None:
        self.factor, self.offset = load(op.scale), load(op.shift)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        return self.factor * xs[0] + self.offset

    def absolute(self, xs: Sequence[Tensor]) -> Tensor:
        return self.factor.abs() * xs[0]

    def transpose(self, rows: Tensor) -> list[Tensor]:
        return [rows * self.factor]

    def bias(self) -> Tensor | None:
        return self.offset


class _Add(Kernel):
    def __init__(self, op: Add) -> None:
        self.signs = op.signs
        self.terms = len(op.signs)

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        return sum((x if sign > 0 else -x for sign, x in zip(self.signs, xs, strict=True)), torch.zeros_like(xs[0]))

    def absolute(self, xs: Sequence[Tensor]) -> Tensor:
        return sum(xs, torch.zeros_like(xs[0]))

    def transpose(self, rows: Tensor) -> list[Tensor]:
        return [rows if sign > 0 else -rows for sign in self.signs]


class _Concat(Kernel):
    def __init__(self, op: Concat, sizes: list[int]) -> None:
        self.axis, self.sizes = op.axis + 1, sizes

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(xs), dim=self.axis)

    def absolute(self, xs: Sequence[Tensor]) -> Tensor:
        return self.forward(xs)

    def transpose(self, rows: Tensor) -> list[Tensor]:
        return list(torch.split(rows, self.sizes, dim=self.axis))


class _Reshape(Kernel):
    def __init__(self, old: tuple[int, ...], new: tuple[int, ...]) -> None:
        self.old, self.new = old, new

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        return xs[0].reshape(-1, *self.new)

    def absolute(self, xs: Sequence[Tensor]) -> Tensor:
        return self.forward(xs)

    def transpose(self, rows: Tensor) -> list[Tensor]:
        return [rows.reshape(-1, *self.old)]


class _Table(Kernel):
    """Gather and average pooling: Σ_i weight[k, i] x.flat[index[k, i]]."""

    def __init__(self, node: Node, old: tuple[int, ...], device: torch.device, load: Callable[[Any], Tensor]) -> None:
        assert isinstance(node.op, Gather | AvgPool)
        index = torch.from_numpy(node.op.index.copy()).to(device)
        self.index = index.reshape(len(index), -1)
        present = self.index >= 0
        self.weight = load(node.op.weight) if isinstance(node.op, AvgPool) else load(present.cpu().numpy())
        self.weight = self.weight * present
        self.index = self.index.clamp(min=0)
        self.old, self.new, self.size = old, node.shape, math.prod(old)
        # A gather that repeats entries sums them on the way back.
        busiest = int(torch.bincount(self.index[present], minlength=1).max()) if bool(present.any()) else 0
        self.terms = 0 if isinstance(node.op, Gather) and busiest <= 1 else self.index.shape[1] + busiest + 1

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        picked = xs[0].flatten(1)[:, self.index]
        return (picked * self.weight).sum(-1).reshape(-1, *self.new)

    def absolute(self, xs: Sequence[Tensor]) -> Tensor:
        picked = xs[0].flatten(1)[:, self.index]
        return (picked * self.weight.abs()).sum(-1).reshape(-1, *self.new)

    def transpose(self, rows: Tensor) -> list[Tensor]:
        spread = (rows.flatten(1)[:, :, None] * self.weight).flatten(1)
        back = rows.new_zeros(len(rows), self.size).index_add(1, self.index.flatten(), spread)
        return [back.reshape(-1, *self.old)]


def activate(op: Activation, x: Tensor) -> Tensor:
    """Return the activation's value; max pooling is over windows of the flattened event."""
    if isinstance(op, LeakyReLU):
        return F.relu(x) if op.slope == 0 else F.leaky_relu(x, op.slope)
    if isinstance(op, Sigmoid):
        return torch.sigmoid(x)
    if isinstance(op, Tanh):
        return torch.tanh(x)
    return window_values(op, x).amax(-1)


def window_values(op: MaxPool, x: Tensor) -> Tensor:
    """Return what each window sees, [batch, out, window], with -inf for absent entries."""
    index = torch.from_numpy(op.index.copy()).to(x.device)
    return torch.where(index >= 0, x.flatten(1)[:, index.clamp(min=0)], -torch.inf)


class Program:
    """A graph whose numbers lie on one device in one precision.

    Attributes:
        kernels: One per node; None for the input and for activations.
    """

    def __init__(self, graph: Graph, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64) -> None:
        self.graph, self.device, self.dtype = graph, torch.device(device), dtype
        self.kernels: list[Kernel | None] = [self._kernel(node) for node in graph]

    def load(self, values: Any) -> Tensor:
        """Return numbers as a tensor here."""
        return torch.tensor(values).to(device=self.device, dtype=self.dtype)

    def _kernel(self, node: Node) -> Kernel | None:
        shapes = [self.graph[i].shape for i in node.inputs]
        op = node.op
        if isinstance(op, Linear):
            return _Linear(op, node, self.load)
        if isinstance(op, Conv2d):
            return _Conv2d(op, shapes[0], node.shape, self.load)
        if isinstance(op, Scale):
            return _Scale(op, self.load)
        if isinstance(op, Add):
            return _Add(op)
        if isinstance(op, Concat):
            return _Concat(op, [shape[op.axis] for shape in shapes])
        if isinstance(op, Reshape):
            return _Reshape(shapes[0], node.shape)
        if isinstance(op, Gather | AvgPool):
            return _Table(node, shapes[0], self.device, self.load)
        return None

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the values of all nodes, [batch, *shape] each; the last is the network's output."""
        values: list[Tensor] = []
        for node, kernel in zip(self.graph, self.kernels, strict=True):
            xs = [values[i] for i in node.inputs]
            if not node.inputs:
                values.append(x)
            elif kernel is not None:
                values.append(kernel.forward(xs))
            else:
                assert isinstance(node.op, LeakyReLU | Sigmoid | Tanh | MaxPool)
                values.append(activate(node.op, xs[0]).reshape(-1, *node.shape))
        return values
