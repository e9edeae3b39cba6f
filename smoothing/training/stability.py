"""Stability training: cross-entropy on clean inputs, and outputs that noise may not change."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from smoothing.attacks.losses import wide
from smoothing.distributions.base import SmoothingDistribution
from smoothing.training.objective import NOISY_ACCURACY, Batch, Model, Objective, add_noise, share_correct
from smoothing.training.parameters import check_choice, check_weight
from smoothing.training.soft import divergence, entropy

FORMS = ("cross-entropy", "kl")


@dataclass(frozen=True)
class Stability(Objective):
    """CE(f(x), y) + weight * D(F(x), F(x + z)), for any law; F = softmax(f).

    Two forms have been published, and differ by the entropy of F(x), through which the gradient flows too:

    - "cross-entropy": D(p, q) = -sum_c p_c log q_c, which also makes the clean prediction sharper;
    - "kl": D(p, q) = KL(p || q).

    Attributes:
        weight: At least 0; 2 in the published tables, 1 at sigma 1.
        form: "cross-entropy" or "kl".

    Raises:
        InvalidArgumentError: If a value is out of range.

    Reference: cross-entropy: Zheng et al. 2016; Li, Chen, Wang, Carin 2019. KL: Carmon et al. 2019, equation 5.
    """

    name: ClassVar[str] = "stability"
    weight: float = 2.0
    form: str = "cross-entropy"

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        check_choice("form", self.form, FORMS)

    @property
    def passes(self) -> int:
        """One over the clean inputs, one over the noisy ones."""
        return 2

    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the mean loss; see the base class."""
        # Two forward passes, as published: batch norm would mix the statistics of the halves of one batch.
        clean, noisy = wide(model(batch.x)), wide(model(add_noise(batch.x, law, generator)))
        log_clean, log_noisy = F.log_softmax(clean, dim=1), F.log_softmax(noisy, dim=1)
        instability = divergence(log_clean, log_noisy)
        if self.form == "cross-entropy":
            instability = instability + entropy(log_clean)
        losses = F.cross_entropy(clean, batch.y, reduction="none") + self.weight * instability
        return batch.mean(losses), {
            NOISY_ACCURACY: share_correct(noisy, batch.y),
            "instability": instability.detach().mean(),
        }
