"""The attack bound of a smoothed classifier, per input: the nearest point that its own attack gets another class at."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify.comparison.sides import Side
from certify.datasets import load_dataset
from certify.errors import CertifyError, ModelError
from certify.models import load_model
from certify.setup import pick_device
from smoothing.attacks import evaluating, exact_length, pgd, smoothed_loss
from smoothing.distributions.table import rebuild_law
from smoothing.smoothed import SmoothedClassifier
from smoothing.threat import ThreatModel
from smoothing.training.randomness import seeded_generator

NAME = "pgd on g"


@dataclass(frozen=True)
class SmoothedAttack:
    """Expectation-over-noise projected gradient descent, judged by fresh votes.

    Attributes:
        steps: Gradient steps.
        m: Noise samples that the attack sees.
        halvings: Of the radius, once an attack has succeeded.
        n: Votes of one judgement.
        alpha: Error probability over all judgements together.
        seed: Of the attack's noise and of the judging votes.
        device: Where to run.
        trust_pickle: Unpickle model files that need it.
    """

    steps: int = 20
    m: int = 32
    halvings: int = 5
    n: int = 1_000
    alpha: float = 0.001
    seed: int = 0
    device: str | None = None
    trust_pickle: bool = False

    def distances(
        self, side: Side, limit: float, on_input: Callable[[int, int], None] | None = None
    ) -> dict[int, float | None]:
        """Return the distance of the nearest successful attack per input; None where none succeeded within `limit`.

        Inputs that g gets wrong, or abstains on, are at distance 0.

        Raises:
            CertifyError: If model or data are not those of the run any more.
            ModelError: If the classifier lets no gradients through.
        """
        settings, identity = side.config["settings"], side.config["identity"]
        law = rebuild_law(identity["law"])
        model = load_model(
            settings["model"],
            num_classes=settings.get("num_classes"),
            input_shape=law.shape,
            architecture=settings.get("architecture"),
            normalisation=settings.get("normalisation"),
            trust_pickle=self.trust_pickle,
        )
        if settings.get("denoiser") is not None:
            from certify.denoising.wrap import with_denoiser

            model = with_denoiser(model, settings["denoiser"], sigma=law.sigma, input_shape=law.shape)
        data = load_dataset(
            settings["data"], root=settings.get("data_root"), split=identity["split"], transform=model.transform
        )
        if (model.digest, data.digest()) != (side.model_digest, side.data_digest):
            raise CertifyError(f"model and data must be those of {side.folder} to attack it, got others")
        if not isinstance(model.classifier, torch.nn.Module):
            raise ModelError(
                f"an attack needs gradients, and {settings['model']} is no module; leave it out by --no-attack"
            )
        device = pick_device(self.device)
        smoothed = SmoothedClassifier(
            model.classifier, law, int(identity["num_classes"]), device=device, precision=identity["precision"]
        )
        each = self.alpha / (len(side.points) * (self.halvings + 3))
        found: dict[int, float | None] = {}
        for done, (index, point) in enumerate(sorted(side.points.items()), start=1):
            if point.predict != point.label:
                found[index] = 0.0
            else:
                noise = law.sample(
                    self.m, generator=seeded_generator(device, self.seed, "attack", index), device=device
                )
                x, label = data.inputs([index]).to(device), torch.tensor([point.label], device=device)

                def scores(v: Tensor) -> Tensor:
                    out: Tensor = model.classifier(v)
                    return out

                def broken(
                    radius: float,
                    x: Tensor = x,
                    label: Tensor = label,
                    noise: Tensor = noise,
                    index: int = index,
                ) -> float | None:
                    with evaluating(model.classifier):
                        loss = smoothed_loss(scores, label, noise[:, None])
                        starts = seeded_generator(device, self.seed, "attack starts", index)
                        moved = pgd(loss, x, ThreatModel(side.norm, radius), steps=self.steps, generator=starts).x
                    judged = smoothed.predict(moved.cpu(), n=self.n, alpha=each, seed=self.seed)[0]
                    if judged is None or judged == int(label[0]):
                        return None
                    length = float(exact_length(moved.cpu(), x.cpu(), side.norm)[0])
                    return float(np.nextafter(length, np.inf))

                found[index] = self._nearest(broken, limit)
            if on_input is not None:
                on_input(done, len(side.points))
        return found

    def _nearest(self, broken: Callable[[float], float | None], limit: float) -> float | None:
        """Halve the radius from the largest one where the attack succeeds; success need not be monotone in the radius."""
        tried = (limit, limit / 2, limit / 4)
        best = next((distance for radius in tried if (distance := broken(radius)) is not None), None)
        low = 0.0
        for _ in range(self.halvings if best is not None else 0):
            assert best is not None
            middle = (low + best) / 2
            distance = broken(middle)
            if distance is None:
                low = middle
            else:
                best = min(best, distance)
        return best
