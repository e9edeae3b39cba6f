"""From a law to the integer law of round(z grid), as thresholds for a 64-bit word, with its distance from the exact one.

If z has a continuous distribution function F, n = round(z grid) is at most k exactly if z is at most (k + 1/2) / grid (the
tie has probability zero), so that P(n <= k) = F((k + 1/2) / grid). A uniform 64-bit word U becomes n by counting thresholds:
n = -K + #{k : T_k <= U}, T_k = round(2^64 F((k + 1/2) / grid)), for which P(n <= k) = T_k / 2^64. That holds for a law whose
support ends inside a cell as well: the last cell's probability is what of it lies inside.

Why this is the law of the theorem: for x on the grid, round(x + z) = x + round(z), coordinate by coordinate (but for ties).
So a classifier that is shown x + n is the base classifier after rounding to the grid, under the real noise z.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Int16, UInt64
from numpy import ndarray

from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.integer.grid import LARGEST_LEVEL, check_grid
from smoothing.integer.tails import TAILS

AMBIGUOUS = -(2**15)
"""Entry of the guide where the upper 16 bits of a word do not decide."""

_DIGITS = 60
"""mpmath's precision; its functions are accurate to a few units in the last of these digits."""

_BITS = 160
"""Binary places of the distribution function as an integer; 2^-160 is 10^-48, far above mpmath's error."""


@dataclass(frozen=True, eq=False)
class IntegerLaw:
    """The integer noise of one coordinate.

    Attributes:
        grid: Steps per unit.
        reach: K, the largest |n|.
        thresholds: T_k for k = -K .. K - 1, ascending.
        guide: n by the upper 16 bits of the word, or `AMBIGUOUS`.
        total_variation: Bound on the total variation between the drawn law and that of round(z grid), exact arithmetic.
        exact: Cell probabilities of round(z grid) for n = -K .. K, float64, for tests; tails beyond K are left out.
    """

    grid: int
    reach: int
    thresholds: UInt64[ndarray, " cells"]
    guide: Int16[ndarray, " 65536"]
    total_variation: Fraction
    exact: ndarray

    @property
    def ambiguous_share(self) -> float:
        """Share of values that need more than 16 bits."""
        return float(np.mean(self.guide == AMBIGUOUS))

    def decide(self, words: UInt64[ndarray, " n"]) -> Int16[ndarray, " n"]:
        """Return the noise of whole 64-bit words."""
        return (np.searchsorted(self.thresholds, words, side="right") - self.reach).astype(np.int16)


def integer_law(law: SmoothingDistribution, grid: int) -> IntegerLaw:
    """Return the integer noise of one coordinate of a law; computed once per process for each law and grid.

    Raises:
        InvalidArgumentError: If the law has no such noise, the grid is out of range, or the noise reaches further than
            32,767 steps.
    """
    check_grid(grid)
    if type(law) not in TAILS:
        raise InvalidArgumentError(
            f"integer noise is for {', '.join(found.name for found in TAILS)}, whose coordinates are independent; got "
            f"{law.name}: use floating-point noise"
        )
    return _build(type(law), tuple(sorted(law.parameters.items())), int(grid))


@lru_cache(maxsize=32)
def _build(family: type[SmoothingDistribution], parameters: tuple[tuple[str, float], ...], grid: int) -> IntegerLaw:
    # The shape is not part of it: one coordinate is like another.
    law: Any = family((1,), **dict(parameters))
    # F((k + 1/2) / grid) 2^_BITS for k = -1, -2, ..., until a word of 64 bits cannot tell it from 0.
    if _threshold(_scaled(law, grid, -LARGEST_LEVEL - 1)) > 0:
        raise InvalidArgumentError(
            f"integer noise must stay within {LARGEST_LEVEL} steps, got {law.identity} on the grid k/{grid}: use a coarser "
            "grid or less noise"
        )
    below = [_scaled(law, grid, -1)]
    while _threshold(below[-1]) > 0:
        below.append(_scaled(law, grid, -1 - len(below)))
    reach = len(below) - 1
    lower = [_threshold(value) for value in reversed(below[:-1])]
    # The law is even: P(n <= k) = 1 - P(n <= -k - 1), for the drawn noise exactly.
    thresholds = np.array(lower + [2**64 - value for value in reversed(lower)], dtype=np.uint64)
    variation, exact = _distance(below, lower)
    return IntegerLaw(grid, reach, thresholds, _guide(thresholds, reach), variation, exact)


def _scaled(law: SmoothingDistribution, grid: int, k: int) -> int:
    """Return floor(2^_BITS P(n <= k)) for k < 0."""
    import mpmath

    with mpmath.workdps(_DIGITS):
        return int(mpmath.floor(mpmath.ldexp(TAILS[type(law)](law, mpmath.mpf(2 * k + 1) / (2 * grid)), _BITS)))


def _threshold(scaled: int) -> int:
    """Return round(2^64 F)."""
    return (scaled + (1 << (_BITS - 65))) >> (_BITS - 64)


def _distance(below: list[int], lower: list[int]) -> tuple[Fraction, ndarray]:
    """Return a bound on the total variation, and the exact cell probabilities for n = -K .. K.

    Half of sum_n |p_n - drawn_n|, where the tail beyond K is drawn with probability 0. By evenness only n <= 0 is summed.
    """
    shift = _BITS - 64
    ideal = list(reversed(below))  # P(n <= k) for k = -K - 1, ..., -1
    drawn = [0, *(value << shift for value in lower)]
    cells = [ideal[0], *(b - a for a, b in pairwise(ideal))]
    ours = [0, *(b - a for a, b in pairwise(drawn))]
    centre, our_centre = (1 << _BITS) - 2 * ideal[-1], (1 << _BITS) - 2 * drawn[-1]
    total = 2 * sum(abs(a - b) for a, b in zip(cells, ours, strict=True)) + abs(centre - our_centre)
    # Every scaled value is off by less than 2 (floor, and mpmath's last digits): at most 4 per difference.
    total += 8 * (len(cells) + 1)
    half = [cell / 2**_BITS for cell in cells[1:]]
    return Fraction(total, 2 << _BITS), np.array([*half, centre / 2**_BITS, *reversed(half)])


def _guide(thresholds: UInt64[ndarray, " cells"], reach: int) -> Int16[ndarray, " 65536"]:
    first = np.arange(2**16, dtype=np.uint64) << np.uint64(48)
    last = first | np.uint64(2**48 - 1)
    low = np.searchsorted(thresholds, first, side="right")
    high = np.searchsorted(thresholds, last, side="right")
    return np.where(low == high, low - reach, AMBIGUOUS).astype(np.int16)
