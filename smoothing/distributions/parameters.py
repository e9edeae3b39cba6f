"""Checks of the parameters that a law takes beside its scale."""

import math
from collections.abc import Callable

import numpy as np

from smoothing.distributions.base import SmoothingDistribution, checked_shape
from smoothing.errors import InvalidArgumentError


def settle_parameter(law: SmoothingDistribution, key: str, allowed: Callable[[float], bool], rule: str) -> float:
    """Turn the parameter `key` of a law under construction into a float, store it and return it.

    Args:
        law: A law inside its `__post_init__`.
        key: Name of the parameter.
        allowed: Whether a finite value is in range.
        rule: The range in words, for the message: "positive".

    Raises:
        InvalidArgumentError: If the value is missing, not a number or out of range.
    """
    value = getattr(law, key)
    if value is None:
        takes = ", ".join(law.parameter_names())
        raise InvalidArgumentError(f"{law.name} needs {key}, {rule}, got none; it takes {takes}")
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InvalidArgumentError(f"{key} must be a number, got {key}={value!r}")
    if not (math.isfinite(value) and allowed(float(value))):
        raise InvalidArgumentError(f"{key} must be {rule}, got {key}={value}")
    object.__setattr__(law, key, float(value))
    return float(value)


def checked_dimension(shape: tuple[int, ...]) -> int:
    """Return d, which the range of a parameter may depend on, or raise for a bad shape."""
    return math.prod(checked_shape(shape))


def moment_ratio(law: SmoothingDistribution, log_ratio: float) -> float:
    """Return sigma / scale from its logarithm, or raise if it would drive one of the two out of float64."""
    if not abs(log_ratio) < 345.0:
        raise InvalidArgumentError(
            f"the parameters of {law.name} must leave sigma / scale between 1e-150 and 1e150, "
            f"got 1e{log_ratio / math.log(10):.0f}"
        )
    return math.exp(log_ratio)


def require_scale(law: SmoothingDistribution, condition: str) -> None:
    """Raise if a law of infinite variance was given by sigma."""
    if law.sigma is not None:
        raise InvalidArgumentError(
            f"{law.name} has a finite sigma only for {condition}: give {law.scale_name}=, got sigma={law.sigma}"
        )
