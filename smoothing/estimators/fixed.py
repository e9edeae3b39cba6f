"""The fixed-sample-size estimator of Cohen et al. 2019: n0 votes select the class, n fresh votes bound its probability."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Estimate, Estimator, Look, Phase, Request, Status
from smoothing.rounding import complement_down
from smoothing.statistics.binomial import check_alpha, failure_upper_bound


@dataclass(frozen=True)
class FixedEstimator(Estimator):
    """CERTIFY of Cohen et al. 2019, with the error probability one-sided and spent once.

    The class is chosen from the n0 selection votes only; the n estimation votes are independent of them, so that the
    Clopper-Pearson bound at full alpha holds for whatever class was chosen.

    Args:
        n0: Selection votes, at least 1.
        n: Estimation votes, at least 1.
        alpha: One-sided error probability per input, in (0, 1).

    Raises:
        InvalidArgumentError: If an argument is out of range.
    """

    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001

    name: ClassVar[str] = "fixed"

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        for key in ("n0", "n"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise InvalidArgumentError(f"{key} must be an integer of at least 1, got {key}={value!r}")

    def start(self, label: int | None = None) -> "FixedState":
        """Begin one input; the label is not used."""
        return FixedState(self)

    def describe(self) -> dict[str, Any]:
        """Return name and parameters."""
        return {"name": self.name, "n0": int(self.n0), "n": int(self.n), "alpha": float(self.alpha)}

    @property
    def best_q_upper(self) -> float:
        """The smallest q_upper that n and alpha can give: all n votes agree, q = 1 - alpha^(1/n)."""
        return failure_upper_bound(0, self.n, self.alpha)


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
        wanted = self.next_look()
        if wanted is None or phase is not wanted.phase or int(counts.sum()) != wanted.n:
            raise InvalidArgumentError(f"the look wanted is {wanted}, got {int(counts.sum())} votes of phase {phase}")
        self._looks.append(Look(phase, wanted.n, tuple(int(c) for c in counts)))

    def result(self) -> Estimate:
        """Return the estimate; abstains unless p_lower is above 1/2."""
        if self.next_look() is not None:
            raise InvalidArgumentError("result() needs both looks; the bound holds for exactly n votes and no prefix")
        select, estimate = self._looks
        # The last outcome is "invalid": it can be counted, but never chosen. Ties go to the lowest class.
        top = int(np.argmax(select.counts[:-1]))
        failures = estimate.n - estimate.counts[top]
        q_upper = failure_upper_bound(failures, estimate.n, self._estimator.alpha)
        certified = q_upper < 0.5
        return Estimate(
            status=Status.CERTIFIED if certified else Status.ABSTAINED,
            prediction=top if certified else None,
            p_lower=complement_down(q_upper),
            q_upper=q_upper,
            rival_upper=None,
            alpha=self._estimator.alpha,
            looks=(select, estimate),
        )
