"""Sets of inputs, one per input of a batch, and the exact minimum of a linear function over each of them.

Concretisation, the last step of every bound: min_{x in B} aᵀx. For a box it is a₊ᵀl + a₋ᵀu; for a ball of norm p, the
dual norm gives aᵀx₀ - ε ||a||_q. For a ball *intersected with a box* both are strictly loose, and the minimum is a small
convex problem per row, solved exactly by sorting. Its dual function is evaluated at the multiplier found, and every
multiplier gives a valid bound, so that nothing rests on the search:

- l2: aᵀx₀ + Σ_i min_{δ_i in [lo,hi]} (a_i δ_i + μ δ_i²) - μ ε² for any μ >= 0;
- l1: aᵀx₀ - λ ε - Σ_i c_i (|a_i| - λ)₊ for any λ >= 0, with c_i the room of coordinate i against a_i.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm
from verify.relaxation.base import broadcast
from verify.rounding import above, cast_above, cast_below, gamma


@dataclass(frozen=True, eq=False)
class Region:
    """One convex set of inputs per input: {x : lower <= x <= upper} ∩ {x : ||x - center|| <= eps}.

    Attributes:
        center: The inputs themselves, [batch, *shape].
        lower: Lower corner of a box around each set (the ball's own box, cut by the clip interval), rounded outwards.
        upper: Upper corner.
        norm: None where the set is exactly the box; L2 or L1 for balls.
        eps: Radius of the ball; for boxes, of the l_inf ball that the box came from, 0 if it is no ball.
        clipped: Whether box and ball are both needed (a plain ball lies inside its box, and the box is redundant).
        description: What every result prints about the set.
    """

    center: Float[Tensor, "batch *shape"]
    lower: Float[Tensor, "batch *shape"]
    upper: Float[Tensor, "batch *shape"]
    norm: Norm | None
    eps: float
    clipped: bool
    description: str

    @classmethod
    def box(
        cls, lower: Float[Tensor, "batch *shape"], upper: Float[Tensor, "batch *shape"], description: str = "box"
    ) -> "Region":
        """Return boxes with any corners (VNN-LIB properties).

        Raises:
            InvalidArgumentError: If a corner is not finite or a box is empty.
        """
        lower, upper = lower.double(), upper.double()
        if not bool((torch.isfinite(lower) & torch.isfinite(upper) & (lower <= upper)).all()):
            raise InvalidArgumentError("every input must have finite bounds with lower <= upper, got others")
        center = (lower + (upper - lower) / 2).clamp(lower, upper)
        return cls(center, lower, upper, None, 0.0, False, description)

    def __len__(self) -> int:
        return len(self.center)

    def __getitem__(self, images: slice) -> "Region":
        return Region(
            self.center[images],
            self.lower[images],
            self.upper[images],
            self.norm,
            self.eps,
            self.clipped,
            self.description,
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> "Region":
        """Return the same sets elsewhere, or slightly larger ones in a lower precision."""
        eps = float(cast_above(torch.tensor(self.eps, dtype=torch.float64), dtype))
        return Region(
            self.center.to(device=device, dtype=dtype),
            cast_below(self.lower, dtype).to(device),
            cast_above(self.upper, dtype).to(device),
            self.norm,
            eps,
            self.clipped,
            self.description,
        )

    def minimum(
        self, rows: Float[Tensor, "rows size"], image: Int[Tensor, " rows"], *, rounded: bool = True
    ) -> Float[Tensor, " rows"]:
        """Return min aᵀx over the set of input `image[r]`, for every row a; differentiable in the rows.

        Args:
            rows: Linear functions of the flattened input.
            image: Which set each row is minimised over.
            rounded: Whether to subtract the rounding allowance; without it the value is meant for optimisation only.
        """
        lower, upper = (broadcast(side.flatten(1), image) for side in (self.lower, self.upper))
        scale = gamma(3 * rows.shape[1], rows.dtype)
        if self.norm is None:
            value = (rows.clamp(min=0) * lower).sum(-1) + (rows.clamp(max=0) * upper).sum(-1)
            if not rounded:
                return value
            return value - scale * (rows.detach().abs() * torch.maximum(lower.abs(), upper.abs())).sum(-1)
        center = broadcast(self.center.flatten(1), image)
        magnitude = rows.detach().abs()
        allowance = scale * (magnitude * (center.abs() + self.eps)).sum(-1)
        if not self.clipped:
            dual: Tensor = torch.linalg.vector_norm(rows, ord=2 if self.norm is Norm.L2 else torch.inf, dim=-1)
            value = (rows * center).sum(-1) - self.eps * dual
            return value - allowance - scale * self.eps * dual.detach() if rounded else value
        # One unit in the last place upwards: room that rounding took would be a smaller set.
        fixed = rows.detach()
        room = above(torch.where(fixed > 0, center - lower, upper - center))
        with torch.no_grad():
            if self.norm is Norm.L2:
                step, dual, extra = _ball_l2(magnitude, room, self.eps)
            else:
                step, dual, extra = _ball_l1(magnitude, room, self.eps)
        value = (rows * (center - fixed.sign() * step)).sum(-1)
        if not rounded:
            return value
        proved = (fixed * center).sum(-1) - dual - allowance - scale * extra
        return value + (proved - value.detach())


def _ball_l2(
    magnitude: Float[Tensor, "rows size"], room: Float[Tensor, "rows size"], eps: float
) -> tuple[Float[Tensor, "rows size"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Solve max |a|ᵀs over 0 <= s <= room, ||s|| <= eps: the optimal s, the dual value, the size of its terms.

    s = min(|a| / t, room) with t = 2μ; ||s|| falls in t, and coordinates saturate in the order of |a| / room.
    """
    ratio, order = (magnitude / room).sort(dim=-1, descending=True)
    squares, rooms = magnitude.gather(-1, order).square(), room.gather(-1, order).square()
    saturated = rooms.cumsum(-1) - rooms
    rest = squares.flip(-1).cumsum(-1).flip(-1)
    reached = saturated + torch.where(ratio > 0, rest / ratio.square(), torch.inf) >= eps**2
    first = reached.to(torch.uint8).argmax(-1, keepdim=True)
    left = (eps**2 - saturated.gather(-1, first)).clamp(min=0)
    t = (rest.gather(-1, first) / left).sqrt()
    usable = reached.any(-1, keepdim=True) & torch.isfinite(t)
    t = torch.where(usable, t, 0.0)  # t = 0: the ball does not bind, the box alone decides
    step = torch.where(t > 0, torch.minimum(magnitude / t.clamp(min=torch.finfo(t.dtype).tiny), room), room)
    step = torch.where(magnitude > 0, step, 0.0)
    gain, length, mu = (magnitude * step).sum(-1), step.square().sum(-1), t[..., 0] / 2
    return step, gain - mu * (length - eps**2), gain + mu * (length + eps**2)


def _ball_l1(
    magnitude: Float[Tensor, "rows size"], room: Float[Tensor, "rows size"], eps: float
) -> tuple[Float[Tensor, "rows size"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Solve max |a|ᵀs over 0 <= s <= room, Σs <= eps, a fractional knapsack: fill the largest |a| first."""
    sorted_magnitude, order = magnitude.sort(dim=-1, descending=True)
    sorted_room = room.gather(-1, order)
    before = sorted_room.cumsum(-1) - sorted_room
    filled = torch.minimum((eps - before).clamp(min=0), sorted_room)
    step = torch.zeros_like(room).scatter(-1, order, filled)
    full = before + sorted_room >= eps
    marginal = sorted_magnitude.gather(-1, full.to(torch.uint8).argmax(-1, keepdim=True))
    level = torch.where(full.any(-1, keepdim=True), marginal, 0.0)
    dual = level[..., 0] * eps + (room * (magnitude - level).clamp(min=0)).sum(-1)
    return step, dual, dual
