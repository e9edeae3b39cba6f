"""Adversarial examples of the smoothed classifier inside a training step."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from smoothing.attacks import ascend, ddn, evaluating, mean_log_probabilities, smoothed_loss
from smoothing.attacks.geometry import check_norm
from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm, ThreatModel
from smoothing.training.objective import Batch, Model
from smoothing.training.parameters import check_choice, check_count, check_positive

ATTACKS = ("pgd", "ddn")


class Adversary:
    """Mixin of objectives with the fields `attack`, `eps`, `steps`, `norm` and `warmup`."""

    name: ClassVar[str]
    attack: str
    eps: float
    steps: int
    norm: str
    warmup: int

    def check_adversary(self) -> None:
        """Raise `InvalidArgumentError` if one of the fields is out of range."""
        check_choice("attack", self.attack, ATTACKS)
        check_positive("eps", self.eps)
        check_count("steps", self.steps)
        check_count("warmup", self.warmup, 0)
        norm = check_norm(Norm.parse(self.norm))
        if self.attack == "ddn" and norm is not Norm.L2:
            raise InvalidArgumentError(f"attack ddn needs norm l2, got norm={self.norm!r}; use attack pgd")

    def radius(self, epoch: int) -> float:
        """Return eps of this epoch: it rises linearly over the first `warmup` epochs, from eps / warmup to eps."""
        return min(1.0, (epoch + 1) / self.warmup) * self.eps if self.warmup > 0 else float(self.eps)

    @property
    def attack_passes(self) -> int:
        """Passes of the attack over each noisy copy; the last look of DDN, a forward pass alone, counts as one."""
        return self.steps if self.attack == "pgd" else self.steps + 1

    def adversarial(
        self, model: Model, batch: Batch, noise: Float[Tensor, "m batch *shape"]
    ) -> Float[Tensor, "batch *shape"]:
        """Return x' near argmax -log( (1/m) sum_i F_y(x' + z_i) ) over the ball and [0, 1]; no gradient flows into it."""
        threat = ThreatModel(Norm.parse(self.norm), self.radius(batch.epoch))
        x = batch.x.detach()
        with evaluating(model):
            if self.attack == "pgd":
                return ascend(smoothed_loss(model, batch.y, noise), x, threat, steps=self.steps)

            def judge(moved: Tensor) -> tuple[Tensor, Tensor]:
                log_probabilities = mean_log_probabilities(model, moved, noise)
                wrong = log_probabilities.detach().argmax(1) != batch.y
                return -log_probabilities.gather(1, batch.y[:, None])[:, 0], wrong

            return ddn(judge, x, threat, steps=self.steps, first_norm=threat.radius, levels=256).x
