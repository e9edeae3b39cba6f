"""α-CROWN: backward propagation whose lines are found by gradient ascent, per row.

Every choice of positions is a valid bound, so the optimiser is not trusted: each row keeps the best positions seen, and
one rounded pass with these gives the bound. The boxes of earlier layers are optimised in the same way, layer by layer, which
is the order in which LP-ALL solves its linear programs; the bounds converge to those of LP-ALL from below.

Reference: Xu et al. 2021, "Fast and Complete: Enabling Complete Neural Network Verification with Rapid and Massively
Parallel Incomplete Verifiers". Unlike there, intermediate boxes are optimised for themselves, not for the final margin.
"""

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from smoothing.errors import InvalidArgumentError
from verify.backward import Front, Positions, finish
from verify.crown import Crown
from verify.interval import refine_by_intervals
from verify.method import Method
from verify.problem import Problem
from verify.result import Result
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
    """

    name: ClassVar[str] = "alpha"
    steps: int = 100
    box_steps: int = 100
    learning_rate: float = 0.1
    decay: float = 0.98

    def __post_init__(self) -> None:
        if self.steps < 0 or self.box_steps < 0:
            raise InvalidArgumentError(f"steps must be at least 0, got {self.steps} and box_steps={self.box_steps}")

    def bound(self, problem: Problem, previous: Result | None = None, *, pure: bool = False) -> Result:
        """See `Method.bound`; without a previous result, same-slope and CROWN are run first."""
        began = time.perf_counter()
        if previous is None and not pure:
            previous = Crown().bound(problem, SameSlope().bound(problem))
        sweep = Sweep(problem, previous, pure)
        # Positions, their gradients, two moments and the best so far are alive beside the pass itself.
        sweep.limit = max(1, sweep.limit // 4)
        run_sweep(sweep, self._refine)
        lowers = [sweep.bound_specification(find=lambda *a: self._find(self.steps, *a))]
        if not pure:
            lowers.append(sweep.bound_specification(relaxed=False))
        return sweep.finish(self.name, lowers, began, intervals=not pure)

    def _refine(self, sweep: Sweep, index: int) -> None:
        if interval_is_exact(sweep.problem, index) or only_moves(sweep.problem.graph, index):
            return
        if sweep.pure:
            everywhere = torch.ones_like(sweep.state.boxes[index].lower, dtype=torch.bool)
            sweep.bound_coordinates(index, everywhere, replace=True, find=lambda *a: self._find(self.box_steps, *a))
            return
        refine_by_intervals(sweep, index)
        if self.box_steps > 0 and self._free(sweep, index):
            sweep.bound_coordinates(index, undecided(sweep, index), find=lambda *a: self._find(self.box_steps, *a))

    def _free(self, sweep: Sweep, node: int) -> list[int]:
        """Activations below a node whose lines can be chosen."""
        graph = sweep.problem.graph
        below = graph.ancestors(node)
        return [k for k in graph.activations if k in below and k != node and sweep.state.relaxation(k).free]

    def _find(self, steps: int, sweep: Sweep, node: int, front: Front, image: Tensor) -> Positions:
        state, free = sweep.state, self._free(sweep, node)
        if not free:
            return {}
        best: dict[int, Tensor] = {}
        best_value = torch.full_like(front.value, -torch.inf)

        def keep(value: Tensor, positions: Positions) -> None:
            nonlocal best_value
            better = value.detach() > best_value
            best_value = torch.where(better, value.detach(), best_value)
            for k, position in positions.items():
                best[k] = torch.where(better[:, None], position.detach(), best[k])

        # The better rule, row by row, is where the ascent begins: so it never ends below either.
        for rule in ("adaptive", "same-slope"):
            start = {k: state.position(k, rule)[image] for k in free}
            best = best or {k: position.clone() for k, position in start.items()}
            with torch.no_grad():
                keep(finish(state, front, image, positions=start, rounded=False), start)
        positions = {k: best[k].clone().requires_grad_() for k in free}
        optimizer = torch.optim.Adam(list(positions.values()), lr=self.learning_rate, maximize=True)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.decay)
        for step in range(steps + 1 if steps else 0):
            with torch.enable_grad():
                value = finish(state, front, image, positions=positions, rounded=False)
            with torch.no_grad():
                keep(value, positions)
                if step == steps:
                    break
                optimizer.zero_grad()
                gradients = torch.autograd.grad(value, list(positions.values()), torch.ones_like(value))
                for position, gradient in zip(positions.values(), gradients, strict=True):
                    position.grad = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
                optimizer.step()
                schedule.step()
                for position in positions.values():
                    position.clamp_(0, 1)
        chosen = {}
        for k, position in best.items():
            # What is used is what the certificate stores: single precision, and nothing where nothing is to choose.
            matters = state.relaxation(k).undecided(state.input_box(k))[image]
            chosen[k] = torch.where(matters, position.float().to(position.dtype), torch.nan)
        return chosen
