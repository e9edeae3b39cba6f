"""Plain denoising: the mean squared error of the pixels."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from denoisers.training.objective import DenoisingObjective
from smoothing.training.objective import Batch


@dataclass(frozen=True)
class MeanSquaredError(DenoisingObjective):
    """E ||D(x + z) - x||^2 per pixel; needs no classifier.

    Reference: Salman et al. 2020, equation 4.
    """

    name: ClassVar[str] = "mse"
    needs_classifier: ClassVar[bool] = False

    def loss(self, batch: Batch, estimate: Float[Tensor, "batch channel height width"]) -> Float[Tensor, ""]:
        """Return the mean over batch and pixels."""
        return batch.mean((estimate.float() - batch.x).square().flatten(1).mean(1))
