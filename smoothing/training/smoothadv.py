"""SmoothAdv: adversarial training of the smoothed classifier, alone or with the consistency penalty."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.training.adversary import Adversary
from smoothing.training.consistency import disagreement
from smoothing.training.objective import NOISY_ACCURACY, Batch, Model, Objective, draw_noise
from smoothing.training.parameters import check_count, check_weight
from smoothing.training.soft import correct_rows, noisy_log_softmax, own


@dataclass(frozen=True)
class SmoothAdv(Adversary, Objective):
    """(1/m) sum_i CE(f(x' + z_i), y), x' an adversarial example of the smoothed classifier, for any law.

    x' = argmax over the ball of -log( (1/m) sum_i F_y(x' + z_i) ), found with the *same* m draws that the update then
    uses; a step draws new ones. With `consistency` > 0 the penalty of `Consistency` on the m predictions at x' is added.

    Attributes:
        m: Noisy copies of an input, at least 1.
        attack: "pgd" (last of `steps` steps of size 2 eps / steps from x) or "ddn" (nearest point of another class).
        eps: Radius of the ball, input units; published 64, 127, 255 or 512 / 256.
        steps: Steps of the attack (T), at least 1.
        norm: Norm of the ball: l1, l2 or linf; ddn knows l2 only.
        warmup: Epochs in which eps rises linearly; published 10.
        multi_noise: Update with all m noisy copies; False: with the first only, the attack still uses all.
        consistency: Weight of the divergence between the m predictions, 0 for plain SmoothAdv; published 1 to 2.
        entropy: Weight of the entropy where consistency is not 0; published 0.5.

    Raises:
        InvalidArgumentError: If a value is out of range.

    Reference: Salman et al. 2019, algorithm 1; with consistency: Jeong, Shin 2020, section 4.
    """

    name: ClassVar[str] = "smoothadv"
    m: int = 4
    attack: str = "pgd"
    eps: float = 1.0
    steps: int = 10
    norm: str = "l2"
    warmup: int = 10
    multi_noise: bool = True
    consistency: float = 0.0
    entropy: float = 0.5

    def __post_init__(self) -> None:
        check_count("m", self.m, 2 if self.consistency else 1)
        self.check_adversary()
        check_weight("consistency", self.consistency)
        check_weight("entropy", self.entropy)

    @property
    def passes(self) -> int:
        """Those of the attack over all noisy copies, and the update's."""
        return self.m * self.attack_passes + (self.m if self.multi_noise else 1)

    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the mean loss; see the base class. The accuracy is that on the adversarial noisy inputs."""
        noise = draw_noise(batch.x, law, self.m, generator)
        moved = self.adversarial(model, batch, noise)
        log_softmax = noisy_log_softmax(model, moved, noise if self.multi_noise else noise[:1])
        losses = -own(log_softmax, batch.y).mean(0)
        if self.consistency > 0:
            losses = losses + disagreement(log_softmax, self.consistency, self.entropy)
        return batch.mean(losses), {NOISY_ACCURACY: correct_rows(log_softmax, batch.y).float().mean()}
