"""ReLU and leaky ReLU, f(x) = max(x, c x) with 0 <= c <= 1: the triangle.

On l < 0 < u the upper line is the chord through (l, c l) and (u, u); every line through the origin with a slope in [c, 1]
lies below f. Position t means the lower slope c + (1 - c) t. Where the sign of x is known, f is linear and both lines are f.

Rules: "adaptive" takes the lower slope that leaves the smaller triangle, 1 where u > -l, else c (CROWN, DeepPoly: Zhang et
al. 2018; Singh et al. 2019). "same-slope" takes the chord's slope (Fast-Lin, DeepZ, the dual of Wong and Kolter 2018).
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from verify.graph import Activation, LeakyReLU
from verify.relaxation.base import Box, Elementwise, Flat, Lines
from verify.rounding import above, below

TIE = 1 + 1e-9
"""Boxes that are symmetric but for rounding count as symmetric, so that a checker's own boxes choose the same line."""


class LeakyReLURelaxation(Elementwise):
    """The triangle relaxation."""

    def __init__(self, op: Activation) -> None:
        assert isinstance(op, LeakyReLU)
        self.slope = op.slope

    def interval(self, box: Box) -> Box:
        """Monotone; only a product with a slope strictly between 0 and 1 is rounded."""
        low, high = self.slope * box.lower, self.slope * box.upper
        if 0 < self.slope < 1:
            low, high = below(low), above(high)
        return Box(torch.where(box.lower > 0, box.lower, low), torch.where(box.upper > 0, box.upper, high))

    def undecided(self, box: Box) -> Bool[Tensor, "batch size"]:
        """Where zero lies strictly inside; elsewhere the relaxation is exact whatever the box."""
        return (box.lower < 0) & (box.upper > 0)

    def _chord(self, box: Box) -> Flat:
        crossing = self.undecided(box)
        width = torch.where(crossing, box.upper - box.lower, 1.0)
        chord = (box.upper - self.slope * box.lower) / width
        # NaN boxes are neither crossing nor decided, and must stay NaN.
        # (Full tensors: `torch.where` of two numbers would be single precision, and 0.1 there is not 0.1.)
        decided = torch.full_like(chord, torch.nan).masked_fill(box.upper <= 0, self.slope)
        return torch.where(crossing, chord, decided.masked_fill(box.lower >= 0, 1.0))

    def position(self, box: Box, rule: str) -> Flat:
        """See the module's docstring."""
        if rule == "same-slope":
            if self.slope == 1:
                return torch.zeros_like(box.lower)
            return ((self._chord(box) - self.slope) / (1 - self.slope)).clamp(0, 1)
        return (box.upper > -box.lower * TIE).to(box.lower.dtype)

    def lines(self, box: Box, position: Flat) -> Lines:
        """See the module's docstring."""
        chord = self._chord(box)
        crossing = self.undecided(box)
        lower = torch.where(crossing, self.slope + (1 - self.slope) * position, chord)
        offset = torch.where(crossing, (self.slope - chord) * box.lower, 0.0)
        return Lines(lower, None, chord, offset)

    def largest_offset(self, box: Box) -> Flat:
        """The chord's offset; zero where the sign is known."""
        return torch.where(self.undecided(box), (self._chord(box) - self.slope) * -box.lower, 0.0)
