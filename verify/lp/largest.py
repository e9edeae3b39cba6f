"""The least value of the largest of several rows over the relaxation: one linear program with one more variable.

    minimise t   subject to   t >= r_j for every row j of the group,   and everything else as before.

Its multipliers on the new rows are at least 0 and add up to 1: the convex combination of the rows that proves the bound.
With them the other multipliers are those of the program whose objective is the combination, so that slopes come out as
ever, and the reported bound is that of a rounded backward pass. The solver's status, "infeasible" included, proves nothing.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import sparse

from verify.lp.conic import ConicProgram
from verify.lp.program import Ball2, Box, HullProgram, widen
from verify.lp.simplex import Engine, Simplex, powers
from verify.lp.solve import SolverOptions


@dataclass(frozen=True, eq=False)
class LargestAnswer:
    """What a solver says; every number of it is a proposal.

    Attributes:
        status: "optimal", "bound", or the solver's word for a failure.
        objective: The minimum; NaN where there is none.
        weights: The combination of the rows, at least 0 and not all 0; None where there is none.
        row_dual: Multipliers of the program's own rows; None where there are none.
        column_dual: Reduced costs of the program's own columns.
    """

    status: str
    objective: float
    weights: Float[ndarray, " group"] | None = None
    row_dual: Float[ndarray, " rows"] | None = None
    column_dual: Float[ndarray, " columns"] | None = None


@dataclass(frozen=True, eq=False)
class LargestProgram:
    """A hull program with the variable t behind its columns and the rows t - r_j >= constant behind its rows.

    Attributes:
        hull: The program.
        costs: The rows as functions of its variables, [group, columns].
        constants: Their constants.
    """

    hull: HullProgram
    costs: sparse.csr_array
    constants: Float[ndarray, " group"]

    @property
    def columns(self) -> int:
        """Variables, t included."""
        return self.hull.columns + 1

    @property
    def input_columns(self) -> int:
        """Variables of the inputs."""
        return self.hull.input_columns

    @property
    def ball(self) -> Ball2 | None:
        """An l2 ball on the inputs."""
        return self.hull.ball

    def column_bounds(self) -> Box:
        """Bounds of all variables; t has none."""
        lower, upper = self.hull.column_bounds()
        return np.append(lower, -np.inf), np.append(upper, np.inf)

    def sizes(self) -> tuple[Float[ndarray, " rows"], Float[ndarray, " columns"]]:
        """Widths, as `HullProgram.sizes`; that of t and its rows is what one variable makes of them."""
        rows, columns = self.hull.sizes()
        costs = widen(self.costs, self.hull.columns)
        one = float(np.abs(costs @ sparse.diags_array(powers(columns))).max()) if costs.nnz else 1.0
        return np.append(rows, np.full(len(self.constants), one)), np.append(columns, one)

    def constraints(self) -> tuple[sparse.csr_array, Float[ndarray, " rows"], Float[ndarray, " rows"]]:
        """Return A and the two sides of row_lower <= A v <= row_upper."""
        matrix, lower, upper = self.hull.constraints()
        t = sparse.csr_array(np.ones((self.costs.shape[0], 1)))
        own = sparse.hstack([-widen(self.costs, self.hull.columns), t])
        full = sparse.csr_array(sparse.vstack([widen(matrix, self.columns), own], format="csr"))
        free = np.full(len(self.constants), np.inf)
        return full, np.concatenate([lower, self.constants]), np.concatenate([upper, free])


def minimise_largest(
    program: HullProgram,
    costs: sparse.csr_array,
    constants: Float[ndarray, " group"],
    options: SolverOptions,
    *,
    stop_above: float | None = None,
) -> LargestAnswer:
    """Minimise the largest of some rows over a program.

    Args:
        program: The constraints.
        costs: [group, columns].
        constants: [group].
        options: Solver of l2 balls, and seconds per program.
        stop_above: The solver may stop once the minimum is known to exceed this.
    """
    largest = LargestProgram(program, costs, constants)
    engine: Engine
    if program.ball is not None:
        engine = ConicProgram(largest, solver=options.conic_solver, time_limit=options.time_limit)
    else:
        matrix, lower, upper = largest.constraints()
        ends, sizes = largest.column_bounds(), largest.sizes()
        engine = Simplex(matrix, (lower, upper), ends, sizes=sizes, time_limit=options.time_limit)
    cost = np.zeros(largest.columns)
    cost[-1] = 1.0
    answer = engine.minimise(cost, stop_above=stop_above)
    if not answer.usable:
        return LargestAnswer("no multipliers" if answer.status in ("optimal", "bound") else answer.status, np.nan)
    assert answer.row_dual is not None
    assert answer.column_dual is not None
    own, weights = answer.row_dual[: program.rows], np.maximum(answer.row_dual[program.rows :], 0.0)
    if not weights.sum() > 0:
        return LargestAnswer("no multipliers", np.nan)
    return LargestAnswer(answer.status, answer.objective, weights, own, answer.column_dual[: program.columns])
