"""The base of the denoising objectives."""

from abc import abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from denoisers.training.task import DenoisingTask
from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.training.objective import NOISY_ACCURACY, Batch, Model, Objective, add_noise, share_correct


@dataclass(frozen=True)
class DenoisingObjective(Objective):
    """An objective that looks at the estimate as well as at the scores behind it.

    Args:
        task: What is trained; the trainer must be given the same.

    Raises:
        InvalidArgumentError: If the objective needs a classifier and the task has none.
    """

    task: DenoisingTask = field(repr=False)

    needs_classifier: ClassVar[bool] = True
    """Whether the task must have a classifier."""

    def __post_init__(self) -> None:
        if self.needs_classifier and not self.task.classifiers:
            raise InvalidArgumentError(
                f"objective {self.name} compares labels: give a classifier, or surrogates of it; without one there is mse"
            )

    def describe(self) -> dict[str, Any]:
        """Return name and hyper-parameters; the task is described by who made it."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "task"}
        return {"name": self.name, "parameters": kept}

    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the loss on one noisy copy of each image, the accuracy behind the denoiser, and the squared error."""
        self.task.next_batch()
        noisy = add_noise(batch.x, law, generator)
        estimate = self.task.denoise(noisy)
        loss = self.loss(batch, estimate)
        with torch.no_grad():
            error = (estimate.float() - batch.x).square().mean()
            if self.task.classifiers:
                accuracy = share_correct(self.task.classify(estimate.detach()), batch.y)
            else:
                accuracy = torch.full((), float("nan"), device=batch.x.device)
        return loss, {NOISY_ACCURACY: accuracy, "squared_error": error}

    @abstractmethod
    def loss(self, batch: Batch, estimate: Float[Tensor, "batch channel height width"]) -> Float[Tensor, ""]:
        """Return the loss of the denoiser's estimate of `batch.x`."""
