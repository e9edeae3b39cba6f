r"""Points that LP-ALL cannot cut off: a quick way to know that it will *not* prove a property, without solving a program.

LP-ALL minimises the specification's rows over a polytope P: inputs x in the box, affine nodes as they are, and for every
neuron the pair (y, z) of what it reads and returns in the triangle T(l, u), the convex hull of its graph over [l, u]. The
box [l, u] of a neuron is in turn the range of y over the part of P that concerns the layers below. Any point of P with a
negative row bounds LP-ALL's optimum from above, so the row stays unproved. Finding *some* point is much cheaper than finding
the best one: no simplex, no basis, batched over inputs and neurons.

Why the points found here lie in P. They are built layer by layer. Say that they lie in it as far as the layers below a
node reach.

1. Then each point's value y at that node is the value of a feasible point, so l <= y <= u, for LP-ALL's l and u are the
   minimum and the maximum. Let [l', u'] be the range of y over several such points: [l', u'] is within [l, u].
2. The graph over [l', u'] is part of the graph over [l, u], and so are the convex hulls: T(l', u') is within T(l, u). The
   chord over the smaller interval lies on or below the chord over the larger, everywhere in it.
3. A point therefore stays in P if its z lies between the activation itself and, within [l', u'], the chord over it. (Where
   LP-ALL knows a neuron's sign, its hull is the graph alone; then l' and u' have that sign too, and here is no chord.)

This P is LP-ALL's ideal one. What the rung computes rests on boxes that are rounded outwards, and where it skips a bound or
a program fails on a cheaper rung's box, which is a bound from the same kind of relaxation over looser boxes and therefore
contains the ideal one: its polytope is larger, and its reported bound lower still. Points are evaluated in ordinary double
precision, so a value closer to zero than a tolerance decides nothing.

How they are found. A row is a function of the point's input x and of a number t in [0, 1] per neuron, z = activation + t *
(chord - activation). Both move towards the corner that the gradient points to, all the way first and by smaller and smaller
steps later. Nothing depends on how well that goes but the number of inputs that remain to be decided by the programs.

Reference: Salman et al. 2019, sections 3 and 4 (the relaxation); the nesting of the hulls is elementary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy import sparse
from torch import Tensor

from smoothing.errors import InvalidArgumentError
from verify.backward import Front, front_of_coordinates, front_of_rows, in_chunks
from verify.graph import LeakyReLU
from verify.kernels import activate
from verify.lp.program import SPARE_WIDTH, HullProgram
from verify.lp.solve import SolverOptions, solve_objectives
from verify.problem import Problem
from verify.result import Result
from verify.state import unflat
from verify.sweep import Sweep, interval_is_exact, undecided

STEP, DECAY = 0.5, 0.85
"""How far a point moves towards the corner: all the way at first, then this share, falling by the factor."""

Flat = Float[Tensor, "_ _"]

Box = tuple[Float[ndarray, "batch size"], Float[ndarray, "batch size"]]
"""Lower and upper ends of one node's values."""


@dataclass(frozen=True, eq=False)
class Refutation:
    """What LP-ALL cannot do.

    Attributes:
        values: The smallest value found of every row over LP-ALL's polytope, [batch, rows], float64; no optimum is larger.
        refuted: Inputs whose property LP-ALL will not prove, [batch]: a group of one row fails. The others are open, groups
            of several rows among them.
        boxes: Inner boxes of all nodes that activations read, [batch, size] each: LP-ALL's contain them (as far as a sign
            is not known; where it is, any box of that sign).
    """

    values: Float[ndarray, "batch rows"]
    refuted: Bool[ndarray, " batch"]
    boxes: Mapping[int, Box]


