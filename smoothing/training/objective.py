"""The base of every training objective: from a model and a batch to a loss to descend on."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution

Model = Callable[[Tensor], Tensor]
"""What is trained: takes [batch, *shape] and returns scores [batch, classes]; normalisation happens inside."""

NOISY_ACCURACY = "noisy_accuracy"
"""The metric that every objective reports: share of the noisy inputs that it drew whose label the model returns."""


@dataclass(frozen=True)
class Batch:
    """The examples of one step, all on the training device.

    Attributes:
        x: Inputs, [batch, *shape], float32 in input units, before any normalisation.
        y: Labels, [batch].
        index: Position of each example in the training set, [batch]; for targets that were computed beforehand.
        epoch: Epoch from 0; for warm-ups.
        weight: What each example counts, [batch], or None where all count 1; pseudo-labelled ones may count less.
        prediction: Class probabilities that another classifier gives to each example, [batch, classes], or None.
    """

    x: Float[Tensor, " batch *shape"]
    y: Int64[Tensor, " batch"]
    index: Int64[Tensor, " batch"]
    epoch: int
    weight: Float[Tensor, " batch"] | None = None
    prediction: Float[Tensor, "batch classes"] | None = None

    def mean(self, losses: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Return the mean of the examples' losses over the batch, each counting its weight: sum_i w_i l_i / batch.

        The sum is not divided by the sum of the weights: a batch that happens to hold many pseudo-labels would otherwise
        give each of its true labels more than another batch does.
        """
        return (losses if self.weight is None else losses * self.weight).mean()


@dataclass(frozen=True)
class Objective(ABC):
    """What one training step minimises.

    An objective is one frozen dataclass whose fields are its hyper-parameters, in a file of its own, with one row in
    `table.py`. It draws all noise from the generator that it is given, so that a training is a function of its seed.
    """

    name: ClassVar[str]
    """The objective's name on the command line."""

    needs_prediction: ClassVar[bool] = False
    """Whether batches must carry `prediction`."""

    @property
    def passes(self) -> int:
        """Forward and backward passes that a step makes over each example, where noise augmentation makes one.

        A pass for the input's gradient alone, as in an attack, counts as one although it is a little cheaper.
        """
        return 1

    def check_law(self, law: SmoothingDistribution) -> None:  # noqa: B027 - most objectives take every law
        """Check that the objective means something for this law; called before a training starts.

        Raises:
            InvalidArgumentError: If it does not.
        """

    @abstractmethod
    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the loss of one step and what is worth watching.

        Args:
            model: In train mode, under autocast if the training uses it; scores may therefore be bfloat16.
            batch: The examples.
            law: The noise that the smoothed classifier will use; its shape is the examples' shape.
            generator: Source of all randomness, on the examples' device.

        Returns:
            The loss, a float32 scalar that carries a gradient, averaged over the batch; and scalar metrics, without
            gradient and still on the device, `NOISY_ACCURACY` among them.
        """

    def describe(self) -> dict[str, Any]:
        """Return the objective as JSON-ready data: name and hyper-parameters."""
        return {"name": self.name, "parameters": {field.name: getattr(self, field.name) for field in fields(self)}}


def add_noise(
    x: Float[Tensor, " batch *shape"], law: SmoothingDistribution, generator: torch.Generator
) -> Float[Tensor, " batch *shape"]:
    """Return x + z with one independent draw z of the law for each row.

    `law.perturb` makes many copies of *one* input, which is what certification needs; a training batch holds many
    inputs with one draw each, hence `law.sample`. The sum is not clipped, as in certification.
    """
    return law.sample(len(x), generator=generator, device=x.device, dtype=x.dtype).add_(x)


def draw_noise(
    x: Float[Tensor, " batch *shape"], law: SmoothingDistribution, m: int, generator: torch.Generator
) -> Float[Tensor, "m batch *shape"]:
    """Return m independent draws of the law for each row, [m, batch, *shape]."""
    return law.sample(m * len(x), generator=generator, device=x.device, dtype=x.dtype).reshape(m, *x.shape)


def share_correct(scores: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the share of rows whose largest score is the label's, without gradient."""
    return (scores.detach().argmax(1) == y).float().mean()
