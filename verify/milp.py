"""Exact verification of piecewise linear networks by mixed-integer programming, in HiGHS.

The hull program of `verify.lp.program`, with one binary per unstable neuron that decides its side: p <= a and q <= 1 - a
turn the triangle with corners (l, g l), (0, 0), (u, u) into its two edges. Max pooling gets one binary per entry that can be
the maximum. The tighter the boxes, the fewer binaries and the smaller the constants: LP-ALL or alpha-CROWN come first.

What is reported is the solver's *dual* bound, less an estimate of its tolerances' effect; a time limit leaves a valid
but weaker one. It rests on the solver's branch and bound, which carries no certificate, and is marked so. Tolerances
are absolute, but a network means the same with its first layer divided by 1e5 and its last one multiplied by it: so
every row, column and objective is first divided by the width of what it speaks of, and what an error of one tolerance
in every row would do to the objective, by the multipliers of the linear relaxation, is subtracted. A point that the
solver claims to violate the property is run through the network itself before anything is called falsified; and before
the solver's word counts as a proof, an attack tries it.

A group of several rows (a conjunction of unsafe constraints) holds if at every input *some* row is positive, and not the
same one everywhere: its program minimises the largest row.

Reference: Tjeng, Xiao, Tedrake 2019, "Evaluating Robustness of Neural Networks with Mixed Integer Programming".
"""

import dataclasses
import time
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy import sparse

from smoothing.errors import InvalidArgumentError, UnsupportedNormError
from smoothing.threat import Norm
from verify.attack import Attack
from verify.crown import Crown
from verify.errors import UnsupportedOperatorError
from verify.graph import MaxPool, Sigmoid, Tanh
from verify.lp.program import HullProgram, widen
from verify.lp.rungs import LPAll
from verify.lp.simplex import powers, quiet_solver, run_solver, scaled_program
from verify.method import Method
from verify.problem import Problem
from verify.result import Box, Guarantee, Result, Status, better_joint
from verify.same_slope import SameSlope
from verify.selection import select_problem, select_result

TOLERANCE = 1e-6
"""What a bound is lowered by, relative to its size and to the size of the objective."""

FEASIBILITY = 1e-9
"""HiGHS's tolerances for rows, bounds and whole numbers, in programs whose rows and columns are about 1 wide."""

CHECK_STEPS, CHECK_RESTARTS = 40, 4
"""The attack that a solver's word has to withstand."""


