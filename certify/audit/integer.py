"""What drawing noise in whole steps from 64-bit words may be off by, computed again from the law alone.

One coordinate is n = round(z grid) with P(n <= k) = F((k + 1/2) / grid), drawn with P(n <= k) rounded to a multiple of
2^-64. The total variation is half of the sum of the differences of the cells; the laws are even, so that only n <= 0 is
summed. A copy has d independent coordinates, and is off by d times that at most.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from certify.audit.exact import context

Tail = Callable[[Any, Any], Any]
"""(parameter, t) -> P(z <= t) for t < 0."""


def _gaussian(sigma: Any, t: Any) -> Any:
    mp = context()
    return mp.erfc(-t / (sigma * mp.sqrt(2))) / 2


def _laplace(scale: Any, t: Any) -> Any:
    return context().exp(t / scale) / 2


def _uniform(half_width: Any, t: Any) -> Any:
    return max(t + half_width, context().zero) / (2 * half_width)


TAILS: Mapping[str, tuple[str, Tail]] = {
    "gaussian": ("sigma", _gaussian),
    "laplace": ("scale", _laplace),
    "uniform": ("half_width", _uniform),
}
"""Law -> its parameter and its distribution function below 0; laws that are not here have no integer noise."""


@lru_cache(maxsize=64)
def coordinate_variation(law: str, parameter: float, grid: int) -> Any:
    """Return the total variation of one coordinate, an mpmath number.

    Args:
        law: Name of the law, in `TAILS`.
        parameter: Its parameter.
        grid: Steps per unit.
    """
    mp = context()
    tail = TAILS[law][1]
    exact = drawn = below_exact = below_drawn = mp.zero
    differences = mp.zero
    step = mp.one / (2 * grid)
    # From the centre outwards: P(n <= -1), P(n <= -2), ... until the drawn one is 0.
    values = []
    k = -1
    while True:
        exact = tail(mp.mpf(parameter), (2 * k + 1) * step)
        drawn = mp.floor(mp.ldexp(exact, 64) + mp.mpf(1) / 2)
        values.append((exact, mp.ldexp(drawn, -64)))
        if drawn == 0:
            break
        k -= 1
    for exact, drawn in reversed(values):
        differences += abs((exact - below_exact) - (drawn - below_drawn))
        below_exact, below_drawn = exact, drawn
    centre = abs((1 - 2 * below_exact) - (1 - 2 * below_drawn))
    return (2 * differences + centre) / 2
