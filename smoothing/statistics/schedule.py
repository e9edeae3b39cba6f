"""When to look: after numbers of votes that grow by a fixed ratio, the same for every input, radius and level.

A schedule depends on nothing that was seen, and on no radius, so that a run can be continued with further radii.
"""

import math
from collections.abc import Iterator
from itertools import takewhile

from smoothing.errors import InvalidArgumentError
from smoothing.statistics.arguments import check_positive_integer

FIRST = 4
"""Votes at the first look: nothing is decided on fewer at the published levels."""


def geometric_looks(ratio: float, first: int = FIRST) -> Iterator[int]:
    """Yield numbers of votes, without end, each the smallest integer at least `ratio` times the one before, and above it.

    Raises:
        InvalidArgumentError: If the ratio is not in (1, 2], or `first` not at least 1.

    Example:
        >>> from itertools import islice
        >>> list(islice(geometric_looks(1.5), 6))
        [4, 6, 9, 14, 21, 32]
    """
    check_ratio(ratio)
    check_positive_integer("first", first)
    n = int(first)
    while True:
        yield n
        n = max(n + 1, math.ceil(n * ratio))


def capped_looks(ratio: float, cap: int, first: int = FIRST) -> tuple[int, ...]:
    """Return the looks of `geometric_looks` below `cap`, and `cap`.

    Raises:
        InvalidArgumentError: As `geometric_looks`, or if the cap is not at least 1.

    Example:
        >>> capped_looks(1.5, 20)
        (4, 6, 9, 14, 20)
    """
    check_positive_integer("cap", cap)
    return (*takewhile(lambda n: n < cap, geometric_looks(ratio, first)), int(cap))


def check_ratio(ratio: float) -> None:
    """Raise unless `ratio` is in (1, 2].

    Raises:
        InvalidArgumentError: If not.
    """
    if not 1.0 < ratio <= 2.0:
        raise InvalidArgumentError(f"ratio must be in (1, 2], got ratio={ratio}")
