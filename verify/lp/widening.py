"""More room for triangles that an answer used as boxes.

Each triangle implies its own box (`verify.lp.program.SPARE_WIDTH`), which must not bind: what rests on it cannot be written
in slopes. Where it does bind, as many hairs of the layers below have added up as the weights make of them. How far the
neuron gets in the program of the layers below is then found out by that program itself, and the triangle begins beyond.
"""

from collections.abc import Mapping

import numpy as np
from scipy import sparse

from verify.lp.program import HullProgram
from verify.lp.slopes import Ends
from verify.lp.solve import SolverOptions, solve_objectives


def widened(
    program: HullProgram, used: Mapping[int, Ends], node: int, options: SolverOptions, deadline: float
) -> HullProgram:
    """Return the program up to `node` with room for the ends that are used, solved for one after another from below."""
    reached = {k: (low.copy(), high.copy()) for k, (low, high) in program.reached.items()}
    wider = HullProgram(program.graph, program.region, program.boxes, program.memory_limit, reached)
    for block in program.triangles:
        ends = used.get(block.node)
        if ends is None or not (ends.lower.any() or ends.upper.any()):
            continue
        source = program.graph[block.node].inputs[0]
        expression = wider.reach(source)
        unknown = np.full(len(expression.offset), np.nan)
        low, high = reached.setdefault(source, (unknown, unknown.copy()))
        below, above = block.neurons[ends.lower], block.neurons[ends.upper]
        costs = sparse.csr_array(sparse.vstack([expression.matrix[below], -expression.matrix[above]], format="csr"))
        least = solve_objectives(wider, costs, options, deadline=deadline).objective
        low[below] = np.fmin(low[below], least[: len(below)] + expression.offset[below])
        high[above] = np.fmax(high[above], expression.offset[above] - least[len(below) :])
    wider.reach(node)
    return wider
