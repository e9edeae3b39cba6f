"""Is a false claim ever made more often than alpha says? Every estimator, as a whole, over every path of votes.

`error_of` runs an estimator through every sequence of counts that it can see and adds up the probability of those that
end in a false claim. It knows nothing of how it works, so that estimators broken on purpose can be put in: each must be
found out. Long runs are simulated, with a false alarm of 1e-9 for an estimator whose error is alpha.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import jaxtyping
import numpy as np
import pytest
from jaxtyping import Int64
from numpy import ndarray
from scipy.stats import binom

from smoothing.estimators import (
    AnytimeEstimator,
    Estimate,
    Estimator,
    FixedEstimator,
    Phase,
    PlannedEstimator,
    SequentialEstimator,
    State,
    Status,
    Threshold,
)
from smoothing.estimators.base import Look, Request
from smoothing.estimators.grid import GridState, level_at
from smoothing.estimators.planned import PlannedState
from smoothing.estimators.sequential import CappedRules
from smoothing.statistics.boundary_check import verify_boundary
from smoothing.statistics.operating import operation

GRID = (Threshold(0.0, 0.5), Threshold(0.25, 0.3), Threshold(0.5, 0.15))


# --- Every path ---------------------------------------------------------------------------------------------------------


def error_of(
    estimator: Estimator, probabilities: tuple[float, ...], false: Callable[[Estimate], bool], label: int | None = 0
) -> float:
    """Return the probability that an estimator ends in what `false` says is false.

    Args:
        estimator: With few votes: every sequence of counts is tried.
        probabilities: Of each class; the rest is that of an invalid vote.
        false: Whether an estimate claims something false.
        label: What `start` is told.
    """
    law = np.array((*probabilities, max(0.0, 1.0 - math.fsum(probabilities))))
    open_outcomes = tuple(int(outcome) for outcome in np.flatnonzero(law > 1e-15))
    total = 0.0
    for ways, counts, estimate in endings(estimator, len(law), open_outcomes, label):
        if false(estimate):
            total += ways * float(np.prod(law[list(open_outcomes)] ** counts))
    return total


@lru_cache(maxsize=64)
def endings(
    estimator: Estimator, outcomes: int, open_outcomes: tuple[int, ...], label: int | None
) -> list[tuple[float, ndarray, Estimate]]:
    """Return every ending: in how many ways its votes can fall, its votes over all phases, and the estimate.

    Only the `open_outcomes` get votes. What a path is worth depends on the law, the paths themselves do not.
    """
    found: list[tuple[float, ndarray, Estimate]] = []
    zero = np.zeros(outcomes, dtype=np.int64)

    def walk(state: State, seen: dict[Phase, Int64[ndarray, " outcomes"]], ways: float) -> None:
        wanted = state.next_look()
        if wanted is None:
            found.append((ways, sum(seen.values(), zero)[list(open_outcomes)], state.result()))
            return
        before = seen.get(wanted.phase, zero)
        for extra, number in splits(wanted.n - int(before.sum()), len(open_outcomes)):
            counts = before.copy()
            counts[list(open_outcomes)] += extra
            after = clone(state)
            after.update(wanted.phase, counts)
            walk(after, {**seen, wanted.phase: counts}, ways * number)

    walk(estimator.start(label), {}, 1.0)
    return found


def clone(state: State) -> State:
    """Return a copy of a state that can go on by itself; what states share (limits, settings) stays shared."""
    new = copy.copy(state)
    for name, value in vars(state).items():
        if isinstance(value, list | np.ndarray):
            setattr(new, name, copy.copy(value))
        elif isinstance(value, State):
            setattr(new, name, clone(value))
    return new


@lru_cache(maxsize=256)
def splits(n: int, outcomes: int) -> list[tuple[ndarray, int]]:
    """Return every way of dividing n votes among the outcomes, and in how many orders they can have come."""
    heads = (head for head in itertools.product(range(n + 1), repeat=outcomes - 1) if sum(head) <= n)
    divided = [(*head, n - sum(head)) for head in heads]
    return [(np.array(c), math.factorial(n) // math.prod(map(math.factorial, c))) for c in divided]


def claims_more_than(probabilities: tuple[float, ...]) -> Callable[[Estimate], bool]:
    """Return whether an estimate certifies a radius, or a bound, that its class's probability does not reach."""

    def false(estimate: Estimate) -> bool:
        if estimate.prediction is None:
            return False
        p = probabilities[estimate.prediction]
        if estimate.rival_upper is not None:
            rival = max(q for c, q in enumerate(probabilities) if c != estimate.prediction)
            return p < estimate.p_lower or rival > estimate.rival_upper
        # A claim of a grid is strict (p > p0), so that p = p0 is false already; a confidence bound may be attained.
        return 1.0 - p >= estimate.q_upper if estimate.decisions else 1.0 - p > estimate.q_upper

    return false