def refute_lp_all(
    problem: Problem,
    previous: Result,
    *,
    box_steps: int = 1,
    steps: int = 5,
    tolerance: float = 1e-6,
) -> Refutation:
    """Look for points of LP-ALL's polytope at which the specification fails.

    This says nothing about the network: the property may well hold. It says that linear programs over single-neuron hulls
    are not worth solving.

    Args:
        problem: Boxes of inputs (an l_inf ball, with or without the clip interval, is one), a network whose activations are
            ReLUs or leaky ReLUs with a slope of at most 1, in double precision.
        previous: Bounds of a cheaper rung, at least of the nodes that activations read (`Crown`, say): no points are
            looked for where it knows a neuron's sign.
        box_steps: Steps of each point that widens a neuron's box, at least 1; each costs about as much as a CROWN pass.
        steps: Steps of the points for the specification's rows, at least 1.
        tolerance: How far below zero a row must be. The rounding of an evaluation is some 1e-12 for ordinary networks.

    Raises:
        InvalidArgumentError: If a number is out of range, the sets are no boxes, an activation is another one (its
            relaxation over a smaller box need not lie within the one over a larger), or the precision is single.
    """
    if box_steps < 1 or steps < 1 or not tolerance > 0:
        raise InvalidArgumentError(
            f"box_steps and steps must be at least 1 and tolerance positive, got {box_steps}, {steps} and {tolerance}"
        )
    _require_nested_hulls(problem)
    points = _Points(problem, previous)
    values = points.rows(box_steps, steps)
    return Refutation(values, _refuted(problem, values, tolerance), points.boxes)


def refute_lp_last(problem: Problem, previous: Result, *, steps: int = 20, tolerance: float = 1e-6) -> Refutation:
    """Look for points of LP-LAST's polytope, whose boxes are those of `previous`, at which the specification fails.

    Points stay in these boxes by themselves: a bound that any of the cheaper rungs gives holds for every point of the hulls
    below, not only for the network.

    Args and the rest: as in `refute_lp_all`.
    """
    if steps < 1 or not tolerance > 0:
        raise InvalidArgumentError(f"steps must be at least 1 and tolerance positive, got {steps} and {tolerance}")
    _require_nested_hulls(problem)
    points = _Points(problem, previous)
    values = points.rows(0, steps)
    return Refutation(values, _refuted(problem, values, tolerance), points.boxes)


def refute_by_programs(
    problem: Problem, found: Refutation, *, tolerance: float = 1e-5, options: SolverOptions | None = None
) -> Refutation:
    """Minimise the rows over the hulls on the inner boxes: the best that points can do on these boxes.

    The polytope over the inner boxes lies within LP-ALL's, by the nesting of the hulls, so a negative optimum refutes as a
    point does. That takes one program per row, where LP-ALL itself takes two per open neuron of every layer before them; the
    rows with the smallest values come first, and none is solved once an input is refuted.

    Args:
        problem: As in `refute_lp_all`.
        found: What that found, inner boxes included.
        tolerance: How far below zero an optimum must be; a solver's own feasibility tolerance is some 1e-7.
        options: How programs are solved.

    Raises:
        ProgramTooLargeError: If a program would not fit into memory.
    """
    values, refuted = found.values.copy(), found.refuted.copy()
    chosen = SolverOptions() if options is None else options
    for image in np.flatnonzero(~refuted):
        boxes = {}
        for node, box in found.boxes.items():
            # The program's triangles are a hair longer than their boxes (`SPARE_WIDTH`): that hair is taken off before.
            width = box[1][image] - box[0][image]
            hair = np.minimum(2 * SPARE_WIDTH * np.maximum(width, 1.0), 0.25 * width)
            boxes[node] = (box[0][image] + hair, box[1][image] - hair)
        program = HullProgram(problem.graph, problem.region[image : image + 1], boxes, chosen.memory_limit)
        output = program.reach(problem.graph.output)
        matrix = problem.specification.matrix[image]
        costs = sparse.csr_array(sparse.csr_array(matrix) @ output.matrix)
        constant = matrix @ output.offset + problem.specification.offset[image]
        alone = [group for group in problem.specification.groups if len(group) == 1]
        for group in sorted(alone, key=lambda group: values[image, list(group)].max()):
            rows = list(group)
            stop_above = -tolerance - constant[rows]
            answers = solve_objectives(program, sparse.csr_array(costs[rows]), chosen, stop_above=stop_above)
            optimal = np.array([status == "optimal" for status in answers.status])
            values[image, rows] = np.fmin(
                values[image, rows], np.where(optimal, answers.objective + constant[rows], np.nan)
            )
            refuted[image] = _refuted(problem, values, tolerance)[image]
            if refuted[image]:
                break
    return Refutation(values, refuted, found.boxes)


