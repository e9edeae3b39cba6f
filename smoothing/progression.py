"""One input on its way through an estimator: which votes have arrived, which of them its state has seen."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, Integer
from numpy import ndarray

from smoothing.estimators.base import Look, Phase, Request, State
from smoothing.votes import VoteRequest


class Progression:
    """The votes of one input.

    Args:
        index: The input's key.
        state: Its state, which wants at least one more look.
        seen: The looks that the state has behind it, in order.

    Attributes:
        wanted: The look that the state waits for; None at its end.
        reached: Phase -> (n, counts over [0, n)) of the last look.
        asked: Samples of the wanted phase that have been asked for, from 0.
    """

    def __init__(self, index: int, state: State, seen: Sequence[Look] = ()) -> None:
        self.index = index
        self.state = state
        self.reached: dict[Phase, tuple[int, Int64[ndarray, " outcomes"]]] = {
            look.phase: (look.n, np.array(look.counts, dtype=np.int64)) for look in seen
        }
        self.wanted: Request | None = None
        self.asked = 0
        self.looks = len(seen)
        self._waiting: dict[int, Integer[ndarray, " samples"]] = {}
        self._turn()

    @property
    def done(self) -> int:
        """Samples of the wanted phase that the state has seen."""
        return 0 if self.wanted is None else self.reached.get(self.wanted.phase, (0, None))[0]

    @property
    def missing(self) -> int:
        """Samples up to the wanted look that have not been asked for; at most 0 if all have."""
        return 0 if self.wanted is None else self.wanted.n - self.asked

    @property
    def horizon(self) -> int:
        """The longest prefix of this phase that the state may come to want."""
        if self.wanted is None:
            return 0
        reach = getattr(self.state, "horizon", None)
        return self.wanted.n if reach is None else max(self.wanted.n, int(reach(self.wanted.phase)))

    @property
    def expected_votes(self) -> float:
        """How much work the state expects to be left, or 0.0 where it does not say."""
        expects = getattr(self.state, "expected_votes", None)
        return 0.0 if expects is None else float(expects())

    def store(self, request: VoteRequest, outcomes: Integer[ndarray, " samples"]) -> None:
        """Keep what has arrived; votes of a phase that is over are dropped unseen."""
        if self.wanted is None or request.phase is not self.wanted.phase:
            return
        # A phase that is taken up again may have been asked for twice; the longer answer contains the other.
        if len(outcomes) > len(self._waiting.get(request.start, ())):
            self._waiting[request.start] = outcomes

    def look(self, outcomes: int) -> Look | None:
        """Show the state the look that it waits for, if its prefix has arrived, and return the look; else None.

        Args:
            outcomes: Number of outcomes, K + 1.
        """
        if self.wanted is None:
            return None
        phase, n = self.wanted
        done, counts = self.reached.get(phase, (0, np.zeros(outcomes, dtype=np.int64)))
        parts = []
        end = done
        while end < n:
            part = self._waiting.get(end)
            if part is None:
                return None
            parts.append((end, part))
            end += len(part)
        counts = counts.copy()
        for start, part in parts:
            del self._waiting[start]
            # Exactly the prefix: what lies beyond it stays where nobody looks at it.
            used = min(len(part), n - start)
            counts += np.bincount(part[:used], minlength=outcomes)
            if used < len(part):
                self._waiting[n] = part[used:]
        self.reached[phase] = (n, counts)
        self.state.update(phase, counts.copy())
        self.looks += 1
        self._turn()
        return Look(phase, n, tuple(int(count) for count in counts))

    def _turn(self) -> None:
        """Read what the state wants next; a new phase starts where its last look ended."""
        before = self.wanted
        self.wanted = self.state.next_look()
        if self.wanted is None or (before is not None and before.phase is self.wanted.phase):
            return
        self._waiting.clear()
        self.asked = self.done
