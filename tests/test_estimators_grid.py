"""Estimators over grids of radii: what changes nothing changes nothing, what may be extended is, and the rest is refused."""

import math

import numpy as np
import pytest
from scipy.special import ndtr

from smoothing import Gaussian, Laplace, Norm, Uniform
from smoothing.errors import InvalidArgumentError
from smoothing.estimators import (
    ESTIMATORS,
    AnytimeEstimator,
    Estimate,
    Estimator,
    ExtensionRefusedError,
    FixedEstimator,
    Look,
    Phase,
    PlannedEstimator,
    SequentialEstimator,
    Status,
    Threshold,
    replay,
    thresholds,
)
from smoothing.estimators.grid import GridState
from smoothing.estimators.planned import planned_votes
from smoothing.estimators.sequential import CappedRules
from smoothing.estimators.table import find_estimator, rebuild_estimator

GRID = thresholds(Gaussian((1,), sigma=0.5), "l2", (0.0, 0.25, 0.5, 0.75))
CAP = 2_000
SEQUENTIAL = SequentialEstimator(GRID, cap=CAP, ratio=1.3)
ALL: tuple[Estimator, ...] = (
    FixedEstimator(20, 500),
    FixedEstimator(20, 500, runner_up=True),
    SEQUENTIAL,
    SequentialEstimator(GRID[:2], cap=CAP, mode="free", method="zmix", ratio=1.3),
    AnytimeEstimator(GRID, budget=CAP, ratio=1.3),
    PlannedEstimator(100, CAP),
)


def votes(seed: int, law: tuple[float, ...], n: int = 4 * CAP) -> np.ndarray:
    """Return cumulative counts, [n + 1, outcomes], of one sequence of votes."""
    draws = np.random.default_rng(seed).choice(len(law), n, p=law)
    return np.vstack(
        (np.zeros((1, len(law)), dtype=np.int64), np.cumsum(np.eye(len(law), dtype=np.int64)[draws], axis=0))
    )


def run(estimator: Estimator, seed: int, law: tuple[float, ...], looks: tuple[Look, ...] = ()) -> Estimate:
    """Run one input to its end, beginning with recorded looks; each phase has votes of its own."""
    sequences = {phase: votes(100 * seed + i, law) for i, phase in enumerate(Phase)}
    state = replay(estimator, looks, 0)
    while (look := state.next_look()) is not None:
        state.update(look.phase, sequences[look.phase][look.n])
    return state.result()


LAWS = ((0.95, 0.05, 0.0), (0.7, 0.2, 0.1), (0.5, 0.5, 0.0), (0.1, 0.9, 0.0), (1.0, 0.0, 0.0))


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: e.name)
def test_resumed_anywhere_is_uninterrupted(estimator: Estimator) -> None:
    for seed, law in enumerate(LAWS):
        whole = run(estimator, seed, law)
        for cut in (0, 1, len(whole.looks) // 2, len(whole.looks)):
            assert run(estimator, seed, law, whole.looks[:cut]) == whole
        assert estimator.max_votes is not None
        assert sum({look.phase: look.n for look in whole.looks}.values()) <= estimator.max_votes
        assert {look.phase for look in whole.looks} <= set(estimator.phases)


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: e.name)
def test_a_description_rebuilds_its_estimator(estimator: Estimator) -> None:
    again = rebuild_estimator(estimator.describe())
    assert again == estimator
    again.may_extend(estimator.describe())
    with pytest.raises(InvalidArgumentError, match="estimator must be one of"):
        find_estimator("none")


def test_every_estimator_is_in_the_table() -> None:
    assert set(ESTIMATORS.values()) == {type(estimator) for estimator in ALL}
    # Runs made before there was a choice keep their identity.
    assert FixedEstimator(100, 1000, 0.01).describe() == {"name": "fixed", "n0": 100, "n": 1000, "alpha": 0.01}


@pytest.mark.parametrize("mode", ["label", "free"])
def test_futility_never_adds_a_claim(mode: str) -> None:
    patient = SequentialEstimator(GRID, cap=CAP, ratio=1.3, futility=0.0, mode=mode)  # type: ignore[arg-type]
    hasty = SequentialEstimator(GRID, cap=CAP, ratio=1.3, futility=0.3, mode=mode)  # type: ignore[arg-type]
    fewer = 0
    for seed in range(40):
        p = 0.3 + 0.7 * (seed + 0.5) / 40
        law = (p, 1.0 - p, 0.0)
        a, b = run(patient, seed, law), run(hasty, seed, law)
        for decision, other in zip(a.decisions, b.decisions, strict=True):
            assert decision.status is Status.CERTIFIED or other.status is not Status.CERTIFIED
            assert decision.status is Status.REFUTED or other.status is not Status.REFUTED
        assert b.looks == a.looks[: len(b.looks)]
        fewer += len(b.looks) < len(a.looks)
    assert fewer > 5