def refutes_what_holds(
    estimator: SequentialEstimator | AnytimeEstimator, probabilities: tuple[float, ...], label: int | None
) -> Callable[[Estimate], bool]:
    """Return whether an estimate refutes a radius that the label (or some class) does reach."""
    q = 1.0 - (max(probabilities) if label is None else probabilities[label])

    def false(estimate: Estimate) -> bool:
        pairs = zip(estimate.decisions, estimator.thresholds, strict=True)
        return any(decision.status is Status.REFUTED and q <= threshold.q0 for decision, threshold in pairs)

    return false


CORNERS = ((0.5, 0.5), (0.7, 0.3), (0.6, 0.4))
THREE = ((0.5, 0.5, 0.0), (1 / 3, 1 / 3, 1 / 3), (0.7, 0.15, 0.15))
INVALID = ((0.5, 0.0), (0.5, 0.2))
"""The rest of the votes is invalid: they are no votes for class 0."""
LABELS = {"label": 0, "free": None}


def small(mode: str = "label", **changes: object) -> SequentialEstimator:
    arguments = {"alpha": 0.1, "cap": 20, "beta": 0.1, "ratio": 2.0, "futility": 0.05, "mode": mode, **changes}
    return SequentialEstimator(GRID if arguments["cap"] > 10 else GRID[:1], **arguments)  # type: ignore[arg-type]


def errors_stay_within_alpha(estimator: Estimator, corners: tuple[tuple[float, ...], ...], label: int | None) -> bool:
    """The check that every estimator must pass, and every broken one below must not."""
    errors = [error_of(estimator, corner, claims_more_than(corner), label) for corner in corners]
    return max(errors) <= estimator.alpha * (1 + 1e-12)


@pytest.mark.parametrize("method", ["gse", "zmix"])
def test_label_directed_claims_on_every_path(method: str) -> None:
    estimator = small(method=method)
    assert errors_stay_within_alpha(estimator, CORNERS, 0)
    # Not by never claiming anything: at the worst corner most of alpha is used.
    assert max(error_of(estimator, corner, claims_more_than(corner)) for corner in CORNERS) > 0.5 * estimator.alpha


@pytest.mark.parametrize(("corners", "cap"), [(CORNERS, 20), (THREE, 12)])
def test_free_claims_on_every_path(corners: tuple[tuple[float, ...], ...], cap: int) -> None:
    """Lemma A: no selection, any number of classes, the sum of all classes' errors within alpha."""
    estimator = small("free", cap=cap, alpha=0.2)
    assert errors_stay_within_alpha(estimator, corners, None)
    assert max(error_of(estimator, corner, claims_more_than(corner), None) for corner in corners) > 0.05


@pytest.mark.parametrize("mode", LABELS)
def test_refutations_on_every_path(mode: str) -> None:
    estimator = small(mode, futility=0.0)
    for corner in CORNERS:
        assert error_of(estimator, corner, refutes_what_holds(estimator, corner, LABELS[mode]), LABELS[mode]) <= 0.1
    # A class that is far from half of the votes is refuted, not left open.
    assert error_of(estimator, (0.05, 0.0), lambda e: e.status is Status.REFUTED, LABELS[mode]) > 0.8


@pytest.mark.parametrize("mode", LABELS)
def test_anytime_claims_on_every_path(mode: str) -> None:
    estimator = AnytimeEstimator(GRID, alpha=0.2, beta=0.2, budget=16, ratio=2.0, mode=mode)  # type: ignore[arg-type]
    assert errors_stay_within_alpha(estimator, CORNERS, LABELS[mode])
    for corner in CORNERS:
        assert error_of(estimator, corner, refutes_what_holds(estimator, corner, LABELS[mode]), LABELS[mode]) <= 0.2


