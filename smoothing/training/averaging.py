"""Exponential moving average of the weights, swapped in wherever the trained network is looked at."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Averages w <- d w + (1 - d) parameter after each step; d rises from 1/10 to `decay`, as (1 + t) / (10 + t).

    The rise keeps the first weights, which are random, from staying in the average for 1 / (1 - decay) steps. Buffers
    (the statistics of batch norm) are averages already and are taken as they are.

    Args:
        parameters: What is averaged.
        decay: In [0, 1); 0 switches the average off.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float | int) -> None:
        self._parameters = list(parameters)
        self._decay = decay
        self._steps = 0
        self._average = [parameter.detach().clone() for parameter in self._parameters] if decay else []

    def update(self) -> None:
        """Take in the parameters after a step."""
        if not self._average:
            return
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        torch._foreach_lerp_(self._average, [parameter.detach() for parameter in self._parameters], 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network its averaged weights for a block, and its own ones back afterwards."""
        if not self._average:
            yield
            return
        own = [parameter.detach().clone() for parameter in self._parameters]
        self.write()
        try:
            yield
        finally:
            self._copy(own)

    def write(self) -> None:
        """Give the network its averaged weights for good."""
        if self._average:
            self._copy(self._average)

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        """Return everything needed to go on from here."""
        return {"steps": self._steps, "average": [tensor.detach().cpu().clone() for tensor in self._average]}

    def load_state_dict(self, state: dict[str, int | list[Tensor]]) -> None:
        """Go on from a `state_dict`."""
        steps, average = state["steps"], state["average"]
        assert isinstance(steps, int)
        assert isinstance(average, list)
        self._steps = steps
        for mine, saved in zip(self._average, average, strict=True):
            mine.copy_(saved)

    @torch.no_grad()
    def _copy(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
