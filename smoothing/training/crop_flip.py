"""Random crops and mirror images, the usual augmentation of CIFAR, on whole batches and any device."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from smoothing.errors import InvalidArgumentError


@dataclass(frozen=True)
class CropFlip:
    """Pad with zeros, cut out a window of the old size at a random place, mirror it left to right half of the time.

    Attributes:
        padding: Pixels added on each side, so that an image moves by at most this much each way; at least 0.
        flip: Whether images are mirrored.

    Raises:
        InvalidArgumentError: If the padding is negative.

    Reference: He, Zhang, Ren, Sun 2016, section 4.2; used by every published CIFAR recipe of randomized smoothing.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise InvalidArgumentError(f"padding must be at least 0, got padding={self.padding}")

    def __call__(
        self, x: Float[Tensor, "batch channels height width"], generator: torch.Generator
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the augmented batch; each image gets its own place and side."""
        batch, channels, height, width = x.shape
        device, places = x.device, 2 * self.padding + 1
        padded = F.pad(x, (self.padding,) * 4)
        top = torch.randint(places, (batch, 1), generator=generator, device=device)
        left = torch.randint(places, (batch, 1), generator=generator, device=device)
        rows = top + torch.arange(height, device=device)
        columns = left + torch.arange(width, device=device)
        if self.flip:
            mirrored = torch.rand((batch, 1), generator=generator, device=device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        image = torch.arange(batch, device=device)[:, None, None, None]
        channel = torch.arange(channels, device=device)[:, None, None]
        return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
