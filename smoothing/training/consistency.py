"""Consistency: the predictions for several noisy copies of an input have to agree, and to be sure."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.training.objective import NOISY_ACCURACY, Batch, Model, Objective, draw_noise
from smoothing.training.parameters import check_count, check_weight
from smoothing.training.soft import correct_rows, divergence, entropy, log_mean, noisy_log_softmax, own


def disagreement(
    log_softmax: Float[Tensor, "m batch classes"], weight: float | int, entropy_weight: float | int
) -> Float[Tensor, " batch"]:
    """Return weight * (1/m) sum_i KL(F_mean || F_i) + entropy_weight * H(F_mean) for each row."""
    mean = log_mean(log_softmax)
    return weight * divergence(mean, log_softmax).mean(0) + entropy_weight * entropy(mean)


@dataclass(frozen=True)
class Consistency(Objective):
    """(1/m) sum_i CE(f(x + z_i), y) + weight * (1/m) sum_i KL(F_mean || F_i) + entropy * H(F_mean), for any law.

    F_i = softmax(f(x + z_i)), F_mean their mean over the same m draws; the gradient flows through F_mean too.

    Attributes:
        m: Noisy copies of an input, at least 2.
        weight: Of the divergence, at least 0; published 20, 10, 10 (CIFAR-10) and 10, 5, 5 (MNIST) at sigma .25, .5, 1.
        entropy: Weight of the entropy, at least 0; published 0.5.

    Raises:
        InvalidArgumentError: If a value is out of range.

    Reference: Jeong, Shin 2020, equations 7 and 8.
    """

    name: ClassVar[str] = "consistency"
    m: int = 2
    weight: float = 10.0
    entropy: float = 0.5

    def __post_init__(self) -> None:
        check_count("m", self.m, 2)
        check_weight("weight", self.weight)
        check_weight("entropy", self.entropy)

    @property
    def passes(self) -> int:
        """One for each noisy copy."""
        return self.m

    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the mean loss; see the base class."""
        noise = draw_noise(batch.x, law, self.m, generator)
        log_softmax = noisy_log_softmax(model, batch.x, noise)
        penalty = disagreement(log_softmax, self.weight, self.entropy)
        losses = -own(log_softmax, batch.y).mean(0) + penalty
        return batch.mean(losses), {
            NOISY_ACCURACY: correct_rows(log_softmax, batch.y).float().mean(),
            "consistency": penalty.detach().mean(),
        }
