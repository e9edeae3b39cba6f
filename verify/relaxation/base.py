"""The interface of all relaxations, and what elementwise ones share.

A relaxation knows an activation on a box l <= x <= u. It says what values come out, which coordinates deserve tighter
boxes, and how a row λ of a linear function of the outputs becomes a row of the inputs that lies below it everywhere on the
box. All tensors are flat: [rows or batch, size].

The freedom of a relaxation is one number per neuron in [0, 1], its *position*. Every position is valid.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.rounding import gamma

Flat = Float[Tensor, "_ _"]
"""Rows or inputs of a batch in front, values behind; sizes differ within one call (pooling, shared positions)."""


@dataclass(frozen=True, eq=False)
class Box:
    """Bounds of an activation's inputs, flat."""

    lower: Flat
    upper: Flat

    def of(self, image: Int[Tensor, " rows"]) -> "Box":
        """Return one box per row, or the one box of all rows."""
        return Box(broadcast(self.lower, image), broadcast(self.upper, image))

    @property
    def magnitude(self) -> Flat:
        """The largest absolute value inside."""
        return torch.maximum(self.lower.abs(), self.upper.abs())


@dataclass(frozen=True, eq=False)
class Lines:
    """lower_slope * x + lower_offset <= f(x) <= upper_slope * x + upper_offset on a box; None stands for zero."""

    lower_slope: Flat
    lower_offset: Flat | None
    upper_slope: Flat
    upper_offset: Flat | None


class Relaxation(ABC):
    """Linear bounds of one activation on a box."""

    free: bool = True
    """Whether positions change anything."""

    @abstractmethod
    def interval(self, box: Box) -> Box:
        """Return bounds of the outputs, rounded outwards."""

    @abstractmethod
    def undecided(self, box: Box) -> Bool[Tensor, "batch size"]:
        """Return the input coordinates whose bounds matter for the relaxation's quality."""

    @abstractmethod
    def position(self, box: Box, rule: str) -> Flat:
        """Return the positions that a rule ("adaptive", "same-slope") chooses."""

    @abstractmethod
    def backward(
        self, rows: Flat, box: Box, position: Flat, image: Int[Tensor, " rows"], per_row: bool
    ) -> tuple[Flat, Float[Tensor, " rows"]]:
        """Return rows μ of the inputs and constants β with λᵀf(x) >= μᵀx + β on the box.

        Args:
            rows: λ, [rows, outputs].
            box: Per input, [batch, inputs].
            position: [rows, inputs] if `per_row`, else [batch, inputs].
            image: Which box each row is about.
            per_row: Whether every row has positions of its own.
        """

    @abstractmethod
    def allowance(self, box: Box) -> Float[Tensor, "batch outputs"]:
        """Return, per unit of |λ|, how far rounding may have lifted `backward`'s result."""


class Elementwise(Relaxation):
    """A relaxation by one lower and one upper line per neuron."""

    _last: tuple[tuple[Flat, Flat, Flat], Lines] | None = None

    @abstractmethod
    def lines(self, box: Box, position: Flat) -> Lines:
        """Return the lines for a box and positions of the same shape."""

    def backward(
        self, rows: Flat, box: Box, position: Flat, image: Int[Tensor, " rows"], per_row: bool
    ) -> tuple[Flat, Float[Tensor, " rows"]]:
        """Positive entries take the lower line, negative ones the upper."""
        if per_row:
            lines = self.lines(box.of(image), position)
        else:
            shared = self._shared_lines(box, position)
            lines = Lines(
                broadcast(shared.lower_slope, image),
                None if shared.lower_offset is None else broadcast(shared.lower_offset, image),
                broadcast(shared.upper_slope, image),
                None if shared.upper_offset is None else broadcast(shared.upper_offset, image),
            )
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        constant = rows.new_zeros(len(rows))
        if lines.lower_offset is not None:
            constant = constant + (positive * lines.lower_offset).sum(-1)
        if lines.upper_offset is not None:
            constant = constant + (negative * lines.upper_offset).sum(-1)
        return positive * lines.lower_slope + negative * lines.upper_slope, constant

    def _shared_lines(self, box: Box, position: Flat) -> Lines:
        """The lines of all inputs of a batch, which every chunk of rows asks for again: those of the last call are kept."""
        if position.requires_grad:
            return self.lines(box, position)
        key = (box.lower, box.upper, position)
        if self._last is None or any(a is not b for a, b in zip(self._last[0], key, strict=True)):
            self._last = key, self.lines(box, position)
        return self._last[1]

    def allowance(self, box: Box) -> Float[Tensor, "batch outputs"]:
        """All slopes are at most 1 and all offsets at most the largest value plus the range."""
        size, dtype = box.lower.shape[1], box.lower.dtype
        largest = self.interval(box).magnitude
        return gamma(0, dtype) * 4 * (box.magnitude + largest) + gamma(size, dtype) * self.largest_offset(box)

    @abstractmethod
    def largest_offset(self, box: Box) -> Flat:
        """Return a bound on |offset| of the lines, for the allowance of their sum."""


def broadcast(values: Tensor, image: Int[Tensor, " rows"]) -> Tensor:
    """Return the values of each row's input: a view that broadcasts where there is one input, else a copy."""
    if len(values) == 1:
        return values
    only = only_image(image)
    return values[image] if only is None else values[only : only + 1]


def only_image(image: Int[Tensor, " rows"]) -> int | None:
    """Return the input that all rows are about; None where there are several, or where asking would wait for a GPU.

    Chunks of a large network are mostly about one input, and copying its values for every row costs as much as the pass.
    """
    if image.device.type != "cpu" or len(image) == 0 or not bool((image == image[0]).all()):
        return None
    return int(image[0])
