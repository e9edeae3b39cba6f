"""The convex hull relaxation of a network as one sparse linear program that grows node by node.

Every node's value is an affine expression E v + e of the program's variables v. Affine operators multiply expressions;
activations add variables. An unstable neuron z = max(y, g y) with l < 0 < u is relaxed to the triangle with the corners
(l, g l), (0, 0), (u, u), which is the convex hull of its graph, written in barycentric coordinates:

    y = u p + l q,    z = u p + g l q,    p, q >= 0,    p + q <= 1.

Two variables, one dense row (y equals its expression) and one row of two entries: the form with the fewest nonzeros, and
with binary p-or-q it is the exact neuron (`verify.milp`). A stable neuron costs nothing, or one row where its expression
is dense. Sigmoid, tanh and max pooling get the lower and the upper line that bound propagation gives them by default.

The multiplier of a neuron's dense row is the coefficient on y in the dual solution: from it come the slopes of the
certificate (`verify.lp.slopes`).
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import sparse

from smoothing.threat import Norm
from verify.graph import Graph, Input, LeakyReLU, MaxPool, Sigmoid, Tanh
from verify.lp.lines import pool_lines, s_shaped_lines, s_shaped_range
from verify.lp.memory import BYTES_PER_NONZERO, affine_nonzeros, require_memory
from verify.lp.simplex import units
from verify.matrices import affine_matrices
from verify.region import Region

DENSE_ROW = 4
"""A stably active neuron whose expression has more entries than this gets a variable of its own, against fill-in."""

SPARE_WIDTH = 3e-8
"""How far each triangle reaches beyond what its neuron can take, relative to its width, or to 1 where that is larger and the
width an ordinary one (`verify.lp.simplex.units`). A triangle implies its own box as a constraint, and the layers below imply
the very same one, because they gave the box: two ways to prove it, and a solution that uses the triangle's cannot be
written in slopes. A hair of room leaves only the other: more than the solver's feasibility tolerance (1e-9 of the same),
within which it does not see the room. The slopes are then evaluated on the true box.

