"""What is trained: a denoiser in front of frozen classifiers, of which each batch meets one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smoothing.errors import InvalidArgumentError

Classifier = Callable[[Tensor], Tensor]


class DenoisingTask(nn.Module):
    """The trainable denoiser, and the frozen classifiers whose labels it has to keep.

    With one classifier this is the white-box case of denoised smoothing. With several it is the black-box case: they are
    surrogates, stand-ins for a classifier that cannot be differentiated, and take turns batch by batch, so that the
    denoiser leans on none of their peculiarities.

    The classifiers are not part of the state, are never put in train mode, and get no gradient of their own.

    Args:
        denoiser: See `denoisers.Denoiser`; its parameters are trained.
        classifiers: Callables from [batch, channel, height, width] to scores [batch, classes]; none only for objectives
            that compare pixels.
        sigma: Noise level that the denoiser is told.

    Raises:
        InvalidArgumentError: If sigma is not positive.

    Reference: Salman, Sun, Yang, Kapoor, Kolter 2020, "Denoised Smoothing", sections 3.2 and 4.
    """

    def __init__(self, denoiser: nn.Module, classifiers: Sequence[Classifier], sigma: float | int) -> None:
        super().__init__()
        if not 0 < sigma < float("inf"):
            raise InvalidArgumentError(f"sigma must be positive and finite, got sigma={sigma}")
        self.denoiser = denoiser
        self.sigma = float(sigma)
        # In a tuple, so that they are no submodules: train() and state_dict() must not reach them.
        self.classifiers = tuple(classifiers)
        for classifier in self.classifiers:
            if isinstance(classifier, nn.Module):
                classifier.eval()
                for parameter in classifier.parameters():
                    parameter.requires_grad_(False)
        self._turn = 0

    def next_batch(self) -> None:
        """Give the turn to the next classifier."""
        self._turn = (self._turn + 1) % max(1, len(self.classifiers))

    def denoise(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
        """Return the denoiser's estimate."""
        estimate: Tensor = self.denoiser(x, self.sigma)
        return estimate

    def classify(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Return the scores of the classifier whose turn it is; gradients pass through it to `x`.

        Raises:
            InvalidArgumentError: If there is none.
        """
        if not self.classifiers:
            raise InvalidArgumentError("there is no classifier: this objective needs at least one")
        return self.classifiers[self._turn](x)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Return the scores of the classifier behind the denoiser; the estimate's pixels where there is no classifier."""
        estimate = self.denoise(x)
        return self.classify(estimate) if self.classifiers else estimate.flatten(1)

    def get_extra_state(self) -> Any:
        """Return whose turn it is: an interrupted training goes on with the same classifier."""
        return torch.tensor(self._turn)

    def set_extra_state(self, state: Any) -> None:
        """Take over whose turn it is."""
        self._turn = int(state) % max(1, len(self.classifiers))
