"""Near-ties: votes that a last bit decides, and the differences between two counts that they can explain."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class NearTie:
    """A sample whose two best scores nearly agree, so that another batch shape may turn its vote.

    Attributes:
        sample: Index of the sample within its phase.
        best: Class that it votes for in the replay.
        second: Class that it may have voted for in the run.
        margin: Difference of the two scores.
        scale: Largest absolute score of the sample.
    """

    sample: int
    best: int
    second: int
    margin: float
    scale: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return asdict(self)


def explained(recorded: Sequence[int], counted: Sequence[int], near_ties: Sequence[NearTie]) -> bool:
    """Return whether turning some of the near-ties leads from the counted votes to the recorded ones.

    Each near-tie can move one vote from its best class to its second, and no other vote can move: the surplus of every
    class must be able to flow to where votes are missing along near-ties used once each. In particular half the sum of
    the absolute differences is then at most the number of near-ties that involve the classes which differ. An invalid
    vote has no margin, so that no near-tie explains it.

    Args:
        recorded: Counts of the run, K + 1 outcomes.
        counted: Counts of the replay.
        near_ties: Those of the replay.
    """
    surplus = [after - before for before, after in zip(recorded, counted, strict=True)]
    if sum(surplus) != 0:
        return False
    capacity = Counter((tie.best, tie.second) for tie in near_ties)
    for source, excess in enumerate(surplus):
        for _ in range(max(excess, 0)):
            path = _path(source, surplus, capacity)
            if path is None:
                return False
            for start, end in pairwise(path):
                capacity[start, end] -= 1
                capacity[end, start] += 1  # taking a moved vote back is allowed later (Ford and Fulkerson 1956)
            surplus[source] -= 1
            surplus[path[-1]] += 1
    return True


def _path(source: int, surplus: Sequence[int], capacity: Counter[tuple[int, int]]) -> list[int] | None:
    """Return a shortest chain of unused near-ties from `source` to an outcome with missing votes."""
    paths = [[source]]
    reached = {source}
    while paths:
        longer = []
        for path in paths:
            if surplus[path[-1]] < 0:
                return path
            for (start, end), left in capacity.items():
                if start == path[-1] and left > 0 and end not in reached:
                    reached.add(end)
                    longer.append([*path, end])
        paths = longer
    return None
