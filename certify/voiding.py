"""Inputs that turn out void while they are worked on: what was counted of them before falls with the rest.

The votes of an input are votes of one classifier, or they prove nothing. That it was another one is known only after a part
of them was counted, and looks and decisions were made from that part: these must not stand, at whatever look they were made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from smoothing.estimators.base import Estimate, Look, Phase, Request, State, Status


@runtime_checkable
class Voiding(Protocol):
    """A source of votes that says which inputs are void, by all that it was told of them so far."""

    def voided(self, index: int) -> bool:
        """Return whether all votes of an input count as invalid, those that were counted before too."""
        ...

    def settle(self, looks: Mapping[int, Sequence[Look]]) -> None:
        """See to it that the votes of void inputs are on record without a gap, up to these looks at them.

        Args:
            looks: Void input -> all looks at it.

        Raises:
            ServiceError: If they are not, and cannot be.
        """
        ...


class VoidableState:
    """The state of an input that may become void, and then starts again with nothing but invalid votes.

    These need not be asked for, so that such an input is at its end as soon as a look finds it void.

    Args:
        state: The state that its looks so far have led to.
        start: Returns the state before the first look.
        outcomes: Number of outcomes, K + 1; the last is "invalid".
        is_void: Says whether the input is void by now.

    Attributes:
        annulled: Whether the state follows from invalid votes alone.
    """

    def __init__(self, state: State, start: Callable[[], State], outcomes: int, is_void: Callable[[], bool]) -> None:
        self.annulled = False
        self._state, self._start, self._outcomes, self._is_void = state, start, outcomes, is_void

    def next_look(self) -> Request | None:
        """See `State.next_look`."""
        return self._state.next_look()

    def update(self, phase: Phase, counts: Int64[ndarray, " outcomes"]) -> None:
        """Take in counts, unless the input is void by now: they may hold votes of before and after the change."""
        if not self.annul():
            self._state.update(phase, counts)

    def result(self) -> Estimate:
        """See `State.result`; a void input refutes nothing either."""
        estimate = self._state.result()
        if not self.annulled:
            return estimate
        decisions = tuple(replace(decision, status=_without_proof(decision.status)) for decision in estimate.decisions)
        return replace(estimate, status=_without_proof(estimate.status), decisions=decisions)

    def annul(self) -> bool:
        """Bring the state to the end of a void input if the input is void; return whether it is."""
        if not self.annulled and self._is_void():
            state = self._start()
            while (wanted := state.next_look()) is not None:
                counts = np.zeros(self._outcomes, dtype=np.int64)
                counts[-1] = wanted.n
                state.update(wanted.phase, counts)
            self._state, self.annulled = state, True
        return self.annulled


def _without_proof(status: Status) -> Status:
    """Invalid votes certify nothing, but may refute: of a refusal that is right, of votes that nobody can vouch for not."""
    return Status.UNDECIDED if status is Status.REFUTED else status
