"""Direct training of the soft smoothed classifier by its own likelihood."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.training.objective import NOISY_ACCURACY, Batch, Model, Objective, draw_noise
from smoothing.training.parameters import check_count
from smoothing.training.soft import correct_rows, log_mean, noisy_log_softmax, own


@dataclass(frozen=True)
class Direct(Objective):
    """-log( (1/m) sum_i F_y(x + z_i) ), for any law: the negative log-likelihood of the soft smoothed classifier.

    Noise augmentation minimises the mean of the logarithms, an upper bound on this (Jensen): one draw that is wrong costs
    it much, and the smoothed classifier little. With m = 1 the two agree; the larger m, the nearer to the likelihood of
    the smoothed classifier, from above.

    Attributes:
        m: Noisy copies of an input, at least 1.

    Raises:
        InvalidArgumentError: If m is out of range.

    Reference: Salman et al. 2019, section 3 (without its attack); Yang et al. 2020, appendix on training ("direct").
    """

    name: ClassVar[str] = "direct"
    m: int = 8

    def __post_init__(self) -> None:
        check_count("m", self.m)

    @property
    def passes(self) -> int:
        """One for each noisy copy."""
        return self.m

    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the mean loss; see the base class."""
        log_softmax = noisy_log_softmax(model, batch.x, draw_noise(batch.x, law, self.m, generator))
        losses = -own(log_mean(log_softmax), batch.y)
        return batch.mean(losses), {NOISY_ACCURACY: correct_rows(log_softmax, batch.y).float().mean()}
