"""From radii to what must be proved of the votes for each: the failure probability below which a law certifies it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm, convert_radius


@dataclass(frozen=True)
class Threshold:
    """One claim of a grid: "certified at `radius`" is the rejection of H0: p <= 1 - q0, that is 1 - p >= q0.

    Attributes:
        radius: In input units, at least 0.
        q0: In (0, 1/2], rounded down, less what the noise's own error may cost, so that 1 - p < q0 proves the radius.
    """

    radius: float
    q0: float

    def __post_init__(self) -> None:
        if not (self.radius >= 0.0 and math.isfinite(self.radius)):
            raise InvalidArgumentError(f"a radius must be finite and at least 0, got radius={self.radius}")
        if not 0.0 < self.q0 <= 0.5:
            raise InvalidArgumentError(f"q0 must be in (0, 1/2], got q0={self.q0} at radius {self.radius}")


def thresholds(
    law: SmoothingDistribution,
    norm: Norm | str,
    radii: Iterable[float],
    *,
    slack: float = 0.0,
    convert_from: Norm | str | None = None,
) -> tuple[Threshold, ...]:
    """Return the threshold of each radius: the largest float64 q0 for which `law` proves the radius, less `slack`.

    The largest q0 is found by bisection on the law's own (rounded) radius, so that a rejection of 1 - p >= q0 is never
    worth less than the radius that was asked for. At radius 0 it is 1/2: more than half of the probability is a lead.

    Args:
        law: The law of the noise.
        norm: Norm of the certificate.
        radii: In input units, increasing, at least 0.
        slack: Probability that the drawn noise may differ from the law (d times the total variation of one coordinate).
        convert_from: Prove the radius in this norm and convert it to `norm`; see `convert_radius`.

    Raises:
        InvalidArgumentError: If a radius is out of range or out of the law's reach, or the radii do not increase.
        UnsupportedNormError: If the law proves nothing in the norm.

    Example:
        >>> from smoothing import Gaussian
        >>> [round(t.q0, 6) for t in thresholds(Gaussian((1,), sigma=0.5), "l2", (0.0, 0.5, 1.0))]
        [0.5, 0.158655, 0.02275]
    """
    target = Norm.parse(norm)
    proved_in = law.require_norm(target if convert_from is None else convert_from)
    wanted = [float(radius) for radius in radii]
    check_increasing(wanted)
    if not 0.0 <= slack < 0.5:
        raise InvalidArgumentError(f"slack must be in [0, 1/2), got slack={slack}")

    def proves(q: float, radius: float) -> bool:
        own = law.radius(1.0 - q, proved_in, q_upper=q)
        return convert_radius(own, proved_in, target, law.dimension) >= radius

    found = []
    for radius in wanted:
        q0 = 0.5 if radius == 0.0 else _largest_q(proves, radius)
        if q0 is None:
            raise InvalidArgumentError(
                f"every radius must be within reach of the law, but no share of the votes proves {radius} in norm {target} "
                f"with {law.name} noise of sigma {law.sigma}; ask for smaller radii or use more noise"
            )
        lowered = q0 if slack == 0.0 else float(np.nextafter(q0 - slack, 0.0))
        if lowered <= 0.0:
            raise InvalidArgumentError(
                f"radius {radius} needs 1 - p below {q0:.3g}, which is less than what the noise itself may be off by "
                f"(slack={slack:.3g}); ask for smaller radii"
            )
        found.append(Threshold(radius, lowered))
    return tuple(found)


def check_increasing(radii: Iterable[float]) -> None:
    """Raise unless there is a radius and each is larger than the one before.

    Raises:
        InvalidArgumentError: If not.
    """
    listed = list(radii)
    if not listed or not all(a < b for a, b in pairwise(listed)):
        raise InvalidArgumentError(f"radii must be at least one number, in increasing order, got {listed}")


_SMALLEST_LOG_Q = math.log(1e-280)


def _largest_q(proves: Callable[[float, float], bool], radius: float) -> float | None:
    """Return the largest q with `proves(q, radius)`, by bisection on log q, then on neighbouring float64."""
    low, high = math.exp(_SMALLEST_LOG_Q), 0.5
    if not proves(low, radius):
        return None
    if proves(high, radius):
        return high
    # Halving the logarithm first: q may be 1e-1 or 1e-100.
    while high > 2.0 * low:
        middle = math.exp(0.5 * (math.log(low) + math.log(high)))
        low, high = (middle, high) if proves(middle, radius) else (low, middle)
    # The invariant is proves(low), so that the answer is proved even where rounding makes the radius uneven.
    while np.nextafter(low, 1.0) < high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if proves(middle, radius) else (low, middle)
    return low
