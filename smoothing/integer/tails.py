"""The distribution function of one coordinate, to as many digits as are wanted: what integer noise is made from.

A law takes part if its coordinates are independent, all with one even density. One function and one row per law.
"""

from collections.abc import Callable
from typing import Any

from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.gaussian import Gaussian
from smoothing.distributions.laplace import Laplace
from smoothing.distributions.uniform import Uniform

Tail = Callable[[SmoothingDistribution, Any], Any]
"""(law, t) -> P(z_1 <= t) for t <= 0, both `mpmath.mpf`, at mpmath's current precision."""


def _gaussian(law: SmoothingDistribution, t: Any) -> Any:
    import mpmath

    return mpmath.erfc(-t / (mpmath.mpf(law.parameters["sigma"]) * mpmath.sqrt(2))) / 2


def _laplace(law: SmoothingDistribution, t: Any) -> Any:
    import mpmath

    return mpmath.exp(t / mpmath.mpf(law.parameters["scale"])) / 2


def _uniform(law: SmoothingDistribution, t: Any) -> Any:
    import mpmath

    half_width = mpmath.mpf(law.parameters["half_width"])
    return max(t + half_width, mpmath.mpf(0)) / (2 * half_width)


TAILS: dict[type[SmoothingDistribution], Tail] = {Gaussian: _gaussian, Laplace: _laplace, Uniform: _uniform}

integer_laws = tuple(TAILS)
"""The laws whose noise can be drawn in whole grid steps."""


def supports_integer_noise(law: SmoothingDistribution) -> bool:
    """Return whether noise of this law can be drawn in whole grid steps."""
    return type(law) in TAILS