def _refuted(problem: Problem, values: Float[ndarray, "batch rows"], tolerance: float) -> Bool[ndarray, " batch"]:
    """Some group of one row must fail.

    Of a group of several rows each may fail at a point of its own, and LP-ALL still prove the group through a combination of
    them: such groups refute nothing here.
    """
    fails = values < -tolerance
    alone = [group[0] for group in problem.specification.groups if len(group) == 1]
    return np.asarray(fails[:, alone].any(axis=1))


def _require_nested_hulls(problem: Problem) -> None:
    graph = problem.graph
    ops = [graph[k].op for k in graph.activations]
    others = sorted({type(op).__name__ for op in ops if not isinstance(op, LeakyReLU) or not 0 <= op.slope <= 1})
    if others:
        raise InvalidArgumentError(
            f"activations must be ReLUs or leaky ReLUs with a slope in [0, 1], got {', '.join(others)}: run LPAll itself"
        )
    if problem.region.norm is not None:
        raise InvalidArgumentError(f"sets must be boxes, got balls of norm {problem.region.norm}: run LPAll itself")
    if problem.program.dtype != torch.float64:
        raise InvalidArgumentError(f"the precision must be torch.float64, got {problem.program.dtype}")


@dataclass(frozen=True, eq=False)
class _Chord:
    """Slope and offset of each neuron's chord over its inner box, [batch, size]; minus infinity where there is none."""

    slope: Flat
    offset: Flat

    @classmethod
    def over(cls, lower: Flat, upper: Flat, slope: float) -> "_Chord":
        bent = (lower < 0) & (upper > 0)
        steep = (upper - slope * lower) / torch.where(bent, upper - lower, 1.0)
        return cls(torch.where(bent, steep, 0.0), torch.where(bent, upper - steep * upper, -torch.inf))


