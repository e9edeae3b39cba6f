"""The same constraints over an l2 ball: a second-order cone program, through cvxpy and any conic solver.

HiGHS has no cones, so this is the engine of LP-LAST and LP-ALL for l2 balls. Its multipliers are used like the simplex's,
and are re-evaluated like them: an interior point's small infeasibility costs tightness, never soundness.
"""

import warnings
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import sparse

from verify.lp.program import Ball2, Box
from verify.lp.simplex import Answer
from verify.modelling import load_cvxpy


@runtime_checkable
class Constrained(Protocol):
    """What this engine needs to know of a program; `HullProgram` is one."""

    @property
    def columns(self) -> int:
        """Variables."""
        ...

    @property
    def input_columns(self) -> int:
        """How many of them, from the first on, are inputs."""
        ...

    @property
    def ball(self) -> Ball2 | None:
        """A ball on these."""
        ...

    def constraints(self) -> tuple[sparse.csr_array, Float[ndarray, " rows"], Float[ndarray, " rows"]]:
        """A and both sides of its rows."""
        ...

    def column_bounds(self) -> Box:
        """Bounds of the variables."""
        ...


class ConicProgram:
    """A program with or without an l2 ball on its input columns.

    Args:
        program: Constraints and variables.
        solver: Name of a cvxpy solver ("CLARABEL", "ECOS", "MOSEK", "SCS", ...).
        time_limit: Seconds per objective, where the solver has a `time_limit` option (CLARABEL has).
    """

    def __init__(self, program: Constrained, *, solver: str, time_limit: float | None = None) -> None:
        cp = load_cvxpy()

        self._solver = solver
        self._options: dict[str, Any] = {} if time_limit is None else {"time_limit": time_limit}
        matrix, lower, upper = program.constraints()
        column_lower, column_upper = program.column_bounds()
        self._v = cp.Variable(program.columns)
        self._cost = cp.Parameter(program.columns)
        equal = np.equal(lower, upper)
        self._groups = [
            (np.flatnonzero(equal), 0),
            (np.flatnonzero(~equal & np.isfinite(lower)), 1),
            (np.flatnonzero(~equal & np.isfinite(upper)), -1),
        ]
        self._matrix = matrix
        self._dual: list[Any] = []
        constraints: list[Any] = []
        for where, side in self._groups:
            rows = sparse.csr_array(matrix[where])
            if side == 0:
                constraint = rows @ self._v == lower[where]
            else:
                constraint = rows @ self._v >= lower[where] if side > 0 else rows @ self._v <= upper[where]
            if len(where):
                constraints.append(constraint)
            self._dual.append(constraint)
        bounded = [np.flatnonzero(np.isfinite(side)) for side in (column_lower, column_upper)]
        constraints += [
            self._v[bounded[0]] >= column_lower[bounded[0]],
            self._v[bounded[1]] <= column_upper[bounded[1]],
        ]
        ball: Ball2 | None = program.ball
        if ball is not None:
            constraints.append(cp.norm(self._v[: program.input_columns] - ball.center, 2) <= ball.eps)
        self._problem = cp.Problem(cp.Minimize(self._cost @ self._v), constraints)

    def minimise(self, cost: Float[ndarray, " columns"], *, stop_above: float | None = None) -> Answer:
        """Minimise cost^T v; an interior point cannot stop early."""
        cp = load_cvxpy()

        self._cost.value = cost
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "may be inaccurate": its values are re-evaluated
                self._problem.solve(solver=self._solver, **self._options)
        except (cp.SolverError, ValueError) as error:
            return Answer(f"failed ({error})", float("nan"), None, None)
        if self._problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
            return Answer(str(self._problem.status), float("nan"), None, None)
        dual = np.zeros(self._matrix.shape[0])
        for (where, side), constraint in zip(self._groups, self._dual, strict=True):
            if len(where):
                # cvxpy's multiplier of an equality has the sign of L = f + y (A v - b), ours of f - y (A v - b).
                dual[where] += (side or -1) * np.asarray(constraint.dual_value, dtype=np.float64).ravel()
        return Answer("optimal", float(self._problem.value), dual, cost - self._matrix.T @ dual)
