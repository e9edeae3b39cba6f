"""What a denoiser is, and the classifier that it makes out of another one."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from smoothing.errors import InvalidArgumentError


@runtime_checkable
class Denoiser(Protocol):
    """Maps noisy pixels to an estimate of the clean ones; [0, 1] in and out."""

    def __call__(
        self, x: Float[Tensor, "batch channel height width"], sigma: float
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the estimate for noise of standard deviation `sigma` per pixel."""
        ...


class DenoisedClassifier(nn.Module):
    """A classifier behind a denoiser: f(x) = classifier(denoiser(x, sigma)), itself a base classifier to smooth.

    Whatever the denoiser does is part of f, so the certificate of the smoothed pair holds as for any classifier.

    Args:
        denoiser: See `Denoiser`; an `nn.Module` becomes a submodule, so that eval mode and devices reach it.
        classifier: Callable from [batch, channel, height, width] to scores or labels.
        sigma: Noise level that the denoiser is told, in pixels in [0, 1].

    Raises:
        InvalidArgumentError: If sigma is not positive.

    Reference: Salman, Sun, Yang, Kapoor, Kolter 2020, "Denoised Smoothing".
    """

    def __init__(self, denoiser: Denoiser, classifier: Callable[[Tensor], Tensor], sigma: float) -> None:
        super().__init__()
        if not sigma > 0:
            raise InvalidArgumentError(f"sigma must be positive, got sigma={sigma}")
        self.denoiser = denoiser
        self.classifier = classifier
        self.sigma = float(sigma)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Return the classifier's output on the denoised batch."""
        output: Tensor = self.classifier(self.denoiser(x, self.sigma))
        return output