def test_a_radius_that_looked_hopeless_before_its_turn_is_still_asked_about() -> None:
    """Real images were lost so: a few early failures closed the gate of a radius long before it was asked about."""
    limits = {
        "accepts": np.array([[-1, -1], [5, 1], [9, 4]]),
        "refutes": np.array([[9, 8], [15, 12], [20, 15]]),
        "gives_up": np.array([[9, 3], [15, 6], [20, 8]]),
    }
    state = GridState(GRID[:2], CappedRules((10, 20, 30), **limits), 0.001, 0)
    for n in (10, 20, 30):
        look = state.next_look()
        assert look is not None, f"4 failures in {n - 10} votes: no radius whose turn it is is hopeless"
        assert look.n == n
        state.update(look.phase, np.array([n - 4, 4, 0]))
    assert [decision.status for decision in state.result().decisions] == [Status.CERTIFIED] * 2
    # When its turn has come, a radius that is hopeless ends the input.
    state = GridState(GRID[:2], CappedRules((10, 20, 30), **{**limits, "gives_up": limits["gives_up"] - 2}), 0.001, 0)
    for n in (10, 20):
        state.update(Phase.ESTIMATE, np.array([n - 4, 4, 0]))
    assert state.next_look() is None
    assert [decision.status for decision in state.result().decisions] == [Status.CERTIFIED, Status.UNDECIDED]


def test_the_estimate_is_that_of_the_largest_certified_radius() -> None:
    good, bad, open_ = (
        run(SEQUENTIAL, 1, (0.95, 0.05, 0.0)),
        run(SEQUENTIAL, 1, (0.1, 0.9, 0.0)),
        run(SEQUENTIAL, 3, LAWS[2]),
    )
    certified = [d.radius for d in good.decisions if d.status is Status.CERTIFIED]
    assert certified == [t.radius for t in GRID[: len(certified)]]
    assert (good.status, good.prediction, good.q_upper) == (Status.CERTIFIED, 0, GRID[len(certified) - 1].q0)
    assert good.p_lower <= 1.0 - good.q_upper
    assert (bad.status, bad.prediction, bad.p_lower, bad.q_upper) == (Status.REFUTED, None, 0.0, 1.0)
    assert (open_.status, open_.prediction) == (Status.UNDECIDED, None)
    assert [d.radius for d in bad.decisions] == [t.radius for t in GRID]


def test_free_mode_names_the_class_and_counts_invalid_against_all() -> None:
    free = SequentialEstimator(GRID[:2], cap=CAP, mode="free", ratio=1.3)
    assert run(free, 2, (0.03, 0.97, 0.0)).prediction == 1
    # 45% for the best class, the rest invalid: nobody is certified, and more than half is refuted or left open.
    assert run(free, 2, (0.45, 0.05, 0.5)).prediction is None
    assert run(free, 2, (0.02, 0.02, 0.96)).status is Status.REFUTED


# --- Extensions ---------------------------------------------------------------------------------------------------------


def test_further_radii_continue_the_looks_of_the_run() -> None:
    more = SequentialEstimator(
        thresholds(Gaussian((1,), sigma=0.5), "l2", (0.0, 0.25, 0.5, 0.75, 1.0)), cap=CAP, ratio=1.3
    )
    more.may_extend(SEQUENTIAL.describe())
    for seed, law in enumerate(LAWS):
        begun = run(SEQUENTIAL, seed, law)
        extended = run(more, seed, law, begun.looks)
        assert extended == run(more, seed, law)
        # What was claimed stays claimed.
        for old, new in zip(begun.decisions, extended.decisions, strict=False):
            assert old.status is not Status.CERTIFIED or new.status is Status.CERTIFIED


def test_a_larger_budget_continues_an_anytime_run() -> None:
    short, long = AnytimeEstimator(GRID, budget=100, ratio=1.3), AnytimeEstimator(GRID, budget=None, ratio=1.3)
    long.may_extend(short.describe())
    begun = run(short, 1, LAWS[1])
    assert long.max_votes is None
    assert (
        run(AnytimeEstimator(GRID, budget=CAP, ratio=1.3), 1, LAWS[1], begun.looks).looks[: len(begun.looks)]
        == begun.looks
    )
    with pytest.raises(ExtensionRefusedError, match="budget may only grow"):
        short.may_extend(long.describe())


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (FixedEstimator(20, 500), FixedEstimator(20, 900), "looking again"),
        (PlannedEstimator(100, CAP), PlannedEstimator(100, 2 * CAP), "its pilot named"),
        (SEQUENTIAL, SequentialEstimator(GRID, cap=2 * CAP, ratio=1.3), "cannot get a larger cap"),
        (SEQUENTIAL, SequentialEstimator(GRID, cap=CAP, ratio=1.3, alpha=0.01), "unchanged, got alpha"),
        (SEQUENTIAL, SequentialEstimator(GRID[:2], cap=CAP, ratio=1.3), "all of its radii unchanged"),
        (
            SequentialEstimator(GRID[:2], cap=CAP, ratio=1.3),
            SequentialEstimator((*GRID[:2], GRID[3]), cap=CAP, ratio=1.3),
            "continue the run's grid",
        ),
        (
            SequentialEstimator(GRID[:1], cap=CAP, ratio=1.3),
            SequentialEstimator(GRID[:2], cap=CAP, ratio=1.3),
            "at least two radii",
        ),
        (AnytimeEstimator(GRID, budget=9), AnytimeEstimator(GRID, budget=99, mode="free"), "unchanged, got mode"),
        (
            SequentialEstimator(GRID, cap=CAP, ratio=1.3, futility=0.0),
            SequentialEstimator(GRID, cap=CAP, ratio=1.3, futility=0.06),
            r"futility of a sequential run may only fall, got futility=0.06 after 0.0",
        ),
    ],
)
def test_what_would_spend_alpha_twice_is_refused(before: Estimator, after: Estimator, reason: str) -> None:
    with pytest.raises(ExtensionRefusedError, match=reason):
        after.may_extend(before.describe())


