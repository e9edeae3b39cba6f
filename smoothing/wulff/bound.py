"""What the Wulff crystal proves: no even noise moves less probability at p = 1/2 than noise of the crystal's shape.

For noise of density q, let Phi(1/2) = sup_v (1/2) int |<v, grad q>| over all v of norm 1: the speed at which a region of
probability 1/2 can lose probability when the input moves. For even q the total variation distance of the noise and its
shift by r v is r Phi(1/2) + o(r) for the worst v, while a certified r at p = 1/2 + s bounds it by s / (1 - s) (see
`smoothing.radius.impossibility`, where t is this number): R <= s / Phi(1/2) + o(s), for any certificate. With y uniform on
the vertices of the norm's unit ball, and with the co-area formula,

    Phi(1/2) >= (1/2) int E |<y, grad q>| dx = (1/2) int ||grad q||_* dx = (1/2) int_0^inf Per_*({q > t}) dt,

and by Wulff's inequality the perimeter Per_*(E), measured by ||.||_*, is at least d |C|^(1/d) |E|^((d - 1)/d) for the
crystal C, with equality if and only if E has its shape. Hence, with J = int_0^inf |{q > t}|^((d - 1)/d) dt,

    Phi(1/2) >= (d / 2) |C|^(1/d) J,

attained by noise whose level sets are copies of C if all vertices of the ball are alike (a symmetry of the ball takes
each into each: the supremum over v is then the mean), as they are for l1, l2 and linf. J depends on the volumes of the
level sets only: the crystal is the best shape for given volumes, not for a given sigma.

Reference: Yang et al. 2020 (optimal level sets are Wulff crystals); Taylor 1978 for Wulff's inequality.
"""

import math

from smoothing.errors import InvalidArgumentError
from smoothing.rounding import down
from smoothing.wulff.crystal import WulffCrystal

_SLACK = 1e-10
"""Relative allowance for logarithms of volumes: d times that of the result, each off by a few units in the last place."""


def level_set_bound(crystal: WulffCrystal, level_integral: float) -> float:
    """Return the lower bound (d / 2) |C|^(1/d) J on Phi(1/2) of even noise, rounded down.

    1 / Phi(1/2) is the slope of the certified radius at p = 1/2, which this bounds from above, in the crystal's norm.

    Args:
        crystal: The Wulff crystal of the norm of the perturbation.
        level_integral: J, or a lower bound on it, in 1 / input units.

    Raises:
        InvalidArgumentError: If J is not positive and finite.
    """
    if not (math.isfinite(level_integral) and level_integral > 0):
        raise InvalidArgumentError(f"level_integral must be positive and finite, got level_integral={level_integral}")
    return float(down(0.5 * crystal.dimension * _size(crystal) * level_integral, _SLACK))


def uniform_bound(crystal: WulffCrystal, log_volume: float) -> float:
    """Return the bound for uniform noise on a set of a given volume, (d / 2) (|C| / volume)^(1/d), rounded down.

    Args:
        crystal: The Wulff crystal of the norm of the perturbation.
        log_volume: Logarithm of the volume of the support.

    Raises:
        InvalidArgumentError: If the logarithm is not finite.
    """
    if not math.isfinite(log_volume):
        raise InvalidArgumentError(f"log_volume must be finite, got log_volume={log_volume}")
    # J = volume^(-1) volume^((d - 1)/d).
    return level_set_bound(crystal, math.exp(-log_volume / crystal.dimension))


def radial_bound(crystal: WulffCrystal, log_ball_volume: float, mean_inverse_radius: float) -> float:
    """Return the bound for noise whose density falls with a norm ||x||_K, rounded down.

    Its level sets are multiples of the unit ball K, and J = |K|^(-1/d) ((d - 1)/d) E[1 / ||x||_K].

    Args:
        crystal: The Wulff crystal of the norm of the perturbation; d of at least 2.
        log_ball_volume: log |K|, see `smoothing.wulff.crystal.log_ball_volume`.
        mean_inverse_radius: E[1 / ||x||_K], in 1 / input units.

    Raises:
        InvalidArgumentError: If d = 1, or a number is out of range.
    """
    d = crystal.dimension
    if d < 2:
        raise InvalidArgumentError(f"dimension must be at least 2 for the bound from radii, got dimension={d}")
    if not math.isfinite(log_ball_volume):
        raise InvalidArgumentError(f"log_ball_volume must be finite, got log_ball_volume={log_ball_volume}")
    return level_set_bound(crystal, math.exp(-log_ball_volume / d) * (d - 1) / d * mean_inverse_radius)


def _size(crystal: WulffCrystal) -> float:
    """|C|^(1/d), or a lower bound on it."""
    return math.exp(crystal.log_volume_lower / crystal.dimension)
