"""Many objectives over one program: split into cones, solved hot one after another, in processes where that is asked for."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import sparse

from smoothing.errors import InvalidArgumentError
from verify.lp.cones import Constraints, cones, constraints_of
from verify.lp.conic import ConicProgram
from verify.lp.program import HullProgram
from verify.lp.simplex import Answer, Engine, Simplex

SKIPPED = "skipped"
"""Status of an objective that was not needed any more."""


@dataclass(frozen=True)
class SolverOptions:
    """How linear programs are solved.

    Attributes:
        conic_solver: cvxpy's name of the solver for l2 balls, which HiGHS cannot take.
        jobs: Processes over the objectives of one layer; 1 stays in this one.
        time_limit: Seconds per objective; None for no limit.
        memory_limit: Bytes that one program may take; None: what is free.
        total_limit: Seconds for all objectives of one call of a rung: no further one is begun then; None for no limit.
    """

    conic_solver: str = "CLARABEL"
    jobs: int = 1
    time_limit: float | int | None = None
    memory_limit: int | None = None
    total_limit: float | int | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise InvalidArgumentError(f"jobs must be at least 1, got jobs={self.jobs}")
        if self.time_limit is not None and not self.time_limit > 0:
            raise InvalidArgumentError(f"time_limit must be positive or None, got time_limit={self.time_limit}")
        if self.total_limit is not None and not self.total_limit > 0:
            raise InvalidArgumentError(f"total_limit must be positive or None, got total_limit={self.total_limit}")


@dataclass(frozen=True, eq=False)
class Answers:
    """One answer per objective, in their order.

    Attributes:
        status: "optimal", "bound", "skipped", or the solver's word for a failure.
        objective: Minimum without the constant term; NaN where there is none. A proposal, not a bound.
        row_dual: Multipliers over the whole program, 0 where an answer has none.
        column_dual: Reduced costs, likewise.
    """

    status: tuple[str, ...]
    objective: Float[ndarray, " objectives"]
    row_dual: Float[ndarray, "objectives rows"]
    column_dual: Float[ndarray, "objectives columns"]

    def failures(self) -> tuple[str, ...]:
        """Return the statuses that mean that the solver gave no multipliers."""
        return tuple(word for word in self.status if word not in ("optimal", "bound", SKIPPED))


def solve_objectives(
    program: HullProgram,
    costs: sparse.csr_array,
    options: SolverOptions,
    *,
    stop_above: Float[ndarray, " objectives"] | None = None,
    unless: Int[ndarray, " objectives"] | None = None,
    give_up: bool = False,
    deadline: float = math.inf,
) -> Answers:
    """Minimise every row of `costs` over the program.

    Args:
        program: The constraints.
        costs: [objectives, columns].
        options: See `SolverOptions`.
        stop_above: An objective may stop once it is known to exceed this (the sign of a bound is known).
        unless: For each objective, one that it depends on, or -1: it is skipped if that one exceeded its `stop_above`.
        give_up: Skip all that follow once an optimum does not exceed its `stop_above` (they are solved in the order given).
        deadline: `time.monotonic()` from which on no objective is begun; those left over are answered "time limit reached".
    """
    count = costs.shape[0]
    limits = np.full(count, np.inf) if stop_above is None else stop_above
    partner = np.full(count, -1, dtype=np.int64) if unless is None else unless
    status = [SKIPPED] * count
    objective = np.full(count, np.nan)
    row_dual, column_dual = np.zeros((count, program.rows)), np.zeros((count, program.columns))
    constraints = constraints_of(program)
    tasks: list[tuple[Any, ...]] = []
    places: list[tuple[ndarray, ndarray, ndarray]] = []
    if program.ball is not None:
        everything = np.arange(count), np.arange(program.rows), np.arange(program.columns)
        engine = ConicProgram(program, solver=options.conic_solver, time_limit=options.time_limit)
        found = [_run(engine, costs.toarray(), everything[0], limits, partner, give_up, deadline)]
        places = [everything]
    else:
        for cone in cones(program, constraints, costs):
            part = constraints.part(cone.rows, cone.columns)
            for some in _split(cone.objectives, partner, 1 if give_up else options.jobs):
                objectives = sparse.csr_array(costs[some][:, cone.columns]).toarray()
                tasks.append((part, objectives, some, limits, partner, give_up, deadline, options.time_limit))
                places.append((some, cone.rows, cone.columns))
        if options.jobs > 1 and len(tasks) > 1:
            from joblib import Parallel, delayed  # type: ignore[import-untyped]

            found = Parallel(n_jobs=options.jobs)(delayed(_solve_part)(*task) for task in tasks)
        else:
            found = [_solve_part(*task) for task in tasks]
    for (objectives, rows, columns), answers in zip(places, found, strict=True):
        for place, answer in zip(objectives, answers, strict=True):
            if answer is None:
                continue
            status[place], objective[place] = answer.status, answer.objective
            if answer.usable:
                row_dual[place, rows], column_dual[place, columns] = answer.row_dual, answer.column_dual
            elif answer.status in ("optimal", "bound"):
                status[place] = "no multipliers"
    return Answers(tuple(status), objective, row_dual, column_dual)


def _split(objectives: Int[ndarray, " some"], partner: Int[ndarray, " all"], jobs: int) -> list[Int[ndarray, " _"]]:
    """Cut into `jobs` parts that keep an objective and the one it depends on together.

    Within a part, all that others depend on come first: objectives of one kind resemble each other more than a lower bound
    resembles the upper bound of the same neuron, and the basis is reused from one to the next.
    """
    leader = np.where(partner[objectives] >= 0, partner[objectives], objectives)
    order = np.lexsort((leader, partner[objectives] >= 0))
    ordered, leaders = objectives[order], leader[order]
    unique = np.unique(leaders)
    return [ordered[np.isin(leaders, some)] for some in np.array_split(unique, min(jobs, len(unique)))]


def _solve_part(
    part: Constraints,
    costs: Float[ndarray, "some columns"],
    objectives: Int[ndarray, " some"],
    limits: Float[ndarray, " all"],
    partner: Int[ndarray, " all"],
    give_up: bool,
    deadline: float,
    time_limit: float | int | None,
) -> list[Answer | None]:
    engine = Simplex(part.matrix, part.row_bounds, part.column_bounds, sizes=part.sizes, time_limit=time_limit)
    return _run(engine, costs, objectives, limits, partner, give_up, deadline)


def _run(
    engine: Engine,
    costs: Float[ndarray, "some columns"],
    objectives: Sequence[int] | Int[ndarray, " some"],
    limits: Float[ndarray, " all"],
    partner: Int[ndarray, " all"],
    give_up: bool,
    deadline: float,
) -> list[Answer | None]:
    exceeded: set[int] = set()
    answers: list[Answer | None] = []
    for cost, place in zip(costs, objectives, strict=True):
        if int(partner[place]) in exceeded:
            answers.append(None)
            continue
        if time.monotonic() >= deadline:
            answers.append(Answer("time limit reached", math.nan, None, None))
            continue
        limit = float(limits[place])
        answer = engine.minimise(cost, stop_above=None if np.isinf(limit) else limit)
        answers.append(answer)
        if answer.status == "bound" or answer.objective > limit:
            exceeded.add(int(place))
        elif give_up and answer.objective <= limit:
            return answers + [None] * (len(costs) - len(answers))
    return answers