@dataclasses.dataclass(frozen=True)
class MILP(Method):
    """Mixed-integer programs, one for every row of the specification, and one for every group of several rows.

    Attributes:
        time_limit: Seconds for all rows of one input together; None for no limit.
        gap: A row is solved until (incumbent - bound) <= gap * |incumbent|.
        until_sign: Solve only groups that the previous rung leaves open, stop each once its sign is known, and stop with an
            input once it is falsified. Verdicts are the same, bounds are not optimal; those of single rows in a group of
            several are left out, and the joint bound of the group stands alone.
        memory_limit: Bytes that one program may take; None: what is free.
    """

    name: ClassVar[str] = "milp"
    time_limit: float | int | None = None
    gap: float | int = 1e-6
    until_sign: bool = False
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        if self.time_limit is not None and not self.time_limit > 0:
            raise InvalidArgumentError(f"time_limit must be positive or None, got time_limit={self.time_limit}")
        if not 0 <= self.gap < 1:
            raise InvalidArgumentError(f"gap must be in [0, 1), got gap={self.gap}")

    def bound(self, problem: Problem, previous: Result | None = None, *, pure: bool = False) -> Result:
        """See `Method.bound`; without a previous result, LP-ALL is run first. There is no pure method: boxes are needed.

        With `until_sign`, LP-ALL stops at the first sign too and is run only on inputs that CROWN leaves open, and an input
        that these prove gets no mixed-integer program.

        Raises:
            UnsupportedOperatorError: If an activation is not piecewise linear; names all of them.
            UnsupportedNormError: If the sets are l2 balls, which take a mixed-integer *cone* program.
            ProgramTooLargeError: If a program would not fit into memory.
        """
        began = time.perf_counter()
        refused = [
            f"{node.name or k}: {type(node.op).__name__} is not piecewise linear"
            for k, node in enumerate(problem.graph)
            if isinstance(node.op, Sigmoid | Tanh)
        ]
        if refused:
            raise UnsupportedOperatorError(refused)
        if problem.region.norm is Norm.L2:
            raise UnsupportedNormError("milp needs a set with flat faces (linf, l1 or a box), got an l2 ball")
        notes: tuple[str, ...] = ()
        if previous is None:
            previous = self._before(problem)
            notes = previous.notes
        elif previous.lower.shape != problem.specification.offset.shape:
            raise InvalidArgumentError("previous must be about the same problem, got bounds of another shape")
        outcomes = [self._input(problem[i : i + 1], previous, i) for i in range(len(problem))]
        _try(problem, outcomes, previous)
        lower = np.fmax(np.stack([outcome.lower for outcome in outcomes]), previous.lower)
        joint = previous.joint
        if problem.specification.conjunctions:
            joint = better_joint(np.stack([outcome.joint for outcome in outcomes]), joint)
        proved = problem.specification.proved(lower, joint)
        status = [
            Status.FALSIFIED
            if outcome.counterexample is not None
            else Status.VERIFIED
            if proved[i]
            else Status.TIMEOUT
            if outcome.timed_out
            else Status.UNKNOWN
            for i, outcome in enumerate(outcomes)
        ]
        return Result(
            method=self.name,
            lower=lower,
            status=tuple(status),
            region=problem.region.description,
            guarantee=Guarantee.SOLVER,
            seconds=time.perf_counter() - began,
            boxes=dict(previous.boxes),
            upper=np.stack([outcome.upper for outcome in outcomes]),
            counterexamples=tuple(outcome.counterexample for outcome in outcomes),
            notes=(*notes, *(note for outcome in outcomes for note in outcome.notes)),
            joint=joint,
        )

    def _before(self, problem: Problem) -> Result:
        """The rungs that the boxes come from."""
        base = Crown().bound(problem, SameSlope().bound(problem))
        if not self.until_sign:
            return LPAll().bound(problem, base)
        left = np.flatnonzero(~problem.specification.proved(base.lower, base.joint))
        if len(left) == 0:
            return base
        better = LPAll(until_sign=True).bound(select_problem(problem, left), select_result(base, left))
        lower, boxes = base.lower.copy(), {}
        lower[left] = better.lower
        joint = None if base.joint is None else base.joint.copy()
        if joint is not None and better.joint is not None:
            joint[left] = better.joint
        for node, box in base.boxes.items():
            sides = box.lower.copy(), box.upper.copy()
            sides[0][left], sides[1][left] = better.boxes[node].lower, better.boxes[node].upper
            boxes[node] = Box(*sides)
        return dataclasses.replace(base, lower=lower, joint=joint, boxes=boxes, notes=better.notes)

    def _input(self, problem: Problem, previous: Result, image: int) -> "_Outcome":
        specification = problem.specification
        known, count = previous.lower[image], len(specification.groups)
        together = np.full(count, -np.inf) if previous.joint is None else previous.joint[image]
        outcome = _Outcome(np.full(len(known), -np.inf), np.full(len(known), np.inf), np.full(count, -np.inf))
        proved = specification.proved_groups(known[None], together[None])[0]
        if self.until_sign and proved.all():
            return outcome
        began = time.perf_counter()
        program = _exact_program(problem, previous, image, self.memory_limit)
        for rows, group in self._questions(problem, known):
            chosen = list(rows)
            if self.until_sign and outcome.counterexample is not None:
                break
            if self.until_sign and proved[group]:
                continue
            left = None if self.time_limit is None else self.time_limit - (time.perf_counter() - began)
            if left is not None and left <= 0:
                outcome.timed_out = True
                break
            matrix, offset = specification.matrix[0, chosen], specification.offset[0, chosen]
            one, cost, constant = program.objective(matrix, offset)
            answer = one.minimise(cost, constant, left, 0.999 if self.until_sign else self.gap, self.until_sign)
            if len(rows) == 1:
                outcome.lower[rows[0]] = answer.bound
            else:
                outcome.joint[group] = answer.bound
            outcome.timed_out |= answer.status == "time limit reached"
            if np.isneginf(answer.bound):
                what = f"row {rows[0]}" if len(rows) == 1 else f"rows {rows} together"
                outcome.notes.append(f"input {image}, {what}: HiGHS gave no bound ({answer.status})")
            if answer.point is not None:
                _replay(problem, answer.point, outcome)
        return outcome

    def _questions(self, problem: Problem, known: Float[ndarray, " rows"]) -> list[tuple[tuple[int, ...], int]]:
        """Return what programs are about, the least promising first: rows alone, or groups together with their numbers."""
        usable = np.where(np.isfinite(known), known, -np.inf)
        groups = sorted(
            ((group, number) for number, group in enumerate(problem.specification.groups)),
            key=lambda each: float(usable[list(each[0])].max()),
        )
        if self.until_sign:
            return groups
        alone = [((int(row),), -1) for row in np.argsort(usable, kind="stable")]
        return alone + [each for each in groups if len(each[0]) > 1]


