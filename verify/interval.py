"""Interval bound propagation: the cheapest rung, one forward pass.

Reference: Gowal et al. 2018, "On the Effectiveness of Interval Bound Propagation". The first affine layer is exact for every
set of inputs (dual norms, Mirman et al. 2018), and the specification's rows are folded into the last affine layers.
"""

import time
from typing import ClassVar

import torch

from verify.method import Method
from verify.problem import Problem
from verify.result import Result
from verify.sweep import Sweep, interval_is_exact, linear_from_input, run_sweep


def refine_by_intervals(sweep: Sweep, index: int) -> None:
    """Make a node exact that is linear in the input, where its interval is not exact anyway."""
    if sweep.previous is not None and index in sweep.previous.boxes:
        return  # an earlier rung did
    if linear_from_input(sweep.problem.graph, index) and not interval_is_exact(sweep.problem, index):
        everywhere = torch.ones_like(sweep.state.boxes[index].lower, dtype=torch.bool)
        sweep.bound_coordinates(index, everywhere, relaxed=False)


class Interval(Method):
    """IBP."""

    name: ClassVar[str] = "ibp"

    def bound(self, problem: Problem, previous: Result | None = None, *, pure: bool = False) -> Result:
        """See `Method.bound`; the pure method is the same."""
        began = time.perf_counter()
        sweep = Sweep(problem, previous, pure)
        run_sweep(sweep, refine_by_intervals)
        return sweep.finish(self.name, [sweep.bound_specification(relaxed=False)], began, intervals=True)
