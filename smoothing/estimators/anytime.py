"""The anytime estimator: decides a grid of radii with a bound that holds at every look, however many there will be."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Estimator, ExtensionRefusedError, Phase
from smoothing.estimators.grid import GridState, Mode, check_beta, check_grid, check_mode, continues, label_of, level_at
from smoothing.estimators.sequential import RATIO
from smoothing.estimators.thresholds import Threshold
from smoothing.statistics.arguments import check_positive_integer
from smoothing.statistics.beta_mixture import ville_limit
from smoothing.statistics.binomial import check_alpha
from smoothing.statistics.schedule import FIRST, check_ratio, geometric_looks


@dataclass(frozen=True)
class AnytimeEstimator(Estimator):
    """Tests every radius of a grid at each look by the truncated Beta mixture, which needs no cap (Ville's inequality).

    Somewhat more votes than `SequentialEstimator`, which spends alpha up to its cap; in exchange a run can be given more
    votes at any time, for any reason, and further radii of its grid.

    Args:
        thresholds: The grid; see `smoothing.estimators.thresholds`.
        alpha: Probability, per input and over all looks ever, that any claimed radius is false.
        mode: "label" tests the label that `start` is told; "free" tests all classes at once and needs none.
        beta: Probability, per input and over all looks ever, that any refuted radius is falsely refuted.
        budget: Votes after which an input rests, undecided, at least as many as the first look needs; None: go on until it
            is decided, which for a radius that is exactly the true one may be never. No part of the proof, and may be
            raised later.
        ratio: Votes at a look over those at the one before.

    Raises:
        InvalidArgumentError: If an argument is out of range.

    Reference: Ville 1939; see `smoothing.statistics.beta_mixture`.
    """

    thresholds: tuple[Threshold, ...]
    alpha: float = 0.001
    mode: Mode = "label"
    beta: float = 0.001
    budget: int | None = 100_000
    ratio: float = RATIO

    name: ClassVar[str] = "anytime"

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_beta(self.beta)
        check_mode(self.mode)
        check_grid(self.thresholds)
        check_ratio(self.ratio)
        if self.budget is not None:
            check_positive_integer("budget", self.budget)
            if self.budget < FIRST:
                # An input without a look has no votes that a certificate could rest on, nor anything to continue from.
                raise InvalidArgumentError(
                    f"the budget (--cap on the command line) must allow the first look, which is at {FIRST} votes, got "
                    f"budget={self.budget}; 10,000 or more is usual"
                )

    def start(self, label: int | None = None) -> GridState:
        """Begin one input.

        Raises:
            InvalidArgumentError: If the mode is "label" and there is none.
        """
        return GridState(self.thresholds, self._rules, self.alpha, label_of(self.mode, label))

    def describe(self) -> dict[str, Any]:
        """Return name and parameters."""
        return {
            "name": self.name,
            "alpha": float(self.alpha),
            "beta": float(self.beta),
            "mode": self.mode,
            "budget": None if self.budget is None else int(self.budget),
            "ratio": float(self.ratio),
            "thresholds": [{"radius": t.radius, "q0": t.q0} for t in self.thresholds],
        }

    @cached_property
    def _rules(self) -> "EndlessRules":
        levels = [level_at(threshold, self.alpha, self.mode) for threshold in self.thresholds]
        q0 = [threshold.q0 for threshold in self.thresholds]

        def accept(n: int) -> list[int]:
            return [ville_limit(q, level, n) for q, level in zip(q0, levels, strict=True)]

        def refute(n: int) -> list[int]:
            return [ville_limit(q, self.beta, n, "above") for q in q0]

        return EndlessRules(self.ratio, self.budget, accept, refute)

    @property
    def max_votes(self) -> int | None:
        """The budget."""
        return None if self.budget is None else int(self.budget)

    @property
    def best_q_upper(self) -> float:
        """The smallest q0 of the grid."""
        return self.thresholds[-1].q0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Estimation only: nothing is selected."""
        return (Phase.ESTIMATE,)

    @property
    def needs_label(self) -> bool:
        """In label-directed mode."""
        return self.mode == "label"

    def may_extend(self, previous: Mapping[str, Any]) -> None:
        """Return if this estimator differs from the `previous` one by a larger budget and further radii of its grid only.

        Raises:
            ExtensionRefusedError: If anything else differs.
        """
        mine = self.describe()
        changed = [key for key in mine if key not in ("budget", "thresholds") and previous.get(key) != mine[key]]
        if changed:
            raise ExtensionRefusedError(
                "an anytime run can be continued only with everything but budget and further radii unchanged, got "
                + ", ".join(f"{key}={mine[key]!r} after {previous.get(key)!r}" for key in changed)
            )
        before = previous.get("budget")
        if self.budget is not None and (before is None or self.budget < before):
            raise ExtensionRefusedError(f"the budget may only grow, got budget={self.budget} after {before}")
        continues(self.thresholds, previous.get("thresholds", []))


class EndlessRules:
    """Limits that are computed when a look first needs them; every look is at a number of the endless schedule.

    A budget ends the schedule at its last number that is within it, so that a larger budget continues the same schedule.
    """

    def __init__(
        self,
        ratio: float,
        budget: int | None,
        accept: Callable[[int], list[int]],
        refute: Callable[[int], list[int]],
    ) -> None:
        self._ratio, self._budget = ratio, budget
        self._accept, self._refute = accept, refute
        self._schedule: list[int] = []
        self._limits: dict[int, tuple[ndarray, ndarray]] = {}

    def votes(self, look: int) -> int | None:
        """See `Rules`."""
        if look >= len(self._schedule):
            self._schedule = list(islice(geometric_looks(self._ratio), 2 * look + 64))
        n = self._schedule[look]
        return None if self._budget is not None and n > self._budget else n

    def accept(self, look: int) -> Int64[ndarray, " radii"]:
        """See `Rules`."""
        return self._at(look)[0]

    def refute(self, look: int) -> Int64[ndarray, " radii"]:
        """See `Rules`."""
        return self._at(look)[1]

    def give_up(self, look: int) -> Int64[ndarray, " radii"]:
        """See `Rules`; nothing is ever given up."""
        return np.full_like(self._at(look)[0], self._schedule[look] + 1)

    def _at(self, look: int) -> tuple[Int64[ndarray, " radii"], Int64[ndarray, " radii"]]:
        if look not in self._limits:
            n = self._schedule[look]
            self._limits[look] = (
                np.asarray(self._accept(n), dtype=np.int64),
                np.asarray(self._refute(n), dtype=np.int64),
            )
        return self._limits[look]
