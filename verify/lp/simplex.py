"""HiGHS as this project uses it: one matrix, many objectives, a hot dual simplex on one thread.

Measured (reference networks): with presolve off and the basis kept, a further objective costs a quarter to a tenth of a
cold solve. Nothing that the solver says is trusted: only its multipliers are used, and they are re-evaluated.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import sparse

OPTIONS: dict[str, Any] = {
    "output_flag": False,
    "threads": 1,
    "presolve": "off",
    "solver": "simplex",
    "simplex_strategy": 1,
    # The variables of `verify.lp.program` lie in [0, 1] by construction; scaling them again doubles the iterations.
    "simplex_scale_strategy": 0,
    # The triangles' room has to be more than this (`verify.lp.program.SPARE_WIDTH`), and costs as much as it is.
    "primal_feasibility_tolerance": 1e-9,
}
"""Dual simplex, from the last basis."""


ORDINARY = 2.0**-6, 2.0**10
"""Widths between which an absolute tolerance does no harm."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a solver says about one objective; every number of it is a proposal.

    Attributes:
        status: "optimal", "bound" (stopped early: the dual objective passed `stop_above`), or the solver's own word.
        objective: Minimum, without the constant term; NaN where there is none.
        row_dual: One multiplier per row, y with reduced costs c - A^T y; None where there is none.
        column_dual: The reduced costs.
    """

    status: str
    objective: float
    row_dual: Float[ndarray, " rows"] | None
    column_dual: Float[ndarray, " columns"] | None

    @property
    def usable(self) -> bool:
        """Whether there are finite multipliers to build slopes from."""
        return self.row_dual is not None and bool(np.isfinite(self.row_dual).all())


@runtime_checkable
class Engine(Protocol):
    """A solver that holds one set of constraints and minimises one linear function after another over it."""

    def minimise(self, cost: Float[ndarray, " columns"], *, stop_above: float | None = None) -> Answer:
        """Minimise cost^T v; may stop once the minimum is known to exceed `stop_above`."""
        ...


class Simplex:
    """A linear program in HiGHS.

    HiGHS's tolerances are absolute, so it is given every row, column and objective in `units` of the width of what it speaks
    of (`HullProgram.sizes`); answers are in the caller's.

    Args:
        matrix: A, [rows, columns].
        row_bounds: Lower and upper sides of A v.
        column_bounds: Lower and upper bounds of v.
        sizes: Widths of rows and of columns; None leaves all as they are.
        time_limit: Seconds per objective; None for no limit.
    """

    def __init__(
        self,
        matrix: sparse.csr_array,
        row_bounds: tuple[Float[ndarray, " rows"], Float[ndarray, " rows"]],
        column_bounds: tuple[Float[ndarray, " columns"], Float[ndarray, " columns"]],
        *,
        sizes: tuple[Float[ndarray, " rows"], Float[ndarray, " columns"]] | None = None,
        time_limit: float | None = None,
    ) -> None:
        import highspy

        self._library = highspy
        self._rows, self._columns = matrix.shape
        self._solver = quiet_solver(highspy)
        for option, value in OPTIONS.items():
            self._solver.setOptionValue(option, value)
        self._limit = time_limit
        rows, columns = (np.ones(count) if sizes is None else units(sizes[i]) for i, count in enumerate(matrix.shape))
        self._stretch, self._squeeze = columns, 1.0 / rows
        program = scaled_program(highspy, matrix, row_bounds, column_bounds, rows, columns)
        self._solver.passModel(program)
        self._indices = np.arange(self._columns, dtype=np.int32)

    def minimise(self, cost: Float[ndarray, " columns"], *, stop_above: float | None = None) -> Answer:
        """Minimise cost^T v from the last basis."""
        if self._columns == 0:  # a constant: HiGHS calls such a model empty, and no optimum
            return Answer("optimal", 0.0, np.zeros(self._rows), np.zeros(0))
        solver, library = self._solver, self._library
        scaled = np.ascontiguousarray(cost, dtype=np.float64) * self._stretch
        unit = float(units(np.abs(scaled).max(keepdims=True))[0])
        solver.changeColsCost(self._columns, self._indices, scaled / unit)
        solver.setOptionValue("objective_bound", float("inf") if stop_above is None else float(stop_above) / unit)
        if self._limit is not None:
            # HiGHS counts the time of all runs of an object together.
            solver.setOptionValue("time_limit", float(solver.getRunTime() + self._limit))
        run_solver(library, solver)
        status = solver.getModelStatus()
        if status == library.HighsModelStatus.kOptimal:
            word = "optimal"
        elif status == library.HighsModelStatus.kObjectiveBound:
            word = "bound"
        else:
            # A basis that failed once may fail again: start the next objective afresh.
            solver.clearSolver()
            return Answer(str(solver.modelStatusToString(status)).lower(), float("nan"), None, None)
        solution = solver.getSolution()
        objective = unit * float(solver.getObjectiveValue())
        if not solution.dual_valid:
            return Answer(word, objective, None, None)
        rows, columns = np.array(solution.row_dual) * self._squeeze, np.array(solution.col_dual) / self._stretch
        return Answer(word, objective, unit * rows, unit * columns)


def powers(sizes: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Return the powers of two next to some sizes, by which dividing is exact; 1 for those that are none."""
    usable = np.isfinite(sizes) & (sizes > 0)
    return np.asarray(np.exp2(np.round(np.clip(np.log2(np.where(usable, sizes, 1.0)), -200, 200))))