# --- Arguments ----------------------------------------------------------------------------------------------------------


def test_thresholds_are_the_largest_that_prove_the_radius() -> None:
    law = Gaussian((3,), sigma=0.25)
    for threshold in thresholds(law, "l2", (0.1, 0.25, 0.9)):
        assert threshold.q0 == pytest.approx(float(ndtr(-threshold.radius / 0.25)), rel=1e-9)
        assert law.radius(1.0, "l2", q_upper=threshold.q0) >= threshold.radius
        assert law.radius(1.0, "l2", q_upper=math.nextafter(threshold.q0, 1.0)) < threshold.radius
    [with_slack] = thresholds(law, "l2", (0.25,), slack=1e-3)
    assert with_slack.q0 + 1e-3 <= thresholds(law, "l2", (0.25,))[0].q0
    [converted] = thresholds(law, "linf", (0.1,), convert_from="l2")
    assert converted.q0 == pytest.approx(float(ndtr(-0.1 * math.sqrt(3) / 0.25)), rel=1e-9)
    [laplace] = thresholds(Laplace((2,), sigma=0.5), Norm.L1, (0.2,))
    assert Laplace((2,), sigma=0.5).radius(1.0, "l1", q_upper=laplace.q0) >= 0.2


def test_what_cannot_be_proved_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="within reach of the law"):
        thresholds(Uniform((3,), sigma=0.25), "l1", (0.1, 2.0))
    with pytest.raises(InvalidArgumentError, match="in increasing order"):
        thresholds(Gaussian((1,), sigma=0.25), "l2", (0.5, 0.25))
    with pytest.raises(InvalidArgumentError, match="what the noise itself"):
        thresholds(Gaussian((1,), sigma=0.25), "l2", (1.2,), slack=1e-3)
    with pytest.raises(InvalidArgumentError, match="within reach of the cap"):
        SequentialEstimator((Threshold(1.0, 1e-4),), cap=1_000)
    with pytest.raises(InvalidArgumentError, match="needs the label"):
        SEQUENTIAL.start()
    with pytest.raises(InvalidArgumentError, match="label must be in"):
        replay(SEQUENTIAL, (Look(Phase.ESTIMATE, 4, (4, 0)),), 5)
    with pytest.raises(InvalidArgumentError, match="those that the estimator asks for"):
        replay(SEQUENTIAL, (Look(Phase.ESTIMATE, 5, (5, 0)),), 0)


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_budget_without_a_look_is_refused(budget: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"first look, which is at 4 votes, got budget={budget}"):
        AnytimeEstimator(GRID, budget=budget)


@pytest.mark.parametrize("mode", ["label", "free"])
def test_the_least_budget_has_a_result_and_can_be_raised(mode: str) -> None:
    least = AnytimeEstimator(GRID, budget=4, mode=mode)  # type: ignore[arg-type]
    state = least.start(0)
    assert state.next_look() == (Phase.ESTIMATE, 4)
    state.update(Phase.ESTIMATE, np.array([4, 0, 0]))
    assert state.next_look() is None
    assert state.result().status is Status.UNDECIDED
    larger = AnytimeEstimator(GRID, budget=50, mode=mode)  # type: ignore[arg-type]
    larger.may_extend(least.describe())
    assert replay(larger, state.result().looks, 0).next_look() == (Phase.ESTIMATE, 5)


@pytest.mark.parametrize("key", ["alpha", "beta"])
@pytest.mark.parametrize("level", [1e-300, 5e-324])
def test_levels_beyond_float64_are_refused(key: str, level: float) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{key} must be at least 1e-280.*got {key}={level}"):
        SequentialEstimator(GRID, cap=CAP, **{key: level})  # type: ignore[arg-type]


def test_plans_grow_with_precision_and_stop_where_there_is_no_hope() -> None:
    plans = [planned_votes(20, 1_000, 100_000, precision, 0.001) for precision in (0.2, 0.05, 0.01)]
    assert plans == sorted(plans)
    assert 300 < plans[0] < plans[2] < 60_000
    assert planned_votes(700, 1_000, 100_000, 0.05, 0.001) == 0
    assert planned_votes(0, 1_000, 100_000, 0.05, 0.001) > 20_000
