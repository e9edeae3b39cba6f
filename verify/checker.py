"""An independent checker of certificates: numpy, float64, every rounding accounted for; no torch, no optimiser, no solver.

It shares no arithmetic with the methods that it checks. Convolutions are sparse matrices built by index arithmetic
(`verify.matrices`), lines and minima over balls are computed anew, and its own boxes, never the claimed ones, are what lines
rest on. Its bounds are slightly below the methods' because every sum of n terms is charged with its full worst case
γ_n Σ|terms| (Higham 2002, section 3.1); what it returns is proved in real arithmetic for the graph that it is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from verify.certificate import Certificate, Stage
from verify.checker_lines import activation_range, relax
from verify.checker_minimum import InputSet, minimum
from verify.graph import Graph, Linear
from verify.matrices import affine_matrices
from verify.region import Region
from verify.result import Status, verdicts
from verify.specification import Specification

UNIT = 2.0**-53
SPARE = 16
NEARLY = 1e-6
"""How far from 1 the sum of a combination's weights may be: it is divided by, so that only nonsense is kept out."""

Groups = Sequence[tuple[int, ...]]


def gamma(terms: int) -> float:
    """Return γ_n for a sum of `terms` products and a few operations beside it."""
    return (terms + SPARE) * UNIT / (1 - (terms + SPARE) * UNIT)


@dataclass(frozen=True, eq=False)
class Checked:
    """What the checker proves by itself.

    Attributes:
        lower: Its lower bounds of the specification's rows, [batch, rows]; -inf where the certificate says nothing.
        status: VERIFIED where these alone prove the property, else UNKNOWN.
        joint: Its lower bounds of the largest row of each group, [batch, groups]; -inf where the certificate has no
            combination of the group's rows.
    """

    lower: Float[ndarray, "batch rows"]
    status: tuple[Status, ...]
    joint: Float[ndarray, "batch groups"]

    def agrees(
        self,
        claimed: Float[ndarray, "batch rows"],
        tolerance: float = 1e-6,
        *,
        joint: Float[ndarray, "batch groups"] | None = None,
    ) -> bool:
        """Return whether every finite claimed bound is confirmed, up to rounding (relative to its size, at least 1).

        Args:
            claimed: Bounds of the rows.
            tolerance: What rounding may take.
            joint: Claimed bounds of the groups' largest rows.
        """
        pairs = [(claimed, self.lower), *([] if joint is None else [(joint, self.joint)])]
        return all(_confirmed(said, own, tolerance) for said, own in pairs)


def check(graph: Graph, region: Region, specification: Specification, certificates: Sequence[Certificate]) -> Checked:
    """Re-evaluate certificates, one per input.

    Args:
        graph: The network.
        region: The sets of inputs, in float64 (`Ball.at`).
        specification: The rows.
        certificates: What `Result.certificates` holds, or was stored of it.

    Raises:
        InvalidArgumentError: If a certificate does not fit the network, or has slopes outside [0, 1].
    """
    if not len(region) == len(specification) == len(certificates):
        sizes = len(region), len(specification), len(certificates)
        raise InvalidArgumentError(f"there must be one set, specification and certificate per input, got {sizes}")
    arrays = [v.double().cpu().flatten(1).numpy() for v in (region.center, region.lower, region.upper)]
    lower = np.full(specification.offset.shape, -np.inf)
    joint = np.full((len(specification), len(specification.groups)), -np.inf)
    for image, certificate in enumerate(certificates):
        inputs = InputSet(arrays[0][image], arrays[1][image], arrays[2][image], region.norm, region.eps, region.clipped)
        walker = _Walker(graph, inputs, certificate)
        rows = specification.matrix[image], specification.offset[image]
        lower[image], joint[image] = walker.run(*rows, specification.groups)
    return Checked(lower, verdicts(specification, lower, joint), joint)


def _confirmed(claimed: ndarray, own: ndarray, tolerance: float) -> bool:
    finite = np.isfinite(claimed)
    allowed = claimed - tolerance * np.maximum(1.0, np.abs(np.where(finite, claimed, 0.0)))
    return bool(np.all(~finite | (own >= allowed)))


