"""When to stop: a limit that a method asks between its steps, so that it can be cut short with what it has."""

import math
import time
from dataclasses import dataclass, field

from smoothing.errors import InvalidArgumentError


@dataclass(eq=False)
class Deadline:
    """The end of a span that begins when the object is made.

    Attributes:
        limit: Seconds; None for no end.
        reached: Whether `over` has ever answered yes: whether anything was left out because of it.

    Raises:
        InvalidArgumentError: If the limit is not positive.
    """

    limit: float | int | None
    reached: bool = False
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        require_limit(self.limit)
        self._end = math.inf if self.limit is None else time.monotonic() + self.limit

    def over(self) -> bool:
        """Return whether the time is over; remembers a yes."""
        self.reached = self.reached or time.monotonic() >= self._end
        return self.reached


def require_limit(limit: float | int | None) -> None:
    """Check a limit in seconds.

    Raises:
        InvalidArgumentError: If it is neither positive nor None.
    """
    if limit is not None and not limit > 0:
        raise InvalidArgumentError(f"time_limit must be positive or None, got time_limit={limit}")
