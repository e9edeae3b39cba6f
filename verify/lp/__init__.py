"""Linear programs over single-neuron hulls: LP-LAST and LP-ALL, in HiGHS (fast) and in cvxpy (readable)."""

from verify.lp.memory import ProgramTooLargeError
from verify.lp.rungs import LPAll, LPLast
from verify.lp.solve import SolverOptions

__all__ = ["LPAll", "LPLast", "ProgramTooLargeError", "SolverOptions"]