@dataclasses.dataclass(eq=False)
class _Outcome:
    lower: Float[ndarray, " rows"]
    upper: Float[ndarray, " rows"]
    joint: Float[ndarray, " groups"]
    counterexample: Float[ndarray, "..."] | None = None
    timed_out: bool = False
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, eq=False)
class _Answer:
    status: str
    bound: float
    point: Float[ndarray, " inputs"] | None


@dataclasses.dataclass(eq=False)
class _ExactProgram:
    hull: HullProgram
    matrix: sparse.csr_array
    row_bounds: tuple[Float[ndarray, " rows"], Float[ndarray, " rows"]]
    column_bounds: tuple[Float[ndarray, " columns"], Float[ndarray, " columns"]]
    row_size: Float[ndarray, " rows"]
    column_size: Float[ndarray, " columns"]
    binaries: int
    behind: int = 0  # continuous columns behind the binaries

    def objective(
        self, rows: Float[ndarray, "rows outputs"], offset: Float[ndarray, " rows"]
    ) -> "tuple[_ExactProgram, Float[ndarray, ' columns'], float]":
        """Return a program, cost and constant whose minimum is that of the largest of some rows of the specification."""
        expression = self.hull.expressions[self.hull.graph.output]
        costs = np.zeros((len(rows), self.matrix.shape[1]))
        costs[:, : expression.matrix.shape[1]] = (expression.matrix.T @ rows.T).T
        constants = rows @ expression.offset + offset
        if len(rows) == 1:
            return self, costs[0], float(constants[0])
        # One more variable, at least as large as every row.
        largest = sparse.csr_array(np.ones((len(rows), 1)))
        nothing = sparse.csr_array((self.matrix.shape[0], 1))
        matrix = sparse.vstack(
            [sparse.hstack([self.matrix, nothing]), sparse.hstack([sparse.csr_array(-costs), largest])]
        )
        free = np.array([np.inf])
        size = np.array([(np.abs(costs) * powers(self.column_size)).max(initial=0.0)])
        program = dataclasses.replace(
            self,
            matrix=sparse.csr_array(matrix),
            row_bounds=(
                np.concatenate([self.row_bounds[0], constants]),
                np.concatenate([self.row_bounds[1], np.full(len(rows), np.inf)]),
            ),
            column_bounds=(
                np.concatenate([self.column_bounds[0], -free]),
                np.concatenate([self.column_bounds[1], free]),
            ),
            row_size=np.concatenate([self.row_size, np.repeat(size, len(rows))]),
            column_size=np.concatenate([self.column_size, size]),
            behind=1,
        )
        cost = np.zeros(self.matrix.shape[1] + 1)
        cost[-1] = 1.0
        return program, cost, 0.0

    def minimise(
        self, cost: Float[ndarray, " columns"], constant: float, time_limit: float | None, gap: float, until_sign: bool
    ) -> _Answer:
        """Branch and bound on one thread.

        With a relative gap just below 1 the search ends as soon as incumbent and bound are both positive; a negative
        incumbent ends it through `objective_target`.
        """
        import highspy

        if self.matrix.shape[1] == 0:  # one point: a constant, which HiGHS calls an empty model
            bound = constant - TOLERANCE * (1.0 + abs(constant))
            return _Answer("optimal", bound, self.hull.expressions[0].offset.copy())
        stretch = powers(self.column_size)
        scaled = cost * stretch
        unit = float(powers(np.abs(scaled).max(keepdims=True))[0])
        heights = powers(self.row_size)
        model = scaled_program(highspy, self.matrix, self.row_bounds, self.column_bounds, heights, stretch)
        model.col_cost_, model.offset_ = scaled / unit, constant / unit
        options: dict[str, Any] = {
            "threads": 1,
            "primal_feasibility_tolerance": FEASIBILITY,
            "dual_feasibility_tolerance": FEASIBILITY,
            "mip_feasibility_tolerance": FEASIBILITY,
            # The least that can be asked for: what is smaller is dropped from a row, in silence.
            "small_matrix_value": 1e-12,
        }
        allowance = _allowance(highspy, model, options, time_limit)
        kinds = highspy.HighsVarType
        before = self.matrix.shape[1] - self.binaries - self.behind
        parts = ((kinds.kContinuous, before), (kinds.kInteger, self.binaries), (kinds.kContinuous, self.behind))
        model.integrality_ = [kind for kind, count in parts for _ in range(count)]
        options |= {"mip_rel_gap": float(gap), "mip_abs_gap": 1e-9}
        if time_limit is not None:
            options["time_limit"] = float(time_limit)
        if until_sign:
            options["objective_target"] = -10 * TOLERANCE
        solver = _loaded(highspy, model, options)
        run_solver(highspy, solver)
        status = str(solver.modelStatusToString(solver.getModelStatus())).lower()
        info = solver.getInfo()
        # A program without binaries is a linear one, and has no branch and bound to report a bound.
        dual = float(info.mip_dual_bound if self.binaries else info.objective_function_value)
        usable = status in ("optimal", "time limit reached", "target for objective reached") and np.isfinite(dual)
        if not self.binaries:
            usable = usable and status == "optimal"
        bound = unit * (dual - TOLERANCE * (1.0 + abs(dual)) - allowance) if usable else -np.inf
        values = np.array(solver.getSolution().col_value)
        point = None
        if len(values) == len(stretch):
            values = values * stretch
        if len(values) == self.matrix.shape[1] and info.primal_solution_status == 2 and np.isfinite(values).all():
            expression = self.hull.expressions[0]
            point = expression.matrix @ values[: expression.matrix.shape[1]] + expression.offset
        return _Answer(status, float(bound), point)


