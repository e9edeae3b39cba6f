"""Canaries: known images that show whether a service that reports no version has changed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jaxtyping import UInt8
from numpy import ndarray

from certify.errors import UsageError


@dataclass
class Canaries:
    """Images whose labels are asked for before, during and after a run.

    The votes of an input are only as good as the assumption that one and the same service gave them. Where the service
    says its version, that is compared; where it does not, these labels are. Meaningless for a service that is random by
    design, and then left out.

    Args:
        images: uint8, [count, height, width, channel].
        every: Seconds between two checks.
        clock: Source of time, for tests.
        expected: Labels of an earlier check, for a run that is resumed; None: those of the first check.
        room: Says whether the budget has room for a check by the clock, beside the first one and those after each look;
            None: always. With fewer of them more inputs are void where the service changes, but no vote counts unwatched.

    Raises:
        UsageError: If there is no image, or `every` is not positive.
    """

    images: UInt8[ndarray, "count height width channel"]
    every: float | int = 600.0
    clock: Callable[[], float] = time.monotonic
    expected: tuple[str | None, ...] | None = None
    room: Callable[[], bool] | None = None
    _last: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not len(self.images) or not self.every > 0:
            raise UsageError(f"canaries need at least one image and a positive interval, got every={self.every}")

    @property
    def begun(self) -> bool:
        """Whether a check was made by this object."""
        return self._last is not None

    @property
    def due(self) -> bool:
        """Whether it is time for a check, and the budget has room for it."""
        if self._last is None:
            return True
        return self.clock() - self._last >= self.every and (self.room is None or self.room())

    def compare(self, labels: Sequence[str | None]) -> bool:
        """Take in a check; return whether the service still answers as it did at first."""
        self._last = self.clock()
        if self.expected is None:
            self.expected = tuple(labels)
        return tuple(labels) == self.expected
