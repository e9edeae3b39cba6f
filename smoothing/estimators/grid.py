"""What estimators that test a grid of radii have in common: which class, which claims, and when to stop.

Hypothesis H_j, "1 - p >= q0_j", is tested for every radius r_j of the grid by limits on the failures at each look. The
hypotheses are nested: whoever is below q0_2 is below q0_1. A claim at r_j needs the rejection of H_1, ..., H_j
(gatekeeping): if any claim is false, then the first false hypothesis, which is fixed by p and not by the votes, was itself
rejected. So every radius is tested at full level, and the probability of any false claim is that of one.

Label-directed: p is the probability of the label, fixed before the votes.

Free (Lemma A): every class is tested, on the same votes and without selection, radius j at level alpha (1 - q0_j). Proof.
Where limits are at most q0_j (n - 1), every path that crosses has k successes with k - 1 >= (1 - q0_j) (n - 1), so that
p^(k - 1) (1 - p)^(n - k) increases for p up to 1 - q0_j, and so does g_j(p) / p for the crossing probability g_j. A class
of probability p_c whose first false radius is j, 1 - p_c >= q0_j, is claimed falsely with probability at most
g_j(p_c) <= p_c g_j(1 - q0_j) / (1 - q0_j) <= alpha p_c. Over the classes that adds up to at most alpha. No n0, any number
of classes, any number of looks.

Refutation is the mirror image, at level beta: "1 - p > q0_j" is claimed where many failures reject 1 - p <= q0_j, and those
of all larger radii as well. In free mode it is claimed of every class, from the votes of whichever leads at the look: that
needs the votes of the true leader, which are no more, to reject too.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import (
    Decision,
    Estimate,
    ExtensionRefusedError,
    Look,
    Phase,
    Request,
    Status,
    checked_look,
)
from smoothing.estimators.thresholds import Threshold, check_increasing
from smoothing.rounding import complement_down
from smoothing.statistics.arguments import as_probabilities

Mode = Literal["label", "free"]


def check_mode(mode: str) -> None:
    """Raise unless `mode` is one of "label" and "free".

    Raises:
        InvalidArgumentError: If not.
    """
    if mode not in get_args(Mode):
        raise InvalidArgumentError(f"mode must be one of {', '.join(get_args(Mode))}, got mode={mode!r}")


def check_beta(beta: object) -> None:
    """Raise unless `beta`, the error probability of refutations, is one number strictly between 0 and 1.

    Raises:
        InvalidArgumentError: If it is not.
    """
    if as_probabilities("beta", beta, closed=False).ndim:
        raise InvalidArgumentError(f"beta must be one number, got beta={beta!r}")


def check_grid(thresholds: Sequence[Threshold]) -> None:
    """Raise unless radii increase and what must be proved gets no weaker.

    Raises:
        InvalidArgumentError: If not.
    """
    check_increasing([threshold.radius for threshold in thresholds])
    q0 = [threshold.q0 for threshold in thresholds]
    if any(a < b for a, b in pairwise(q0)):
        raise InvalidArgumentError(f"q0 must not grow with the radius, got {q0}")


def level_at(threshold: Threshold, alpha: float, mode: Mode) -> float:
    """Return the level of a radius: alpha for a label, alpha (1 - q0) for a class that the votes choose (Lemma A)."""
    if mode == "label":
        return alpha
    # Two roundings, each by half a unit in the last place: one unit less is below the product.
    return float(np.nextafter(np.nextafter(alpha * complement_down(threshold.q0), 0.0), 0.0))


def label_of(mode: Mode, label: int | None) -> int | None:
    """Return the class to be tested: the label in label-directed mode, None in free mode.

    Raises:
        InvalidArgumentError: If a label is needed and there is none.
    """
    if mode == "free":
        return None
    if label is None or isinstance(label, bool) or not isinstance(label, int | np.integer) or label < 0:
        raise InvalidArgumentError(
            f"label-directed mode needs the label, an integer of at least 0, got label={label!r}; mode free needs none"
        )
    return int(label)


def continues(thresholds: Sequence[Threshold], previous: Sequence[Mapping[str, Any]]) -> None:
    """Return if `thresholds` are the `previous` ones, or they and further radii at the same distance from each other.

    Radii chosen freely after votes were seen would make the first false hypothesis depend on the votes. An arithmetic grid
    of at least two radii says by itself what comes next.

    Raises:
        ExtensionRefusedError: If they are not.
    """
    before = [(float(entry["radius"]), float(entry["q0"])) for entry in previous]
    now = [(threshold.radius, threshold.q0) for threshold in thresholds]
    if now[: len(before)] != before:
        raise ExtensionRefusedError(
            f"a run can be continued only with all of its radii unchanged, got radii {[radius for radius, _ in now]} after "
            f"{[radius for radius, _ in before]}"
        )
    if len(now) == len(before):
        return
    step = before[1][0] - before[0][0] if len(before) > 1 else math.nan
    wanted = [before[0][0] + k * step for k in range(len(now))] if before else []
    if not wanted or not np.allclose([radius for radius, _ in now], wanted, rtol=1e-9, atol=0.0):
        raise ExtensionRefusedError(
            "further radii must continue the run's grid, which must have at least two radii at one distance (otherwise they "
            f"could have been chosen for the votes), got radii {[radius for radius, _ in now]} after "
            f"{[radius for radius, _ in before]}"
        )


@runtime_checkable
class Rules(Protocol):
    """The limits of all radii at each look, smallest radius first."""

    def votes(self, look: int) -> int | None:
        """Return the number of votes at look number `look`; None after the last."""
        ...

    def accept(self, look: int) -> Int64[ndarray, " radii"]:
        """Return the most failures with which each radius is claimed; -1 for never."""
        ...

    def refute(self, look: int) -> Int64[ndarray, " radii"]:
        """Return the fewest failures with which each radius is refuted."""
        ...

    def give_up(self, look: int) -> Int64[ndarray, " radii"]:
        """Return the fewest failures with which no more votes are spent on each radius."""
        ...


_LOOKS_AHEAD = 16
"""Looks that may be drawn ahead of, where nothing else is to do."""


class GridState:
    """Progress of one input over a grid of radii.

    Args:
        thresholds: The grid.
        rules: Its limits.
        alpha: Error probability of all claims together, for the record.
        label: The class whose probability is tested; None where the votes choose it.
    """

    def __init__(self, thresholds: Sequence[Threshold], rules: Rules, alpha: float, label: int | None) -> None:
        self._thresholds, self._rules, self._alpha, self._label = tuple(thresholds), rules, alpha, label
        self._looks: list[Look] = []
        self._candidate = label
        size = len(self._thresholds)
        self._rejected = np.zeros(size, dtype=np.bool_)
        self._refuted = np.zeros(size, dtype=np.bool_)
        self._given_up = np.zeros(size, dtype=np.bool_)

    def next_look(self) -> Request | None:
        """Return the next look of the schedule while a radius is open, then None."""
        if self._settled():
            return None
        n = self._rules.votes(len(self._looks))
        return None if n is None else Request(Phase.ESTIMATE, n)

    def update(self, phase: Phase, counts: Int64[ndarray, " outcomes"]) -> None:
        """Take in the counts; see `State.update`."""
        look = checked_look(self.next_look(), phase, counts)
        if self._label is not None and not 0 <= self._label < len(look.counts) - 1:
            raise InvalidArgumentError(f"label must be in [0, {len(look.counts) - 2}], got label={self._label}")
        number = len(self._looks)
        self._looks.append(look)
        # The last outcome is "invalid": it counts against every class, and is never a candidate.
        votes = look.counts[:-1]
        leader = int(np.argmax(votes)) if self._label is None else self._label
        if self._label is None and leader != self._candidate and not self._claims():
            # The rejections were those of another class; a claim needs all of them from one class.
            self._candidate = leader
            self._rejected[:] = False
        assert self._candidate is not None
        failures = look.n - votes[self._candidate]
        self._rejected |= failures <= self._rules.accept(number)
        least = look.n - votes[leader]
        self._refuted |= least >= self._rules.refute(number)
        # As things stand now: a radius that looked hopeless while a smaller one was open may not be when its turn comes.
        self._given_up = least >= self._rules.give_up(number)

    def horizon(self, phase: Phase) -> int:
        """Return a prefix length that later looks may reach: votes up to there may be drawn ahead, and are kept."""
        ahead = (self._rules.votes(len(self._looks) + k) for k in range(_LOOKS_AHEAD, -1, -1))
        return next((n for n in ahead if n is not None), 0)

    def expected_votes(self) -> float:
        """Return about how many votes the smallest open radius still needs, for the order of work alone.

        Wald's log(1/alpha) / KL at the present share of failures; far more where that is near the threshold.
        """
        look, claims = self._looks[-1], self._claims()
        failures = look.n - (max(look.counts[:-1]) if self._candidate is None else look.counts[self._candidate])
        q, q0 = (failures + 0.5) / (look.n + 1.0), self._thresholds[min(claims, len(self._thresholds) - 1)].q0
        divergence = q * math.log(q / q0) + (1.0 - q) * math.log((1.0 - q) / (1.0 - q0))
        return -math.log(self._alpha) / max(divergence, 1e-9)

    def result(self) -> Estimate:
        """Return what the votes so far prove; valid after any look, open radii are undecided."""
        claims = self._claims()
        certified = claims > 0
        q_upper = self._thresholds[claims - 1].q0 if certified else 1.0
        decisions = self._decisions(claims)
        return Estimate(
            status=decisions[0].status,
            prediction=self._candidate if certified else None,
            p_lower=complement_down(q_upper),
            q_upper=q_upper,
            rival_upper=None,
            alpha=self._alpha,
            looks=tuple(self._looks),
            decisions=decisions,
        )

    def _claims(self) -> int:
        """Number of radii claimed: those before the first that is not rejected."""
        return _leading(self._rejected)

    def _settled(self) -> bool:
        claims = self._claims()
        if claims == len(self._thresholds):
            return True
        # A radius that is given up or refuted stays unclaimed, and closes the gate for all larger ones.
        return bool((self._given_up | self._refuted)[claims])

    def _decisions(self, claims: int) -> tuple[Decision, ...]:
        size = len(self._thresholds)
        refuted = min(_leading(self._refuted[::-1]), size - claims)
        statuses = (
            [Status.CERTIFIED] * claims + [Status.UNDECIDED] * (size - claims - refuted) + [Status.REFUTED] * refuted
        )
        return tuple(
            Decision(threshold.radius, status) for threshold, status in zip(self._thresholds, statuses, strict=True)
        )


def _leading(flags: ndarray) -> int:
    """Return the number of true flags before the first false one."""
    return len(flags) if flags.all() else int(np.argmin(flags))
