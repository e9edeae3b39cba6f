"""α-CROWN: backward propagation whose lines are found by gradient ascent, per row.

Every choice of positions is a valid bound, so the optimiser is not trusted: each row keeps the best positions seen, and
one rounded pass with these gives the bound. The boxes of earlier layers are optimised in the same way, layer by layer, which
is the order in which LP-ALL solves its linear programs; the bounds converge to those of LP-ALL from below.

Reference: Xu et al. 2021, "Fast and Complete: Enabling Complete Neural Network Verification with Rapid and Massively
Parallel Incomplete Verifiers". Unlike there, intermediate boxes are optimised for themselves, not for the final margin.
"""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from smoothing.errors import InvalidArgumentError
from verify.ascent import Ascent, Variables
from verify.backward import Front, Positions, finish
from verify.certificate import RULES
from verify.conjunctions import Conjunctions, ascend
from verify.crown import Crown
from verify.deadline import Deadline, require_limit
from verify.interval import refine_by_intervals
from verify.method import Method
from verify.problem import Problem
from verify.result import Result, Status
from verify.same_slope import SameSlope
from verify.sweep import Sweep, interval_is_exact, only_moves, run_sweep, undecided


@dataclass(frozen=True)
class AlphaCrown(Method):
    """Optimised slopes.

    Attributes:
        steps: Gradient steps for the specification's rows, at least 0.
        box_steps: Gradient steps for the rows of intermediate boxes; 0 takes the boxes of the previous rung.
        learning_rate: Of Adam, at the start; it falls by `decay` per step.
        decay: Factor per step.
        time_limit: Seconds for one call of `bound`, looked at between gradient steps; None for no limit. What has begun is
            ended at the next step with the best lines so far, every further ascent is its two starting points, and inputs
            that are not proved then are a TIMEOUT.
    """

    name: ClassVar[str] = "alpha"
    steps: int = 100
    box_steps: int = 100
    learning_rate: float = 0.1
    decay: float = 0.98
    time_limit: float | int | None = None

    def __post_init__(self) -> None:
        require_limit(self.time_limit)
        if self.steps < 0 or self.box_steps < 0:
            raise InvalidArgumentError(f"steps must be at least 0, got {self.steps} and box_steps={self.box_steps}")

    def bound(self, problem: Problem, previous: Result | None = None, *, pure: bool = False) -> Result:
        """See `Method.bound`; without a previous result, same-slope and CROWN are run first."""
        began, deadline = time.perf_counter(), Deadline(self.time_limit)
        if previous is None and not pure:
            previous = Crown().bound(problem, SameSlope().bound(problem))
        sweep = Sweep(problem, previous, pure)
        # Positions, their gradients, two moments and the best so far are alive beside the pass itself.
        sweep.limit = max(1, sweep.limit // 4)
        run_sweep(sweep, lambda *a: self._refine(deadline, *a))
        lowers = [sweep.bound_specification(find=lambda *a: self._find(self.steps, deadline, *a))]
        if not pure:
            lowers.append(sweep.bound_specification(relaxed=False))
        joint = sweep.bound_conjunctions(lambda *a: self._choose(deadline, *a), lowers)
        result = sweep.finish(self.name, lowers, began, intervals=not pure, joint=joint)
        return _cut_short(result) if deadline.reached else result

    def _refine(self, deadline: Deadline, sweep: Sweep, index: int) -> None:
        if interval_is_exact(sweep.problem, index) or only_moves(sweep.problem.graph, index):
            return

        def find(*arguments: Any) -> Positions:
            return self._find(self.box_steps, deadline, *arguments)

        if sweep.pure:
            everywhere = torch.ones_like(sweep.state.boxes[index].lower, dtype=torch.bool)
            sweep.bound_coordinates(index, everywhere, replace=True, find=find)
            return
        refine_by_intervals(sweep, index)
        # A box of the previous rung is there already: without time for an ascent it is as good as any.
        if self.box_steps > 0 and self._free(sweep, index) and not deadline.over():
            sweep.bound_coordinates(index, undecided(sweep, index), find=find)

    def _free(self, sweep: Sweep, node: int) -> list[int]:
        """Activations below a node whose lines can be chosen."""
        graph = sweep.problem.graph
        below = graph.ancestors(node)
        return [k for k in graph.activations if k in below and k != node and sweep.state.relaxation(k).free]

    def _find(self, steps: int, deadline: Deadline, sweep: Sweep, node: int, front: Front, image: Tensor) -> Positions:
        state, free = sweep.state, self._free(sweep, node)
        if not free:
            return {}

        def value(positions: Variables) -> Tensor:
            return finish(state, front, image, positions=positions, rounded=False)

        best = self._ascent(steps).run(value, self._starts(sweep, free, image), deadline)
        return self._kept(sweep, best, image)

    def _choose(
        self, deadline: Deadline, sweep: Sweep, part: Conjunctions
    ) -> tuple[Float[Tensor, "pairs width"], Positions]:
        """Weights and positions together."""
        free = self._free(sweep, sweep.problem.graph.output)
        starts = self._starts(sweep, free, part.image)
        weights, best = ascend(sweep.state, part, self._ascent(self.steps), deadline, starts=starts)
        return weights, self._kept(sweep, best, part.image)

    def _ascent(self, steps: int) -> Ascent:
        return Ascent(steps, self.learning_rate, self.decay)

    def _starts(self, sweep: Sweep, free: list[int], image: Tensor) -> list[Variables]:
        """The better rule, row by row, is where the ascent begins: so it never ends below either."""
        return [{k: sweep.state.position(k, rule)[image] for k in free} for rule in RULES]

    def _kept(self, sweep: Sweep, best: Variables, image: Tensor) -> Positions:
        """What is used is what the certificate stores: single precision, and nothing where nothing is to choose."""
        state, chosen = sweep.state, {}
        for k, position in best.items():
            matters = state.relaxation(k).undecided(state.input_box(k))[image]
            chosen[k] = torch.where(matters, position.float().to(position.dtype), torch.nan)
        return chosen


def _cut_short(result: Result) -> Result:
    """Say that the ascent ended early: its bounds are as valid as any, but more time might have given more."""
    return dataclasses.replace(
        result,
        status=tuple(Status.TIMEOUT if status is Status.UNKNOWN else status for status in result.status),
        notes=(
            *result.notes,
            "the time was over before all gradient steps were taken: the best bounds until then are kept",
        ),
    )