def _loaded(library: Any, model: Any, options: dict[str, Any]) -> Any:
    solver = quiet_solver(library)
    for option, value in options.items():
        solver.setOptionValue(option, value)
    solver.passModel(model)
    return solver


def _allowance(library: Any, model: Any, options: dict[str, Any], time_limit: float | None) -> float:
    """Estimate what an error of one tolerance in every row and bound does to the objective; no proof, as no bound here is.

    By its multipliers, twice over: they are those of the relaxation, and the branches' differ. Infinite where HiGHS finds
    none, and so no bound stands.
    """
    limit = {} if time_limit is None else {"time_limit": float(time_limit)}
    solver = _loaded(library, model, {**options, **limit})
    run_solver(library, solver)
    solution = solver.getSolution()
    if solver.getModelStatus() != library.HighsModelStatus.kOptimal or not solution.dual_valid:
        return float("inf")
    multipliers = np.abs(np.concatenate([np.array(solution.row_dual), np.array(solution.col_dual)]))
    return float(2.0 * FEASIBILITY * multipliers.sum())


def _exact_program(problem: Problem, previous: Result, image: int, memory_limit: int | None) -> _ExactProgram:
    """The hull program of one input, with its binaries as the last columns."""
    graph = problem.graph
    boxes = {
        k: (previous.boxes[k].lower[image].ravel().copy(), previous.boxes[k].upper[image].ravel().copy())
        for k in graph.preactivations
    }
    hull = HullProgram(graph, problem.region, boxes, memory_limit)
    hull.reach(graph.output)
    matrix, low, high = hull.constraints()
    column_low, column_high = hull.column_bounds()
    builder = _Rows(hull.columns)
    for block in hull.triangles:
        count = len(block.neurons)
        binary = builder.binaries(count)
        p, q = block.upper_column + np.arange(count), block.upper_column + count + np.arange(count)
        builder.add([(p, np.ones(count)), (binary, -np.ones(count))], np.zeros(count))
        builder.add([(q, np.ones(count)), (binary, np.ones(count))], np.ones(count))
    for pool in hull.pools:
        op, source = graph[pool.node].op, graph[pool.node].inputs[0]
        assert isinstance(op, MaxPool)
        builder.pool(
            op.index[pool.windows],
            pool.column,
            hull.expressions[source].matrix,
            hull.expressions[source].offset,
            boxes[source],
        )
    total = hull.columns + builder.count
    extra, side = builder.rows(total)
    full = sparse.csr_array(sparse.vstack([widen(matrix, total), extra], format="csr"))
    rows = np.concatenate([low, np.full(len(side), -np.inf)]), np.concatenate([high, side])
    columns = (
        np.concatenate([column_low, np.zeros(builder.count)]),
        np.concatenate([column_high, np.ones(builder.count)]),
    )
    row_size, column_size = hull.sizes()
    return _ExactProgram(
        hull,
        full,
        rows,
        columns,
        np.concatenate([row_size, *builder.sizes]),
        np.concatenate([column_size, np.ones(builder.count)]),
        builder.count,
    )


