"""Backward propagation layer by layer with slopes by rule: what CROWN and same-slope share."""

import time
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from verify.ascent import Ascent
from verify.backward import Positions
from verify.conjunctions import Conjunctions, ascend
from verify.deadline import Deadline
from verify.interval import refine_by_intervals
from verify.method import Method
from verify.problem import Problem
from verify.result import Result
from verify.sweep import Sweep, interval_is_exact, linear_from_input, only_moves, run_sweep, undecided

WEIGHTS_ASCENT = Ascent(steps=30, learning_rate=0.2, decay=0.9)
"""For groups of several rows only, which margins have not: as many passes of one row each."""


class BackwardRule(Method):
    """The box of every node that an activation reads comes from backward passes, and then the specification's rows.

    Only coordinates that are undecided need rows: where an activation is linear, its relaxation is exact whatever the
    box. The pure method bounds every coordinate, because interval propagation may not help it decide.
    """

    rule: ClassVar[str]

    def bound(self, problem: Problem, previous: Result | None = None, *, pure: bool = False) -> Result:
        """See `Method.bound`."""
        began = time.perf_counter()
        sweep = Sweep(problem, previous, pure)
        run_sweep(sweep, self._refine)
        lowers = [sweep.bound_specification(rule=self.rule)]
        if not pure:
            lowers.append(sweep.bound_specification(relaxed=False))
        joint = sweep.bound_conjunctions(self._choose, lowers, rule=self.rule)
        return sweep.finish(self.name, lowers, began, intervals=not pure, joint=joint)

    def _choose(self, sweep: Sweep, part: Conjunctions) -> tuple[Float[Tensor, "pairs width"], Positions]:
        """Weights for the rule's lines: a concave problem, a few steps of which are as good as its optimum."""
        return ascend(sweep.state, part, WEIGHTS_ASCENT, Deadline(None), rule=self.rule)

    def _refine(self, sweep: Sweep, index: int) -> None:
        if interval_is_exact(sweep.problem, index) or only_moves(sweep.problem.graph, index):
            return
        if sweep.pure:
            everywhere = torch.ones_like(sweep.state.boxes[index].lower, dtype=torch.bool)
            sweep.bound_coordinates(index, everywhere, rule=self.rule, replace=True)
            return
        refine_by_intervals(sweep, index)
        if linear_from_input(sweep.problem.graph, index):
            return  # exact already
        sweep.bound_coordinates(index, undecided(sweep, index), rule=self.rule)
