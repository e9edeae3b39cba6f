"""CROWN-IBP: boxes by interval propagation, the specification by one backward pass.

Reference: Zhang et al. 2020, "Towards Stable and Efficient Training of Verifiably Robust Neural Networks".
"""

import time
from typing import ClassVar

from verify.interval import refine_by_intervals
from verify.method import Method
from verify.problem import Problem
from verify.result import Result
from verify.sweep import Sweep, run_sweep


class CrownIBP(Method):
    """One backward pass over interval boxes."""

    name: ClassVar[str] = "crown-ibp"

    def bound(self, problem: Problem, previous: Result | None = None, *, pure: bool = False) -> Result:
        """See `Method.bound`."""
        began = time.perf_counter()
        sweep = Sweep(problem, previous, pure)
        run_sweep(sweep, refine_by_intervals)
        lowers = [sweep.bound_specification()]
        if not pure:
            lowers.append(sweep.bound_specification(relaxed=False))
        return sweep.finish(self.name, lowers, began, intervals=True)
