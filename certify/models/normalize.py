"""Normalisation as the first layer of a network, so that noise and radii stay in pixel units."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from certify.errors import UsageError

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "none": None,
    "cifar10": (CIFAR10_MEAN, CIFAR10_STD),
    "cifar10-centre": (CIFAR10_MEAN, (1.0, 1.0, 1.0)),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "imagenet-centre": (IMAGENET_MEAN, (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation by name. The published codes use the constants of Cohen et al. 2019; some networks of
Salman et al. 2019 subtract the mean only ("-centre"), and their files do not say which."""


class Normalize(nn.Module):
    """Subtract `mean` and divide by `std`, one number a channel (the first axis of an input).

    The numbers are buffers: they move with the model, are saved with it, and belong to its digest.

    Args:
        mean: One mean a channel, input units.
        std: One positive standard deviation a channel, input units.
        axes: Number of axes of one input (3 for an image).

    Raises:
        UsageError: If the lengths differ or a number is not finite, or a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], axes: int = 3) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise UsageError(f"mean and std must have one number a channel, got {len(mean)} and {len(std)} numbers")
        if not all(math.isfinite(value) for value in (*mean, *std)) or not all(value > 0 for value in std):
            raise UsageError(f"mean must be finite and std positive, got mean={tuple(mean)}, std={tuple(std)}")
        shape = (len(mean),) + (1,) * (axes - 1)
        self.register_buffer("mean", torch.tensor(tuple(mean), dtype=torch.float32).reshape(shape))
        self.register_buffer("std", torch.tensor(tuple(std), dtype=torch.float32).reshape(shape))

    def forward(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        """Return (x - mean) / std."""
        return (x - self.mean) / self.std
