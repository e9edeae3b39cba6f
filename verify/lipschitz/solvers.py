"""Which solvers of semidefinite programs are installed: what a user may name for LipSDP."""

from functools import cache

import numpy as np

from verify.modelling import load_cvxpy


@cache
def semidefinite_solvers() -> tuple[str, ...]:
    """Return cvxpy's names of the installed solvers that take semidefinite constraints, in alphabetical order.

    cvxpy has no public table of who takes which cone, so each is asked to prepare the smallest program.
    """
    cp = load_cvxpy()
    largest = cp.Variable()
    problem = cp.Problem(cp.Minimize(largest), [largest * np.eye(2) >> np.ones((2, 2))])
    able = []
    for name in sorted(cp.installed_solvers()):
        try:
            problem.get_problem_data(name)
        except cp.SolverError:
            continue
        able.append(name)
    return tuple(able)
