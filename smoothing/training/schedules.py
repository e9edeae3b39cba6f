"""Learning-rate schedules: the factor on the configured rate as a function of the step.

Written out, because torch's own one-cycle schedule divides by zero for some short trainings and moves the momentum too;
where both are defined they agree, which a test checks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

_START, _END = 1 / 25, 1 / 250_000
"""One-cycle: the first and the last rate as shares of the highest; torch's defaults."""


@dataclass(frozen=True)
class ScheduleLength:
    """How long a training is, and what the schedules need beside it.

    Attributes:
        steps_per_epoch: Steps of one epoch.
        epochs: Number of epochs.
        warmup: One-cycle: share of all steps in which the rate rises.
        decay_epochs: Step: epochs between two drops.
        decay_factor: Step: factor of each drop.
    """

    steps_per_epoch: int
    epochs: int
    warmup: float
    decay_epochs: int
    decay_factor: float

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.steps_per_epoch * self.epochs


def one_cycle(step: int, length: ScheduleLength) -> float:
    """Rise from 1/25 to 1 over the first `warmup` of the steps, then fall to nearly 0; both along half a cosine.

    Reference: Smith, Topin 2019; the cosine form and the constants are those of `torch.optim.lr_scheduler.OneCycleLR`.
    """
    last = length.steps - 1
    peak = max(length.warmup * length.steps - 1, 0.0)
    if step <= peak:
        return _cosine(_START, 1.0, step / peak) if peak > 0 else 1.0
    # A scheduler asks once more after the last step.
    return _cosine(1.0, _END, (step - peak) / (last - peak)) if step <= last else _END


def step_decay(step: int, length: ScheduleLength) -> float:
    """Multiply by `decay_factor` after every `decay_epochs` epochs: the schedule of most published recipes."""
    return length.decay_factor ** (step // length.steps_per_epoch // length.decay_epochs)


def cosine(step: int, length: ScheduleLength) -> float:
    """Fall from 1 towards 0 along half a cosine, a little each step (Loshchilov, Hutter 2017, without restarts)."""
    return _cosine(1.0, 0.0, step / length.steps)


SCHEDULES: dict[str, Callable[[int, ScheduleLength], float]] = {
    "onecycle": one_cycle,
    "step": step_decay,
    "cosine": cosine,
}


class Scheduler:
    """Sets the rate of an optimiser before each step: its configured rate times the factor of that step.

    Args:
        factor: From the step, from 0, to the factor.
        optimizer: Whose rate is set.
    """

    def __init__(self, factor: Callable[[int], float], optimizer: torch.optim.Optimizer) -> None:
        self._factor = factor
        self._groups = optimizer.param_groups
        self._highest = [float(group.setdefault("highest_lr", group["lr"])) for group in self._groups]
        self._step = 0
        self.jump(0)

    @property
    def rate(self) -> float:
        """Rate of the step to come."""
        return float(self._groups[0]["lr"])

    def step(self) -> None:
        """A step was taken."""
        self.jump(self._step + 1)

    def jump(self, step: int) -> None:
        """Go to a step."""
        self._step = step
        for group, highest in zip(self._groups, self._highest, strict=True):
            group["lr"] = highest * self._factor(step)


def make_scheduler(name: str, optimizer: torch.optim.Optimizer, length: ScheduleLength) -> Scheduler:
    """Return a scheduler to be stepped once after each step of the optimiser."""
    factor = SCHEDULES[name]
    return Scheduler(lambda step: factor(step, length), optimizer)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * share))
