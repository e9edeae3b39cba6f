"""The sequential estimator: decides a grid of radii with as few votes as it takes, up to a cap."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Estimator, ExtensionRefusedError, Phase
from smoothing.estimators.grid import GridState, Mode, check_beta, check_grid, check_mode, continues, label_of, level_at
from smoothing.estimators.thresholds import Threshold
from smoothing.statistics.arguments import check_positive_integer
from smoothing.statistics.binomial import check_alpha, minimum_votes
from smoothing.statistics.boundary import Boundary
from smoothing.statistics.boundary_cache import Method, boundary_of
from smoothing.statistics.crossing import SMALLEST_ALPHA
from smoothing.statistics.futility import futility_limits
from smoothing.statistics.schedule import capped_looks

RATIO = 1.05
"""Votes at a look over those at the one before: overshoot is half of it on average."""

FUTILITY = 0.06
"""Loses about 0.1 points of certified accuracy against 100,000 votes on the published logs, and halves the votes."""


@dataclass(frozen=True)
class SequentialEstimator(Estimator):
    """Tests every radius of a grid at each look, by boundaries whose error was computed exactly.

    Radii are tested in the order of the grid, each at full level (see `smoothing.estimators.grid` for the proofs). An input
    is settled as soon as all radii are claimed, or the smallest open one is refuted or given up.

    Args:
        thresholds: The grid; see `smoothing.estimators.thresholds`.
        alpha: Probability, per input, that any claimed radius is false.
        cap: Votes per input at most.
        mode: "label" tests the label that `start` is told; "free" tests all classes at once and needs none.
        method: "gse", exact group-sequential; or "zmix", the calibrated mixture.
        futility: A radius is given up where the predictive probability of its claim by the cap is below this, and below
            less at earlier looks (see `futility_limits`); 0 gives up the impossible only. Costs claims, never adds one.
        beta: Probability, per input, that any refuted radius is falsely refuted.
        ratio: Votes at a look over those at the one before.
        cache: Folder that keeps boundaries; no part of the estimator's identity.

    Raises:
        InvalidArgumentError: If an argument is out of range, or a radius out of the cap's reach.

    Reference: Stallard and Todd 2000 (exact boundaries); Voracek 2024 (sequential certification, curtailment).

    Example:
        >>> from smoothing import Gaussian
        >>> from smoothing.estimators.thresholds import thresholds
        >>> grid = thresholds(Gaussian((1,), sigma=0.5), "l2", (0.0, 0.5))
        >>> state = SequentialEstimator(grid, cap=10_000).start(label=0)
        >>> while (look := state.next_look()) is not None:
        ...     state.update(look.phase, np.array([look.n, 0, 0]))
        >>> [str(decision.status) for decision in state.result().decisions], look
        (['certified', 'certified'], None)
    """

    thresholds: tuple[Threshold, ...]
    alpha: float = 0.001
    cap: int = 100_000
    mode: Mode = "label"
    method: Method = "gse"
    futility: float = FUTILITY
    beta: float = 0.001
    ratio: float = RATIO
    cache: Path | None = field(default=None, compare=False, repr=False)

    name: ClassVar[str] = "sequential"

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_beta(self.beta)
        for key, level in (("alpha", self.alpha), ("beta", self.beta)):
            if level < SMALLEST_ALPHA:
                raise InvalidArgumentError(
                    f"{key} must be at least {SMALLEST_ALPHA:g}, below which boundaries cannot be computed in float64, got "
                    f"{key}={level}"
                )
        check_positive_integer("cap", self.cap)
        check_mode(self.mode)
        check_grid(self.thresholds)
        if self.method not in get_args(Method):
            raise InvalidArgumentError(
                f"method must be one of {', '.join(get_args(Method))}, got method={self.method!r}"
            )
        if not 0.0 <= self.futility < 1.0:
            raise InvalidArgumentError(f"futility must be in [0, 1), got futility={self.futility}")
        for threshold in self.thresholds:
            needed = minimum_votes(threshold.q0, level_at(threshold, self.alpha, self.mode))
            if needed > self.cap:
                raise InvalidArgumentError(
                    f"every radius must be within reach of the cap, but radius {threshold.radius} needs {needed} votes "
                    f"even if all agree, got cap={self.cap}; raise the cap or ask for smaller radii"
                )

    def start(self, label: int | None = None) -> GridState:
        """Begin one input.

        Raises:
            InvalidArgumentError: If the mode is "label" and there is none.
        """
        return GridState(self.thresholds, self._rules, self.alpha, label_of(self.mode, label))

    def describe(self) -> dict[str, Any]:
        """Return name and parameters, the boundaries by hash."""
        return {
            "name": self.name,
            "alpha": float(self.alpha),
            "beta": float(self.beta),
            "cap": int(self.cap),
            "mode": self.mode,
            "method": self.method,
            "futility": float(self.futility),
            "ratio": float(self.ratio),
            "thresholds": [{"radius": t.radius, "q0": t.q0} for t in self.thresholds],
            "boundaries": [boundary.sha256 for boundary in self.boundaries],
            "refutations": [boundary.sha256 for boundary in self.refutations],
        }

    @cached_property
    def boundaries(self) -> tuple[Boundary, ...]:
        """The boundary of each radius."""
        return tuple(
            boundary_of(self.method, t.q0, level_at(t, self.alpha, self.mode), self._looks, "below", self.cache)
            for t in self.thresholds
        )

    @cached_property
    def refutations(self) -> tuple[Boundary, ...]:
        """The mirrored boundary of each radius."""
        return tuple(
            boundary_of(self.method, t.q0, float(self.beta), self._looks, "above", self.cache) for t in self.thresholds
        )

    @cached_property
    def _looks(self) -> tuple[int, ...]:
        return capped_looks(self.ratio, int(self.cap))

    @cached_property
    def _rules(self) -> "CappedRules":
        return CappedRules(
            self._looks,
            np.array([boundary.limits for boundary in self.boundaries], dtype=np.int64).T,
            np.array([boundary.limits for boundary in self.refutations], dtype=np.int64).T,
            np.array([futility_limits(boundary, self.futility) for boundary in self.boundaries], dtype=np.int64).T,
        )

    @property
    def max_votes(self) -> int:
        """The cap."""
        return int(self.cap)

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
        """Return if this estimator only adds larger radii of the `previous` one's arithmetic grid, or gives up less.

        The radii k step are one fixed chain of hypotheses, and the first false one among them is the only one that can
        break a claim, however far the chain is followed. A larger cap is refused: alpha was spent up to the old one. A
        larger futility is refused too: it would have given up some inputs before looks that are recorded already.

        Raises:
            ExtensionRefusedError: If anything else differs.
        """
        mine = self.describe()
        same = [key for key in mine if key not in ("thresholds", "boundaries", "refutations", "futility")]
        changed = [key for key in same if previous.get(key) != mine[key]]
        if "cap" in changed and changed == ["cap"]:
            raise ExtensionRefusedError(
                f"a sequential run cannot get a larger cap: its boundaries spent alpha by {previous.get('cap')} votes, "
                f"got cap={self.cap}; start a new run with another seed, or use --estimator anytime, which has no cap"
            )
        if changed:
            raise ExtensionRefusedError(
                "a sequential run can be continued only with everything but further radii and futility unchanged, got "
                + ", ".join(f"{key}={mine[key]!r} after {previous.get(key)!r}" for key in changed)
            )
        before = previous.get("futility")
        if not isinstance(before, int | float) or self.futility > before:
            raise ExtensionRefusedError(
                f"the futility of a sequential run may only fall, got futility={self.futility} after {before}: with a "
                f"larger one, inputs might have been given up before looks that are recorded already; give {before} or "
                "less, or start a new run"
            )
        continues(self.thresholds, previous.get("thresholds", []))


@dataclass(frozen=True)
class CappedRules:
    """Limits that were computed beforehand, [looks, radii]."""

    looks: tuple[int, ...]
    accepts: Int64[ndarray, "looks radii"]
    refutes: Int64[ndarray, "looks radii"]
    gives_up: Int64[ndarray, "looks radii"]

    def votes(self, look: int) -> int | None:
        """See `Rules`."""
        return self.looks[look] if look < len(self.looks) else None

    def accept(self, look: int) -> Int64[ndarray, " radii"]:
        """See `Rules`."""
        return np.asarray(self.accepts[look])

    def refute(self, look: int) -> Int64[ndarray, " radii"]:
        """See `Rules`."""
        return np.asarray(self.refutes[look])

    def give_up(self, look: int) -> Int64[ndarray, " radii"]:
        """See `Rules`."""
        return np.asarray(self.gives_up[look])
