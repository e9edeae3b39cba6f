"""What every statistical function asks of its arguments: whole counts, and probabilities that are probabilities."""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Integer
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.statistics.tail import MAX_VOTES


def check_alpha(alpha: object) -> None:
    """Raise unless `alpha` is one number strictly between 0 and 1.

    Raises:
        InvalidArgumentError: If it is not; NaN, booleans, text and arrays are not.
    """
    if as_probabilities("alpha", alpha, closed=False).ndim:
        raise InvalidArgumentError(f"alpha must be one number, got alpha={alpha!r}")


def check_positive_integer(name: str, value: object) -> None:
    """Raise unless `value` is an integer of at least 1; booleans are not.

    Raises:
        InvalidArgumentError: If it is not; the message calls it `name`.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidArgumentError(f"{name} must be an integer of at least 1, got {name}={value!r}")


def as_probabilities(name: str, value: object, *, closed: bool) -> Float64[ndarray, "..."]:
    """Return `value` as a float64 array with every element in (0, 1), or in [0, 1] if `closed`.

    Raises:
        InvalidArgumentError: If an element is outside, or not a number; the message calls it `name`.
    """
    rule = f"{name} must be in {'[0, 1]' if closed else '(0, 1)'}, got {name}="
    array = _as_array(value)
    if array.dtype.kind not in "iuf":
        raise InvalidArgumentError(f"{rule}{value!r}")
    array = array.astype(np.float64)
    inside = (array >= 0.0) & (array <= 1.0) if closed else (array > 0.0) & (array < 1.0)
    if not inside.all():
        raise InvalidArgumentError(f"{rule}{array[~inside].flat[0]}")
    return np.asarray(array)


def as_integers(name: str, value: object) -> Integer[ndarray, "..."]:
    """Return `value` as an array of an integer dtype.

    Raises:
        InvalidArgumentError: If it holds anything else. Floats that happen to be whole are refused too, because counts
            in float32 lose votes silently above 2^24.
    """
    array = _as_array(value)
    if array.dtype.kind not in "iu":
        raise InvalidArgumentError(f"{name} must be a 64-bit integer, or an array of them, got {name}={value!r}")
    return np.asarray(array)


def as_counts(
    name: str, failures: object, n: object
) -> tuple[Int64[ndarray, "*failures_shape"], Int64[ndarray, "*n_shape"]]:
    """Return `failures` and `n` as int64 arrays with 1 <= n <= MAX_VOTES, and 0 <= failures <= n where they meet.

    Raises:
        InvalidArgumentError: If they are not so; the message calls the first of them `name`.
    """
    count, total = as_integers(name, failures), as_integers("n", n)
    bad_total = (total < 1) | (total > MAX_VOTES)
    if bad_total.any():
        raise InvalidArgumentError(f"n must be in [1, {MAX_VOTES}], got n={total[bad_total].flat[0]}")
    counts, totals = broadcast(count, total)
    bad_count = (counts < 0) | (counts > totals)
    if bad_count.any():
        where = f"{name}={counts[bad_count].flat[0]} with n={totals[bad_count].flat[0]}"
        raise InvalidArgumentError(f"{name} must be in [0, n], got {where}")
    return count.astype(np.int64), total.astype(np.int64)


def broadcast(*arrays: ndarray) -> tuple[ndarray, ...]:
    """Return the arrays broadcast against each other.

    Raises:
        InvalidArgumentError: If their shapes do not fit.
    """
    try:
        return tuple(np.broadcast_arrays(*arrays))
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise InvalidArgumentError(f"the arguments' shapes must broadcast against each other, got {shapes}") from None


def _as_array(value: object) -> Any:
    """Return `value` as an array; of objects, which nobody accepts, where numpy cannot read it."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        return np.empty((), dtype=object)
