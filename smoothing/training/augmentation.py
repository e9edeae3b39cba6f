"""Noise augmentation: cross-entropy on noisy inputs, the plainest way to a base classifier that smooths."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from smoothing.attacks.losses import wide
from smoothing.distributions.base import SmoothingDistribution
from smoothing.training.objective import NOISY_ACCURACY, Batch, Model, Objective, add_noise, share_correct


@dataclass(frozen=True)
class NoiseAugmentation(Objective):
    """CE(f(x + z), y), with one fresh draw z of the law for each input and step.

    For every law, although the name on the command line is the Gaussian's. The expected loss is E_z[-log F_y(x + z)]
    with F = softmax(f), an upper bound on -log E_z[F_y(x + z)], the negative log-likelihood of the soft smoothed
    classifier (Jensen).

    Reference: Lecuyer et al. 2019; Cohen, Rosenfeld, Kolter 2019, section 3.3; other laws: Yang et al. 2020.
    """

    name: ClassVar[str] = "gaussian"

    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the mean cross-entropy over the noisy batch; see the base class."""
        scores = model(add_noise(batch.x, law, generator))
        loss = batch.mean(F.cross_entropy(wide(scores), batch.y, reduction="none"))
        return loss, {NOISY_ACCURACY: share_correct(scores, batch.y)}
