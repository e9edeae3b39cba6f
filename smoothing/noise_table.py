"""Noise versions -> sources. A new version is one file and one row here; a released one stays replayable."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.integer.source import PhiloxIntNoise
from smoothing.noise_source import NoiseSource, TorchBlockNoise

NOISE_SOURCES: dict[str, Callable[..., NoiseSource]] = {
    TorchBlockNoise.version: TorchBlockNoise,
    PhiloxIntNoise.version: PhiloxIntNoise,
}


def rebuild_noise(
    description: Mapping[str, Any], law: SmoothingDistribution, seed: int, device: torch.device | str = "cpu"
) -> NoiseSource:
    """Build the noise source that `NoiseSource.describe` described.

    Args:
        description: Version and parameters.
        law: The law.
        seed: The run's seed.
        device: Where copies are made.

    Raises:
        InvalidArgumentError: If the version is unknown, or a parameter is missing, unknown or out of range.

    Example:
        >>> from smoothing import Gaussian
        >>> rebuild_noise({"version": "torch-block-v1"}, Gaussian((2,), sigma=0.5), seed=0).version
        'torch-block-v1'
    """
    parameters = dict(description)
    version = parameters.pop("version", None)
    if version not in NOISE_SOURCES:
        raise InvalidArgumentError(f"noise version must be one of {', '.join(NOISE_SOURCES)}, got {version!r}")
    try:
        return NOISE_SOURCES[version](law, seed, device, **parameters)
    except TypeError as error:
        raise InvalidArgumentError(f"noise version {version} cannot be built from {parameters}: {error}") from error
