"""Building a graph node by node, with the shapes checked: shared by all sources of networks."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from verify.errors import GraphError
from verify.graph import (
    Activation,
    Add,
    AvgPool,
    Concat,
    Conv2d,
    Gather,
    Graph,
    Input,
    Linear,
    MaxPool,
    Node,
    Operator,
    Reshape,
    Scale,
)
from verify.windows import adaptive_windows, mean_weights, windows


def _float64(values: ndarray) -> ndarray:
    return np.array(values, dtype=np.float64)  # a copy: a graph never changes when the network it came from does


class GraphBuilder:
    """Collects nodes; every method appends one operator and returns its node's index."""

    def __init__(self, input_shape: Sequence[int]) -> None:
        self.nodes: list[Node] = [Node(Input(), (), tuple(int(n) for n in input_shape), "input")]

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of a node, without batch."""
        return self.nodes[index].shape

    def append(self, op: Operator, inputs: Sequence[int], shape: Sequence[int], name: str) -> int:
        """Append any operator whose output shape the caller knows."""
        self.nodes.append(Node(op, tuple(inputs), tuple(int(n) for n in shape), name))
        return len(self.nodes) - 1

    def activation(self, op: Activation, x: int, name: str) -> int:
        """Append an elementwise activation."""
        return self.append(op, (x,), self.shape(x), name)

    def linear(self, x: int, weight: ndarray, bias: ndarray | None, name: str) -> int:
        """Append z = x Wᵀ + b on the last axis."""
        shape = self.shape(x)
        if not shape or shape[-1] != weight.shape[1]:
            raise GraphError(
                f"{name}: a weight of shape {weight.shape} must fit the last axis of its input, got {shape}"
            )
        offset = np.zeros(weight.shape[0]) if bias is None else _float64(bias)
        return self.append(Linear(_float64(weight), offset), (x,), (*shape[:-1], weight.shape[0]), name)

    def conv2d(
        self,
        x: int,
        weight: ndarray,
        bias: ndarray | None,
        name: str,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> int:
        """Append a convolution; padding is (top, bottom, left, right)."""
        shape = self.shape(x)
        if len(shape) != 3 or shape[0] != weight.shape[1] * groups:
            raise GraphError(
                f"{name}: a kernel of shape {weight.shape} (groups {groups}) does not fit an input {shape}"
            )
        out = [weight.shape[0]]
        for axis in (0, 1):
            pads = padding[2 * axis] + padding[2 * axis + 1]
            out.append((shape[1 + axis] + pads - dilation[axis] * (weight.shape[2 + axis] - 1) - 1) // stride[axis] + 1)
        if min(out) < 1:
            raise GraphError(f"{name}: a kernel of shape {weight.shape} is larger than its input {shape}")
        offset = np.zeros(weight.shape[0]) if bias is None else _float64(bias)
        return self.append(Conv2d(_float64(weight), offset, stride, padding, dilation, groups), (x,), out, name)

    def scale(self, x: int, scale: ndarray | float, shift: ndarray | float, name: str) -> int:
        """Append z = scale * x + shift; both broadcast to the shape of x."""
        shape = self.shape(x)
        try:
            full = [np.array(np.broadcast_to(np.asarray(v, dtype=np.float64), shape)) for v in (scale, shift)]
        except ValueError:
            sizes = np.shape(scale), np.shape(shift)
            raise GraphError(f"{name}: constants of shapes {sizes} do not broadcast to an input {shape}") from None
        return self.append(Scale(full[0], full[1]), (x,), shape, name)

    def add(self, inputs: Sequence[int], signs: Sequence[int], name: str) -> int:
        """Append Σ signs[i] * inputs[i]; the shapes must be equal."""
        shapes = {self.shape(x) for x in inputs}
        if len(shapes) != 1:
            raise GraphError(f"{name}: added values must have one shape, got {sorted(shapes)}")
        return self.append(Add(tuple(signs)), inputs, shapes.pop(), name)

    def concat(self, inputs: Sequence[int], axis: int, name: str) -> int:
        """Append a concatenation along `axis`, counted without batch."""
        shapes = [self.shape(x) for x in inputs]
        out = list(shapes[0])
        out[axis] = sum(shape[axis] for shape in shapes)
        return self.append(Concat(axis), inputs, out, name)

    def reshape(self, x: int, shape: Sequence[int], name: str) -> int:
        """Append a reshape, unless it changes nothing."""
        if isinstance(self.nodes[x].op, Reshape):
            x = self.nodes[x].inputs[0]
        old, new = self.shape(x), tuple(int(n) for n in shape)
        if old == new:
            return x
        if np.prod(old, dtype=np.int64) != np.prod(new, dtype=np.int64):
            raise GraphError(f"{name}: {old} cannot be reshaped to {new}: inputs of a batch must not mix")
        return self.append(Reshape(), (x,), new, name)

    def gather(self, x: int, index: ndarray, name: str) -> int:
        """Append z[...] = x.flat[index[...]] with the shape of `index`; -1 gives 0."""
        return self.append(Gather(np.array(index, dtype=np.int64).reshape(-1)), (x,), index.shape, name)

    def positions(self, x: int) -> ndarray:
        """Flat positions of the values of `x`, in its shape: permute or slice these and pass them to `gather`."""
        shape = self.shape(x)
        return np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)

    def max_pool(
        self,
        x: int,
        name: str,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int] = (1, 1),
        ceil_mode: bool = False,
    ) -> int:
        """Append a 2-D max pooling; what lies in the padding never is the maximum."""
        index, _, out = windows(self._image(x, name), kernel, stride, padding, dilation, ceil_mode)
        return self.append(MaxPool(index), (x,), out, name)

    def avg_pool(
        self,
        x: int,
        name: str,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> int:
        """Append a 2-D average pooling with torch's rules for the divisor."""
        index, counts, out = windows(self._image(x, name), kernel, stride, padding, (1, 1), ceil_mode)
        if divisor is not None:
            counts = np.full_like(counts, divisor)
        weight = mean_weights(index, counts if count_include_pad or divisor is not None else None)
        return self.append(AvgPool(index, weight), (x,), out, name)

    def adaptive_pool(self, x: int, name: str, output: tuple[int, int], *, average: bool) -> int:
        """Append an adaptive 2-D pooling to a fixed output size."""
        index, out = adaptive_windows(self._image(x, name), output)
        op = AvgPool(index, mean_weights(index)) if average else MaxPool(index)
        return self.append(op, (x,), out, name)

    def mean(self, x: int, axes: Sequence[int], keepdim: bool, name: str, *, total: bool = False) -> int:
        """Append the mean over `axes`, counted without batch; or the sum."""
        shape = self.shape(x)
        axes = [a % len(shape) for a in axes]
        moved = np.moveaxis(self.positions(x), axes, range(-len(axes), 0))
        kept = moved.shape[: len(shape) - len(axes)]
        index = moved.reshape(int(np.prod(kept, dtype=np.int64)), -1)
        out = tuple(1 if a in axes else n for a, n in enumerate(shape)) if keepdim else kept
        weights = np.ones(index.shape) if total else mean_weights(index)
        return self.append(AvgPool(index, weights), (x,), out, name)

    def constant(self, value: Float[ndarray, "..."], name: str) -> int:
        """Append values that do not depend on the input, in their shape."""
        nothing = self.gather(0, np.full(value.shape, -1), name)
        return self.scale(nothing, 1.0, value, name)

    def _image(self, x: int, name: str) -> tuple[int, int, int]:
        shape = self.shape(x)
        if len(shape) != 3:
            raise GraphError(f"{name}: pooling needs an input (channels, height, width), got {shape}")
        return shape[0], shape[1], shape[2]

    def build(self, output: int) -> Graph:
        """Return the graph that computes `output`, without the nodes that it does not need."""
        needed = {output}
        for k in range(len(self.nodes) - 1, 0, -1):
            if k in needed:
                needed.update(self.nodes[k].inputs)
        if 0 not in needed:
            raise GraphError("the output must depend on the input")
        kept = sorted(needed)
        place = {old: new for new, old in enumerate(kept)}
        nodes = [
            Node(node.op, tuple(place[i] for i in node.inputs), node.shape, node.name)
            for node in (self.nodes[k] for k in kept)
        ]
        if len(nodes[-1].shape) != 1:
            nodes.append(Node(Reshape(), (len(nodes) - 1,), (nodes[-1].size,), "output"))
        return Graph(tuple(nodes))