class _Rows:
    """Rows a^T v <= b over the columns of the hull and the binaries behind them."""

    def __init__(self, columns: int) -> None:
        self.first, self.count = columns, 0
        self._entries: list[tuple[ndarray, ndarray, ndarray]] = []
        self._sides: list[ndarray] = []
        self._height = 0
        self.sizes: list[ndarray] = []
        """The width of what each row speaks of, in parts."""

    def binaries(self, count: int) -> ndarray:
        start = self.first + self.count
        self.count += count
        return start + np.arange(count)

    def add(self, terms: list[tuple[ndarray, ndarray]], side: ndarray) -> None:
        """Row i holds entry i of every term."""
        rows = self._height + np.arange(len(side))
        self._entries += [(rows, columns, values) for columns, values in terms]
        self._sides.append(side)
        self.sizes.append(np.ones(len(side)))
        self._height += len(side)

    def pool(
        self,
        index: ndarray,
        column: int,
        matrix: sparse.csr_array,
        offset: ndarray,
        box: tuple[ndarray, ndarray],
    ) -> None:
        """Y >= x_i for all i, y <= x_i + (max_{j != i} u_j - l_i) (1 - a_i), sum a_i = 1 (Tjeng et al. 2019, section 4)."""
        lower, upper = box
        for window, entries in enumerate(index):
            x = entries[entries >= 0]
            width = np.array([upper[x].max() - lower[x].max()])
            candidates = x[upper[x] > lower[x].max()]
            y = np.array([column + window])
            binary = self.binaries(len(candidates))
            ones = np.ones(len(candidates))
            self._entries.append((np.full(len(binary), self._height), binary, -ones))
            self.sizes.append(np.ones(1))
            self._sides.append(np.array([-1.0]))  # at least one; more than one only where entries are equal
            self._height += 1
            for i, a in zip(candidates, binary, strict=True):
                row = matrix[[i]].tocoo()
                others = upper[x[x != i]].max(initial=-np.inf)
                room = max(float(others - lower[i]), 0.0)
                for sign, big in ((-1.0, 0.0), (1.0, room)):
                    columns = np.concatenate([row.coords[1], y, [a]])
                    values = np.concatenate([-sign * row.data, [sign], [big]])
                    self._entries.append((np.full(len(columns), self._height), columns, values))
                    self._sides.append(np.array([sign * offset[i] + big]))
                    self.sizes.append(width)
                    self._height += 1

    def rows(self, total: int) -> tuple[sparse.csr_array, ndarray]:
        if not self._entries:
            return sparse.csr_array((0, total)), np.zeros(0)
        row, column, value = (np.concatenate(parts) for parts in zip(*self._entries, strict=True))
        matrix = sparse.coo_array((value, (row, column)), shape=(self._height, total))
        return sparse.csr_array(matrix), np.concatenate(self._sides)


