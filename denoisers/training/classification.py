"""Classification: the classifier must return the data's label behind the denoiser."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from denoisers.training.objective import DenoisingObjective
from smoothing.training.objective import Batch


@dataclass(frozen=True)
class Classification(DenoisingObjective):
    """E CE(F(D(x + z)), y).

    Reference: Salman et al. 2020, appendix ("CLF").
    """

    name: ClassVar[str] = "classification"

    def loss(self, batch: Batch, estimate: Float[Tensor, "batch channel height width"]) -> Float[Tensor, ""]:
        """Return the cross-entropy against the labels of the data."""
        return batch.mean(F.cross_entropy(self.task.classify(estimate).float(), batch.y, reduction="none"))
