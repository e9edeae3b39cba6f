"""Several rows bounded together: the largest of them, through a convex combination of all.

A group of the specification holds if at every point some row is positive. Where it is not the same row everywhere, no bound
of one row shows that; but for weights w >= 0 that add up to 1

    max_j r_j(x)  >=  Σ_j w_j r_j(x)  >=  lower bound of the combination,

and the combination is a row like any other. Over a convex relaxation nothing is lost by that: the least value of the
largest row is the largest, over w, of the combination's least value (the multipliers of the linear program "minimise t
subject to t >= r_j" are the weights). Any weights give a valid bound, so whatever finds them need not be trusted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from verify.ascent import Ascent, Variables
from verify.backward import Front, Positions, finish, front_of_rows
from verify.deadline import Deadline
from verify.rounding import gamma
from verify.specification import Specification
from verify.state import State

WEIGHTS = -1
"""The name of the weights among the numbers of an ascent; nodes have numbers from 0 on."""

LEAST = 1e-6
"""Added to every weight before they are made to add up to 1, so that they can."""


@dataclass(frozen=True, eq=False)
class Conjunctions:
    """Groups of some inputs, each with its rows, padded to the largest group.

    Attributes:
        image: Which input of the batch each is about, [pairs].
        group: Number of the group, [pairs].
        matrix: The rows, [pairs, width, outputs].
        offset: Their constants, [pairs, width].
        present: Which of the `width` places hold a row, [pairs, width].
    """

    image: Int[Tensor, " pairs"]
    group: Int[Tensor, " pairs"]
    matrix: Float[Tensor, "pairs width outputs"]
    offset: Float[Tensor, "pairs width"]
    present: Bool[Tensor, "pairs width"]

    @classmethod
    def of(
        cls, specification: Specification, wanted: Bool[ndarray, "batch groups"], load: Callable[[ndarray], Tensor]
    ) -> "Conjunctions":
        """Return the wanted groups of several rows.

        Args:
            specification: Has them.
            wanted: Which; groups of one row are left out whatever it says.
            load: Moves numbers to where bounds are computed.
        """
        several = np.zeros(len(specification.groups), dtype=bool)
        several[list(specification.conjunctions)] = True
        image, group = np.nonzero(wanted & several)
        members = [specification.groups[number] for number in group]
        width = max((len(rows) for rows in members), default=0)
        place = np.zeros((len(image), width), dtype=np.int64)
        present = np.zeros((len(image), width), dtype=bool)
        for pair, rows in enumerate(members):
            place[pair, : len(rows)], present[pair, : len(rows)] = rows, True
        matrix = load(np.where(present[:, :, None], specification.matrix[image[:, None], place], 0.0))
        offset = load(np.where(present, specification.offset[image[:, None], place], 0.0))
        device = matrix.device
        numbers = torch.from_numpy(image).to(device), torch.from_numpy(group).to(device)
        return cls(*numbers, matrix, offset, torch.from_numpy(present).to(device))

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, pairs: slice) -> "Conjunctions":
        return Conjunctions(
            self.image[pairs], self.group[pairs], self.matrix[pairs], self.offset[pairs], self.present[pairs]
        )

    @property
    def width(self) -> int:
        """Rows of the largest group."""
        return int(self.matrix.shape[1])

    def equal(self) -> Float[Tensor, "pairs width"]:
        """Return equal weights, before they add up to 1."""
        return self.present.to(self.matrix.dtype)

    def normal(self, numbers: Float[Tensor, "pairs width"]) -> Float[Tensor, "pairs width"]:
        """Return weights that add up to 1, up to rounding, and are zero where no row is; differentiable."""
        weights = (numbers.clamp(min=0) + LEAST) * self.present
        return weights / weights.sum(1, keepdim=True)

    def fronts(self, state: State) -> Front:
        """Return all rows by themselves, [pairs * width], walked back to the first activations."""
        image = self.image.repeat_interleave(self.width)
        return front_of_rows(state, state.problem.graph.output, self.matrix.flatten(0, 1), image, self.offset.flatten())

    def combined(self, fronts: Front, weights: Float[Tensor, "pairs width"]) -> Front:
        """Return the combinations of what `fronts` returned, for optimisation: without what that rounds."""

        def mix(values: Tensor) -> Tensor:
            parts = values.reshape(len(self), self.width, -1)
            mixed: Tensor = (parts * weights[:, :, None]).sum(1)
            return mixed.reshape(len(self), *values.shape[1:])

        waiting = {k: mix(rows) for k, rows in fronts.waiting.items()}
        return Front(waiting, mix(fronts.value), mix(fronts.slack), mix(fronts.summed))

    def front(self, state: State, weights: Float[Tensor, "pairs width"]) -> Front:
        """Return the combinations as rows, with what forming them rounds."""
        output = state.problem.graph.output
        rows = (self.matrix * weights[:, :, None]).sum(1)
        offset = (self.offset * weights).sum(1)
        magnitude = state.boxes[output].of(self.image).magnitude
        absolute = (self.matrix.abs() * magnitude[:, None]).sum(2) + self.offset.abs()
        slack = gamma(self.width, rows.dtype) * (weights * absolute).sum(1)
        return front_of_rows(state, output, rows, self.image, offset, slack)


def ascend(
    state: State,
    part: Conjunctions,
    ascent: Ascent,
    deadline: Deadline,
    *,
    starts: Sequence[Variables] = ({},),
    rule: str = "adaptive",
) -> tuple[Float[Tensor, "pairs width"], Positions]:
    """Choose weights, and positions of the activations that `starts` names, by gradient ascent on the bound.

    With given lines the bound is a concave function of the weights (a minimum of linear functions over the relaxation).

    Args:
        state: Boxes of all nodes.
        part: The groups.
        ascent: Steps and rates.
        deadline: When to stop.
        starts: Positions to begin from, each with equal weights.
        rule: For the activations that `starts` does not name.
    """
    fronts = part.fronts(state)

    def value(numbers: Variables) -> Tensor:
        positions = {k: v for k, v in numbers.items() if k != WEIGHTS}
        front = part.combined(fronts, part.normal(numbers[WEIGHTS]))
        return finish(state, front, part.image, rule=rule, positions=positions, rounded=False)

    best = ascent.run(value, [{**start, WEIGHTS: part.equal()} for start in starts], deadline)
    weights = part.normal(best.pop(WEIGHTS))
    return weights, best