The room is counted from what the neuron can take in *this* program (`HullProgram.reached`), not from its box: the hairs of
the layers below, amplified by the weights, let it go a little beyond the box, and a box whose room is used up binds.
"""

GRAIN = 1e-5
"""What is narrower than this share of the terms that it is computed from counts as so wide: a solver that is asked for 1e-9
of it would otherwise look for less than the terms' rounding.
"""

CONIC_SPARE_WIDTH = 1e-6
"""The same for l2 balls, relative to 1 + the width: interior points come as close as some 1e-8, whatever the width."""

FARTHEST = 1e-2
"""How far beyond a box, relative to the same, `reached` is believed. Hairs never add up to that much; a box that is so
much tighter than what its program says came from elsewhere, and a triangle without it would be another relaxation.
"""

Box = tuple[Float[ndarray, " _"], Float[ndarray, " _"]]
"""Lower and upper bounds on the values of one node, flattened."""


@dataclass(frozen=True, eq=False)
class Expression:
    """E v + e for all values of a node: [size, columns] and [size]; columns that came later are absent, that is 0."""

    matrix: sparse.csr_array
    offset: Float[ndarray, " size"]


@dataclass(frozen=True, eq=False)
class Triangles:
    """Where the unstable neurons of one activation node lie in the program.

    Attributes:
        node: The activation node.
        neurons: Their positions in the flattened node.
        upper_column: Columns of p; those of q follow as a block of the same length.
        row: Rows y = expression; the rows p + q <= 1 follow as a block of the same length.
        lower: l of each, negative, its room included.
        upper: u of each, positive, likewise.
        slope: g.
    """

    node: int
    neurons: Int[ndarray, " count"]
    upper_column: int
    row: int
    lower: Float[ndarray, " count"]
    upper: Float[ndarray, " count"]
    slope: float


@dataclass(frozen=True, eq=False)
class Pools:
    """Where the relaxed windows of one max pooling node lie: `windows` of the node, their values from `column` on."""

    node: int
    windows: Int[ndarray, " count"]
    column: int


@dataclass
class HullProgram:
    """Constraints on v, and the expressions of all nodes added so far.

    Attributes:
        graph: The network.
        region: The set of *one* input.
        boxes: Bounds of pre-activation nodes; must be there before the activation that reads them is added.
        reached: What some of these nodes can take in this program, as far as it is known; NaN and absent: not known. A
            solver's word, from which only the triangles' room is taken.
        memory_limit: Bytes that the program may take; None: what the machine has free.
    """

    graph: Graph
    region: Region
    boxes: dict[int, Box]
    memory_limit: int | None = None
    reached: dict[int, Box] = field(default_factory=dict)
    expressions: dict[int, Expression] = field(default_factory=dict)
    triangles: list[Triangles] = field(default_factory=list)
    pools: list[Pools] = field(default_factory=list)
    columns: int = 0
    rows: int = 0
    input_columns: int = 0
    ball: "Ball2 | None" = None
    shared_rows: list[int] = field(default_factory=list)
    _lower: list[ndarray] = field(default_factory=list)
    _upper: list[ndarray] = field(default_factory=list)
    _blocks: list[sparse.csr_array] = field(default_factory=list)
    _row_lower: list[ndarray] = field(default_factory=list)
    _row_upper: list[ndarray] = field(default_factory=list)
    _column_size: list[ndarray] = field(default_factory=list)
    _row_size: list[ndarray] = field(default_factory=list)
    _column_owner: list[ndarray] = field(default_factory=list)
    _row_owner: list[ndarray] = field(default_factory=list)
    _nonzeros: int = 0
    _adding: int = 0

    def reach(self, index: int) -> Expression:
        """Add whatever `index` depends on and is not there yet; return its expression.

        Raises:
            ProgramTooLargeError: If the program would not fit into memory.
        """
        for k in sorted(self.graph.ancestors(index)):
            if k not in self.expressions:
                self._adding = k
                self.expressions[k] = self._add(k)
        return self.expressions[index]

    @property
    def relaxed(self) -> bool:
        """Whether anything was relaxed so far; without it, concretisation alone is exact."""
        return self.columns > self.input_columns

    def column_bounds(self) -> Box:
        """Bounds of all variables."""
        return np.concatenate([np.zeros(0), *self._lower]), np.concatenate([np.zeros(0), *self._upper])

    def constraints(self) -> tuple[sparse.csr_array, Float[ndarray, " rows"], Float[ndarray, " rows"]]:
        """Return A and the two sides of row_lower <= A v <= row_upper."""
        if not self._blocks:
            return sparse.csr_array((0, self.columns)), np.zeros(0), np.zeros(0)
        blocks = [widen(block, self.columns) for block in self._blocks]
        matrix = sparse.csr_array(sparse.vstack(blocks, format="csr"))
        return matrix, np.concatenate(self._row_lower), np.concatenate(self._row_upper)

    def sizes(self) -> tuple[Float[ndarray, " rows"], Float[ndarray, " columns"]]:
        """Return what is large for each row and each column: the width of what it speaks of, or `GRAIN` of its terms.

        A solver's tolerances are absolute, a neuron that takes values up to 1e-5 is not less exact than one of 1.
        """
        nothing = np.zeros(0)
        return np.concatenate([nothing, *self._row_size]), np.concatenate([nothing, *self._column_size])

    def owners(self) -> tuple[Int[ndarray, " rows"], Int[ndarray, " columns"]]:
        """Return the node that each row and each column was added for."""
        nothing = np.zeros(0, dtype=np.int64)
        return np.concatenate([nothing, *self._row_owner]), np.concatenate([nothing, *self._column_owner])

    # --- building ------------------------------------------------------------------------------------------------------

    def _new_columns(self, lower: ndarray, upper: ndarray, size: ndarray | None = None) -> int:
        first = self.columns
        largest = np.maximum(np.abs(lower), np.abs(upper))
        self._column_size.append(np.maximum(upper - lower if size is None else size, GRAIN * largest))
        self._lower.append(np.asarray(lower, dtype=np.float64))
        self._upper.append(np.asarray(upper, dtype=np.float64))
        self._column_owner.append(np.full(len(lower), self._adding))
        self.columns += len(lower)
        return first

    def _new_rows(self, block: sparse.csr_array, lower: ndarray, upper: ndarray, size: ndarray | float) -> int:
        first = self.rows
        sides = np.where(np.isfinite(lower), np.abs(lower), 0.0), np.where(np.isfinite(upper), np.abs(upper), 0.0)
        self._row_size.append(np.maximum(size, GRAIN * self._terms(block, np.maximum(*sides))))
        self._blocks.append(block)
        self._row_lower.append(lower)
        self._row_upper.append(upper)
        self._row_owner.append(np.full(block.shape[0], self._adding))
        self.rows += block.shape[0]
        self._nonzeros += block.nnz
        return first

    def _terms(self, matrix: sparse.csr_array, offset: ndarray) -> Float[ndarray, " rows"]:
        """Return how large the terms of some rows are: what their rounding is counted from."""
        sizes = np.concatenate([np.zeros(0), *self._column_size])[: matrix.shape[1]]
        return np.asarray(abs(matrix) @ sizes + np.abs(offset))

    def _require(self, more: int, what: str) -> None:
        held = self._nonzeros + sum(expression.matrix.nnz for expression in self.expressions.values())
        require_memory((held + more) * BYTES_PER_NONZERO, self.memory_limit, what)

    def _add(self, k: int) -> Expression:
        node = self.graph[k]
        if isinstance(node.op, Input):
            return self._add_input()
        if not node.is_activation:
            self._require(affine_nonzeros(self.graph, k), f"the linear program up to {node.name or k}")
            matrices, offset = affine_matrices(self.graph, k)
            total = sparse.csr_array((node.size, self.columns))
            for matrix, index in zip(matrices, node.inputs, strict=True):
                before = self.expressions[index]
                # An upper bound on the entries of the product, known before it is formed.
                counts = np.diff(before.matrix.indptr).astype(np.float64)
                pattern = sparse.csr_array((np.ones(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
                expected = np.minimum(np.asarray(pattern @ counts), before.matrix.shape[1]).sum()
                self._require(int(expected), f"the linear program up to {node.name or k}")
                total = total + widen(sparse.csr_array(matrix @ before.matrix), self.columns)
                offset = offset + matrix @ before.offset
            return Expression(sparse.csr_array(total), offset)
        source = self.expressions[node.inputs[0]]
        lower, upper = self.boxes[node.inputs[0]]
        if isinstance(node.op, LeakyReLU):
            return self._add_relu(k, node.op.slope, source, (lower, upper), self._room(node.inputs[0], source))
        if isinstance(node.op, MaxPool):
            return self._add_max_pool(node.op, source, lower, upper)
        assert isinstance(node.op, Sigmoid | Tanh)
        return self._add_s_shaped(node.op, source, lower, upper)

    def _add_input(self) -> Expression:
        region = self.region
        center = region.center.flatten().cpu().numpy()
        lower, upper = region.lower.flatten().cpu().numpy(), region.upper.flatten().cpu().numpy()
        size = len(center)
        if region.norm is Norm.L1:
            # x = center + v+ - v-, sum(v+ + v-) <= eps.
            self._new_columns(np.zeros(size), np.minimum(upper - center, region.eps))
            self._new_columns(np.zeros(size), np.minimum(center - lower, region.eps))
            budget = sparse.csr_array(np.ones((1, 2 * size)))
            self.shared_rows.append(self._new_rows(budget, np.array([-np.inf]), np.array([region.eps]), region.eps))
            identity = sparse.eye_array(size)
            expression = Expression(sparse.csr_array(sparse.hstack([identity, -identity])), center.copy())
        else:
            free = upper > lower
            self._new_columns(lower[free], upper[free])
            where = np.flatnonzero(free)
            entries = (np.ones(len(where)), (where, np.arange(len(where))))
            matrix = sparse.csr_array(sparse.coo_array(entries, shape=(size, len(where))))
            expression = Expression(matrix, np.where(free, 0.0, lower))
            if region.norm is Norm.L2:
                self.ball = Ball2(center[free], region.eps)
        self.input_columns = self.columns
        return expression

    def _room(self, source: int, expression: Expression) -> Box:
        """Return the ends of the triangles of an activation: a hair beyond all that their neurons can take."""
        lower, upper = self.boxes[source]
        width = 1.0 + upper - lower
        if self.ball is None:
            width = np.maximum(upper - lower, GRAIN * self._terms(expression.matrix, expression.offset))
            width = np.maximum(width, units(width))
        low, high = self.reached.get(source, (lower, upper))
        low = np.where(low > lower - FARTHEST * width, np.fmin(lower, low), lower)
        high = np.where(high < upper + FARTHEST * width, np.fmax(upper, high), upper)
        spare = (SPARE_WIDTH if self.ball is None else CONIC_SPARE_WIDTH) * width
        return low - spare, high + spare

    def _add_relu(self, k: int, slope: float, source: Expression, box: Box, room: Box) -> Expression:
        lower, upper = box
        active, inactive = lower >= 0, upper <= 0
        unstable = np.flatnonzero(~active & ~inactive)
        count, size = len(unstable), len(lower)
        matrix = widen(source.matrix, self.columns)
        dense = np.flatnonzero(active & (np.diff(matrix.indptr) > DENSE_ROW))
        # Rows that are passed on as they are: active times 1, inactive times the slope.
        factor = np.where(active, 1.0, np.where(inactive, slope, 0.0))
        factor[dense] = 0.0
        first = self._new_columns(np.zeros(2 * count), np.ones(2 * count))
        width = upper[dense] - lower[dense]
        stable = self._new_columns(*_loosened(lower[dense], upper[dense]), width)
        p, q = first + np.arange(count), first + count + np.arange(count)
        l_, u_ = room[0][unstable], room[1][unstable]
        own = _place(
            np.concatenate([u_, l_]), np.tile(np.arange(count), 2), np.concatenate([p, q]), count, self.columns
        )
        row = self._new_rows(
            sparse.csr_array(own - widen(matrix[unstable], self.columns)),
            source.offset[unstable],
            source.offset[unstable],
            np.maximum(u_, -l_),
        )
        ones = _place(np.ones(2 * count), np.tile(np.arange(count), 2), np.concatenate([p, q]), count, self.columns)
        self._new_rows(ones, np.full(count, -np.inf), np.ones(count), 1.0)
        copies = _place(
            np.ones(len(dense)), np.arange(len(dense)), stable + np.arange(len(dense)), len(dense), self.columns
        )
        shift = source.offset[dense]
        self._new_rows(sparse.csr_array(copies - widen(matrix[dense], self.columns)), shift, shift, width)
        self.triangles.append(Triangles(k, unstable, first, row, l_, u_, slope))
        passed = widen(sparse.csr_array(sparse.diags_array(factor) @ matrix), self.columns)
        passed.eliminate_zeros()
        values = np.concatenate([u_, slope * l_, np.ones(len(dense))])
        where = np.concatenate([unstable, unstable, dense])
        new = _place(values, where, np.concatenate([p, q, stable + np.arange(len(dense))]), size, self.columns)
        return Expression(sparse.csr_array(passed + new), factor * source.offset)

    def _add_max_pool(self, op: MaxPool, source: Expression, lower: ndarray, upper: ndarray) -> Expression:
        entry, weight, offset, exact = pool_lines(op, lower, upper)
        relaxed = np.flatnonzero(~exact)
        count, outputs, size = len(relaxed), len(entry), source.matrix.shape[0]
        floor, highest = lower[entry], np.where(op.index >= 0, upper[op.index], -np.inf).max(1)
        width = highest[relaxed] - floor[relaxed]
        first = self._new_columns(*_loosened(floor[relaxed], highest[relaxed]), width)
        self.pools.append(Pools(self._adding, relaxed, first))
        columns = self.columns
        matrix = widen(source.matrix, columns)
        own = _place(np.ones(count), np.arange(count), first + np.arange(count), count, columns)
        below = sparse.csr_array(own - matrix[entry[relaxed]])
        self._new_rows(below, source.offset[entry[relaxed]], np.full(count, np.inf), width)
        window, position = np.nonzero(weight[relaxed] > 0)
        share = _place(weight[relaxed][window, position], window, op.index[relaxed][window, position], count, size)
        above = sparse.csr_array(own - share @ matrix)
        self._new_rows(above, np.full(count, -np.inf), offset[relaxed] + share @ source.offset, width)
        # One entry is the maximum everywhere: an exact copy.
        kept = _place(np.ones(outputs - count), np.flatnonzero(exact), entry[exact], outputs, size)
        new = _place(np.ones(count), relaxed, first + np.arange(count), outputs, columns)
        return Expression(sparse.csr_array(widen(sparse.csr_array(kept @ matrix), columns) + new), kept @ source.offset)

    def _add_s_shaped(self, op: Sigmoid | Tanh, source: Expression, lower: ndarray, upper: ndarray) -> Expression:
        size = len(lower)
        low_slope, low_shift, high_slope, high_shift = s_shaped_lines(op, lower, upper)
        ends = s_shaped_range(op, lower, upper)
        value = self._new_columns(*_loosened(*ends), ends[1] - ends[0])
        before = self._new_columns(*_loosened(lower, upper), upper - lower)
        at = np.arange(size)
        eye_z = _place(np.ones(size), at, value + at, size, self.columns)
        eye_y = _place(np.ones(size), at, before + at, size, self.columns)
        copy = sparse.csr_array(eye_y - widen(source.matrix, self.columns))
        self._new_rows(copy, source.offset, source.offset, upper - lower)
        free = np.full(size, np.inf)
        low_line = sparse.csr_array(eye_z - sparse.diags_array(low_slope) @ eye_y)
        high_line = sparse.csr_array(eye_z - sparse.diags_array(high_slope) @ eye_y)
        self._new_rows(low_line, low_shift, free, ends[1] - ends[0])
        self._new_rows(high_line, -free, high_shift, ends[1] - ends[0])
        return Expression(eye_z, np.zeros(size))


@dataclass(frozen=True, eq=False)
class Ball2:
    """||x - center||_2 <= eps on the input columns: what a linear program cannot say, and a conic one can."""

    center: Float[ndarray, " columns"]
    eps: float


def widen(matrix: sparse.csr_array, columns: int) -> sparse.csr_array:
    """Return the same matrix with zero columns added on the right."""
    if matrix.shape[1] == columns:
        return matrix
    return sparse.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], columns))


def _loosened(lower: ndarray, upper: ndarray) -> Box:
    """Bounds of a variable that its rows bound already, so loose that they never bind.

    A bound that binds takes part in the dual solution, and slopes alone could not give that back: the range of a pooled
    value, say, is no line that a certificate has.
    """
    room = upper - lower + 1.0
    return lower - room, upper + room


def _place(values: ndarray, rows: ndarray, columns: ndarray, height: int, width: int) -> sparse.csr_array:
    return sparse.csr_array(sparse.coo_array((values, (rows, columns)), shape=(height, width)))
