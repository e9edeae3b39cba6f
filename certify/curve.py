"""Certified accuracy while a run is going on: at each radius, how much of it is known."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smoothing.estimators.base import Decision, Status


@dataclass(frozen=True)
class Curve:
    """At each radius of a grid, how many inputs are certified with the right class, and how many are still open.

    Attributes:
        radii: The grid.
        certified: Inputs that are certified there already.
        open: Inputs that may still become so; 0 at the end of a run.
        total: All inputs.
    """

    radii: tuple[float, ...]
    certified: tuple[int, ...]
    open: tuple[int, ...]
    total: int

    def text(self) -> str:
        """Return the curve in a line: a share where it is settled, an interval where inputs are open."""
        parts = []
        for radius, done, left in zip(self.radii, self.certified, self.open, strict=True):
            low, high = 100 * done / self.total, 100 * (done + left) / self.total
            parts.append(f"{radius:g}: {low:.1f}%" if left == 0 else f"{radius:g}: {low:.1f}-{high:.1f}%")
        return "  ".join(parts)


@dataclass(frozen=True)
class Standing:
    """Where one input stands: what is decided of each radius, and whether it is right and finished."""

    decisions: Sequence[Decision]
    right: bool
    finished: bool


def curve_of(radii: Sequence[float], standings: Iterable[Standing], waiting: int = 0) -> Curve:
    """Return the curve over inputs that are finished or under way.

    Args:
        radii: The grid.
        standings: One per input that has had a look.
        waiting: Inputs that have had none: open at every radius.
    """
    certified, undecided, total = [0] * len(radii), [waiting] * len(radii), waiting
    for standing in standings:
        total += 1
        for k, decision in enumerate(standing.decisions):
            if decision.status is Status.CERTIFIED:
                certified[k] += standing.right
            elif decision.status is Status.UNDECIDED and not standing.finished:
                undecided[k] += 1
    return Curve(tuple(radii), tuple(certified), tuple(undecided), total)