@pytest.mark.parametrize("mode", LABELS)
def test_planned_bounds_on_every_path(mode: str) -> None:
    estimator = PlannedEstimator(pilot=5, n_max=14, precision=0.2, alpha=0.1, mode=mode)  # type: ignore[arg-type]
    for p in (0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95):
        assert errors_stay_within_alpha(estimator, ((p, 1.0 - p),), LABELS[mode])


@pytest.mark.parametrize("law", [(0.5, 0.5), (0.4, 0.3, 0.3), (0.5, 0.25, 0.25), (0.6, 0.4, 0.0), (0.4, 0.4, 0.2)])
def test_lemma_b_on_every_path(law: tuple[float, ...]) -> None:
    """Both bounds of the two-sided certificate at once, for a runner-up that nobody named beforehand."""
    estimator = FixedEstimator(n0=1, n=12, alpha=0.3, runner_up=True)
    assert error_of(estimator, law, claims_more_than(law)) <= 0.3
    assert estimator.top_alpha + estimator.rival_alpha <= 0.3


# --- Estimators broken on purpose ---------------------------------------------------------------------------------------


class AlphaDoubled(SequentialEstimator):
    """Spends twice what it says."""

    def start(self, label: int | None = None) -> GridState:
        spends = SequentialEstimator(self.thresholds, 2 * self.alpha, self.cap, futility=0.0, ratio=self.ratio)
        return GridState(self.thresholds, spends._rules, self.alpha, label)


class OneLookTooMany(SequentialEstimator):
    """Looks once more after the cap, with as many failures in hand as there."""

    def start(self, label: int | None = None) -> GridState:
        rules = self._rules
        more = CappedRules(
            (*rules.looks, rules.looks[-1] + 10),
            np.vstack((rules.accepts, rules.accepts[-1:] + np.array([[5, 3, 1]]))),
            np.full((len(rules.looks) + 1, len(self.thresholds)), 10**6),
            np.full((len(rules.looks) + 1, len(self.thresholds)), 10**6),
        )
        return GridState(self.thresholds, more, self.alpha, label)


class CountsChanged:
    """A state that is told other counts than were drawn; what it records is not asked."""

    def __init__(
        self, state: State, change: Callable[[Int64[ndarray, " outcomes"]], Int64[ndarray, " outcomes"]]
    ) -> None:
        self._state, self._change = state, change

    def next_look(self) -> Request | None:
        return self._state.next_look()

    def update(self, phase: Phase, counts: Int64[ndarray, " outcomes"]) -> None:
        self._state.update(phase, self._change(counts))

    def result(self) -> Estimate:
        return self._state.result()


class OffByOne(SequentialEstimator):
    """Takes one failure for a success."""

    def start(self, label: int | None = None) -> State:  # type: ignore[override]
        def change(counts: Int64[ndarray, " outcomes"]) -> Int64[ndarray, " outcomes"]:
            moved = np.array(counts)
            wrong = int(np.argmax(moved[1:])) + 1
            if moved[wrong]:
                moved[wrong] -= 1
                moved[0] += 1
            return moved

        return CountsChanged(super().start(label), change)


class OneVoteTwice(FixedEstimator):
    """Bounds n votes as if they were n + 1: the last success is counted once more."""

    def start(self, label: int | None = None) -> State:  # type: ignore[override]
        return VoteTwice(FixedEstimator(self.n0, self.n + 1, self.alpha).start())


class VoteTwice(CountsChanged):
    def __init__(self, state: State) -> None:
        super().__init__(state, lambda counts: counts)
        self._selected = 0

    def next_look(self) -> Request | None:
        wanted = super().next_look()
        return wanted if wanted is None or wanted.phase is Phase.SELECT else Request(wanted.phase, wanted.n - 1)

    def update(self, phase: Phase, counts: Int64[ndarray, " outcomes"]) -> None:
        counts = np.array(counts)
        if phase is Phase.SELECT:
            self._selected = int(np.argmax(counts))
        else:
            counts[self._selected] += 1
        super().update(phase, counts)


class InvalidIsClassZero(SequentialEstimator):
    """Takes votes that are not a number for votes for class 0, as argmax does."""

    def start(self, label: int | None = None) -> State:  # type: ignore[override]
        def change(counts: Int64[ndarray, " outcomes"]) -> Int64[ndarray, " outcomes"]:
            return np.array([counts[0] + counts[-1], *counts[1:-1], 0])

        return CountsChanged(super().start(label), change)


