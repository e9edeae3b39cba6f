"""Max pooling, y = max_i z_i over a window, with l* = max_i l_i.

Lower: y >= z_j for the j with the largest l_j (of several, the largest u_j, then the first). Upper, linear:
y <= l* + Σ_i w_i (z_i - l_i) with w_i = (u_i - l*)₊ / (u_i - l_i) in [0, 1]: all terms are non-negative, and that of the
maximal i alone already reaches z_i, at both ends of [l_i, u_i]. Upper, constant: y <= max_i u_i, taken where it is lower
in the middle of the box. If one entry surely is the maximum, both lines are that entry.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.graph import Activation, MaxPool
from verify.relaxation.base import Box, Flat, Relaxation, broadcast
from verify.rounding import gamma

TIE = 1e-9
"""Bounds that differ by rounding count as equal, so that a checker's own boxes choose the same lines."""


def near_largest(values: Tensor) -> Tensor:
    """Return which entries of the last axis are the largest but for rounding."""
    largest = values.amax(-1, keepdim=True)
    return values >= largest - TIE * (1 + largest.abs())


def first_largest(values: Tensor) -> Tensor:
    """Return the first entry of the last axis that is the largest but for rounding."""
    return near_largest(values).to(torch.uint8).argmax(-1)


class MaxPoolRelaxation(Relaxation):
    """The lines above, per window."""

    free = False

    def __init__(self, op: Activation) -> None:
        assert isinstance(op, MaxPool)
        self.op = op
        self._indices: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _index(self, device: torch.device) -> tuple[Int[Tensor, "out window"], Bool[Tensor, "out window"]]:
        if device not in self._indices:  # copied to a device once
            index = torch.from_numpy(self.op.index.copy()).to(device)
            self._indices[device] = index.clamp(min=0), index >= 0
        return self._indices[device]

    def _windows(self, box: Box) -> tuple[Tensor, Tensor]:
        index, present = self._index(box.lower.device)
        return tuple(torch.where(present, v[:, index], -torch.inf) for v in (box.lower, box.upper))  # type: ignore[return-value]

    def interval(self, box: Box) -> Box:
        """The largest lower and the largest upper bound, without rounding."""
        lower, upper = self._windows(box)
        return Box(lower.amax(-1), upper.amax(-1))

    def undecided(self, box: Box) -> Bool[Tensor, "batch size"]:
        """The entries that may be the maximum, where there is more than one such entry."""
        lower, upper = self._windows(box)
        candidate = upper > lower.amax(-1, keepdim=True)
        candidate &= candidate.sum(-1, keepdim=True) > 1
        index, _ = self._index(box.lower.device)
        found = torch.zeros_like(box.lower)
        return found.index_add(1, index.flatten(), candidate.flatten(1).to(found.dtype)) > 0

    def position(self, box: Box, rule: str) -> Flat:
        """Nothing to choose."""
        return torch.zeros_like(box.lower)

    def _lines(self, box: Box) -> tuple[Tensor, Tensor, Tensor]:
        """Return the entry of the lower line, the weights of the upper line, and its offset."""
        lower, upper = self._windows(box)
        best = lower.amax(-1)
        entry = first_largest(torch.where(near_largest(lower), upper, -torch.inf))
        gain = (upper - best[..., None]).clamp(min=0)
        weight = gain / torch.where(gain > 0, upper - lower, 1.0)
        highest = upper.amax(-1)
        flat = gain.sum(-1) > 2 * (highest - best) * (1 + TIE)
        weight = torch.where(flat[..., None], 0.0, weight)
        base = torch.where(weight > 0, lower, 0.0)  # absent entries are -inf with weight 0
        offset = torch.where(flat, highest, best - (weight * base).sum(-1))
        return entry, weight, offset

    def backward(
        self, rows: Flat, box: Box, position: Flat, image: Int[Tensor, " rows"], per_row: bool
    ) -> tuple[Flat, Float[Tensor, " rows"]]:
        """Positive entries copy one input, negative ones spread over the window."""
        index, _ = self._index(rows.device)
        entry, weight, offset = self._lines(box)
        one = torch.nn.functional.one_hot(entry, index.shape[1]).to(rows.dtype)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        spread = positive[..., None] * broadcast(one, image) + negative[..., None] * broadcast(weight, image)
        constant = (negative * broadcast(offset, image)).sum(-1)
        back = rows.new_zeros(len(rows), box.lower.shape[1]).index_add(1, index.flatten(), spread.flatten(1))
        return back, constant

    def allowance(self, box: Box) -> Float[Tensor, "batch outputs"]:
        """Weights, the sum over the window, the sum over overlapping windows, and the offsets."""
        index, present = self._index(box.lower.device)
        busiest = int(torch.bincount(index[present]).max())
        inside = torch.where(present, box.magnitude[:, index], 0.0).sum(-1)
        dtype = box.lower.dtype
        terms = gamma(4 * index.shape[1] + busiest, dtype)
        return terms * 4 * inside + gamma(len(index), dtype) * 2 * inside
