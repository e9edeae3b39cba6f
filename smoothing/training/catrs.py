"""CAT-RS: an input's loss follows the confidence that a smoothed classifier can have in it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from smoothing.attacks import evaluating, input_gradient
from smoothing.attacks.geometry import project, steepest
from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm
from smoothing.training.objective import NOISY_ACCURACY, Batch, Model, Objective, draw_noise
from smoothing.training.parameters import check_choice, check_count, check_positive, check_weight, require_gaussian
from smoothing.training.soft import correct_rows, noisy_log_softmax, own

CONFIDENCES = ("model", "prediction")


@dataclass(frozen=True)
class CatRS(Objective):
    """(1/m) (sum of the K smallest CE(f(x + z_i), y)) + weight * 1[K = m] * max_i KL(p || F(x + z'_i)), Gaussian noise.

    K ~ Binomial(m, share of right votes), at least 1: an input in which the classifier cannot be confident is trained on
    its easiest copies alone, a confident one on its hardest too. p is the prediction of a Gaussian-trained smoothed
    classifier for the input (`batch.prediction`: shares of votes), z'_i the noise z_i moved by an l2 attack up
    (1/m) sum_i KL(p || F(x + z'_i)), at most eps away, and after each step scaled back to the mean and the mean square of
    z_i, so that it stays typical noise.

    Attributes:
        m: Noisy copies of an input, at least 1; published 4.
        weight: lambda, at least 0; published .5, 1, 2 at sigma .25, .5, 1.
        eps: Radius of the attack on the noise, input units; published 1 (CIFAR-10, MNIST).
        steps: Its steps (T), at least 1, of length 2 eps / T; published 4.
        confidence: Share of right votes: "model" (of the m copies, by the network in training) or "prediction" (p_y, for
            a network that has yet to learn anything: the published `confidence_mask`).

    Raises:
        InvalidArgumentError: If a value is out of range.

    Reference: Jeong, Kim, Shin 2023, equations 6 to 10 and the published code (which restores the mean and mean square
    of each z_i, not 0 and sigma).
    """

    name: ClassVar[str] = "cat-rs"
    needs_prediction: ClassVar[bool] = True
    m: int = 4
    weight: float = 1.0
    eps: float = 1.0
    steps: int = 4
    confidence: str = "model"

    def __post_init__(self) -> None:
        check_count("m", self.m)
        check_weight("weight", self.weight)
        check_positive("eps", self.eps)
        check_count("steps", self.steps)
        check_choice("confidence", self.confidence, CONFIDENCES)

    @property
    def passes(self) -> int:
        """Over each noisy copy: the cross-entropy, the attack's steps and the worst-case term."""
        return self.m * (self.steps + 2)

    def check_law(self, law: SmoothingDistribution) -> None:
        """Refuse laws other than the Gaussian: how likely its noise is depends on the length alone."""
        require_gaussian(self.name, law, "moved noise of the same length is as likely as it was")

    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the mean loss; see the base class."""
        prediction = batch.prediction
        if prediction is None:
            raise InvalidArgumentError(
                f"objective {self.name} needs the predictions of a Gaussian-trained classifier, got none"
            )
        noise = draw_noise(batch.x, law, self.m, generator)
        chances = torch.rand((self.m, len(batch.x)), generator=generator, device=batch.x.device)
        log_softmax = noisy_log_softmax(model, batch.x, noise)
        right = correct_rows(log_softmax, batch.y)
        confidence = right.float().mean(0) if self.confidence == "model" else own(prediction, batch.y)
        # Binomial(m, p) is the number of m uniform numbers below p: no draw outside of the given generator.
        accepted = (chances < confidence).sum(0).clamp_min(1)

        ordered = (-own(log_softmax, batch.y)).sort(0).values
        kept = torch.arange(self.m, device=batch.x.device)[:, None] < accepted
        losses = torch.where(kept, ordered, 0.0).sum(0) / self.m

        moved = self._move(model, batch.x, noise, prediction)
        worst = _kl(prediction, noisy_log_softmax(model, batch.x, moved)).amax(0)
        losses = losses + self.weight * torch.where(accepted == self.m, worst, 0.0)
        return batch.mean(losses), {
            NOISY_ACCURACY: right.float().mean(),
            "accepted": accepted.float().mean() / self.m,
            "worst_divergence": worst.detach().mean(),
        }

    def _move(
        self, model: Model, x: Float[Tensor, "batch *shape"], noise: Float[Tensor, "m batch *shape"], prediction: Tensor
    ) -> Float[Tensor, "m batch *shape"]:
        """Return noise that the attack has moved; no gradient flows into it."""
        start = noise.flatten(0, 1)
        mean, size = _moments(start)
        moved = start

        def loss(z: Tensor) -> Tensor:
            copies = z.reshape(noise.shape)
            return _kl(prediction, noisy_log_softmax(model, x, copies)).flatten()

        with evaluating(model):
            for _ in range(self.steps):
                gradient, _ = input_gradient(loss, moved)
                delta = moved + 2.0 * self.eps / self.steps * steepest(gradient, Norm.L2) - start
                moved = start + project(delta, Norm.L2, self.eps)
                moved_mean, moved_size = _moments(moved)
                moved = mean + (moved - moved_mean) / moved_size.clamp_min(1e-12) * size
        return moved.reshape(noise.shape)


def _kl(target: Float[Tensor, "batch classes"], log_softmax: Float[Tensor, "m batch classes"]) -> Tensor:
    # Shares of votes hold zeros; xlogy(0, 0) = 0.
    negative_entropy: Tensor = torch.special.xlogy(target, target).sum(-1)
    return negative_entropy - (target * log_softmax).sum(-1)


def _moments(noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and root mean square of each row's coordinates, as columns."""
    flat = noise.flatten(1)
    shape = (-1, *[1] * (noise.dim() - 1))
    return flat.mean(1).reshape(shape), flat.square().mean(1).sqrt().reshape(shape)
