"""What every statistical function asks of its arguments: whole counts, and an error probability strictly between 0 and 1."""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.statistics.tail import MAX_VOTES


def check_alpha(alpha: object) -> None:
    """Raise unless `alpha` is a number strictly between 0 and 1.

    Raises:
        InvalidArgumentError: If it is not; NaN, booleans and text are not.
    """
    number = isinstance(alpha, int | float | np.integer | np.floating) and not isinstance(alpha, bool)
    if not number or not 0.0 < float(alpha) < 1.0:  # type: ignore[arg-type]
        raise InvalidArgumentError(f"alpha must be in (0, 1), got alpha={_shown(alpha)}")


def check_positive_count(name: str, value: object) -> None:
    """Raise unless `value` is one integer in [1, MAX_VOTES].

    Raises:
        InvalidArgumentError: If it is not; the message calls it `name`.
    """
    if np.ndim(as_integers(name, value)) or not 1 <= int(value) <= MAX_VOTES:  # type: ignore[call-overload]
        raise InvalidArgumentError(f"{name} must be an integer in [1, {MAX_VOTES}], got {name}={_shown(value)}")


def as_counts(
    failures: object, n: object, what: str = "failures"
) -> tuple[Int64[ndarray, "..."], Int64[ndarray, "..."]]:
    """Return `failures` and `n` as int64 arrays that broadcast, with 0 <= failures <= n and 1 <= n <= MAX_VOTES.

    Raises:
        InvalidArgumentError: If they do not; the message calls the first of them `what`.
    """
    count, total = as_integers(what, failures), as_integers("n", n)
    bad_total = (total < 1) | (total > MAX_VOTES)
    if bad_total.any():
        value = total[bad_total].flat[0]
        raise InvalidArgumentError(f"n must be in [1, {MAX_VOTES}], got n={value}")
    count, total = broadcast(count, total)
    bad_count = (count < 0) | (count > total)
    if bad_count.any():
        value, at = count[bad_count].flat[0], total[bad_count].flat[0]
        raise InvalidArgumentError(f"{what} must be in [0, n], got {what}={value} with n={at}")
    return count.astype(np.int64), total.astype(np.int64)


def as_integers(name: str, value: object) -> Any:
    """Return `value` as an array of an integer dtype.

    Raises:
        InvalidArgumentError: If it holds anything else: floats that happen to be whole are refused too, because float32
            counts lose votes silently above 2^24.
    """
    array = _as_array(value)
    if array is None or array.dtype.kind not in "iu":
        raise InvalidArgumentError(f"{name} must be an integer or an array of integers, got {name}={_shown(value)}")
    return array


def as_probabilities(
    name: str, value: object, *, closed: bool
) -> Float64[ndarray, "..."]:
    """Return `value` as a float64 array with every element in (0, 1), or in [0, 1] if `closed`.

    Raises:
        InvalidArgumentError: If an element is outside, or not a number.
    """
    interval = "[0, 1]" if closed else "(0, 1)"
    array = _as_array(value)
    if array is None or array.dtype.kind not in "iuf":
        raise InvalidArgumentError(f"{name} must be in {interval}, got {name}={_shown(value)}")
    array = array.astype(np.float64)
    inside: Bool[ndarray, "..."] = (array >= 0.0) & (array <= 1.0) if closed else (array > 0.0) & (array < 1.0)
    if not inside.all():
        raise InvalidArgumentError(f"{name} must be in {interval}, got {name}={_shown(array[~inside].flat[0])}")
    return array


def broadcast(*arrays: Any) -> tuple[Any, ...]:
    """Return the arrays broadcast against each other.

    Raises:
        InvalidArgumentError: If their shapes do not fit.
    """
    try:
        return tuple(np.broadcast_arrays(*arrays))
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise InvalidArgumentError(f"the shapes of the arguments must broadcast, got {shapes}") from None


def _as_array(value: object) -> Any:
    """Return `value` as an array, None if it is ragged."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError):
        return None


def _shown(value: object) -> str:
    """Return `value` as an error message shows it: numpy scalars like Python's."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return repr(value)
