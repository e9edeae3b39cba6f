"""How a training is run, apart from the model, the noise and the objective."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smoothing.errors import InvalidArgumentError
from smoothing.noise import check_seed
from smoothing.training.optimizers import OPTIMIZERS, OptimizerSettings
from smoothing.training.schedules import SCHEDULES, ScheduleLength

PRECISIONS = ("fp32", "bf16")
"""bf16 is autocast; fp16 would need loss scaling, which nothing here needs that bf16 does not give."""


@dataclass(frozen=True)
class TrainingConfig:
    """Length, optimiser, schedule, seed and arithmetic of a training.

    Attributes:
        epochs: Passes over the training set, at least 1.
        batch_size: Largest number of examples in a step; an epoch is cut into ceil(n / batch_size) steps of equal size,
            up to one example, so that no step is much noisier than the others and no batch norm sees a single example.
        optimizer: "sgd" or "adam".
        learning_rate: Highest rate of the schedule.
        momentum: SGD's momentum, in [0, 1); Adam keeps its own (0.9, 0.999).
        nesterov: Nesterov's momentum in SGD.
        weight_decay: L2 penalty on all parameters, at least 0.
        schedule: "onecycle", "step" or "cosine".
        warmup: One-cycle: share of the steps in which the rate rises, in [0, 1).
        decay_epochs: Step: epochs between two drops; default: a third of all epochs, rounded up.
        decay_factor: Step: factor of each drop, in (0, 1].
        clip: Gradients longer than this (l2, over all weights) are scaled down to it; None for never.
        ema: Decay of the moving average of the weights, in [0, 1), which is then the trained network; 0 for none.
        seed: The training is a function of it (on one device, torch release and number of threads).
        precision: "fp32", or "bf16" by autocast.
        channels_last: NHWC memory for image batches and convolutions.
        report_seconds: A `StepDone` is yielded about this often; 0 for every step. Each one waits for the device.

    Raises:
        InvalidArgumentError: If a value is unknown or out of range.
    """

    epochs: int = 10
    batch_size: int = 256
    optimizer: str = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    schedule: str = "onecycle"
    warmup: float = 0.2
    decay_epochs: int | None = None
    decay_factor: float = 0.1
    clip: float | None = None
    ema: float = 0.0
    seed: int = 0
    precision: str = "fp32"
    channels_last: bool = False
    report_seconds: float = 0.5

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("epochs", "batch_size", "decay_epochs"):
            value = getattr(self, name)
            if name == "decay_epochs" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidArgumentError(f"{name} must be an integer of at least 1, got {name}={value!r}")
        _check_choice("optimizer", self.optimizer, tuple(OPTIMIZERS))
        _check_choice("schedule", self.schedule, tuple(SCHEDULES))
        _check_choice("precision", self.precision, PRECISIONS)
        _check_number("learning_rate", self.learning_rate, "positive and finite", lambda v: 0 < v < math.inf)
        _check_number("momentum", self.momentum, "in [0, 1)", lambda v: 0 <= v < 1)
        _check_number("weight_decay", self.weight_decay, "at least 0 and finite", lambda v: 0 <= v < math.inf)
        _check_number("warmup", self.warmup, "in [0, 1)", lambda v: 0 <= v < 1)
        _check_number("decay_factor", self.decay_factor, "in (0, 1]", lambda v: 0 < v <= 1)
        if self.clip is not None:
            _check_number("clip", self.clip, "positive and finite", lambda v: 0 < v < math.inf)
        _check_number("ema", self.ema, "in [0, 1)", lambda v: 0 <= v < 1)
        _check_number("report_seconds", self.report_seconds, "at least 0 and finite", lambda v: 0 <= v < math.inf)
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise InvalidArgumentError("momentum must be positive with nesterov, got momentum=0; turn nesterov off")

    def optimizer_settings(self) -> OptimizerSettings:
        """Return what the optimiser is made from."""
        return OptimizerSettings(self.learning_rate, self.momentum, self.nesterov, self.weight_decay)

    def schedule_length(self, steps_per_epoch: int) -> ScheduleLength:
        """Return what the schedule is made from."""
        decay_epochs = self.decay_epochs if self.decay_epochs is not None else -(-self.epochs // 3)
        return ScheduleLength(steps_per_epoch, self.epochs, self.warmup, decay_epochs, self.decay_factor)


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidArgumentError(f"{name} must be one of {', '.join(allowed)}, got {name}={value!r}")


def _check_number(name: str, value: Any, rule: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
        raise InvalidArgumentError(f"{name} must be {rule}, got {name}={value!r}")