class PilotReused(PlannedEstimator):
    """Bounds the leading class with the votes that made it lead."""

    def start(self, label: int | None = None) -> PlannedState:
        return ReusingState(self, label)


class ReusingState(PlannedState):
    def next_look(self) -> Request | None:
        return None if self._looks else super().next_look()

    def result(self) -> Estimate:
        [pilot] = self._looks
        self._looks = [pilot, Look(Phase.ESTIMATE, pilot.n, pilot.counts)]
        return super().result()


class FullAlphaForEveryClass(SequentialEstimator):
    """Tests every class at the level that is right for one that was named beforehand."""

    def start(self, label: int | None = None) -> GridState:
        return GridState(self.thresholds, self._rules, self.alpha, None)


def test_an_estimator_that_is_right_passes() -> None:
    assert errors_stay_within_alpha(small(futility=0.0), CORNERS, 0)
    assert errors_stay_within_alpha(small(cap=10, futility=0.0), INVALID, 0)


@pytest.mark.parametrize("kind", [AlphaDoubled, OneLookTooMany, OffByOne])
def test_broken_sequential_estimators_are_found_out(kind: type[SequentialEstimator]) -> None:
    broken = kind(GRID, alpha=0.1, cap=20, futility=0.0, ratio=2.0)
    assert not errors_stay_within_alpha(broken, CORNERS, 0)


def test_one_vote_too_many_in_the_bound_is_found_out() -> None:
    # Corners just beyond what no failure at all proves, of n = 12 and of n = 13: there a bound spends all of alpha.
    corners = tuple((p, 1.0 - p) for p in (0.1 ** (1 / 12) - 1e-9, 0.1 ** (1 / 13) - 1e-9))
    assert errors_stay_within_alpha(FixedEstimator(n0=7, n=12, alpha=0.1), corners, None)
    assert not errors_stay_within_alpha(OneVoteTwice(n0=7, n=12, alpha=0.1), corners, None)


def test_invalid_votes_for_class_zero_are_found_out() -> None:
    assert not errors_stay_within_alpha(
        InvalidIsClassZero(GRID[:1], alpha=0.1, cap=10, futility=0.0, ratio=2.0), INVALID, 0
    )


def test_full_alpha_for_every_class_is_found_out() -> None:
    right, broken = (
        small("free", alpha=0.1, futility=0.0),
        FullAlphaForEveryClass(GRID, alpha=0.1, cap=20, futility=0.0, ratio=2.0),
    )
    assert errors_stay_within_alpha(right, CORNERS, None)
    assert not errors_stay_within_alpha(broken, CORNERS, None)


def test_a_reused_pilot_is_found_out() -> None:
    arguments = {"pilot": 6, "n_max": 6, "alpha": 0.02, "mode": "free"}
    assert errors_stay_within_alpha(PlannedEstimator(**arguments), ((0.5, 0.5),), None)  # type: ignore[arg-type]
    assert not errors_stay_within_alpha(PilotReused(**arguments), ((0.5, 0.5),), None)  # type: ignore[arg-type]


# --- The shipped estimators ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", LABELS)
def test_every_boundary_of_an_estimator_is_within_its_level(mode: str) -> None:
    estimator = SequentialEstimator(GRID, cap=3_000, mode=mode)  # type: ignore[arg-type]
    for threshold, boundary, mirrored in zip(GRID, estimator.boundaries, estimator.refutations, strict=True):
        assert verify_boundary(boundary) <= level_at(threshold, estimator.alpha, estimator.mode)
        assert level_at(threshold, 0.001, "free") <= 0.001 * (1.0 - threshold.q0)
        assert verify_boundary(mirrored) <= estimator.beta
        assert boundary.q0 == mirrored.q0 == threshold.q0


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_lemma_a_over_many_classes(classes: int) -> None:
    """Sum over classes of the exact probability of a first false claim, at the corners of the simplex and at random."""
    estimator = SequentialEstimator(GRID, alpha=0.05, cap=200, mode="free", ratio=1.5)
    looks = estimator.boundaries[0].looks
    rng = np.random.default_rng(classes)
    laws = [np.full(classes, 1.0 / classes), np.array([0.5, 0.5, *([0.0] * (classes - 2))])]
    laws += [np.array([p, 1.0 - p, *([0.0] * (classes - 2))]) for p in (0.7, 0.85)]
    laws += [rng.dirichlet(np.full(classes, 0.3)) for _ in range(2)]
    for law in laws:
        total = 0.0
        for p in law[law > 0.02]:
            first = next((b for t, b in zip(GRID, estimator.boundaries, strict=True) if 1.0 - p >= t.q0), None)
            total += 0.0 if first is None else operation(float(1.0 - p), looks, first.limits).claimed
        # Classes below 0.02 have at most p alpha each, by the lemma itself; they are few in weight.
        assert total <= 0.05