class _Walker:
    """One input: its boxes so far, and how far the current sweep has come."""

    def __init__(self, graph: Graph, inputs: InputSet, certificate: Certificate) -> None:
        self.graph, self.inputs, self.certificate = graph, inputs, certificate
        self.lower: list[ndarray | None] = [None] * len(graph)
        self.upper: list[ndarray | None] = [None] * len(graph)
        self.lower[0], self.upper[0] = inputs.lower, inputs.upper
        self.replaced = {k: [np.zeros(node.size, dtype=bool) for _ in (0, 1)] for k, node in enumerate(graph)}
        self.reach: dict[int, tuple[ndarray, ndarray]] = {}

    def box(self, index: int) -> tuple[ndarray, ndarray]:
        lower, upper = self.lower[index], self.upper[index]
        assert lower is not None
        assert upper is not None
        return lower, upper

    def largest(self, index: int) -> ndarray:
        lower, upper = self.box(index)
        return np.asarray(np.maximum(np.abs(lower), np.abs(upper)))

    def run(self, matrix: ndarray, offset: ndarray, groups: Groups) -> tuple[ndarray, ndarray]:
        best, joint = np.full(len(matrix), -np.inf), np.full(len(groups), -np.inf)
        position = 0
        for stage in self.certificate.stages:
            self._fits(stage, len(matrix), groups)
            if stage.node < position:
                position = 0  # a new sweep: everything derived from boxes is derived again
            for index in range(position + 1, stage.node + 1):
                self._advance(index)
            position = stage.node
            if stage.target == "specification":
                bounds = self._backward(stage, matrix[stage.rows], offset[stage.rows])
                bounds = np.where(np.isfinite(bounds), bounds, -np.inf)
                np.maximum.at(best, stage.rows, bounds)
            elif stage.target == "conjunction":
                bounds = self._joint(stage, matrix, offset, groups)
                np.maximum.at(joint, stage.rows, np.where(np.isfinite(bounds), bounds, -np.inf))
            else:
                self._tighten(stage)
        return best, joint

    def _joint(self, stage: Stage, matrix: ndarray, offset: ndarray, groups: Groups) -> ndarray:
        """Bound Σ w_j r_j from below, row by row of the stage: never above the largest r_j, because w >= 0 and Σ w_j = 1.

        What forming the combination rounds is charged like every other sum. Weights that add up to s, not quite 1, bound s
        times the largest row, whence the division.
        """
        assert stage.weights is not None
        rows, shift = np.zeros((len(stage.rows), matrix.shape[1])), np.zeros(len(stage.rows))
        lifted, total = np.zeros(len(stage.rows)), np.zeros(len(stage.rows))
        largest, unit = self.largest(self.graph.output), gamma(stage.weights.shape[1])
        for place, number in enumerate(stage.rows):
            chosen = list(groups[number])
            weight = stage.weights[place, : len(chosen)]
            rows[place], shift[place], total[place] = weight @ matrix[chosen], weight @ offset[chosen], weight.sum()
            lifted[place] = unit * (weight @ (np.abs(matrix[chosen]) @ largest + np.abs(offset[chosen])))
        bounds = self._backward(stage, rows, shift, lifted)
        return np.asarray(bounds / total - unit * np.abs(bounds))

    def _fits(self, stage: Stage, num_rows: int, groups: Groups) -> None:
        output = self.graph.output
        known = 0 <= stage.node <= output and (stage.target == "box" or stage.node == output)
        sizes = {"specification": num_rows, "conjunction": len(groups)}
        size = sizes.get(stage.target, self.graph[stage.node].size if known else 0)
        if not known or (len(stage.rows) and not 0 <= stage.rows.min() <= stage.rows.max() < size):
            raise InvalidArgumentError(f"a stage must name rows of a node of this network, got node {stage.node}")
        allowed = (1, -1) if stage.target == "box" else (1,)
        if not np.isin(stage.signs, allowed).all():
            raise InvalidArgumentError(f"signs must be in {allowed}, got {np.unique(stage.signs)}")
        if stage.target == "conjunction":
            self._fits_weights(stage, groups)
        for node, slopes in stage.slopes.items():
            values = slopes.values[~np.isnan(slopes.values)]
            if not ((values >= 0) & (values <= 1)).all():
                raise InvalidArgumentError(f"slopes must be in [0, 1], got others at node {node}")
            columns = slopes.columns
            if not (0 <= node <= output) or (
                len(columns) and not 0 <= columns.min() <= columns.max() < self.graph[self.graph[node].inputs[0]].size
            ):
                raise InvalidArgumentError(f"slopes must name neurons of this network, got others at node {node}")

    def _fits_weights(self, stage: Stage, groups: Groups) -> None:
        weights = stage.weights
        assert weights is not None
        sizes = np.array([len(groups[number]) for number in stage.rows], dtype=np.int64)
        behind = np.arange(weights.shape[1]) >= sizes[:, None]
        # NaN fails every comparison.
        convex = (weights >= 0).all() and (np.abs(weights.sum(axis=1) - 1.0) <= NEARLY).all()
        if not convex or (weights[behind] != 0).any() or (sizes > weights.shape[1]).any():
            raise InvalidArgumentError(
                "weights must be the shares of a group's rows, at least 0 and adding up to 1, got others"
            )

    def _advance(self, index: int) -> None:
        """Derive a node's box from its inputs' boxes, and keep the better of it and what is known."""
        self.reach.pop(index, None)
        node = self.graph[index]
        if node.is_activation:
            lower, upper = activation_range(node.op, *self.box(node.inputs[0]))
        else:
            matrices, bias = affine_matrices(self.graph, index)
            center, radius, size = bias.copy(), np.zeros(node.size), np.abs(bias)
            terms = len(matrices) + 1
            for i, matrix in zip(node.inputs, matrices, strict=True):
                low, high = self.box(i)
                middle = low + (high - low) / 2
                reach = np.nextafter(np.maximum(high - middle, middle - low), np.inf)
                absolute = abs(matrix)
                center += matrix @ middle
                radius += absolute @ reach
                size += absolute @ (np.abs(middle) + reach)
                terms += int(np.diff(matrix.indptr).max(initial=0))
            spare = gamma(terms) * size * (1 + gamma(terms))
            lower, upper = np.nextafter(center - radius - spare, -np.inf), np.nextafter(center + radius + spare, np.inf)
        old_lower, old_upper = self.lower[index], self.upper[index]
        if old_lower is not None and old_upper is not None:
            lower, upper = _intersect(lower, upper, old_lower, old_upper)
        self.lower[index], self.upper[index] = lower, upper

    def _tighten(self, stage: Stage) -> None:
        size = self.graph[stage.node].size
        rows = np.zeros((len(stage.rows), size))
        rows[np.arange(len(rows)), stage.rows] = stage.signs
        bounds = self._backward(stage, rows, np.zeros(len(rows)))
        lower, upper = (side.copy() for side in self.box(stage.node))
        for sign, side, replaced in (
            (1, lower, self.replaced[stage.node][0]),
            (-1, upper, self.replaced[stage.node][1]),
        ):
            for row in np.flatnonzero((stage.signs == sign) & np.isfinite(bounds)):
                at, value = stage.rows[row], sign * bounds[row]
                better = value > side[at] if sign > 0 else value < side[at]
                if better or (not self.certificate.intervals and not replaced[at]):
                    side[at] = value
                replaced[at] = True
        old_lower, old_upper = self.box(stage.node)
        crossed = ~(lower <= upper)
        self.lower[stage.node] = np.where(crossed, old_lower, lower)
        self.upper[stage.node] = np.where(crossed, old_upper, upper)
        self.reach.clear()

    def _backward(self, stage: Stage, rows: ndarray, offset: ndarray, charged: ndarray | None = None) -> ndarray:
        """Walk rows to the input; `slack` collects what every step may have rounded away from the truth.

        `charged` is what forming the rows themselves has; None: nothing.
        """
        waiting = {stage.node: rows}
        value, slack, summed = offset.copy(), np.zeros(len(rows)) if charged is None else charged.copy(), np.abs(offset)
        for k in range(stage.node, 0, -1):
            if k not in waiting:
                continue
            row, node = waiting.pop(k), self.graph[k]
            absolute = np.abs(row)
            if node.is_activation and not stage.relaxed:
                lower, upper = self.box(k)
                constant = np.maximum(row, 0) @ lower + np.minimum(row, 0) @ upper
                slack += gamma(3 * node.size) * (absolute @ self.largest(k))
            elif node.is_activation:
                source = node.inputs[0]
                back, constant, lifted = relax(node.op, row, *self.box(source), stage.rule, stage.slopes.get(k))
                slack += lifted
                self._collect(waiting, source, back, slack)
            else:
                matrices, bias = affine_matrices(self.graph, k)
                constant = row @ bias
                slack += gamma(node.size) * (absolute @ np.abs(bias))
                reach, terms = self._reach(k)
                slack += gamma(terms) * (absolute @ reach)
                for i, matrix in zip(node.inputs, matrices, strict=True):
                    if isinstance(node.op, Linear) and node.size == len(node.op.bias):
                        back = row @ node.op.weight
                    else:
                        back = (matrix.T @ row.T).T
                    self._collect(waiting, i, back, slack)
            value = value + constant
            summed += np.abs(constant)
        if 0 in waiting:
            constant = minimum(waiting[0], self.inputs)
            value, summed = value + constant, summed + np.abs(constant)
        lowered = value - 1.001 * slack - 2 * len(self.graph) * UNIT * summed
        return np.asarray(np.nextafter(lowered, -np.inf))

    def _collect(self, waiting: dict[int, ndarray], index: int, back: ndarray, slack: ndarray) -> None:
        if index in waiting:
            waiting[index] = waiting[index] + back
            slack += 2 * UNIT * (np.abs(waiting[index]) @ self.largest(index))
        else:
            waiting[index] = back

    def _reach(self, index: int) -> tuple[ndarray, int]:
        """Return |W| times the largest input values, and how many products an entry of Λ W sums."""
        matrices, _ = affine_matrices(self.graph, index)
        terms = 1
        total = np.zeros(self.graph[index].size)
        for i, matrix in zip(self.graph[index].inputs, matrices, strict=True):
            total += abs(matrix) @ self.largest(i)
            terms = max(terms, int(np.bincount(matrix.indices, minlength=1).max(initial=0)))
        return total * (1 + gamma(total.size)), terms


def _intersect(lower: ndarray, upper: ndarray, old_lower: ndarray, old_upper: ndarray) -> tuple[ndarray, ndarray]:
    low, high = np.fmax(lower, old_lower), np.fmin(upper, old_upper)
    crossed = ~(low <= high)
    return np.where(crossed, old_lower, low), np.where(crossed, old_upper, high)