class _Points:
    """The points of one batch, and what they have shown so far: an inner box, and its chord, per activation."""

    def __init__(self, problem: Problem, previous: Result) -> None:
        self.problem = problem
        self.sweep = Sweep(problem, previous, False)
        self.chords: dict[int, _Chord] = {}
        self.boxes: dict[int, Box] = {}

    def rows(self, box_steps: int, steps: int) -> Float[ndarray, "batch rows"]:
        """Return the smallest values found of the specification's rows; without box steps, on the boxes that are given."""
        problem, state = self.problem, self.sweep.state
        specification, graph = problem.specification, problem.graph
        with torch.no_grad():
            for index in range(1, len(graph)):
                self.sweep.start(index)
                if index in graph.preactivations:
                    self._widen(index, box_steps)
            count = specification.num_rows
            matrix = problem.program.load(specification.matrix).flatten(0, 1)
            offset = problem.program.load(specification.offset).flatten()
            image = torch.arange(len(problem), device=matrix.device).repeat_interleave(count)

            def smallest(chunk: slice) -> Tensor:
                front = front_of_rows(state, graph.output, matrix[chunk], image[chunk], offset[chunk])
                return self._descend(front, image[chunk], steps)[0]

            values = in_chunks(len(image), self.sweep.limit, smallest, matrix)
        return np.asarray(values.reshape(len(problem), count).cpu().numpy())

    def _widen(self, node: int, steps: int) -> None:
        """Find an inner box of a node: the range of its values over one point per open neuron and side."""
        state, graph = self.sweep.state, self.problem.graph
        box = state.boxes[node]
        lower, upper = box.lower, box.upper
        if steps and not interval_is_exact(self.problem, node):
            # Where the sign is known, any box of that sign will do: the hull is the graph.
            wanted = undecided(self.sweep, node)
            lower, upper = torch.where(wanted, torch.inf, lower), torch.where(wanted, -torch.inf, upper)
            image, coordinate = torch.nonzero(wanted, as_tuple=True)
            image, coordinate = image.repeat(2), coordinate.repeat(2)
            sign = torch.ones_like(image)
            sign[len(sign) // 2 :] = -1
            for start in range(0, len(image), self.sweep.limit):
                some = slice(start, start + self.sweep.limit)
                front = front_of_coordinates(state, node, coordinate[some], sign[some], image[some])
                _, x, shares = self._descend(front, image[some], steps)
                reached = self._forward([node], x, shares, image[some])[node].flatten(1)
                owner = image[some, None].expand_as(reached)
                # Every point counts for all neurons of the node, not only for the one that it was made for.
                lowest = torch.full_like(lower, torch.inf).scatter_reduce(0, owner, reached, "amin")
                highest = torch.full_like(upper, -torch.inf).scatter_reduce(0, owner, reached, "amax")
                lower = torch.where(wanted, torch.minimum(lower, lowest), lower)
                upper = torch.where(wanted, torch.maximum(upper, highest), upper)
        self.boxes[node] = (lower.cpu().numpy(), upper.cpu().numpy())
        for k in graph.activations:
            op = graph[k].op
            if graph[k].inputs[0] == node and isinstance(op, LeakyReLU):
                self.chords[k] = _Chord.over(lower, upper, op.slope)

    def _forward(
        self, nodes: Sequence[int], x: Flat, shares: dict[int, Flat], image: Int[Tensor, " rows"]
    ) -> dict[int, Tensor]:
        """Return the points' values at `nodes` and at what they depend on: z = activation + t (chord - activation)."""
        graph, kernels = self.problem.graph, self.problem.program.kernels
        values = {0: unflat(x, graph.input_shape)}
        for k in sorted({k for node in nodes for k in graph.ancestors(node)} - {0}):
            node, kernel = graph[k], kernels[k]
            inputs = [values[i] for i in node.inputs]
            if kernel is not None:
                values[k] = kernel.forward(inputs)
                continue
            assert isinstance(node.op, LeakyReLU)
            y = inputs[0].flatten(1)
            z, chord = activate(node.op, y), self.chords[k]
            room = (chord.slope[image] * y + chord.offset[image] - z).clamp(min=0)
            values[k] = unflat(z + shares[k] * room, node.shape)
        return values

    def _descend(
        self, front: Front, image: Int[Tensor, " rows"], steps: int
    ) -> tuple[Float[Tensor, " rows"], Flat, dict[int, Flat]]:
        """Return, per row, the smallest value found, and x and t of that point."""
        graph, region = self.problem.graph, self.problem.region
        heads = list(front.waiting)
        lower, upper = region.lower.flatten(1)[image], region.upper.flatten(1)[image]
        below = {k for head in heads for k in graph.ancestors(head)}
        point = {0: lower + (upper - lower) / 2}
        point |= {k: lower.new_full((len(image), graph[k].size), 0.5) for k in graph.activations if k in below}
        best, kept = torch.full_like(front.value, torch.inf), dict(point)
        for step in range(steps + 1):
            point = {k: v.requires_grad_(step < steps) for k, v in point.items()}
            with torch.set_grad_enabled(step < steps):
                values = self._forward(heads, point[0], point, image)
                value = front.value.clone()
                for k in heads:
                    value = value + (front.waiting[k] * values[k].flatten(1)).sum(1)
                gradients = torch.autograd.grad(value.sum(), list(point.values())) if step < steps else ()
            point = {k: v.detach() for k, v in point.items()}
            better = value.detach() < best
            best = torch.where(better, value.detach(), best)
            kept = {k: torch.where(better[:, None], v, kept[k]) for k, v in point.items()}
            share = 1.0 if step == 0 else STEP * DECAY ** (step - 1)
            for (k, here), gradient in zip(point.items(), gradients, strict=False):
                low, high = (lower, upper) if k == 0 else (0.0, 1.0)
                corner = torch.where(gradient > 0, low, high)
                point[k] = here + share * (corner - here)
        return best, kept[0], {k: v for k, v in kept.items() if k != 0}
