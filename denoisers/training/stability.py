"""Stability: the classifier must say behind the denoiser what it says of the clean image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from denoisers.training.objective import DenoisingObjective
from smoothing.training.objective import Batch


@dataclass(frozen=True)
class Stability(DenoisingObjective):
    """E CE(F(D(x + z)), argmax F(x)): needs no labels of the data, only the frozen classifier's own.

    Args:
        task: What is trained.
        mse_weight: Weight of the mean squared error that is added; 0 for none. The paper adds none, but starts the
            "+ MSE" variants from a denoiser trained for it.

    Reference: Salman et al. 2020, equation 5.
    """

    mse_weight: float | int = 0.0

    name: ClassVar[str] = "stability"

    def loss(self, batch: Batch, estimate: Float[Tensor, "batch channel height width"]) -> Float[Tensor, ""]:
        """Return the cross-entropy against the classifier's own labels."""
        with torch.no_grad():
            labels = self.task.classify(batch.x).argmax(1)
        losses = F.cross_entropy(self.task.classify(estimate).float(), labels, reduction="none")
        if self.mse_weight:
            losses = losses + self.mse_weight * (estimate.float() - batch.x).square().flatten(1).mean(1)
        return batch.mean(losses)