def _try(problem: Problem, outcomes: list[_Outcome], previous: Result) -> None:
    """Attack the inputs that rest on the solver's word alone; a point below a bound takes all its word for this input."""
    specification = problem.specification
    lower = np.fmax(np.stack([outcome.lower for outcome in outcomes]), previous.lower)
    joint = previous.joint
    if specification.conjunctions:
        joint = better_joint(np.stack([outcome.joint for outcome in outcomes]), joint)
    new = specification.proved(lower, joint) & ~specification.proved(previous.lower, previous.joint)
    images = [int(i) for i in np.flatnonzero(new) if outcomes[i].counterexample is None]
    if not images:
        return
    found = Attack(steps=CHECK_STEPS, restarts=CHECK_RESTARTS).bound(select_problem(problem, images))
    assert found.upper is not None
    for place, i in enumerate(images):
        outcome, point = outcomes[i], found.counterexamples[place]
        outcome.upper = np.minimum(outcome.upper, found.upper[place])
        # Where the network is run in single precision, this much is its rounding.
        broken = outcome.upper < outcome.lower - 1e-4 * (1.0 + np.abs(outcome.upper))
        if point is not None or broken.any():
            outcome.counterexample = point
            outcome.lower[:], outcome.joint[:] = -np.inf, -np.inf
            outcome.notes.append(f"input {i}: an attack found a point below HiGHS's bound; none of its bounds counts")


def _replay(problem: Problem, point: Float[ndarray, " inputs"], outcome: _Outcome) -> None:
    """Run a claimed point through the network; keep its values, and the point if it breaks the property."""
    region = problem.region
    x = torch.from_numpy(point).reshape(region.center.shape).clamp(region.lower, region.upper)
    if region.norm is Norm.L1:
        delta = x - region.center
        length = float(delta.abs().sum())
        if length > region.eps:
            # The solver's tolerance: back into the ball, with a margin for the rounding of this very step.
            x = (region.center + delta * (region.eps / length * (1 - 1e-12))).clamp(region.lower, region.upper)
    outputs = problem.program.forward(x.to(problem.program.dtype))[-1].double().cpu().numpy()
    values = problem.specification.values(outputs)
    if not np.isfinite(values).all():
        return
    outcome.upper = np.minimum(outcome.upper, values[0])
    if problem.specification.violated(values)[0] and outcome.counterexample is None:
        outcome.counterexample = x.reshape(problem.graph.input_shape).numpy()
