"""Names on the command line -> laws. A new law is one file, one import line and one row here."""

from typing import Any

from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.gaussian import Gaussian
from smoothing.distributions.laplace import Laplace
from smoothing.distributions.uniform import Uniform
from smoothing.errors import InvalidArgumentError

LAWS: dict[str, type[SmoothingDistribution]] = {law.name: law for law in (Gaussian, Laplace, Uniform)}


def make_law(name: str, shape: tuple[int, ...], **parameters: Any) -> SmoothingDistribution:
    """Build the law that `name` names.

    Args:
        name: A key of `LAWS`.
        shape: Event shape.
        **parameters: `sigma` or the law's own scale; None counts as not given.

    Raises:
        InvalidArgumentError: If the name or a parameter is unknown, or a value is out of range.
    """
    if name not in LAWS:
        raise InvalidArgumentError(f"noise must be one of {', '.join(sorted(LAWS))}, got noise={name!r}")
    law = LAWS[name]
    given = {key: value for key, value in parameters.items() if value is not None}
    unknown = sorted(set(given) - set(law.parameter_names()))
    if unknown:
        raise InvalidArgumentError(
            f"{name} noise takes {' or '.join(law.parameter_names())}, got {', '.join(f'{k}={given[k]}' for k in unknown)}"
        )
    return law(shape, **given)


def rebuild_law(description: dict[str, Any]) -> SmoothingDistribution:
    """Build the law that `SmoothingDistribution.describe` wrote down, exactly."""
    return make_law(description["name"], tuple(description["shape"]), **description["parameters"])
