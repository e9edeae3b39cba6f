"""DDN: the decoupled direction and norm attack, which looks for the *nearest* point of another class, in l2."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from smoothing.attacks.geometry import Box, check_box, inside_box, length, settle, steepest
from smoothing.attacks.projected_gradient import Loss, input_gradient
from smoothing.errors import InvalidArgumentError, UnsupportedNormError
from smoothing.threat import Norm, ThreatModel

Judge = Callable[[Tensor], tuple[Tensor, Tensor]]
"""[batch, *shape] -> a loss to raise, [batch], differentiable, and which rows are adversarial, [batch], bool."""


def positive(loss: Loss) -> Judge:
    """Return the judge for which a row is adversarial where its loss is positive, as that of a margin is."""

    def judge(x: Tensor) -> tuple[Tensor, Tensor]:
        values = loss(x)
        return values, values.detach() > 0

    return judge


@dataclass(frozen=True)
class NearestResult:
    """What DDN has found.

    Attributes:
        x: [batch, *shape], inside the ball and the box exactly: the nearest adversarial point where there is one, else the
            last point tried, pulled into the ball.
        found: [batch], whether x is adversarial.
    """

    x: Float[Tensor, "batch *shape"]
    found: Bool[Tensor, " batch"]


def ddn(
    judge: Judge,
    x: Float[Tensor, "batch *shape"],
    threat: ThreatModel,
    *,
    steps: int = 20,
    gamma: float = 0.05,
    first_norm: float = 1.0,
    levels: int | None = None,
    box: Box | None = (0.0, 1.0),
) -> NearestResult:
    """Look for the nearest point that is adversarial, no further than the threat model's radius.

    delta <- delta + a_t g/|g|, a_t from 1 to 0.01 along half a cosine; the target norm shrinks by 1 - gamma where the
    point is adversarial and grows by 1 + gamma where not; delta is scaled to the target norm, then the box (and the grid)
    is applied.

    Two deviations from the published code, both needed for a training that uses it: a row for which no adversarial point
    was found gets the last point tried and not the input itself, so that an attack moves wherever there is a gradient;
    and the target norm never exceeds the radius (that code cuts the found point down afterwards, which leaves it inside
    of the decision boundary).

    Args:
        judge: A loss and a verdict for each row, such as `positive(margin)`.
        x: Inputs, [batch, *shape].
        threat: Must be l2; its radius is the largest distance.
        steps: Gradient steps, each a forward and a backward pass; one forward pass more at the end.
        gamma: Relative change of the target norm, in (0, 1).
        first_norm: Target norm of the first step, input units.
        levels: Round points to this many grey levels in [0, 1], as in 8-bit images (256); None for not at all. A point
            that had to be pulled into the ball leaves the grid.
        box: As in `pgd`.

    Raises:
        UnsupportedNormError: If the norm is not l2.
        InvalidArgumentError: If an argument is out of range.

    Reference: Rony et al. 2019, algorithm 1; used for training by Salman et al. 2019.
    """
    _check(threat, steps, gamma, first_norm, levels, box)
    delta = torch.zeros_like(x)
    target = torch.full((len(x),), min(first_norm, threat.radius), device=x.device, dtype=x.dtype)
    best, best_norm = x.detach(), torch.full((len(x),), torch.inf, device=x.device, dtype=x.dtype)
    moved = x.detach()
    for step in range(steps + 1):
        gradient, adversarial = _look(judge, moved, last=step == steps)
        nearer = adversarial & (length(moved - x, Norm.L2) < best_norm)
        best = torch.where(_column(nearer, x), moved, best)
        best_norm = torch.where(nearer, length(moved - x, Norm.L2), best_norm)
        if gradient is None:
            break
        size = 0.01 + 0.99 * (1.0 + math.cos(math.pi * step / steps)) / 2.0
        delta = delta + size * steepest(gradient, Norm.L2)
        target = (target * torch.where(adversarial, 1.0 - gamma, 1.0 + gamma)).clamp_max(threat.radius)
        delta = steepest(delta, Norm.L2) * _column(target, x)
        moved = inside_box(_on_grid(x + delta, levels), x, box)
        moved = settle(moved, x, threat, box)
        delta = moved - x
    found = best_norm.isfinite()
    return NearestResult(torch.where(_column(found, x), best, moved), found)


def _look(judge: Judge, x: Tensor, *, last: bool) -> tuple[Tensor | None, Tensor]:
    if last:
        with torch.no_grad():
            return None, judge(x)[1]
    verdicts: list[Tensor] = []

    def loss(point: Tensor) -> Tensor:
        values, adversarial = judge(point)
        verdicts.append(adversarial)
        return values

    gradient, _ = input_gradient(loss, x)
    return gradient, verdicts[0]


def _on_grid(x: Tensor, levels: int | None) -> Tensor:
    return x if levels is None else (x * (levels - 1)).round() / (levels - 1)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _check(
    threat: ThreatModel, steps: int, gamma: float, first_norm: float, levels: int | None, box: Box | None
) -> None:
    if threat.norm is not Norm.L2:
        raise UnsupportedNormError(f"the norm of a DDN attack must be l2, got norm={threat.norm}")
    check_box(box)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InvalidArgumentError(f"steps must be an integer of at least 1, got steps={steps!r}")
    if not 0 < gamma < 1:
        raise InvalidArgumentError(f"gamma must be in (0, 1), got gamma={gamma!r}")
    if not 0 < first_norm < math.inf:
        raise InvalidArgumentError(f"first_norm must be positive and finite, got first_norm={first_norm!r}")
    if levels is not None and levels < 2:
        raise InvalidArgumentError(f"levels must be at least 2, got levels={levels!r}")
