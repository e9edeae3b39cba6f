"""What one sweep over a network knows so far: boxes of all nodes, and what follows from them."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from verify import relaxation, result
from verify.graph import LeakyReLU, MaxPool, Sigmoid, Tanh
from verify.problem import Problem
from verify.relaxation.base import Box
from verify.rounding import above, below, gamma


def unflat(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return flat values, [batch, size], in a node's shape."""
    return values.reshape(len(values), *shape)


@dataclass(eq=False)
class State:
    """Boxes, flat [batch, size], filled in topological order; a box is final once a later node has been bounded."""

    problem: Problem
    boxes: dict[int, Box] = field(default_factory=dict)
    _allowances: dict[int, Float[Tensor, "batch size"]] = field(default_factory=dict)
    _relaxations: dict[int, relaxation.Relaxation] = field(default_factory=dict)
    _positions: dict[tuple[int, str], Float[Tensor, "batch size"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        region = self.problem.region
        self.boxes[0] = Box(region.lower.flatten(1), region.upper.flatten(1))

    def relaxation(self, index: int) -> relaxation.Relaxation:
        """Return the relaxation of an activation node."""
        op = self.problem.graph[index].op
        assert isinstance(op, LeakyReLU | Sigmoid | Tanh | MaxPool)
        if index not in self._relaxations:
            self._relaxations[index] = relaxation.relaxation_of(op)
        return self._relaxations[index]

    def input_box(self, index: int) -> Box:
        """Return the box of what an activation node reads."""
        return self.boxes[self.problem.graph[index].inputs[0]]

    def interval(self, index: int) -> Box:
        """Return the box that interval propagation derives from the boxes of a node's inputs.

        An affine map sends centre μ and radius r to W μ + b and |W| r; both sums are allowed for.
        """
        node, kernel = self.problem.graph[index], self.problem.program.kernels[index]
        if kernel is None:
            return self.relaxation(index).interval(self.input_box(index))
        boxes = [self.boxes[i] for i in node.inputs]
        shapes = [self.problem.graph[i].shape for i in node.inputs]
        if kernel.terms == 0:  # values are only moved
            low = [unflat(b.lower, s) for b, s in zip(boxes, shapes, strict=True)]
            high = [unflat(b.upper, s) for b, s in zip(boxes, shapes, strict=True)]
            return Box(kernel.forward(low).flatten(1), kernel.forward(high).flatten(1))
        centers = [unflat(b.lower + (b.upper - b.lower) / 2, s) for b, s in zip(boxes, shapes, strict=True)]
        scale = gamma(kernel.terms, centers[0].dtype) if kernel.terms else 0.0
        radii = []
        for box, center, shape in zip(boxes, centers, shapes, strict=True):
            below_center = center - unflat(box.lower, shape)
            radius = torch.maximum(above(unflat(box.upper, shape) - center), above(below_center))
            radii.append(radius + scale * (center.abs() + radius))
        center, radius = kernel.forward(centers), kernel.absolute(radii)
        bias = kernel.bias()
        if bias is not None:
            radius = radius + scale * bias.abs()
        return Box(below(center - radius).flatten(1), above(center + radius).flatten(1))

    def allowance(self, index: int) -> Float[Tensor, "batch size"]:
        """Return, per unit of a row's entries at this node, what rounding may add in one backward step."""
        if index not in self._allowances:
            self._allowances[index] = self._allow(index)
        return self._allowances[index]

    def _allow(self, index: int) -> Float[Tensor, "batch size"]:
        graph, kernel = self.problem.graph, self.problem.program.kernels[index]
        node = graph[index]
        if kernel is None:
            return self.relaxation(index).allowance(self.input_box(index))
        largest = [unflat(self.boxes[i].magnitude, graph[i].shape) for i in node.inputs]
        reach = kernel.absolute(largest)
        dtype = reach.dtype
        # A row that meets others at a fork is added to them: at most once per node of the graph.
        allowed = gamma(kernel.terms + len(graph), dtype) * reach
        bias = kernel.bias()
        if bias is not None:
            allowed = allowed + gamma(node.size + len(graph), dtype) * bias.abs()
        return allowed.flatten(1)

    def position(self, index: int, rule: str) -> Float[Tensor, "batch size"]:
        """Return the positions of an activation's lines by rule."""
        if (index, rule) not in self._positions:
            self._positions[index, rule] = self.relaxation(index).position(self.input_box(index), rule)
        return self._positions[index, rule]

    def results(self) -> dict[int, result.Box]:
        """Return all boxes as numpy float64, in the nodes' shapes."""
        found = {}
        for index, box in self.boxes.items():
            shape = self.problem.graph[index].shape
            lower, upper = (unflat(v.detach().double().cpu(), shape).numpy() for v in (box.lower, box.upper))
            found[index] = result.Box(lower, upper)
        return found

    def load(self, box: result.Box) -> Box:
        """Return a box of an earlier result, here."""
        lower, upper = self.problem.program.load(box.lower), self.problem.program.load(box.upper)
        if lower.dtype != torch.float64:
            lower, upper = below(lower), above(upper)
        return Box(lower.flatten(1), upper.flatten(1))