FALSE_ALARM = {20_000: 53, 200_000: 291, 2_000_000: 2275}
"""Runs -> the number of false claims whose probability is below 1e-9 for an error of 0.001 (the study's thresholds)."""


@pytest.mark.parametrize(("runs", "most"), FALSE_ALARM.items())
def test_the_thresholds_of_the_simulations(runs: int, most: int) -> None:
    assert binom.sf(most - 1, runs, 0.001) <= 1e-9 < binom.sf(most - 3, runs, 0.001)


def simulated_false_claims(rules: CappedRules, radius: int, q0: float, runs: int, seed: int) -> int:
    """Return in how many runs, at the worst p, a radius is claimed."""
    rng = np.random.default_rng(seed)
    failures, crossed, before = np.zeros(runs, dtype=np.int64), np.zeros(runs, dtype=np.bool_), 0
    for n, limits in zip(rules.looks, rules.accepts, strict=True):
        failures += rng.binomial(n - before, q0, runs)
        crossed |= failures <= limits[radius]
        before = n
    return int(crossed.sum())


@pytest.mark.parametrize(
    ("method", "radius", "runs"),
    [
        ("gse", 0, 200_000),
        ("gse", 1, 200_000),
        ("gse", 2, 200_000),
        ("zmix", 1, 200_000),
        ("gse", 1, 2_000_000),
        ("zmix", 2, 2_000_000),
    ],
)
def test_simulated_coverage_at_the_worst_probability(method: str, radius: int, runs: int) -> None:
    estimator = SequentialEstimator(GRID, cap=5_000, method=method, ratio=1.3)  # type: ignore[arg-type]
    found = simulated_false_claims(estimator._rules, radius, GRID[radius].q0, runs, 7 + radius)
    assert 0.0006 * runs < found < FALSE_ALARM[runs]


RUNS = 20_000


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Tens of thousands of whole runs: run-time checks of types and shapes, which other tests have, would double it."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("estimator", "label", "classes"),
    [
        (SequentialEstimator(GRID[:1], cap=100, futility=0.0, ratio=2.0), 0, 2),
        (SequentialEstimator(GRID[:1], cap=100, futility=0.0, ratio=2.0, mode="free"), None, 10),
        (AnytimeEstimator(GRID[:1], budget=100, ratio=2.0, mode="free"), None, 10),
        (PlannedEstimator(pilot=30, n_max=300, alpha=0.001), 0, 2),
        (PlannedEstimator(pilot=30, n_max=300, alpha=0.001, mode="free"), None, 10),
        (FixedEstimator(n0=11, n=119, runner_up=True), None, 3),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_simulated_coverage_of_whole_estimators(estimator: Estimator, label: int | None, classes: int) -> None:
    """Lemmas A and B at the worst corner, two classes with half of the votes each: whatever is certified there is false."""
    rng, start, false = np.random.default_rng(classes), estimator.start(label=label), 0
    known: dict[tuple[int, ...], bool] = {}
    for _ in range(RUNS):
        # The same votes lead to the same end: what was tried is looked up.
        state, path = clone(start), tuple[int, ...]()
        seen: dict[Phase, Int64[ndarray, " outcomes"]] = {}
        while (look := state.next_look()) is not None:
            counts = seen.setdefault(look.phase, np.zeros(classes + 1, dtype=np.int64))
            counts[0] += (first := int(rng.binomial(extra := look.n - int(counts.sum()), 0.5)))
            counts[1] += extra - first
            path += (first,)
            state.update(look.phase, counts.copy())
        if path not in known:
            known[path] = state.result().prediction is not None
        false += known[path]
    assert false < FALSE_ALARM[RUNS]
