"""Which epoch's weights become the checkpoint: a cheap certified accuracy on held-out training images decides."""

from dataclasses import dataclass

import torch
from torch import nn

from certify.errors import UsageError
from certify.laws import best_norm
from certify.training.data import TrainingData
from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.estimators import SequentialEstimator, thresholds
from smoothing.smoothed import SmoothedClassifier
from smoothing.training.batches import as_inputs

LAST, ACR = "last", "acr"
_ALPHA = 0.01
_SELECTION_VOTES = 16


@dataclass(frozen=True)
class Selection:
    """How the best epoch is found.

    Attributes:
        by: "last" (no selection), "acr" (average certified radius), or a radius as text ("0.5": certified accuracy there).
        every: Epochs between two looks; the last epoch is always looked at.
        images: Held-out images that are certified, at most; the same ones each time.
        votes: Votes per image at most; few, since epochs are only compared with each other, on the same noise. A radius is
            decided by sequential certification of the image's label, mostly with fewer; ACR, which every vote makes
            larger, takes a fixed number.

    Raises:
        UsageError: If a value is out of range.
    """

    by: str = LAST
    every: int = 5
    images: int = 200
    votes: int = 256

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("images", 1), ("votes", 16)):
            if getattr(self, name) < least:
                raise UsageError(f"the selection's {name} must be at least {least}, got {name}={getattr(self, name)}")
        if self.by not in (LAST, ACR):
            _ = self.radius

    @property
    def radius(self) -> float | None:
        """The radius at which certified accuracy counts, or None."""
        if self.by in (LAST, ACR):
            return None
        try:
            radius = float(self.by)
        except ValueError:
            radius = -1.0
        if not 0 <= radius < float("inf"):
            raise UsageError(f"select must be last, acr or a radius of at least 0, got select={self.by!r}")
        return radius

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether there is a look after this epoch (from 1)."""
        return self.by != LAST and (epoch % self.every == 0 or epoch == epochs)

    def score(
        self, model: nn.Module, law: SmoothingDistribution, data: TrainingData, *, seed: int, device: torch.device
    ) -> float:
        """Return ACR or certified accuracy of the held-out images: an estimate to compare epochs by, not a result."""
        count = min(self.images, len(data.held_out_labels))
        x = as_inputs(data.held_out_images[:count], torch.device("cpu"))
        labels = data.held_out_labels[:count].tolist()
        smoothed = SmoothedClassifier(model, law, data.source.num_classes, batch_size=512, device=device)
        norm, radius = best_norm(law), self.radius
        if radius is None:
            certificates = smoothed.certify(
                x, norm, _SELECTION_VOTES, self.votes, _ALPHA, seed=seed, indices=range(count)
            )
        else:
            certificates = smoothed.certify(
                x, norm, seed=seed, estimator=self.estimator(law, radius), indices=range(count), labels=labels
            )
        right = [
            certificate.radius if certificate.prediction == label else None
            for certificate, label in zip(certificates, labels, strict=True)
        ]
        if radius is None:
            return sum(value for value in right if value is not None) / count
        return sum(value is not None and value >= radius for value in right) / count

    def estimator(self, law: SmoothingDistribution, radius: float) -> SequentialEstimator:
        """Return what decides whether an image is certified at the radius.

        Raises:
            InvalidArgumentError: If the votes cannot reach the radius.
        """
        return SequentialEstimator(thresholds(law, best_norm(law), (radius,)), alpha=_ALPHA, cap=self.votes)


def check_selection(selection: Selection, law: SmoothingDistribution, held_out: float) -> None:
    """Check that the selection is possible at all.

    Raises:
        InvalidArgumentError: If nothing is held out, or the votes cannot reach the radius.
    """
    if selection.by == LAST:
        return
    if held_out == 0:
        raise UsageError(f"select={selection.by} needs held-out images, got held_out=0")
    radius = selection.radius
    if radius is not None:
        largest = law.radius(_ALPHA ** (1 / selection.votes), best_norm(law))
        if radius > largest:
            raise InvalidArgumentError(
                f"{selection.votes} votes certify a radius of at most {largest:.3f}, got select={selection.by}; "
                "use more votes or a smaller radius"
            )
        selection.estimator(law, radius)
