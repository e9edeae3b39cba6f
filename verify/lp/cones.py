"""Cones of influence: the part of a linear program that an objective can feel.

The value of a neuron depends on the neurons in its receptive field only, so the rows that define other neurons cannot change
its optimum (each is satisfiable whatever the rest is: a relaxation is non-empty over every input). Behind a convolution
that leaves a few hundred columns out of thousands, and all channels of one position share them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import sparse

from verify.lp.program import HullProgram

WHOLE = 0.6
"""A cone with more than this share of the columns is not cut out: one hot program for all is faster."""


@dataclass(frozen=True, eq=False)
class Constraints:
    """row_bounds[0] <= A v <= row_bounds[1], column_bounds[0] <= v <= column_bounds[1]; `HullProgram.sizes` of both."""

    matrix: sparse.csr_array
    row_bounds: tuple[Float[ndarray, " rows"], Float[ndarray, " rows"]]
    column_bounds: tuple[Float[ndarray, " columns"], Float[ndarray, " columns"]]
    sizes: tuple[Float[ndarray, " rows"], Float[ndarray, " columns"]]

    def part(self, rows: Int[ndarray, " some"], columns: Int[ndarray, " others"]) -> "Constraints":
        """Return the constraints `rows` on the variables `columns` (others are taken to be absent)."""
        matrix = sparse.csr_array(self.matrix[rows][:, columns])
        row_bounds = self.row_bounds[0][rows], self.row_bounds[1][rows]
        column_bounds = self.column_bounds[0][columns], self.column_bounds[1][columns]
        return Constraints(matrix, row_bounds, column_bounds, (self.sizes[0][rows], self.sizes[1][columns]))


@dataclass(frozen=True, eq=False)
class Cone:
    """Objectives that share a part of the program: which objectives, rows and columns."""

    objectives: Int[ndarray, " objectives"]
    rows: Int[ndarray, " rows"]
    columns: Int[ndarray, " columns"]


def constraints_of(program: HullProgram) -> Constraints:
    """Return all constraints of a program."""
    matrix, lower, upper = program.constraints()
    return Constraints(matrix, (lower, upper), program.column_bounds(), program.sizes())


def cones(program: HullProgram, constraints: Constraints, costs: sparse.csr_array) -> Iterator[Cone]:
    """Split objectives by the part of the program that they can feel; those that feel most of it come together.

    Args:
        program: Knows which node each row and column belongs to.
        constraints: Its constraints.
        costs: One objective per row.
    """
    matrix = constraints.matrix
    rows, columns = matrix.shape
    row_owner, column_owner = program.owners()
    entry_row = np.repeat(np.arange(rows), np.diff(matrix.indptr))
    defines = row_owner[entry_row] == column_owner[matrix.indices]
    entries = (np.ones(int(defines.sum())), (matrix.indices[defines], entry_row[defines]))
    definitions = sparse.csr_array(sparse.coo_array(entries, shape=(columns, rows)))
    # The budget of an l1 ball joins all inputs, but those outside the cone may stay at the center: it is not followed.
    followed = np.ones(rows, dtype=bool)
    followed[program.shared_rows] = False
    groups: dict[bytes, list[int]] = {}
    for objective in range(costs.shape[0]):
        pattern = np.sort(costs.indices[costs.indptr[objective] : costs.indptr[objective + 1]])
        groups.setdefault(pattern.tobytes(), []).append(objective)
    whole: list[int] = []
    for objectives in groups.values():
        first = objectives[0]
        found = np.zeros(columns, dtype=bool)
        needed = np.zeros(rows, dtype=bool)
        frontier = np.unique(costs.indices[costs.indptr[first] : costs.indptr[first + 1]])
        while len(frontier):
            found[frontier] = True
            new = np.unique(definitions[frontier].indices)
            new = new[~needed[new]]
            needed[new] = True
            reached = np.unique(matrix[new[followed[new]]].indices)
            frontier = reached[~found[reached]]
        if found.sum() > WHOLE * columns:
            whole += objectives
        else:
            yield Cone(np.array(objectives), np.flatnonzero(needed), np.flatnonzero(found))
    if whole:
        yield Cone(np.array(whole), np.arange(rows), np.arange(columns))
