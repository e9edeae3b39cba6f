"""What an estimator is: a policy over votes that knows neither classifier nor noise, and runs nothing itself.

An input's votes form one fixed sequence per phase. A state says how long a prefix it wants to see (`next_look`), is shown
the counts over that whole prefix (`update`), and in the end says what they prove (`result`). Decisions see nothing but
counts over prefixes, so that no timing, batch size or order of work can influence them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Int64
from numpy import ndarray


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
    """The top class has more than half of the probability; a radius follows from p_lower."""
    REFUTED = "refuted"
    """The claim that was tested is shown to be false."""
    UNDECIDED = "undecided"
    """The votes that were allowed did not suffice to decide the claim."""
    ABSTAINED = "abstained"
    """No class is proved to be the prediction."""

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
    """

    status: Status
    prediction: int | None
    p_lower: float
    q_upper: float
    rival_upper: float | None
    alpha: float
    looks: tuple[Look, ...]


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

    @abstractmethod
    def start(self, label: int | None = None) -> State:
        """Begin one input; `label` is for policies that test the label itself."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return name and parameters as JSON-ready data: part of a run's identity."""
