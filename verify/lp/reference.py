"""The linear programs of the relaxation barrier as one reads them in the paper, in cvxpy: slow, plain, any solver.

    minimise    c^T z_K
    subject to  z_0 in the input set,                          y_k = W_k z_{k-1} + b_k,
                z_k >= y_k,  z_k >= g y_k,                     (both lower lines)
                z_k <= s (y_k - l_k) + g l_k,  s = (u_k - g l_k) / (u_k - l_k)   where l_k < 0 < u_k,
                z_k = y_k where l_k >= 0,      z_k = g y_k where u_k <= 0.

Sigmoid, tanh and max pooling have one line from below and one from above. It shares nothing with the fast path
(`verify.lp.program`) but the network's matrices and those lines, and is its oracle: both agree to 1e-6. Every objective is a
new problem, as in the paper's notebooks; the values are the solver's, not certificates. An l2 ball makes it a second-order
cone program (CLARABEL, ECOS, ...).

Reference: Salman, Yang, Zhang, Hsieh, Zhang 2019, problem (C) and section 5; Ehlers 2017; Wong and Kolter 2018, (5).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm
from verify.errors import VerificationError
from verify.graph import Graph, Input, LeakyReLU, MaxPool, Sigmoid, Tanh
from verify.lp.lines import pool_lines, s_shaped_lines
from verify.lp.program import Box
from verify.matrices import affine_matrices
from verify.modelling import load_cvxpy
from verify.region import Region


class SolverFailedError(VerificationError):
    """A solver ended without an optimum."""


def relaxed_minimum(
    graph: Graph,
    region: Region,
    boxes: Mapping[int, Box],
    node: int,
    rows: Float[ndarray, "rows size"],
    *,
    solver: str,
    solver_options: dict[str, Any] | None = None,
) -> Float[ndarray, " rows"]:
    """Return min r^T (values of `node`) over the relaxation, for every row r; a new problem for each.

    Args:
        graph: The network.
        region: The set of one input.
        boxes: Bounds of every pre-activation node below `node`.
        node: Any node.
        rows: Linear functions of its flattened values.
        solver: A cvxpy solver, by name: "HIGHS", "CLARABEL", "SCS", "MOSEK", ...
        solver_options: Passed to it.

    Raises:
        SolverFailedError: If a problem is not solved to optimality.
    """
    cp = load_cvxpy()

    values, constraints = _formulate(graph, region, boxes, node)
    problems = (cp.Problem(cp.Minimize(row @ values), constraints) for row in rows)
    return np.array([_solve(problem, solver, solver_options) for problem in problems])


def relaxed_minimum_of_largest(
    graph: Graph,
    region: Region,
    boxes: Mapping[int, Box],
    node: int,
    rows: Float[ndarray, "rows size"],
    offset: Float[ndarray, " rows"],
    *,
    solver: str,
    solver_options: dict[str, Any] | None = None,
) -> float:
    """Return min max_j (r_j^T (values of `node`) + d_j) over the relaxation: what a conjunction of rows comes down to.

    Args:
        graph: As in `relaxed_minimum`, like all that is not named here.
        region: Likewise.
        boxes: Likewise.
        node: Likewise.
        rows: r_j.
        offset: d_j.
        solver: Likewise.
        solver_options: Likewise.

    Raises:
        SolverFailedError: If the problem is not solved to optimality.
    """
    cp = load_cvxpy()

    values, constraints = _formulate(graph, region, boxes, node)
    largest = cp.Variable()
    above = [largest >= row @ values + d for row, d in zip(rows, offset, strict=True)]
    return _solve(cp.Problem(cp.Minimize(largest), constraints + above), solver, solver_options)


def _solve(problem: Any, solver: str, options: dict[str, Any] | None) -> float:
    cp = load_cvxpy()

    try:
        problem.solve(solver=solver, **(options or {}))
    except cp.SolverError as error:
        raise SolverFailedError(f"{solver} must solve the problem, got: {error}") from error
    if problem.status != cp.OPTIMAL:
        raise SolverFailedError(f"{solver} must find an optimum, got the status {problem.status!r}")
    return float(problem.value)


def lp_all_reference(
    graph: Graph,
    region: Region,
    rows: Float[ndarray, "rows outputs"],
    *,
    solver: str,
    start: Mapping[int, Box] | None = None,
    solver_options: dict[str, Any] | None = None,
) -> tuple[dict[int, Box], Float[ndarray, " rows"]]:
    """Return (boxes, minima of the rows) of LP-ALL: every bound of every layer is itself an optimum over the layers below.

    Args:
        graph: As in `relaxed_minimum`.
        region: The set of one input.
        rows: Linear functions of the outputs.
        solver: As in `relaxed_minimum`.
        start: Valid boxes, exact for what is linear in the input; only the neurons that they leave undecided behind an
            activation are solved (the hull of a stable one is exact either way). None: no neuron is skipped.
        solver_options: Passed to the solver.
    """
    boxes: dict[int, Box] = {}
    for node in graph.preactivations:
        size = graph[node].size
        if start is None:
            todo, lower, upper = np.arange(size), np.full(size, -np.inf), np.full(size, np.inf)
        else:
            lower, upper = (side.copy() for side in start[node])
            exact = not any(graph[k].is_activation for k in graph.ancestors(node))
            todo = np.flatnonzero((lower < 0) & (upper > 0) & (not exact))
        unit = np.zeros((len(todo), size))
        unit[np.arange(len(todo)), todo] = 1.0
        options: dict[str, Any] = {"solver": solver, "solver_options": solver_options}
        lower[todo] = relaxed_minimum(graph, region, boxes, node, unit, **options)
        upper[todo] = -relaxed_minimum(graph, region, boxes, node, -unit, **options)
        boxes[node] = lower, upper
    return boxes, relaxed_minimum(
        graph, region, boxes, graph.output, rows, solver=solver, solver_options=solver_options
    )


def _formulate(graph: Graph, region: Region, boxes: Mapping[int, Box], node: int) -> tuple[Any, list[Any]]:
    """Cvxpy expression of the node's values, and all constraints below it."""
    cp = load_cvxpy()

    if len(region) != 1:
        raise InvalidArgumentError(f"a linear program is about one input, got {len(region)}")
    values: dict[int, Any] = {}
    constraints: list[Any] = []
    for k in sorted(graph.ancestors(node)):
        op, inputs, size = graph[k].op, graph[k].inputs, graph[k].size
        if isinstance(op, Input):
            values[k] = cp.Variable(size)
            constraints += _input_set(values[k], region)
        elif not graph[k].is_activation:
            matrices, offset = affine_matrices(graph, k)
            values[k] = sum(matrix @ values[i] for matrix, i in zip(matrices, inputs, strict=True)) + offset
        elif isinstance(op, LeakyReLU):
            y, (lower, upper) = values[inputs[0]], boxes[inputs[0]]
            z = values[k] = cp.Variable(size)
            on, off = np.flatnonzero(lower >= 0), np.flatnonzero((upper <= 0) & (lower < 0))
            mixed = np.flatnonzero((lower < 0) & (upper > 0))
            l_, u_ = lower[mixed], upper[mixed]
            chord = (u_ - op.slope * l_) / (u_ - l_)
            constraints += [z[on] == y[on], z[off] == op.slope * y[off]]
            constraints += [z[mixed] >= y[mixed], z[mixed] >= op.slope * y[mixed]]
            constraints += [z[mixed] <= cp.multiply(chord, y[mixed] - l_) + op.slope * l_]
        else:
            # No hull in closed form: one line from below and one from above, those of bound propagation.
            y, (lower, upper) = values[inputs[0]], boxes[inputs[0]]
            z = values[k] = cp.Variable(size)
            if isinstance(op, MaxPool):
                entry, weight, shift, _ = pool_lines(op, lower, upper)
                constraints += [z >= y[entry]]
                for window, (row, seen) in enumerate(zip(weight, op.index, strict=True)):
                    constraints += [z[window] <= row[row > 0] @ y[seen[row > 0]] + shift[window]]
            else:
                assert isinstance(op, Sigmoid | Tanh)
                low, low_shift, high, high_shift = s_shaped_lines(op, lower, upper)
                constraints += [z >= cp.multiply(low, y) + low_shift, z <= cp.multiply(high, y) + high_shift]
    return values[node], constraints


def _input_set(x: Any, region: Region) -> list[Any]:
    cp = load_cvxpy()

    center = region.center.flatten().cpu().numpy()
    lower, upper = region.lower.flatten().cpu().numpy(), region.upper.flatten().cpu().numpy()
    constraints = [x >= lower, x <= upper]
    if region.norm is Norm.L1:
        t = cp.Variable(len(center))
        constraints += [x - center <= t, center - x <= t, cp.sum(t) <= region.eps]
    elif region.norm is Norm.L2:
        constraints += [cp.norm(x - center, 2) <= region.eps]
    return constraints