def quiet_solver(library: Any) -> Any:
    """Return a new HiGHS object that prints nothing.

    `highspy.Highs` prints a banner from its constructor, before its output can be switched off; its base class, which has
    every method used here, does not.
    """
    solver = getattr(library, "_Highs", library.Highs)()
    solver.setOptionValue("output_flag", False)
    return solver


def run_solver(library: Any, solver: Any) -> None:
    """Run HiGHS, whatever else in this process has used it.

    HiGHS has one pool of threads per process and refuses to run with another number of threads than the first caller's
    (cvxpy, scipy). A refusal is answered by giving the pool back.
    """
    if solver.run() == library.HighsStatus.kError and solver.getModelStatus() == library.HighsModelStatus.kNotset:
        solver.resetGlobalScheduler(True)
        solver.run()


def units(sizes: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Return what widths are counted in: 1 where they are ordinary, otherwise a power of two next to them.

    Programs of ordinary networks are left as they are, because they are solved in half the time so: their rows then have
    the ones and the weights that the network has.
    """
    return np.where((sizes >= ORDINARY[0]) & (sizes <= ORDINARY[1]), 1.0, powers(sizes))


def scaled_program(
    library: Any,
    matrix: sparse.csr_array,
    row_bounds: tuple[Float[ndarray, " rows"], Float[ndarray, " rows"]],
    column_bounds: tuple[Float[ndarray, " columns"], Float[ndarray, " columns"]],
    rows: Float[ndarray, " rows"],
    columns: Float[ndarray, " columns"],
) -> Any:
    """Return the constraints with every row divided by its entry of `rows`, in variables divided by theirs of `columns`."""
    scaled = sparse.csr_array(sparse.diags_array(1.0 / rows) @ matrix @ sparse.diags_array(columns))
    sides = row_bounds[0] / rows, row_bounds[1] / rows
    return linear_program(library, scaled, sides, (column_bounds[0] / columns, column_bounds[1] / columns))


def linear_program(
    library: Any,
    matrix: sparse.csr_array,
    row_bounds: tuple[Float[ndarray, " rows"], Float[ndarray, " rows"]],
    column_bounds: tuple[Float[ndarray, " columns"], Float[ndarray, " columns"]],
) -> Any:
    """Return the constraints as a `highspy.HighsLp` with zero costs."""
    program = library.HighsLp()
    program.num_col_, program.num_row_ = matrix.shape[1], matrix.shape[0]
    program.col_cost_ = np.zeros(matrix.shape[1])
    program.col_lower_, program.col_upper_ = (_infinite(library, side) for side in column_bounds)
    program.row_lower_, program.row_upper_ = (_infinite(library, side) for side in row_bounds)
    program.a_matrix_.format_ = library.MatrixFormat.kRowwise
    program.a_matrix_.start_ = matrix.indptr.astype(np.int32)
    program.a_matrix_.index_ = matrix.indices.astype(np.int32)
    program.a_matrix_.value_ = matrix.data.astype(np.float64)
    return program


def _infinite(library: Any, side: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    return np.where(np.isposinf(side), library.kHighsInf, np.where(np.isneginf(side), -library.kHighsInf, side))
