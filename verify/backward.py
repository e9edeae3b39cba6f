"""One backward pass: rows of linear functions of one node, walked towards the input, bounded from below.

For rows λ at node k the pass keeps λᵀz_k >= Σ_j Λ_jᵀz_j + β over the nodes j still to be visited, in reverse topological
order, so that a fork is left only after all its readers have contributed. An affine node turns Λ into Λ W and β into
β + Λ b; an activation is replaced by lines on its box; at the input, the minimum over the set is taken. Everything is
batched over (input, row) pairs and done in chunks of bounded memory.

Rounding: every step may lift a row's value by at most |Λ| times the allowance of its node (`State.allowance`), because what
the rounded row differs from the exact one multiplies values inside known boxes. The sum is subtracted at the end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.graph import AvgPool, MaxPool
from verify.relaxation.base import only_image
from verify.state import State, unflat

Rows = Float[Tensor, "rows _"]
Positions = Mapping[int, Float[Tensor, "rows _"]]


@dataclass(frozen=True, eq=False)
class Front:
    """A backward pass on its way: λᵀz >= Σ_j waiting[j]ᵀ z_j + value - slack.

    Attributes:
        waiting: Rows of the nodes still to be visited, flat.
        value: β.
        slack: What rounding may have added so far.
        summed: Sum of the absolute values of all terms of `value`, which its own rounding is proportional to.
    """

    waiting: dict[int, Rows]
    value: Float[Tensor, " rows"]
    slack: Float[Tensor, " rows"]
    summed: Float[Tensor, " rows"]


def front_of_rows(
    state: State,
    node: int,
    rows: Rows,
    image: Int[Tensor, " rows"],
    offset: Float[Tensor, " rows"] | None = None,
    slack: Float[Tensor, " rows"] | None = None,
) -> Front:
    """Return λᵀz_node + offset, walked back to the first activations: the part that no position changes.

    `slack` is what rounding may have added to the rows' values already; None: nothing.
    """
    nothing = rows.new_zeros(len(rows))
    value, charged = nothing if offset is None else offset, nothing if slack is None else slack
    return _walk(state, Front({node: rows}, value, charged, value.abs()), image, until_activation=True)


def front_of_coordinates(
    state: State,
    node: int,
    coordinate: Int[Tensor, " rows"],
    sign: Int[Tensor, " rows"],
    image: Int[Tensor, " rows"],
) -> Front:
    """Return ±z_node[coordinate], walked back to the first activations; a bound of -z is minus an upper bound of z."""
    kernel = state.problem.program.kernels[node]
    factor = sign.to(state.problem.program.dtype)
    size = state.problem.graph[node].size
    nothing = torch.zeros_like(factor)
    picked = None if kernel is None else kernel.rows_of(coordinate)
    if kernel is None or picked is None:
        rows = factor.new_zeros(len(factor), size).scatter_(1, coordinate[:, None], factor[:, None])
        front = Front({node: rows}, nothing, nothing, nothing)
    else:
        # Single rows of W are read off: no product with a row that is zero but for one entry.
        bias = kernel.bias()
        value = nothing
        if bias is not None:
            value = factor * bias.expand(state.problem.graph[node].shape).flatten()[coordinate]
        slack = state.allowance(node)[image, coordinate]
        waiting = {state.problem.graph[node].inputs[0]: picked * factor[:, None]}
        front = Front(waiting, value, slack, value.abs())
    return _walk(state, front, image, until_activation=True)


def finish(
    state: State,
    front: Front,
    image: Int[Tensor, " rows"],
    *,
    rule: str = "adaptive",
    positions: Positions | None = None,
    relaxed: bool = True,
    rounded: bool = True,
) -> Float[Tensor, " rows"]:
    """Return lower bounds, one per row; differentiable in `positions`.

    Args:
        state: Boxes of all nodes that the rows depend on.
        front: The rows.
        image: Which input of the batch each row is about.
        rule: Positions of the lines where `positions` has none.
        positions: Per activation node, one position per row and neuron.
        relaxed: False: stop at the boxes of activations instead of relaxing them (interval propagation that is exact
            through consecutive affine nodes).
        rounded: False leaves the allowance out: for optimisation only.
    """
    front = _walk(state, front, image, rule=rule, positions=positions, relaxed=relaxed, rounded=rounded)
    value, summed = front.value, front.summed
    if 0 in front.waiting:
        constant = state.problem.region.minimum(front.waiting[0], image, rounded=rounded)
        value, summed = value + constant, summed + constant.detach().abs()
    if not rounded:
        return value
    # The slack is itself a rounded sum of non-negative terms, and so are the few additions to `value`.
    return value - front.slack * 1.001 - 2 * len(state.problem.graph) * _unit(value) * summed


def _walk(
    state: State,
    front: Front,
    image: Int[Tensor, " rows"],
    *,
    rule: str = "adaptive",
    positions: Positions | None = None,
    relaxed: bool = True,
    rounded: bool = True,
    until_activation: bool = False,
) -> Front:
    graph, program = state.problem.graph, state.problem.program
    waiting = dict(front.waiting)
    value, slack, summed = front.value, front.slack, front.summed
    for k in range(max(waiting), 0, -1):
        if k not in waiting:
            continue
        here, kernel = graph[k], program.kernels[k]
        if kernel is None and until_activation:
            break
        row = waiting.pop(k)
        if kernel is None and not relaxed:
            box = state.boxes[k].of(image)
            constant = (row.clamp(min=0) * box.lower).sum(-1) + (row.clamp(max=0) * box.upper).sum(-1)
            value, summed = value + constant, summed + constant.abs()
            if rounded:
                slack = slack + _dot(row.abs(), 3 * here.size * _unit(row) * state.boxes[k].magnitude, image)
            continue
        if rounded:
            slack = slack + _dot(row.detach().abs(), state.allowance(k), image)
        if kernel is None:
            relaxation = state.relaxation(k)
            own = None if positions is None or not relaxation.free else positions.get(k)
            position = state.position(k, rule) if own is None else own
            behind, constant = relaxation.backward(row, state.input_box(k), position, image, own is not None)
            value, summed = value + constant, summed + constant.detach().abs()
            contributions = [behind]
        else:
            bias = kernel.bias()
            if bias is not None:
                constant = row @ bias.expand(here.shape).flatten()
                value, summed = value + constant, summed + constant.detach().abs()
            contributions = [r.flatten(1) for r in kernel.transpose(unflat(row, here.shape))]
        for i, contribution in zip(here.inputs, contributions, strict=True):
            waiting[i] = waiting[i] + contribution if i in waiting else contribution
    return Front(waiting, value, slack, summed)


def _dot(rows: Tensor, vectors: Tensor, image: Tensor) -> Tensor:
    only = 0 if len(vectors) == 1 else only_image(image)
    return (rows * vectors[image]).sum(-1) if only is None else rows @ vectors[only]


def _unit(values: Tensor) -> float:
    return float(torch.finfo(values.dtype).eps)


CACHE_BYTES = 2**24
"""What a chunk of plain passes may take on a CPU: more of it leaves the cache, and a large batch then takes longer than its
inputs one by one. Measured with CROWN on 64 inputs: a 2 x 100 network 0.08 s, in chunks of 256 MiB 0.20 s, one by one
0.21 s; a small convolutional network 2.6 s, 7.8 s and 4.4 s.
"""


def row_limit(state: State, *, cached: bool = False) -> int:
    """Return how many rows fit into the problem's memory limit: some ten arrays of the largest node are alive at once.

    With `cached`, on a CPU, also into its cache.
    """
    graph = state.problem.graph
    widest = max(node.size for node in graph)
    tables = max((node.op.index.size for node in graph if isinstance(node.op, MaxPool | AvgPool)), default=0)
    item = torch.finfo(state.problem.program.dtype).bits // 8
    on_cpu = state.problem.program.device.type == "cpu"
    budget = min(state.problem.max_bytes, CACHE_BYTES) if cached and on_cpu else state.problem.max_bytes
    return max(1, budget // (item * (10 * widest + 3 * tables)))


def in_chunks(
    count: int, limit: int, bound: Callable[[slice], Float[Tensor, " rows"]], like: Tensor
) -> Float[Tensor, " rows"]:
    """Return `bound` of consecutive chunks of at most `limit` rows, joined."""
    parts = [bound(slice(start, min(start + limit, count))) for start in range(0, count, limit)]
    return torch.cat(parts) if parts else like.new_zeros(0)
