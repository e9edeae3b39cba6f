"""Gradient ascent on numbers in [0, 1], row by row, of which every one is valid: the best seen are kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from verify.deadline import Deadline

Variables = Mapping[int, Float[Tensor, "rows _"]]
"""Numbers in [0, 1] by name (the number of an activation node, or `WEIGHTS`), one set per row."""


@dataclass(frozen=True)
class Ascent:
    """Adam with a learning rate that falls.

    Attributes:
        steps: Gradient steps.
        learning_rate: At the start.
        decay: Factor on it per step.
    """

    steps: int
    learning_rate: float
    decay: float

    def run(
        self,
        value: Callable[[Variables], Float[Tensor, " rows"]],
        starts: Sequence[Variables],
        deadline: Deadline,
    ) -> dict[int, Tensor]:
        """Return the best numbers seen, row by row; never worse than the best of the starts.

        Args:
            value: What is to be made large, per row, differentiable; a row depends on its own numbers only.
            starts: Where to look first, all with the same names; the ascent begins at the best of them.
            deadline: Asked before every step.
        """
        best = {k: start.clone() for k, start in starts[0].items()}
        found: Tensor | None = None

        def keep(reached: Tensor, variables: Variables) -> None:
            nonlocal found
            lowest = torch.full_like(reached, -torch.inf) if found is None else found
            better = reached.detach() > lowest
            found = torch.where(better, reached.detach(), lowest)
            for k, numbers in variables.items():
                best[k] = torch.where(better[:, None], numbers.detach(), best[k])

        for start in starts:
            with torch.no_grad():
                keep(value(start), start)
        moving = {k: numbers.clone().requires_grad_() for k, numbers in best.items()}
        optimizer = torch.optim.Adam(list(moving.values()), lr=self.learning_rate, maximize=True)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.decay)
        for step in range(self.steps + 1 if self.steps else 0):
            if deadline.over():
                break
            with torch.enable_grad():
                reached = value(moving)
            with torch.no_grad():
                keep(reached, moving)
                if step == self.steps:
                    break
                optimizer.zero_grad()
                gradients = torch.autograd.grad(reached, list(moving.values()), torch.ones_like(reached))
                for numbers, gradient in zip(moving.values(), gradients, strict=True):
                    numbers.grad = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
                optimizer.step()
                schedule.step()
                for numbers in moving.values():
                    numbers.clamp_(0, 1)
        return best
