"""Strict readers of JSON values: a wrong type is "not there", never something that is quietly converted."""

import math
from typing import Any


def integer(value: Any) -> int | None:
    """Return `value` if it is an integer (true and 1.0 are none), else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: Any) -> float | None:
    """Return `value` as a float if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:  # JSON integers have no largest one
        return None
    return result if math.isfinite(result) else None


def text(value: Any) -> str | None:
    """Return `value` if it is text, else None."""
    return value if isinstance(value, str) else None


def integers(value: Any) -> tuple[int, ...] | None:
    """Return `value` as a tuple if it is a list of integers, else None."""
    if not isinstance(value, list | tuple):
        return None
    found = tuple(integer(item) for item in value)
    known = tuple(item for item in found if item is not None)
    return known if len(known) == len(found) else None


def mapping(value: Any) -> dict[str, Any] | None:
    """Return `value` if it is a JSON object, else None."""
    return value if isinstance(value, dict) else None
