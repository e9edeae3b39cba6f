"""LP-LAST and LP-ALL: the best that single-neuron hulls can do, from given boxes and from the best boxes.

LP-LAST minimises the specification's rows over the hulls on boxes of a cheaper method. LP-ALL first makes every undecided
neuron's box an optimum over the layers below, layer by layer: the "convex relaxation barrier" of all methods that relax
one neuron at a time. A neuron that a cheaper method has shown to be stable needs no program, because its hull is exact.

Each optimum arrives as the slopes of a backward pass, and the reported bound is that pass's, rounded downwards: a
certificate like any other, and no word of the solver's. Where the solver fails, its rows fall back to the previous rung.

Reference: Salman, Yang, Zhang, Hsieh, Zhang 2019, "A Convex Relaxation Barrier to Tight Robustness Verification of Neural
Networks", sections 4 and 5.
"""

import dataclasses
import time
from typing import ClassVar

import numpy as np

from verify.crown import Crown
from verify.interval import refine_by_intervals
from verify.lp.finder import SlopeFinder
from verify.lp.solve import SolverOptions
from verify.method import Method
from verify.problem import Problem
from verify.result import Result
from verify.same_slope import SameSlope
from verify.sweep import Sweep, interval_is_exact, linear_from_input, only_moves, run_sweep, undecided

DEFAULTS = SolverOptions()
"""One process, no limits."""


@dataclasses.dataclass(frozen=True)
class LPLast(Method):
    """Linear programs for the specification's rows only.

    Attributes:
        options: How they are solved.
        until_sign: Solve a row (or the rows of a group of several together) only where the previous rung leaves its sign
            open, only until it is known, and no more of an input once one is not positive: verdicts are the same, bounds
            are not optimal.
    """

    name: ClassVar[str] = "lp-last"
    options: SolverOptions = DEFAULTS
    until_sign: bool = False

    def bound(self, problem: Problem, previous: Result | None = None, *, pure: bool = False) -> Result:
        """See `Method.bound`. Pure: over the boxes of pure same-slope, the LP-LAST of the paper.

        Raises:
            ProgramTooLargeError: If a program would not fit into memory.
        """
        began = time.perf_counter()
        Sweep(problem, previous, pure)  # the checks of its arguments
        if pure:
            base = SameSlope().bound(problem, pure=True)
        else:
            base = previous or Crown().bound(problem, SameSlope().bound(problem))
        sweep = Sweep(problem, base, False)
        sweep.pure = pure
        finder = SlopeFinder(self.options)
        run_sweep(sweep, _take if pure else _nothing)
        return _finish(self, sweep, finder, began)


@dataclasses.dataclass(frozen=True)
class LPAll(Method):
    """Linear programs for the boxes of every layer, and then for the specification's rows.

    Attributes:
        options: How they are solved.
        until_sign: As in `LPLast`.
    """

    name: ClassVar[str] = "lp-all"
    options: SolverOptions = DEFAULTS
    until_sign: bool = False

    def bound(self, problem: Problem, previous: Result | None = None, *, pure: bool = False) -> Result:
        """See `Method.bound`. Pure: the cheaper rungs are run only to find stable neurons, which changes no optimum.

        Raises:
            ProgramTooLargeError: If a program would not fit into memory.
        """
        began = time.perf_counter()
        Sweep(problem, previous, pure)
        sweep = Sweep(problem, previous or Crown().bound(problem, SameSlope().bound(problem)), False)
        sweep.pure = pure
        finder = SlopeFinder(self.options)

        def refine(sweep: Sweep, index: int) -> None:
            graph = sweep.problem.graph
            exact = interval_is_exact(sweep.problem, index) or linear_from_input(graph, index)
            if not exact and not only_moves(graph, index):
                wanted = undecided(sweep, index)
                sweep.bound_coordinates(index, wanted, find=finder.boxes_of(index, wanted))

        run_sweep(sweep, refine)
        return _finish(self, sweep, finder, began)


def _take(sweep: Sweep, index: int) -> None:
    """The previous method's box, without the intersection with interval propagation."""
    assert sweep.previous is not None
    sweep.state.boxes[index] = sweep.state.load(sweep.previous.boxes[index])


def _nothing(sweep: Sweep, index: int) -> None:
    if sweep.previous is None or index not in sweep.previous.boxes:
        refine_by_intervals(sweep, index)


def _finish(method: LPLast | LPAll, sweep: Sweep, finder: SlopeFinder, began: float) -> Result:
    find = finder.signs() if method.until_sign else finder.rows
    lower = sweep.bound_specification(find=find)
    known = lower.detach().double().cpu().numpy()
    if sweep.previous is not None and not sweep.pure:
        known = np.fmax(known, sweep.previous.lower)
    choose = finder.conjunctions(until_sign=method.until_sign, lower=known)
    joint = sweep.bound_conjunctions(choose, [lower] if method.until_sign else ())
    intervals = not (sweep.pure and method.name == LPLast.name)
    result = sweep.finish(method.name, [lower], began, intervals=intervals, joint=joint)
    return dataclasses.replace(result, notes=(*result.notes, *finder.notes()))
