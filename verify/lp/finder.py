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
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy import sparse
from torch import Tensor

from smoothing.threat import Norm
from verify.backward import Front, Positions, finish
from verify.conjunctions import Conjunctions
from verify.lp.largest import LargestAnswer, minimise_largest
from verify.lp.program import Box, HullProgram, widen
from verify.lp.slopes import dual_slopes, ends_used
from verify.lp.solve import SKIPPED, Answers, SolverOptions, solve_objectives
from verify.lp.widening import widened
from verify.sweep import Choose, Find, Sweep

RULE = "adaptive"
"""The rule for rows without multipliers: what a certificate falls back to when a solver fails."""

SHORT, CONIC_SHORT = 1e-7, 1e-6
"""How far a bound may lie below the solver's claim, relative to 1 + its size, before the program is solved again; for l2
balls, where the multipliers are an interior point's.
"""

ATTEMPTS = 4
"""How often: once to the end, and then with more room for what binds, which may let others bind."""


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
    _reached: dict[int, Box] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limit = self.options.total_limit
        self.deadline = math.inf if limit is None else time.monotonic() + limit

    def boxes_of(self, node: int, wanted: Bool[Tensor, "batch size"]) -> Find:
        """Return what finds positions for the lower bounds of the wanted coordinates, and then for their upper bounds.

        An upper bound is skipped where the lower one shows the sign: the neuron's hull is exact from then on. What the
        neurons can take in the programs is kept for the triangles that are added next.
        """
        of, coordinate = (where.cpu().numpy() for where in torch.nonzero(wanted, as_tuple=True))
        pairs, asked = len(of), 0
        lowest, highest = np.full(wanted.shape, np.nan), np.full(wanted.shape, np.nan)
        self._reached[node] = lowest, highest

        def find(sweep: Sweep, node: int, front: Front, image: Tensor) -> Positions:
            nonlocal asked
            place = asked + np.arange(len(image))
            asked += len(image)
            upper = place >= pairs
            partner = place - pairs - place[0]  # within this chunk; a pair cut apart by chunks is solved twice
            found = self._find(
                sweep, node, front, image, np.where(upper, np.inf, 0.0), np.where(upper & (partner >= 0), partner, -1)
            )
            at = place % pairs
            lowest[of[at][~upper], coordinate[at][~upper]] = self.optima[~upper]
            highest[of[at][upper], coordinate[at][upper]] = -self.optima[upper]
            return found

        return find

    def rows(self, sweep: Sweep, node: int, front: Front, image: Tensor) -> Positions:
        """Find positions for any rows."""
        return self._find(sweep, node, front, image, np.full(len(image), np.inf), np.full(len(image), -1))

    def signs(self) -> Find:
        """Return what finds positions for the specification's rows, as far as a verdict needs them.

        Rows that the previous result proves are left to the rule, and so are those of groups of several rows only, which
        are solved together (`conjunctions`); the others are solved until their sign is known, the least promising first,
        and no more of an input once one of them is not positive.
        """
        asked = 0

        def find(sweep: Sweep, node: int, front: Front, image: Tensor) -> Positions:
            nonlocal asked
            some = slice(asked, asked + len(image))
            asked += len(image)
            assert sweep.previous is not None
            known = sweep.previous.lower.ravel()[some]
            specification = sweep.problem.specification
            alone = np.zeros(specification.num_rows, dtype=bool)
            alone[[group[0] for group in specification.groups if len(group) == 1]] = True
            mine = np.tile(alone, len(specification))[some]
            limits, unless = np.where((known > 0) | ~mine, np.nan, 0.0), np.full(len(image), -1)
            return self._find(sweep, node, front, image, limits, unless, order=known, give_up=True)

        return find

    def conjunctions(self, *, until_sign: bool, lower: Float[ndarray, "batch rows"]) -> Choose:
        """Return what finds weights and positions for groups of several rows.

        Args:
            until_sign: Stop each program once its sign is known, and solve no more of an input's once one is not positive.
            lower: Bounds of the rows; with `until_sign`, inputs of which a group of one row is open get no program.
        """
        given_up: set[int] = set()

        def choose(sweep: Sweep, part: Conjunctions) -> tuple[Tensor, Positions]:
            specification = sweep.problem.specification
            if until_sign:
                single = [group[0] for group in specification.groups if len(group) == 1]
                given_up.update(np.flatnonzero(~(lower[:, single] > 0).all(axis=1)).tolist())
            return self._choose(sweep, part, given_up if until_sign else None)

        return choose

    def _choose(self, sweep: Sweep, part: Conjunctions, given_up: set[int] | None) -> tuple[Tensor, Positions]:
        state, graph = sweep.state, sweep.problem.graph
        fronts = part.fronts(state)
        images, present = part.image.cpu().numpy(), part.present.cpu().numpy()
        weights = present.astype(np.float64)
        found = {k: np.full((len(part), graph[k].size), np.nan) for k in self._free(sweep, graph.output)}
        for pair, image in enumerate(images.tolist()):
            if given_up is not None and image in given_up:
                continue
            program = self._program(sweep, image, graph.output)
            rows = pair * part.width + np.flatnonzero(present[pair])
            costs, constants = _objectives(program, fronts, rows)
            answer = self._largest(program, costs, constants, until_sign=given_up is not None)
            if given_up is not None and not answer.objective > 0:
                given_up.add(image)
            if answer.weights is None or answer.row_dual is None or answer.column_dual is None:
                continue
            weights[pair, present[pair]] = answer.weights
            for k, alpha in dual_slopes(program, answer.row_dual[None], answer.column_dual[None]).items():
                if k in found:
                    found[k][pair] = alpha[0]
        shares = torch.from_numpy(weights).to(part.matrix)
        positions = {k: self._complete(sweep, k, torch.from_numpy(v), part.image) for k, v in found.items()}
        return shares / shares.sum(1, keepdim=True), positions

    def _largest(
        self,
        program: HullProgram,
        costs: sparse.csr_array,
        constants: Float[ndarray, " group"],
        *,
        until_sign: bool,
    ) -> LargestAnswer:
        if time.monotonic() >= self.deadline:
            answer = LargestAnswer("time limit reached", math.nan)
        else:
            stop_above = 0.0 if until_sign else None
            answer = minimise_largest(program, costs, constants, self.options, stop_above=stop_above)
        self.solved += 1
        if answer.weights is None:
            self.failures[answer.status] += 1
        return answer

    def _free(self, sweep: Sweep, node: int) -> list[int]:
        """Activations below a node whose lines can be chosen."""
        graph = sweep.problem.graph
        below = graph.ancestors(node)
        return [k for k in graph.activations if k in below and sweep.state.relaxation(k).free]

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
        graph = sweep.problem.graph
        free = self._free(sweep, node)
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
        positions = {k: self._complete(sweep, k, torch.from_numpy(alpha), image) for k, alpha in found.items()}
        return self._mended(sweep, node, front, image, limits, positions)

    def _mended(
        self, sweep: Sweep, node: int, front: Front, image: Tensor, limits: np.ndarray, positions: dict[int, Tensor]
    ) -> Positions:
        """Solve again where the slopes do not give back what the solver claims, if that matters.

        Two things are in the way. A program that stopped as soon as a sign was known has multipliers that need not be
        slopes: it is solved to the end where the slopes do not show that sign. And a triangle's own box may bind: then it
        gets more room (`widened`).
        """
        if np.isnan(self.optima).all():
            return positions
        claimed, images = self.optima, image.cpu().numpy()
        values = _values(sweep, front, image, positions)
        allowed = CONIC_SHORT if sweep.problem.region.norm is Norm.L2 else SHORT
        short = _short(claimed, values, allowed) & ~(values > limits)
        for i in np.unique(images[short]):
            for attempt in range(ATTEMPTS):
                chosen = np.flatnonzero(short & (images == i))
                if len(chosen) == 0 or time.monotonic() >= self.deadline:
                    break
                program = self._programs[int(i)]
                costs, constant = _objectives(program, front, chosen)
                answers = solve_objectives(program, costs, self.options, deadline=self.deadline)
                self.solved += len(chosen)
                claimed[chosen] = answers.objective + constant
                at = torch.from_numpy(chosen).to(image.device)
                slopes = dual_slopes(program, answers.row_dual, answers.column_dual)
                # Multipliers give positions of (leaky) ReLUs only; an S-shaped neuron keeps the line that the program has.
                trial = {
                    k: self._complete(sweep, k, torch.from_numpy(slopes[k]), image[at]) if k in slopes else old[at]
                    for k, old in positions.items()
                }
                reached = _values(sweep, _rows_of(front, at), image[at], trial)
                better = reached > values[chosen]
                values[chosen[better]] = reached[better]
                for k, position in trial.items():
                    positions[k][at[better]] = position[better]
                short[chosen] = _short(claimed[chosen], values[chosen], allowed)
                left = short[chosen]
                if not left.any() or attempt == ATTEMPTS - 1:
                    break
                used = ends_used(program, answers.row_dual[left], answers.column_dual[left])
                self._programs[int(i)] = widened(program, used, node, self.options, self.deadline)
        return positions

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
                if graph[k].inputs[0] in self._reached:
                    low, high = self._reached[graph[k].inputs[0]]
                    program.reached[graph[k].inputs[0]] = low[image], high[image]
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


def _values(sweep: Sweep, front: Front, image: Tensor, positions: Positions) -> Float[ndarray, " rows"]:
    """Return what a backward pass with these positions gives."""
    with torch.no_grad():
        bounds = finish(sweep.state, front, image, rule=RULE, positions=positions)
    values: Float[ndarray, " rows"] = bounds.double().cpu().numpy()
    return values


def _short(claimed: Float[ndarray, " rows"], values: Float[ndarray, " rows"], allowed: float) -> Bool[ndarray, " rows"]:
    return np.asarray(claimed - values > allowed * (1.0 + np.abs(values)))


def _rows_of(front: Front, rows: Int[Tensor, " some"]) -> Front:
    waiting = {k: v[rows] for k, v in front.waiting.items()}
    return Front(waiting, front.value[rows], front.slack[rows], front.summed[rows])
