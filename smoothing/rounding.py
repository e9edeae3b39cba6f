"""The only place that rounds: always towards "less certified".

Radii and lower bounds go down, failure probabilities and upper bounds go up. The allowances below are relative and
far above the error of the special functions they cover (`scipy.special.ndtri`, `log`, ... are correct to a few units in
the last place, 4e-16; measured against mpmath in the tests), and far below anything a user could notice.
"""

from typing import overload

import numpy as np
from jaxtyping import Float
from numpy import ndarray

FORMULA_SLACK = 1e-12
"""Relative allowance for the float64 evaluation of a closed formula."""


@overload
def down(value: float, slack: float = ...) -> float: ...
@overload
def down(value: Float[ndarray, "..."], slack: float = ...) -> Float[ndarray, "..."]: ...
def down(value: float | Float[ndarray, "..."], slack: float = FORMULA_SLACK) -> float | Float[ndarray, "..."]:
    """Return a float64 strictly below `value` by the relative `slack` and one unit in the last place.

    Zero and infinity are exact results (nothing certified; no finite limit) and stay what they are.

    Args:
        value: Non-negative scalar or array of any shape.
        slack: Relative allowance for the error of whatever computed `value`.

    Returns:
        float64 of the same shape, never negative.
    """
    array = np.asarray(value, dtype=np.float64)
    exact = (array == 0) | np.isinf(array)
    lowered = np.maximum(np.nextafter(array * (1.0 - slack), -np.inf), 0.0)
    result = np.where(exact, array, lowered)
    return float(result) if result.ndim == 0 else result


@overload
def up(value: float, slack: float = ...) -> float: ...
@overload
def up(value: Float[ndarray, "..."], slack: float = ...) -> Float[ndarray, "..."]: ...
def up(value: float | Float[ndarray, "..."], slack: float = FORMULA_SLACK) -> float | Float[ndarray, "..."]:
    """Return a float64 strictly above `value` by the relative `slack` and one unit in the last place.

    Args:
        value: Non-negative scalar or array of any shape.
        slack: Relative allowance for the error of whatever computed `value`.

    Returns:
        float64 of the same shape; infinity stays infinity.
    """
    array = np.asarray(value, dtype=np.float64)
    result = np.where(np.isinf(array), array, np.nextafter(array * (1.0 + slack), np.inf))
    return float(result) if result.ndim == 0 else result


@overload
def complement_down(q_upper: float) -> float: ...
@overload
def complement_down(q_upper: Float[ndarray, "..."]) -> Float[ndarray, "..."]: ...
def complement_down(q_upper: float | Float[ndarray, "..."]) -> float | Float[ndarray, "..."]:
    """Return the largest float64 at or below `1 - q_upper` in exact arithmetic: a bound on p from a bound on 1 - p.

    Args:
        q_upper: Upper bound on 1 - p, in [0, 1]; scalar or array of any shape.

    Returns:
        float64 of the same shape, never negative.
    """
    q = np.asarray(q_upper, dtype=np.float64)
    nearest = 1.0 - q
    # The float64 difference is the nearest one, so it may lie above the exact value. What it is off by is itself a
    # float64, and is found exactly by Knuth's TwoSum of 1 and -q.
    subtracted = nearest - 1.0
    missing = (1.0 - (nearest - subtracted)) - (q + subtracted)
    result = np.maximum(np.where(missing < 0.0, np.nextafter(nearest, -np.inf), nearest), 0.0)
    return float(result) if result.ndim == 0 else result


def sum_up(bound: float, slack: float) -> float:
    """Return the smallest float64 at or above `bound + slack` in exact arithmetic: an upper bound on a probability.

    Args:
        bound: Upper bound on a probability, in [0, 1].
        slack: What it may be off by, at least 0.
    """
    total = bound + slack
    # What the float64 sum lost is itself a float64, found exactly by Knuth's TwoSum.
    back = total - bound
    lost = (bound - (total - back)) + (slack - back)
    return float(np.nextafter(total, np.inf)) if lost > 0.0 else total


def floor_text(value: float, digits: int) -> str:
    """Format a non-negative `value` with `digits` decimals, never above the value (a radius of 0.9999 is not 1.000).

    Published codes print radii with the nearest three digits, which may be above what was proved.
    """
    from decimal import ROUND_FLOOR, Decimal, localcontext

    if not np.isfinite(value):
        return str(float(value))
    # The default 28 significant digits do not hold every float64.
    with localcontext(prec=350 + digits):
        return format(Decimal(float(value)).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR), "f")
