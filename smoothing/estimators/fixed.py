"""The fixed-sample-size estimator of Cohen et al. 2019: n0 votes select the class, n fresh votes bound its probability."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Estimate, Estimator, Look, Phase, Request, Status, checked_look
from smoothing.rounding import complement_down
from smoothing.statistics.arguments import check_positive_integer
from smoothing.statistics.binomial import check_alpha, failure_upper_bound

RIVAL_SHARE = 0.1
"""Share of alpha that the runner-up's bound gets. The top class's bound at 0.9 alpha is hardly worse than at alpha (less
than 0.002 sigma of radius at 100,000 votes), so that little is lost where the runner-up is no weaker than all the rest."""


@dataclass(frozen=True)
class FixedEstimator(Estimator):
    """CERTIFY of Cohen et al. 2019, with the error probability one-sided and spent once.

    The class is chosen from the n0 selection votes only; the n estimation votes are independent of them, so that the
    Clopper-Pearson bound at full alpha holds for whatever class was chosen.

    With `runner_up`, the runner-up's probability is bounded as well, at `RIVAL_SHARE` of alpha, and the top class's at the
    rest, so that both hold together with probability 1 - alpha. No union over classes is needed (Lemma B): the class
    A was chosen before the votes, so max_{c != A} p_c is attained by one fixed class c*; its upper bound at the largest
    rival's count is at least that at its own count, since the bound is monotone in the count, and the latter holds with
    the probability of a single bound. The outcome "invalid" counts as a rival: it could be any class.

    Args:
        n0: Selection votes, at least 1.
        n: Estimation votes, at least 1.
        alpha: One-sided error probability per input, in (0, 1).
        runner_up: Bound the runner-up too, for a two-sided radius; it may certify a class with less than half of the votes.

    Raises:
        InvalidArgumentError: If an argument is out of range.

    Reference: Cohen, Rosenfeld, Kolter 2019, CERTIFY; Clopper and Pearson 1934.
    """

    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    runner_up: bool = False

    name: ClassVar[str] = "fixed"

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        for key in ("n0", "n"):
            check_positive_integer(key, getattr(self, key))
        if not isinstance(self.runner_up, bool):
            raise InvalidArgumentError(f"runner_up must be True or False, got runner_up={self.runner_up!r}")

    def start(self, label: int | None = None) -> "FixedState":
        """Begin one input; the label is not used."""
        return FixedState(self)

    def describe(self) -> dict[str, Any]:
        """Return name and parameters."""
        plain = {"name": self.name, "n0": int(self.n0), "n": int(self.n), "alpha": float(self.alpha)}
        return {**plain, "runner_up": True, "rival_alpha": self.rival_alpha} if self.runner_up else plain

    @property
    def rival_alpha(self) -> float:
        """The error probability of the runner-up's bound; 0.0 where it is not bounded."""
        return RIVAL_SHARE * self.alpha if self.runner_up else 0.0

    @property
    def top_alpha(self) -> float:
        """The error probability of the top class's bound."""
        # One unit in the last place less, so that the two shares never add up to more than alpha.
        return float(np.nextafter(self.alpha - self.rival_alpha, 0.0)) if self.runner_up else self.alpha

    @property
    def max_votes(self) -> int:
        """Both phases together."""
        return int(self.n0) + int(self.n)

    @property
    def best_q_upper(self) -> float:
        """The smallest q_upper that n and alpha can give: all n votes agree, q = 1 - alpha^(1/n)."""
        return failure_upper_bound(0, self.n, self.top_alpha)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Selection, then estimation."""
        return (Phase.SELECT, Phase.ESTIMATE)

    def _refusal(self, previous: Mapping[str, Any]) -> str:
        return (
            "a run of fixed sample size cannot be extended: its bound holds for exactly the n that was fixed before the "
            f"first vote, and looking again after {previous.get('n', 'those')} votes would spend alpha twice, got "
            f"n0={self.n0}, n={self.n}, alpha={self.alpha}; start a new run with another seed, or use --estimator anytime"
        )


class FixedState:
    """Progress of one input: first the selection look, then the estimation look."""

    def __init__(self, estimator: FixedEstimator) -> None:
        self._estimator = estimator
        self._looks: list[Look] = []

    def next_look(self) -> Request | None:
        """Return the selection look, then the estimation look, then None."""
        wanted = (Request(Phase.SELECT, self._estimator.n0), Request(Phase.ESTIMATE, self._estimator.n))
        return wanted[len(self._looks)] if len(self._looks) < len(wanted) else None

    def update(self, phase: Phase, counts: Int64[ndarray, " outcomes"]) -> None:
        """Take in the counts; see `State.update`."""
        self._looks.append(checked_look(self.next_look(), phase, counts))

    def result(self) -> Estimate:
        """Return the estimate; abstains unless the class is proved to lead: p_lower above 1/2, or above rival_upper."""
        if self.next_look() is not None:
            raise InvalidArgumentError("result() needs both looks; the bound holds for exactly n votes and no prefix")
        select, estimate = self._looks
        # The last outcome is "invalid": it can be counted, but never chosen. Ties go to the lowest class.
        top = int(np.argmax(select.counts[:-1]))
        failures = estimate.n - estimate.counts[top]
        q_upper = failure_upper_bound(failures, estimate.n, self._estimator.top_alpha)
        p_lower = complement_down(q_upper)
        rival_upper = None
        if self._estimator.runner_up:
            rival = max(count for outcome, count in enumerate(estimate.counts) if outcome != top)
            # An upper bound on a probability from the count of what it is the probability of: "failures" are the rival's.
            rival_upper = min(q_upper, failure_upper_bound(rival, estimate.n, self._estimator.rival_alpha))
        certified = q_upper < 0.5 or (rival_upper is not None and rival_upper < p_lower)
        return Estimate(
            status=Status.CERTIFIED if certified else Status.ABSTAINED,
            prediction=top if certified else None,
            p_lower=p_lower,
            q_upper=q_upper,
            rival_upper=rival_upper,
            alpha=self._estimator.alpha,
            looks=(select, estimate),
        )
