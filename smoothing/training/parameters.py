"""Checks of hyper-parameters, with messages that state the rule first."""

import math

from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise `InvalidArgumentError` unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgumentError(f"{name} must be an integer of at least {least}, got {name}={value!r}")


def check_weight(name: str, value: float | int) -> None:
    """Raise `InvalidArgumentError` unless `value` is at least 0 and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidArgumentError(f"{name} must be at least 0 and finite, got {name}={value!r}")


def check_positive(name: str, value: float | int) -> None:
    """Raise `InvalidArgumentError` unless `value` is positive and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidArgumentError(f"{name} must be positive and finite, got {name}={value!r}")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise `InvalidArgumentError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise InvalidArgumentError(f"{name} must be one of {', '.join(allowed)}, got {name}={value!r}")


def require_gaussian(objective: str, law: SmoothingDistribution, why: str) -> float:
    """Return the law's sigma.

    Raises:
        InvalidArgumentError: If the law is not Gaussian.
    """
    if law.name != "gaussian" or law.sigma is None:
        raise InvalidArgumentError(f"objective {objective} needs gaussian noise ({why}), got noise={law.name}")
    return law.sigma
