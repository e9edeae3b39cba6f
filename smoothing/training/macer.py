"""MACER: the certified radius of the soft smoothed classifier, maximised by gradient descent, without attacks."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from smoothing.attacks.losses import noisy_scores, wide
from smoothing.distributions.base import SmoothingDistribution
from smoothing.training.objective import NOISY_ACCURACY, Batch, Model, Objective, draw_noise
from smoothing.training.parameters import check_count, check_positive, check_weight, require_gaussian
from smoothing.training.soft import correct_rows, log_mean, own


@dataclass(frozen=True)
class Macer(Objective):
    """-log G_y + weight * (sigma / 2) * (margin - xi) * 1[argmax G^beta = y, |xi| <= margin], for Gaussian noise.

    G = (1/m) sum_i softmax(f(x + z_i)); G^beta the same with scores times beta, a soft vote; xi = Phi^-1(G^beta_(1)) -
    Phi^-1(G^beta_(2)), so that sigma xi / 2 is the radius of the soft smoothed classifier, raised up to the margin
    (a hinge) where the prediction is right already. Where a soft vote rounds to 0 or 1, xi is infinite and the row has no
    radius term, as in the published code.

    From scratch, the radius term keeps a network from learning anything while most predictions are wrong; deferring it
    (`defer`, in epochs) until the cross-entropy has done its work is what the published MNIST tables do.

    Attributes:
        m: Noisy copies of an input (k in the paper), at least 1.
        weight: lambda, at least 0; published 12, 4-12, 12 (CIFAR-10) and 16, 16, 6 (MNIST) at sigma .25, .5, 1.
        margin: gamma, positive.
        beta: Inverse temperature, positive.
        defer: The radius term has weight 0 in the first `defer` epochs.

    Raises:
        InvalidArgumentError: If a value is out of range.

    Reference: Zhai et al. 2020, equations 8 to 10 and algorithm 1.
    """

    name: ClassVar[str] = "macer"
    m: int = 16
    weight: float = 12.0
    margin: float = 8.0
    beta: float = 16.0
    defer: int = 0

    def __post_init__(self) -> None:
        check_count("m", self.m)
        check_weight("weight", self.weight)
        check_positive("margin", self.margin)
        check_positive("beta", self.beta)
        check_count("defer", self.defer, 0)

    @property
    def passes(self) -> int:
        """One for each noisy copy."""
        return self.m

    def check_law(self, law: SmoothingDistribution) -> None:
        """Refuse laws other than the Gaussian, whose radius the loss is."""
        require_gaussian(self.name, law, "its radius is the loss")

    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the mean loss; see the base class."""
        sigma = require_gaussian(self.name, law, "its radius is the loss")
        scores = wide(noisy_scores(model, batch.x, draw_noise(batch.x, law, self.m, generator)))
        log_softmax = F.log_softmax(scores, dim=2)
        losses = -own(log_mean(log_softmax), batch.y)
        shortfall = torch.zeros_like(losses)
        if batch.epoch >= self.defer and self.weight > 0:
            shortfall = sigma / 2.0 * self._shortfall(scores, batch.y)
            losses = losses + self.weight * shortfall
        return batch.mean(losses), {
            NOISY_ACCURACY: correct_rows(log_softmax, batch.y).float().mean(),
            "radius_shortfall": shortfall.detach().mean(),
        }

    def _shortfall(self, scores: Float[Tensor, "m batch classes"], y: Tensor) -> Float[Tensor, " batch"]:
        """Return (margin - xi) where the soft vote is right and |xi| within the margin, else 0."""
        votes = F.softmax(scores * self.beta, dim=2).mean(0)
        top, classes = votes.topk(2, dim=1)
        with torch.no_grad():
            xi = torch.special.ndtri(top[:, 0]) - torch.special.ndtri(top[:, 1])
            counted = (classes[:, 0] == y) & (xi.abs() <= self.margin)  # False for NaN and infinity
        # Rows that do not count must not even be differentiated: 0 * infinity is NaN.
        first, second = (torch.where(counted, column, 0.5) for column in top.unbind(1))
        xi = torch.special.ndtri(first) - torch.special.ndtri(second)
        return torch.where(counted, self.margin - xi, 0.0)
