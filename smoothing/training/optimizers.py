"""The optimisers by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class OptimizerSettings:
    """What the optimisers are made from; see `TrainingConfig`."""

    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float


def _sgd(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def _adam(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


OPTIMIZERS: dict[str, Callable[[Sequence[nn.Parameter], OptimizerSettings], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
}
