"""What an estimator is: a policy over votes that knows neither classifier nor noise, and runs nothing itself.

An input's votes form one fixed sequence per phase. A state says how long a prefix it wants to see (`next_look`), is shown
the counts over that whole prefix (`update`), and in the end says what they prove (`result`). Decisions see nothing but
counts over prefixes, so that no timing, batch size or order of work can influence them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from smoothing.errors import InvalidArgumentError


class ExtensionRefusedError(InvalidArgumentError):
    """A finished run may not be continued in the way asked for: its alpha would be spent twice, or differently."""


class Phase(Enum):
    """What votes are drawn for; every phase has noise of its own, so that none reuses another's samples."""

    SELECT = "select"
    ESTIMATE = "estimate"
    PREDICT = "predict"
    PILOT = "pilot"
    ATTACK = "attack"

    def __str__(self) -> str:
        return str(self.value)


class Status(Enum):
    """What an estimate proves."""

    CERTIFIED = "certified"
    """The prediction is proved to lead; a radius follows from p_lower (and from rival_upper)."""
    REFUTED = "refuted"
    """The claim that was tested is shown to be false, at the estimator's own error probability for that (beta)."""
    UNDECIDED = "undecided"
    """The votes that were allowed did not suffice to decide the claim, or more did not seem worth their price."""
    ABSTAINED = "abstained"
    """No class is proved to be the prediction, by an estimator that tests no claim."""

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Look:
    """The counts of one look: outcomes 0..K-1 and "invalid" over samples [0, n) of a phase."""

    phase: Phase
    n: int
    counts: tuple[int, ...]


class Request(NamedTuple):
    """What a state wants to see next: the counts over samples [0, n) of `phase`."""

    phase: Phase
    n: int


@dataclass(frozen=True)
class Decision:
    """What the votes say of one radius of a grid.

    Attributes:
        radius: The radius that was tested, in input units.
        status: CERTIFIED, REFUTED or UNDECIDED.
    """

    radius: float
    status: Status


@dataclass(frozen=True)
class Estimate:
    """What the votes of one input prove, at error probability `alpha`.

    Attributes:
        status: See `Status`.
        prediction: The class, None when abstained.
        p_lower: Lower confidence bound on its probability.
        q_upper: Upper confidence bound on 1 - p, at full relative precision however small; p_lower is 1 - q_upper.
        rival_upper: Upper bound on the runner-up's probability, None where it is just 1 - p.
        alpha: Probability, over the noise, that the bounds do not hold.
        looks: Every look at the votes, in order: the evidence.
        decisions: One per radius of the grid, in increasing order, where the estimator tests a grid; else empty. Then the
            status is that of the smallest radius, and p_lower and q_upper are those of the largest certified one: what
            was proved is p > 1 - q_upper.
    """

    status: Status
    prediction: int | None
    p_lower: float
    q_upper: float
    rival_upper: float | None
    alpha: float
    looks: tuple[Look, ...]
    decisions: tuple[Decision, ...] = ()


@runtime_checkable
class State(Protocol):
    """The progress of one input through an estimator."""

    def next_look(self) -> Request | None:
        """Return the phase and prefix length wanted next, or None when the result is settled."""
        ...

    def update(self, phase: Phase, counts: Int64[ndarray, " outcomes"]) -> None:
        """Take in the counts over the whole prefix that `next_look` asked for.

        Raises:
            InvalidArgumentError: If the phase, or the total of the counts, is not what was asked for.
        """
        ...

    def result(self) -> Estimate:
        """Return what the votes so far prove.

        Raises:
            InvalidArgumentError: If looks are still missing.
        """
        ...


class Estimator(ABC):
    """A policy; thresholds, alpha and sample sizes are constructor arguments."""

    name: ClassVar[str]

    alpha: float

    @abstractmethod
    def start(self, label: int | None = None) -> State:
        """Begin one input; `label` is for policies that test the label itself.

        Raises:
            InvalidArgumentError: If `needs_label` and there is none.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return name and parameters as JSON-ready data: part of a run's identity."""

    @property
    @abstractmethod
    def max_votes(self) -> int | None:
        """Votes per input at most, all phases together; None where there is no cap."""

    @property
    @abstractmethod
    def best_q_upper(self) -> float:
        """The smallest q_upper that an estimate can carry: what the largest possible radius follows from."""

    @property
    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """The phases that votes are asked of, in order."""

    @property
    def needs_label(self) -> bool:
        """Whether `start` must be told the label, because the label itself is what is tested."""
        return False

    def may_extend(self, previous: Mapping[str, Any]) -> None:
        """Return if inputs begun by the estimator described by `previous` may be continued by this one.

        Args:
            previous: What its `describe` returned.

        Raises:
            ExtensionRefusedError: If they may not; the message says why. An estimator that is the same may always.
        """
        if dict(previous) != self.describe():
            raise ExtensionRefusedError(self._refusal(previous))

    def _refusal(self, previous: Mapping[str, Any]) -> str:
        """Say why no other estimator's run can be continued by this one."""
        return (
            f"a run may be continued only by an estimator that allows it, and {self.name} allows none: its error "
            f"probability holds for the plan that was fixed before the first vote, got {self.describe()} after "
            f"{dict(previous)}; start a new run with another seed"
        )


def checked_look(wanted: Request | None, phase: Phase, counts: Int64[ndarray, " outcomes"]) -> Look:
    """Return `counts` as the look that was `wanted`.

    Raises:
        InvalidArgumentError: If they are of another phase, or their total is not what was asked for, or one is negative.
    """
    total = int(counts.sum())
    if wanted is None or phase is not wanted.phase or total != wanted.n or int(counts.min()) < 0:
        asked = "none" if wanted is None else f"{wanted.n} votes of phase {wanted.phase}"
        raise InvalidArgumentError(
            f"the look must be the one that is wanted ({asked}), got {total} votes of phase {phase}"
        )
    return Look(phase, total, tuple(int(count) for count in counts))


def replay(estimator: Estimator, looks: Iterable[Look], label: int | None = None) -> State:
    """Return the state that an input is in after the recorded `looks`.

    What a state asks for is a function of the looks so far, so that a resumed input goes on exactly as an uninterrupted one.

    Args:
        estimator: The estimator that asked for the looks, or one that `may_extend` it.
        looks: The recorded looks, in order.
        label: The input's label, where the estimator needs it.

    Raises:
        InvalidArgumentError: If a recorded look is not the one that the estimator asks for.
    """
    state = estimator.start(label)
    for look in looks:
        wanted = state.next_look()
        if wanted is None or (look.phase, look.n) != (wanted.phase, wanted.n):
            asked = "nothing more" if wanted is None else f"{wanted.n} votes of phase {wanted.phase}"
            raise InvalidArgumentError(
                f"recorded looks must be those that the estimator asks for, here {asked}, got {look.n} of {look.phase}"
            )
        state.update(look.phase, np.asarray(look.counts, dtype=np.int64))
    return state
