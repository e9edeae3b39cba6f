"""From the input to the output once: every node gets a box, and the boxes that activations rest on are made tight.

All bound propagation methods are this sweep with another `refine`, and end with the specification's rows.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from smoothing.errors import InvalidArgumentError
from verify.backward import (
    Front,
    Positions,
    finish,
    front_of_coordinates,
    front_of_rows,
    in_chunks,
    row_limit,
)
from verify.certificate import Certificate, Slopes, Stage
from verify.conjunctions import Conjunctions
from verify.graph import Add, AvgPool, Concat, Conv2d, Gather, Graph, Linear, Reshape
from verify.problem import Problem
from verify.relaxation.base import Box
from verify.result import Guarantee, Result, verdicts, without_nan
from verify.rounding import gamma
from verify.state import State

Choose = Callable[["Sweep", Conjunctions], tuple[Float[Tensor, "pairs width"], Positions]]
"""Chooses weights, adding up to 1, and positions for a chunk of groups of several rows."""

Find = Callable[["Sweep", int, Front, Tensor], Positions]
"""Chooses positions for a chunk of rows: given the sweep, the node that the rows are about, the rows, and their inputs."""


@dataclass(frozen=True, eq=False)
class Record:
    """One backward pass for the whole batch, kept for the certificates: (input, row, sign) and the positions used.

    It lies in the host's memory, positions in single precision: any number in [0, 1] is a valid position, so half the
    digits are enough, provided that the pass itself used the same ones.
    """

    node: int
    image: Int[ndarray, " rows"]
    rows: Int[ndarray, " rows"]
    signs: Int[ndarray, " rows"]
    target: str
    relaxed: bool
    rule: str
    positions: Mapping[int, Float[ndarray, "rows _"]] = field(default_factory=dict)
    weights: Float[ndarray, "rows width"] | None = None

    def stages(self) -> dict[int, Stage]:
        """Return the part that is about each input."""
        order = np.argsort(self.image, kind="stable")
        images, starts = np.unique(self.image[order], return_index=True)
        return {
            int(image): self._stage(chosen) for image, chosen in zip(images, np.split(order, starts[1:]), strict=True)
        }

    def _stage(self, chosen: Int[ndarray, " chosen"]) -> Stage:
        slopes = {}
        for node, values in self.positions.items():
            mine = values[chosen]
            columns = np.flatnonzero(~np.isnan(mine).all(axis=0))
            slopes[node] = Slopes(columns, mine[:, columns])
        weights = None if self.weights is None else self.weights[chosen]
        rows, signs = self.rows[chosen], self.signs[chosen]
        return Stage(self.node, rows, signs, self.target, self.relaxed, self.rule, slopes, weights)


@dataclass(eq=False)
class Sweep:
    """The state of one method on one batch."""

    problem: Problem
    previous: Result | None
    pure: bool
    records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.pure and self.previous is not None:
            raise InvalidArgumentError("a pure method starts from nothing: previous must be None, got a result")
        if self.previous is not None and self.previous.lower.shape != self.problem.specification.offset.shape:
            shapes = self.previous.lower.shape, self.problem.specification.offset.shape
            raise InvalidArgumentError(
                f"previous must be about the same problem, got bounds {shapes[0]} for {shapes[1]}"
            )
        if self.previous is not None and self.previous.guarantee is not Guarantee.CHECKABLE:
            raise InvalidArgumentError(
                "previous must carry certificates, for bounds of different kinds are never mixed; got a result that is "
                f"{self.previous.guarantee}"
            )
        self.state = State(self.problem)
        self.limit = row_limit(self.state)
        self.plain_limit = row_limit(self.state, cached=True)

    @property
    def like(self) -> Tensor:
        """A tensor of the right device and precision."""
        return self.problem.region.center

    def start(self, index: int) -> Box:
        """Set and return a node's box from its inputs' boxes and from the previous result."""
        box = self.state.interval(index)
        if self.previous is not None and index in self.previous.boxes:
            box = intersect(box, self.state.load(self.previous.boxes[index]))
        self.state.boxes[index] = box
        return box

    def _record(
        self,
        node: int,
        image: Int[Tensor, " rows"],
        rows: Int[Tensor, " rows"],
        signs: Int[Tensor, " rows"],
        target: str,
        relaxed: bool,
        rule: str,
        positions: Positions,
        weights: Float[Tensor, "rows width"] | None = None,
    ) -> None:
        kept = {k: v.detach().float().cpu().numpy() for k, v in positions.items()}
        numbers = [v.cpu().numpy() for v in (image, rows, signs)]
        shares = None if weights is None else weights.detach().double().cpu().numpy()
        self.records.append(Record(node, numbers[0], numbers[1], numbers[2], target, relaxed, rule, kept, shares))

    def bound_coordinates(
        self,
        node: int,
        wanted: Bool[Tensor, "batch size"],
        *,
        rule: str = "adaptive",
        relaxed: bool = True,
        replace: bool = False,
        find: Find | None = None,
    ) -> None:
        """Tighten the wanted coordinates of a node's box by backward passes, both sides.

        Args:
            node: The node.
            wanted: Which coordinates of which input.
            rule: For the passes.
            relaxed: See `backward`.
            replace: Take the new bounds instead of intersecting them with the old.
            find: Chooses positions.
        """
        image, coordinate = torch.nonzero(wanted, as_tuple=True)
        image, coordinate = image.repeat(2), coordinate.repeat(2)
        sign = torch.ones_like(image)
        sign[len(sign) // 2 :] = -1
        if len(image) == 0:
            return

        def bound(chunk: slice) -> Tensor:
            front = front_of_coordinates(self.state, node, coordinate[chunk], sign[chunk], image[chunk])
            positions = {} if find is None else find(self, node, front, image[chunk])
            self._record(node, image[chunk], coordinate[chunk], sign[chunk], "box", relaxed, rule, positions)
            return finish(self.state, front, image[chunk], rule=rule, positions=positions, relaxed=relaxed)

        # Whoever chooses positions has reasons of its own for large chunks: pairs of sides, steps that a chunk shares.
        bounds = in_chunks(len(image), self.plain_limit if find is None else self.limit, bound, self.like)
        half = len(bounds) // 2
        old = self.state.boxes[node]
        lower, upper = old.lower.clone(), old.upper.clone()
        at = image[:half], coordinate[:half]
        lower[at], upper[at] = bounds[:half], -bounds[half:]
        new = Box(lower, upper)
        self.state.boxes[node] = new if replace else intersect(old, new)

    def bound_specification(
        self,
        *,
        rule: str = "adaptive",
        relaxed: bool = True,
        find: Find | None = None,
    ) -> Float[Tensor, "batch rows"]:
        """Return lower bounds of the specification's rows."""
        specification, output = self.problem.specification, self.problem.graph.output
        matrix = self.problem.program.load(specification.matrix).flatten(0, 1)
        offset = self.problem.program.load(specification.offset).flatten()
        count = specification.num_rows
        image = torch.arange(len(specification), device=self.like.device).repeat_interleave(count)
        row = torch.arange(count, device=self.like.device).repeat(len(specification))
        ones = torch.ones_like(row)

        def bound(chunk: slice) -> Tensor:
            front = front_of_rows(self.state, output, matrix[chunk], image[chunk], offset[chunk])
            positions = {} if find is None else find(self, output, front, image[chunk])
            self._record(output, image[chunk], row[chunk], ones[chunk], "specification", relaxed, rule, positions)
            return finish(self.state, front, image[chunk], rule=rule, positions=positions, relaxed=relaxed)

        with torch.no_grad():
            bounds = in_chunks(len(image), self.plain_limit if find is None else self.limit, bound, self.like)
        return bounds.reshape(len(specification), count)

    def bound_conjunctions(
        self,
        choose: Choose,
        lowers: Sequence[Float[Tensor, "batch rows"]] = (),
        *,
        rule: str = "adaptive",
    ) -> Float[ndarray, "batch groups"] | None:
        """Return lower bounds of the largest row of every group of several rows, through combinations of its rows.

        Args:
            choose: Chooses the combinations.
            lowers: Bounds of the rows: groups that these, or the previous result, prove are left out (-inf).
            rule: For the passes.

        Returns:
            None where there is no such group.
        """
        specification = self.problem.specification
        if not specification.conjunctions:
            return None
        joint = np.full((len(specification), len(specification.groups)), -np.inf)
        wanted = np.ones(joint.shape, dtype=bool)
        if lowers:
            known = [*self._numbers(lowers), *([] if self.previous is None else [self.previous.lower])]
            earlier = None if self.previous is None else self.previous.joint
            wanted = ~specification.proved_groups(np.fmax.reduce(known), earlier)
        pairs = Conjunctions.of(specification, wanted, self.problem.program.load)
        output = self.problem.graph.output

        def bound(chunk: slice) -> Tensor:
            part = pairs[chunk]
            weights, positions = choose(self, part)
            ones = torch.ones_like(part.group)
            self._record(output, part.image, part.group, ones, "conjunction", True, rule, positions, weights)
            value = finish(self.state, part.front(self.state, weights), part.image, rule=rule, positions=positions)
            # Weights that add up to s bound s times the largest row; s is 1 up to rounding.
            return value - gamma(pairs.width, value.dtype) * value.abs()

        with torch.no_grad():
            found = in_chunks(len(pairs), max(1, self.limit // max(pairs.width, 1)), bound, self.like)
        at = pairs.image.cpu().numpy(), pairs.group.cpu().numpy()
        joint[at] = found.double().cpu().numpy()
        return without_nan(joint)

    def _numbers(self, lowers: Sequence[Float[Tensor, "batch rows"]]) -> list[Float[ndarray, "batch rows"]]:
        return [without_nan(lower.detach().double().cpu().numpy()) for lower in lowers]

    def finish(
        self,
        method: str,
        lowers: list[Float[Tensor, "batch rows"]],
        began: float,
        *,
        intervals: bool,
        joint: Float[ndarray, "batch groups"] | None = None,
    ) -> Result:
        """Return the best of several bounds, and of the previous result, with boxes and certificates."""
        best = np.fmax.reduce(self._numbers(lowers))
        earlier = self.previous.certificates if self.previous is not None else ()
        stages: list[list[Stage]] = [[] for _ in range(len(self.problem))]
        for record in self.records:
            for image, stage in record.stages().items():
                stages[image].append(stage)
        certificates = [
            Certificate((*(earlier[image].stages if earlier else ()), *own), intervals)
            for image, own in enumerate(stages)
        ]
        found = Result(
            method=method,
            lower=best,
            status=(),
            region=self.problem.region.description,
            guarantee=Guarantee.CHECKABLE,
            seconds=0.0,
            boxes=self.state.results(),
            certificates=tuple(certificates),
            pure=self.pure,
            joint=joint,
        ).merged(self.previous)
        specification = self.problem.specification
        return found.finished(verdicts(specification, found.lower, found.joint), time.perf_counter() - began)


def intersect(first: Box, second: Box) -> Box:
    """Return the tighter bounds; where NaN or rounding makes them contradict each other, the first's are kept."""
    lower, upper = torch.fmax(first.lower, second.lower), torch.fmin(first.upper, second.upper)
    crossed = ~(lower <= upper)
    return Box(torch.where(crossed, first.lower, lower), torch.where(crossed, first.upper, upper))


def run_sweep(sweep: Sweep, refine: Callable[[Sweep, int], None]) -> None:
    """Give every node a box; call `refine` on each node that an activation reads."""
    graph = sweep.problem.graph
    preactivations = set(graph.preactivations)
    with torch.no_grad():
        for index in range(1, len(graph)):
            sweep.start(index)
            if index in preactivations:
                refine(sweep, index)


def undecided(sweep: Sweep, index: int) -> Bool[Tensor, "batch size"]:
    """Return the coordinates of a node whose bounds matter to some activation that reads it."""
    box = sweep.state.boxes[index]
    wanted = torch.zeros_like(box.lower, dtype=torch.bool)
    for k in sweep.problem.graph.activations:
        if sweep.problem.graph[k].inputs[0] == index:
            wanted |= sweep.state.relaxation(k).undecided(box)
    return wanted


def interval_is_exact(problem: Problem, index: int) -> bool:
    """Return whether interval propagation gives a node's exact range: at most one mixing affine map from a box."""
    ancestors = problem.graph.ancestors(index)
    if problem.region.norm is not None:
        return False
    if any(problem.graph[k].is_activation for k in ancestors):
        return False
    mixing = sum(isinstance(problem.graph[k].op, Linear | Conv2d | AvgPool | Add) for k in ancestors)
    return mixing <= 1


def only_moves(graph: Graph, index: int) -> bool:
    """Return whether a node merely rearranges activations' outputs, whose boxes no backward pass improves."""
    node = graph[index]
    if node.is_activation:
        return True
    return isinstance(node.op, Reshape | Gather | Concat) and all(only_moves(graph, i) for i in node.inputs)


def linear_from_input(graph: Graph, index: int) -> bool:
    """Return whether no activation lies between the input and a node."""
    return not any(graph[k].is_activation for k in graph.ancestors(index))
