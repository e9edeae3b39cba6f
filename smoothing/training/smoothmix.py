"""SmoothMix: mixes an input with an adversarial example far away, and asks for less confidence in between."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from smoothing.attacks import evaluating, input_gradient, smoothed_loss
from smoothing.attacks.geometry import inside_box, settle, steepest
from smoothing.distributions.base import SmoothingDistribution
from smoothing.threat import Norm, ThreatModel
from smoothing.training.objective import NOISY_ACCURACY, Batch, Model, Objective, draw_noise
from smoothing.training.parameters import check_count, check_positive, check_weight
from smoothing.training.soft import correct_rows, log_mean, noisy_log_softmax, own

_BOX = (0.0, 1.0)


@dataclass(frozen=True)
class SmoothMix(Objective):
    """(1/m) sum_i CE(f(x + z_i), y) + eta w 1[F_mean(x) right] (1/m) sum_i KL(target || F(x_mix + z_i)), for any law.

    The adversary is `steps` l2 steps of length `step_size` up the loss -log F_mean, without a limit of the distance but
    the box. x_mix = (1 - l) x + l x_adv with l ~ U[0, 1/2] for each input; the target is (1 - l) F_mean(x) + l / classes,
    and the gradient flows through it. All terms share the m draws of the step. w rises linearly to 1 over `warmup` epochs.

    `one_step`: the point after the first step, at most step_size * w away, takes the place of x everywhere (also in the
    cross-entropy): the variant with an adversarial clean side.

    Attributes:
        m: Noisy copies of an input, at least 1.
        steps: Steps of the adversary (T), at least 1.
        step_size: Length of a step (alpha), input units; published .5, 1, 2 at sigma .25, .5, 1 (CIFAR-10), 1 (MNIST).
        eta: Weight of the mixed term, at least 0; published 1 or 5.
        one_step: Whether the one-step adversary is the clean side.
        warmup: Epochs in which w rises.

    Raises:
        InvalidArgumentError: If a value is out of range.

    Reference: Jeong, Park, Kim, Lee, Kim, Shin 2021, algorithm 1 and section 3.3. (The step of another implementation
    had the certificate's alpha for its length: here it is a hyper-parameter of its own.)
    """

    name: ClassVar[str] = "smoothmix"
    m: int = 2
    steps: int = 4
    step_size: float = 1.0
    eta: float = 5.0
    one_step: bool = False
    warmup: int = 10

    def __post_init__(self) -> None:
        check_count("m", self.m)
        check_count("steps", self.steps)
        check_positive("step_size", self.step_size)
        check_weight("eta", self.eta)
        check_count("warmup", self.warmup, 0)

    @property
    def passes(self) -> int:
        """Over each noisy copy: the adversary's steps, the cross-entropy and the mixed term."""
        return self.m * (self.steps + 2)

    def ramp(self, epoch: int) -> float:
        """Return w of this epoch."""
        return min(1.0, (epoch + 1) / self.warmup) if self.warmup > 0 else 1.0

    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the mean loss; see the base class."""
        noise = draw_noise(batch.x, law, self.m, generator)
        share = torch.rand(len(batch.x), generator=generator, device=batch.x.device) / 2.0
        clean, far = self._adversary(model, batch, noise)

        log_softmax = noisy_log_softmax(model, clean, noise)
        log_mean_clean = log_mean(log_softmax)
        losses = -own(log_softmax, batch.y).mean(0)

        column = share.reshape(-1, *[1] * (clean.dim() - 1))
        mixed = noisy_log_softmax(model, (1.0 - column) * clean + column * far, noise)
        classes = log_softmax.shape[-1]
        target = (1.0 - share[:, None]) * log_mean_clean.exp() + share[:, None] / classes
        # The target is positive where l is; the floor is for l = 0 and a probability that has underflowed.
        mixing = (target * (target.clamp_min(1e-30).log() - mixed)).sum(-1).mean(0)
        right = correct_rows(log_mean_clean, batch.y)
        mixing = torch.where(right, mixing, 0.0)
        losses = losses + self.eta * self.ramp(batch.epoch) * mixing
        return batch.mean(losses), {
            NOISY_ACCURACY: correct_rows(log_softmax, batch.y).float().mean(),
            "mixing": mixing.detach().mean(),
        }

    def _adversary(
        self, model: Model, batch: Batch, noise: Float[Tensor, "m batch *shape"]
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, "batch *shape"]]:
        """Return the clean side and the far point."""
        x = clean = moved = batch.x.detach()
        loss = smoothed_loss(model, batch.y, noise)
        with evaluating(model):
            for step in range(self.steps):
                gradient, _ = input_gradient(loss, moved)
                moved = inside_box(moved + self.step_size * steepest(gradient, Norm.L2), x, _BOX)
                if step == 0 and self.one_step:
                    reach = ThreatModel(Norm.L2, self.step_size * self.ramp(batch.epoch))
                    clean = settle(moved, x, reach, _BOX)
        return clean, moved
