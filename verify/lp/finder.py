"""Slopes by linear programming: what the linear program rungs put where alpha-CROWN has gradient ascent.

The rung above asks for positions of rows; each row is an objective of a linear program, and its multipliers give the
positions. What the solver says its optimum is, is used only to decide what else needs solving.
"""

import math
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import sparse
from torch import Tensor

from verify.backward import Front, Positions
from verify.lp.program import HullProgram, widen
from verify.lp.slopes import dual_slopes
from verify.lp.solve import SKIPPED, Answers, SolverOptions, solve_objectives
from verify.sweep import Find, Sweep

RULE = "adaptive"
"""The rule for rows without multipliers: what a certificate falls back to when a solver fails."""


@dataclass(eq=False)
class SlopeFinder:
    """Finds positions for the rows of one sweep, and keeps one growing program per input of its batch.

    Attributes:
        options: See `SolverOptions`.
        solved: Linear programs solved so far.
        failures: Statuses of those that gave nothing, counted.
        optima: What the solver claims as the minimum of the last rows asked for (NaN where skipped or failed).
        deadline: `time.monotonic()` from which on nothing is solved; from `options.total_limit`, at the time of creation.
    """

    options: SolverOptions
    solved: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    optima: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _programs: dict[int, HullProgram] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limit = self.options.total_limit
        self.deadline = math.inf if limit is None else time.monotonic() + limit

    def boxes_of(self, pairs: int) -> Find:
        """Return what finds positions for the lower bounds of `pairs` coordinates, and then for their upper bounds.

        An upper bound is skipped where the lower one shows the sign: the neuron's hull is exact from then on.
        """
        asked = 0

        def find(sweep: Sweep, node: int, front: Front, image: Tensor) -> Positions:
            nonlocal asked
            place = asked + np.arange(len(image))
            asked += len(image)
            upper = place >= pairs
            partner = place - pairs - place[0]  # within this chunk; a pair cut apart by chunks is solved twice
            return self._find(
                sweep, node, front, image, np.where(upper, np.inf, 0.0), np.where(upper & (partner >= 0), partner, -1)
            )

        return find

    def rows(self, sweep: Sweep, node: int, front: Front, image: Tensor) -> Positions:
        """Find positions for any rows."""
        return self._find(sweep, node, front, image, np.full(len(image), np.inf), np.full(len(image), -1))

    def signs(self) -> Find:
        """Return what finds positions for the specification's rows, as far as a verdict needs them.

        Rows that the previous result proves are left to the rule; the others are solved until their sign is known, the
        least promising first, and no more of an input once one of them is not positive.
        """
        asked = 0

        def find(sweep: Sweep, node: int, front: Front, image: Tensor) -> Positions:
            nonlocal asked
            some = slice(asked, asked + len(image))
            asked += len(image)
            assert sweep.previous is not None
            known = sweep.previous.lower.ravel()[some]
            alone = all(len(group) == 1 for group in sweep.problem.specification.groups)
            limits, unless = np.where(known > 0, np.nan, 0.0), np.full(len(image), -1)
            return self._find(sweep, node, front, image, limits, unless, order=known, give_up=alone)

        return find

    def notes(self) -> tuple[str, ...]:
        """Return what a reader should know: failures, if there were any."""
        total = sum(self.failures.values())
        if not total:
            return ()
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.failures.items()))
        return (
            f"{total} of {self.solved} linear programs failed ({kinds}): the bounds of the previous rung are kept there",
        )

    def _find(
        self,
        sweep: Sweep,
        node: int,
        front: Front,
        image: Tensor,
        limits: np.ndarray,
        unless: np.ndarray,
        *,
        order: np.ndarray | None = None,
        give_up: bool = False,
    ) -> Positions:
        """Solve the rows of each input; a limit of NaN leaves a row out."""
        state, graph = sweep.state, sweep.problem.graph
        below = graph.ancestors(node)
        free = [k for k in graph.activations if k in below and state.relaxation(k).free]
        images = image.cpu().numpy()
        count = len(images)
        found = {k: np.full((count, graph[k].size), np.nan) for k in free}
        self.optima = np.full(count, np.nan)
        for i in np.unique(images):
            program = self._program(sweep, int(i), node)
            chosen = np.flatnonzero((images == i) & ~np.isnan(limits))
            if not program.relaxed or len(chosen) == 0:
                continue
            if order is not None:
                chosen = chosen[np.argsort(order[chosen], kind="stable")]
            place = np.full(count, -1)
            place[chosen] = np.arange(len(chosen))
            costs, constant = _objectives(program, front, chosen)
            answers = solve_objectives(
                program,
                costs,
                self.options,
                stop_above=limits[chosen] - constant,
                unless=np.where(unless[chosen] >= 0, place[unless[chosen]], -1),
                give_up=give_up,
                deadline=self.deadline,
            )
            self._count(answers)
            self.optima[chosen] = answers.objective + constant
            for k, alpha in dual_slopes(program, answers.row_dual, answers.column_dual).items():
                if k in found:
                    found[k][chosen] = alpha
        return {k: self._complete(sweep, k, torch.from_numpy(alpha), image) for k, alpha in found.items()}

    def _complete(self, sweep: Sweep, node: int, alpha: Tensor, image: Tensor) -> Tensor:
        """Fill in the rule, and round to what the certificate stores: single precision."""
        state = sweep.state
        default = state.position(node, RULE)[image]
        alpha = alpha.to(device=default.device, dtype=torch.float32).to(default.dtype)
        undecided = state.relaxation(node).undecided(state.input_box(node))[image]
        return torch.where(undecided, torch.where(torch.isnan(alpha), default, alpha), torch.nan)

    def _program(self, sweep: Sweep, image: int, node: int) -> HullProgram:
        graph, state = sweep.problem.graph, sweep.state
        if image not in self._programs:
            region = sweep.problem.region[image : image + 1]
            self._programs[image] = HullProgram(graph, region, {}, self.options.memory_limit)
        program = self._programs[image]
        for k in graph.ancestors(node):
            if graph[k].is_activation and graph[k].inputs[0] not in program.boxes:
                box = state.boxes[graph[k].inputs[0]]
                program.boxes[graph[k].inputs[0]] = (
                    box.lower[image].double().cpu().numpy().copy(),
                    box.upper[image].double().cpu().numpy().copy(),
                )
        program.reach(node)
        return program

    def _count(self, answers: Answers) -> None:
        self.solved += sum(status != SKIPPED for status in answers.status)
        self.failures.update(answers.failures())


def _objectives(
    program: HullProgram, front: Front, chosen: Int[ndarray, " rows"]
) -> tuple[sparse.csr_array, Float[ndarray, " rows"]]:
    """Return the rows of a backward pass, stopped at the first activations, as functions of the program's variables."""
    total = sparse.csr_array((len(chosen), program.columns))
    constant = front.value.detach().double().cpu().numpy()[chosen]
    for k, rows in front.waiting.items():
        expression = program.reach(k)
        mine = sparse.csr_array(rows.detach().double().cpu().numpy()[chosen])
        total = total + widen(sparse.csr_array(mine @ expression.matrix), program.columns)
        constant = constant + mine @ expression.offset
    return sparse.csr_array(total), constant
