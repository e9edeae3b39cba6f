"""Projected gradient ascent: the point of a ball (and a box) where a loss of the input is largest, as far as it finds it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from smoothing.attacks.geometry import (
    Box,
    check_box,
    check_norm,
    free_gradient,
    inside_box,
    project,
    random_in_ball,
    settle,
    steepest,
)
from smoothing.errors import InvalidArgumentError
from smoothing.threat import ThreatModel

Loss = Callable[[Tensor], Tensor]
"""What an attack raises: [batch, *shape] -> one number a row, [batch], differentiable. Row i may depend on row i only."""


@dataclass(frozen=True)
class AttackResult:
    """The best points that an attack has found.

    Attributes:
        x: [batch, *shape], of the dtype of the attacked inputs, inside the ball and the box *exactly*.
        loss: [batch], the loss there, no smaller than at the start; a NaN of the loss never counts as best.
    """

    x: Float[Tensor, "batch *shape"]
    loss: Float[Tensor, " batch"]


def pgd(
    loss: Loss,
    x: Float[Tensor, "batch *shape"],
    threat: ThreatModel,
    *,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = False,
    box: Box | None = (0.0, 1.0),
    generator: torch.Generator | None = None,
    stop_above: float | None = None,
) -> AttackResult:
    """Look for the point of the ball around each input that has the largest loss; return the best one of all steps.

    x_{t+1} = Pi(x_t + step_size * s(grad loss(x_t))), where s is the steepest direction of length 1 in the norm and Pi the
    projection on ball and box. The best point is chosen among *all* points tried, the input itself included, and is
    evaluated at the very numbers that are returned. Nothing but the input gets a gradient: the weights of a network
    behind `loss` and their `.grad` are left alone. Modules are used as they are: put them in eval mode before
    (`smoothing.attacks.evaluating`).

    Args:
        loss: Raised row by row, [batch, *shape] -> [batch]; for a classifier and labels y for instance
            `lambda x: margin(net(x), y)`; see `smoothing.attacks.losses`. Any function of the input serves, for instance
            c^T f(x) - bound of a property that a verifier works on.
        x: Inputs, [batch, *shape], any floating dtype, input units.
        threat: Norm (l1, l2, linf) and radius; a radius of 0 returns the inputs.
        steps: Gradient steps of one start; each costs a forward and a backward pass, and one forward pass more at the end.
        step_size: Length of a step in the norm, input units; default 2 * radius / steps, that of SmoothAdv.
        restarts: Number of starts; the first is at the input itself (unless `random_start`), the others are random.
        random_start: Let the first start be random too.
        box: Lowest and highest value of a coordinate (numbers, or tensors that broadcast against x), or None. A
            coordinate of x outside the box may stay there, but moves no further out.
        generator: For random starts, on x's device.
        stop_above: Stop as soon as every row has a loss above this value (a counterexample was found for each).

    Returns:
        Points and their losses; ||result.x - x|| <= threat.radius holds exactly.

    Raises:
        UnsupportedNormError: If there is no attack for the norm.
        InvalidArgumentError: If an argument is out of range, or randomness is needed and there is no generator.

    Reference: Madry et al. 2018; l1 steps: Tramèr, Boneh 2019 and Croce, Hein 2021.

    Example:
        >>> from smoothing.threat import Norm, ThreatModel
        >>> found = pgd(lambda x: x.sum(1), torch.zeros(1, 4), ThreatModel(Norm.L2, 1.0), box=None)
        >>> round(float(found.loss), 4)
        2.0
    """
    _check(threat, steps, step_size, restarts, box)
    if (restarts > 1 or random_start) and generator is None:
        raise InvalidArgumentError("a random start needs a generator, got generator=None")
    best = _Best(x)
    size = _step_size(threat, steps, step_size)
    for restart in range(restarts):
        moved = x
        if generator is not None and (random_start or restart > 0):
            moved = _random_start(x, threat, box, generator)
            best.take(x, _values(loss, x))
        for _ in range(steps):
            gradient, values = input_gradient(loss, moved)
            best.take(moved, values)
            if stop_above is not None and best.all_above(stop_above):
                return best.result()
            moved = settle(_step(gradient, moved, x, threat, size, box), x, threat, box)
        best.take(moved, _values(loss, moved))
    return best.result()


def ascend(
    loss: Loss,
    x: Float[Tensor, "batch *shape"],
    threat: ThreatModel,
    *,
    steps: int,
    step_size: float | None = None,
    random_start: bool = False,
    box: Box | None = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch *shape"]:
    """Take `steps` steps as `pgd` does and return where they lead: the attack of adversarial training.

    It costs exactly `steps` forward and backward passes (of the input's gradient alone); whether the last point is the
    best one is not asked.

    Args:
        loss: As in `pgd`.
        x: Inputs.
        threat: Norm and radius.
        steps: Gradient steps.
        step_size: Length of a step; default 2 * radius / steps.
        random_start: Start at a random point of the ball.
        box: As in `pgd`.
        generator: For a random start.

    Returns:
        [batch, *shape], inside the ball and the box exactly.

    Raises:
        UnsupportedNormError: If there is no attack for the norm.
        InvalidArgumentError: If an argument is out of range.
    """
    _check(threat, steps, step_size, 1, box)
    moved = x
    if random_start:
        if generator is None:
            raise InvalidArgumentError("a random start needs a generator, got generator=None")
        moved = _random_start(x, threat, box, generator)
    size = _step_size(threat, steps, step_size)
    for _ in range(steps):
        gradient, _ = input_gradient(loss, moved)
        moved = _step(gradient, moved, x, threat, size, box)
    return settle(moved, x, threat, box)


def input_gradient(
    loss: Loss, x: Float[Tensor, "batch *shape"]
) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
    """Return the gradient of each row's loss with respect to that row, and the losses; no other gradient is touched."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        values = loss(point)
        if not values.requires_grad:
            return torch.zeros_like(x), values.detach()  # a loss that does not depend on its input
        (gradient,) = torch.autograd.grad(values.sum(), point, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient, values.detach()


def _step(gradient: Tensor, moved: Tensor, x: Tensor, threat: ThreatModel, size: float, box: Box | None) -> Tensor:
    direction = steepest(free_gradient(gradient, moved, threat.norm, box), threat.norm)
    delta = project(moved + size * direction - x, threat.norm, threat.radius)
    return inside_box(x + delta, x, box)


def _random_start(x: Tensor, threat: ThreatModel, box: Box | None, generator: torch.Generator) -> Tensor:
    return settle(x + random_in_ball(x, threat.norm, _finite(threat.radius), generator), x, threat, box)


def _values(loss: Loss, x: Tensor) -> Tensor:
    with torch.no_grad():
        return loss(x).detach()


class _Best:
    """The best point of each row so far; ties keep the earlier one."""

    def __init__(self, x: Tensor) -> None:
        self._x, self._loss = x.detach(), torch.full((len(x),), -torch.inf, device=x.device, dtype=torch.float32)

    def take(self, point: Tensor, values: Tensor) -> None:
        loss = self._loss.to(values.dtype)
        better = values > loss  # False for NaN
        self._loss = torch.where(better, values, loss)
        self._x = torch.where(better.reshape(-1, *[1] * (point.dim() - 1)), point.detach(), self._x)

    def all_above(self, value: float) -> bool:
        return bool((self._loss > value).all())

    def result(self) -> AttackResult:
        return AttackResult(self._x, self._loss)


def _step_size(threat: ThreatModel, steps: int, given: float | None) -> float:
    return given if given is not None else 2.0 * _finite(threat.radius) / max(steps, 1)


def _finite(radius: float) -> float:
    # A ball without a radius is cut by the box alone, whose width is of the order of 1.
    return radius if radius < float("inf") else 1.0


def _check(threat: ThreatModel, steps: int, step_size: float | None, restarts: int, box: Box | None) -> None:
    check_norm(threat.norm)
    check_box(box)
    for name, value, least in (("steps", steps, 0), ("restarts", restarts, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidArgumentError(f"{name} must be an integer of at least {least}, got {name}={value!r}")
    if step_size is not None and not 0 < step_size < float("inf"):
        raise InvalidArgumentError(f"step_size must be positive and finite, got step_size={step_size!r}")
