"""Backward propagation layer by layer with slopes by rule: what CROWN and same-slope share."""

import time
from typing import ClassVar

import torch

from verify.interval import refine_by_intervals
from verify.method import Method
from verify.problem import Problem
from verify.result import Result
from verify.sweep import Sweep, interval_is_exact, linear_from_input, only_moves, run_sweep, undecided


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
        return sweep.finish(self.name, lowers, began, intervals=not pure)

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
