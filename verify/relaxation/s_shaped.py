"""Sigmoid and tanh: convex below zero, concave above, symmetric about the origin.

Lower line on [l, u]: the chord where the curve is concave (l >= 0) or where the chord from l stays below it
(f'(l) >= k, the chord's slope); otherwise a tangent at a point d of [l, d*], where d* = u if u <= 0, and else the point
whose tangent passes through (u, f(u)), found by bisection and kept on the valid side. Position t means d = l + t (d* - l).
Upper lines are lower lines of the mirrored curve: f(-x) = c - f(x), with c = 1 for the sigmoid and 0 for tanh.

Rules: both take the middle of a one-sided interval and d* where zero lies inside (CROWN, Zhang et al. 2018, section 3.2).

Nothing rests on the bisection or on derivatives being exact: the offset is the smaller of what the tangent point and the
end point u allow, less an allowance, and a line below f at both is below f on all of [l, u].
"""

from abc import abstractmethod

import torch
from jaxtyping import Bool
from torch import Tensor

from verify.graph import Activation
from verify.relaxation.base import Box, Elementwise, Flat, Lines

BISECTIONS = 40
NARROW = 1e-5
"""Below this width the chord's slope is mostly rounding, and constants are as good as lines."""


class _SShaped(Elementwise):
    constant: float

    def __init__(self, op: Activation) -> None:
        self.op = op

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """Return f(x)."""

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """Return f'(x)."""

    def interval(self, box: Box) -> Box:
        """Monotone, with an allowance of a few units in the last place for the library's function."""
        unit = 8 * torch.finfo(box.lower.dtype).eps
        return Box(self.value(box.lower) - unit, self.value(box.upper) + unit)

    def undecided(self, box: Box) -> Bool[Tensor, "batch size"]:
        """Every box matters."""
        return torch.ones_like(box.lower, dtype=torch.bool)

    def position(self, box: Box, rule: str) -> Flat:
        """See the module's docstring."""
        crossing = (box.lower < 0) & (box.upper > 0)
        return torch.where(crossing, 1.0, 0.5).to(box.lower.dtype)

    def lines(self, box: Box, position: Flat) -> Lines:
        """See the module's docstring."""
        slope, offset = self._below(box.lower, box.upper, position)
        mirrored, mirrored_offset = self._below(-box.upper, -box.lower, position)
        return Lines(slope, offset, mirrored, self.constant - mirrored_offset)

    def _below(self, lower: Flat, upper: Flat, position: Flat) -> tuple[Flat, Flat]:
        at_lower, at_upper = self.value(lower), self.value(upper)
        with torch.no_grad():
            width = upper - lower
            chord = (at_upper - at_lower) / torch.where(width > NARROW, width, 1.0)
            use_chord = (lower >= 0) | ((upper > 0) & (self.derivative(lower) >= chord))
            last = self._last_tangent(lower, upper, at_upper)
        point = lower + position * (last - lower)
        slope = torch.where(use_chord, chord, self.derivative(point))
        # On the chord, the end points decide; on a tangent, its own point and u do.
        inner = torch.where(use_chord, at_lower - slope * lower, self.value(point) - slope * point)
        offset = torch.minimum(inner, at_upper - slope * upper)
        spare = 32 * torch.finfo(lower.dtype).eps * (1 + slope.detach() * torch.maximum(lower.abs(), upper.abs()))
        narrow = ~(width > NARROW)
        slope = torch.where(narrow, 0.0, slope)
        return slope, torch.where(narrow, at_lower, offset) - spare

    def _last_tangent(self, lower: Flat, upper: Flat, at_upper: Flat) -> Flat:
        valid, invalid = lower, torch.zeros_like(lower)
        for _ in range(BISECTIONS):
            middle = (valid + invalid) / 2
            below = self.value(middle) + self.derivative(middle) * (upper - middle) <= at_upper
            valid, invalid = torch.where(below, middle, valid), torch.where(below, invalid, middle)
        return torch.where(upper <= 0, upper, valid)

    def largest_offset(self, box: Box) -> Flat:
        """Slopes are at most 1 and values at most 1."""
        return box.magnitude + 2


class SigmoidRelaxation(_SShaped):
    """f(x) = 1 / (1 + exp(-x))."""

    constant = 1.0

    def value(self, x: Tensor) -> Tensor:
        """Return f(x)."""
        return torch.sigmoid(x)

    def derivative(self, x: Tensor) -> Tensor:
        """Return f (1 - f), by symmetry without cancellation."""
        return torch.sigmoid(x) * torch.sigmoid(-x)


class TanhRelaxation(_SShaped):
    """f(x) = tanh(x)."""

    constant = 0.0

    def value(self, x: Tensor) -> Tensor:
        """Return f(x)."""
        return torch.tanh(x)

    def derivative(self, x: Tensor) -> Tensor:
        """Return 1 - f², by way of the sigmoid without cancellation."""
        return 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)
