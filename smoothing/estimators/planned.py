"""The planned estimator: a pilot says how many fresh votes a radius of the wanted precision needs; then n is fixed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy.special import betainccinv, betaincinv, ndtri

from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Estimate, Estimator, Look, Phase, Request, Status, checked_look
from smoothing.estimators.grid import Mode, check_mode, label_of
from smoothing.rounding import complement_down
from smoothing.statistics.arguments import check_positive_integer
from smoothing.statistics.binomial import check_alpha, failure_upper_bound

_NODES = 32
_HOPELESS = 0.01
"""Predictive chance of certifying anything with n_max votes below which no more votes are asked for."""


@dataclass(frozen=True)
class PlannedEstimator(Estimator):
    """Certifies a radius within a wanted precision of what `n_max` votes would give, with as few votes as that takes.

    Sound whatever the plan: n is a function of the pilot's votes, which are then discarded, and the bound of Clopper and
    Pearson holds at full alpha for n fresh votes and the class that was named beforehand. The precision is that of
    Phi^-1(p_lower), which is the radius over sigma for Gaussian noise, and a guide to it for other laws.

    Args:
        pilot: Votes of the pilot, which name the class (in free mode) and the plan.
        n_max: Votes of the estimate at most.
        precision: Wanted loss of radius against `n_max` votes, as a share of it and on average, in (0, 1).
        alpha: One-sided error probability per input, in (0, 1).
        mode: "label" bounds the probability of the label; "free" that of the pilot's leading class.

    Raises:
        InvalidArgumentError: If an argument is out of range.

    Reference: Chen, Wang, Zhang, Li 2022, "Input-specific robustness certification for randomized smoothing" (whose
    published code reuses the pilot's votes, so that its bound does not hold); Clopper and Pearson 1934.
    """

    pilot: int = 1_000
    n_max: int = 100_000
    precision: float = 0.05
    alpha: float = 0.001
    mode: Mode = "label"

    name: ClassVar[str] = "planned"

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_mode(self.mode)
        check_positive_integer("pilot", self.pilot)
        check_positive_integer("n_max", self.n_max)
        if not 0.0 < self.precision < 1.0:
            raise InvalidArgumentError(f"precision must be in (0, 1), got precision={self.precision}")

    def start(self, label: int | None = None) -> "PlannedState":
        """Begin one input.

        Raises:
            InvalidArgumentError: If the mode is "label" and there is none.
        """
        return PlannedState(self, label_of(self.mode, label))

    def describe(self) -> dict[str, Any]:
        """Return name and parameters."""
        return {
            "name": self.name,
            "pilot": int(self.pilot),
            "n_max": int(self.n_max),
            "precision": float(self.precision),
            "alpha": float(self.alpha),
            "mode": self.mode,
        }

    @property
    def max_votes(self) -> int:
        """Pilot and estimate together."""
        return int(self.pilot) + int(self.n_max)

    @property
    def best_q_upper(self) -> float:
        """All of n_max votes agree."""
        return failure_upper_bound(0, self.n_max, self.alpha)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Pilot, then estimation."""
        return (Phase.PILOT, Phase.ESTIMATE)

    @property
    def needs_label(self) -> bool:
        """In label-directed mode."""
        return self.mode == "label"

    def _refusal(self, previous: Mapping[str, Any]) -> str:
        return (
            "a planned run cannot be extended: its bound holds for exactly the n that its pilot named, and further votes "
            f"would spend alpha twice, got {self.describe()} after {dict(previous)}; start a new run with another seed"
        )


def planned_votes(failures: int, pilot: int, n_max: int, precision: float, alpha: float) -> int:
    """Return the votes to ask for after a pilot with so many `failures`; 0 where nothing is likely to be certified.

    The smallest n of a fine grid for which E[R(n)] >= (1 - precision) E[R(n_max)], where R is the positive part of
    Phi^-1 of the bound at the expected count, and the expectation is over the posterior law Beta(f + 1/2, m - f + 1/2).

    Args:
        failures: Votes of the pilot for anything but the class.
        pilot: m, votes of the pilot.
        n_max: Largest answer.
        precision: See `PlannedEstimator`.
        alpha: Level of the bound.
    """
    rates, weights = _posterior(failures, pilot)
    best = _expected_radius(np.array([float(n_max)]), rates, alpha)[0]
    if weights @ (best > 0.0) < _HOPELESS:
        return 0
    grid = np.unique(np.rint(np.geomspace(min(16, n_max), n_max, 400)))
    mean = _expected_radius(grid, rates, alpha) @ weights
    enough = np.flatnonzero(mean >= (1.0 - precision) * (weights @ best))
    return int(grid[enough[0]]) if enough.size else n_max


@lru_cache(maxsize=4096)
def _plan(failures: int, pilot: int, n_max: int, precision: float, alpha: float) -> int:
    return planned_votes(failures, pilot, n_max, precision, alpha)


def _posterior(failures: int, pilot: int) -> tuple[Float64[ndarray, " nodes"], Float64[ndarray, " nodes"]]:
    """Return failure rates at the Gauss-Legendre nodes of the posterior's quantiles, and their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return np.asarray(betaincinv(failures + 0.5, pilot - failures + 0.5, 0.5 * (nodes + 1.0))), 0.5 * weights


def _expected_radius(
    n: Float64[ndarray, " sizes"], rates: Float64[ndarray, " nodes"], alpha: float
) -> Float64[ndarray, "sizes nodes"]:
    """Return max(0, -Phi^-1(q)) for the bound q at the expected number of failures, a real number here."""
    f = n[:, None] * rates
    bound = betainccinv(f + 1.0, n[:, None] - f, alpha)
    return np.asarray(np.maximum(-ndtri(bound), 0.0))


class PlannedState:
    """Progress of one input: the pilot, then an estimate of the length that the pilot named."""

    def __init__(self, estimator: PlannedEstimator, label: int | None) -> None:
        self._estimator, self._label = estimator, label
        self._looks: list[Look] = []

    def next_look(self) -> Request | None:
        """Return the pilot, then the estimate, then None; no estimate where the pilot left no hope."""
        if not self._looks:
            return Request(Phase.PILOT, int(self._estimator.pilot))
        if len(self._looks) == 1 and (n := self._votes()) > 0:
            return Request(Phase.ESTIMATE, n)
        return None

    def update(self, phase: Phase, counts: Int64[ndarray, " outcomes"]) -> None:
        """Take in the counts; see `State.update`."""
        look = checked_look(self.next_look(), phase, counts)
        if self._label is not None and self._label >= len(look.counts) - 1:
            raise InvalidArgumentError(f"label must be in [0, {len(look.counts) - 2}], got label={self._label}")
        self._looks.append(look)

    def result(self) -> Estimate:
        """Return the estimate; abstains unless p_lower is above 1/2."""
        if self.next_look() is not None:
            raise InvalidArgumentError("result() needs all looks; the bound holds for exactly n votes and no prefix")
        q_upper = 1.0
        if len(self._looks) == 2:
            estimate = self._looks[1]
            failures = estimate.n - estimate.counts[self._class()]
            q_upper = failure_upper_bound(failures, estimate.n, self._estimator.alpha)
        certified = q_upper < 0.5
        return Estimate(
            status=Status.CERTIFIED if certified else Status.ABSTAINED,
            prediction=self._class() if certified else None,
            p_lower=complement_down(q_upper),
            q_upper=q_upper,
            rival_upper=None,
            alpha=self._estimator.alpha,
            looks=tuple(self._looks),
        )

    def _class(self) -> int:
        """The label, or the leader of the pilot, whose votes are not used for anything else."""
        return int(np.argmax(self._looks[0].counts[:-1])) if self._label is None else self._label

    def _votes(self) -> int:
        pilot, e = self._looks[0], self._estimator
        failures = pilot.n - pilot.counts[self._class()]
        return _plan(failures, pilot.n, int(e.n_max), float(e.precision), float(e.alpha))
