"""Alpha-CROWN under a limit: it stops between steps, keeps what it has, and says so; the budgets that set the limit."""

import dataclasses

import numpy as np
import pytest
import torch

import verify.deadline
from smoothing.errors import InvalidArgumentError
from tests.small_networks import network
from verify.alpha_crown import AlphaCrown
from verify.ascent import Ascent
from verify.attack import Attack
from verify.ball import Ball
from verify.certified_radius import certified_radius
from verify.checker import check
from verify.crown import Crown
from verify.deadline import Deadline
from verify.escalate import escalate
from verify.limits import limited
from verify.lp import LPAll, SolverOptions
from verify.milp import MILP
from verify.problem import Problem
from verify.result import Status
from verify.same_slope import SameSlope
from verify.tracing import trace


class Clock:
    """A clock that advances by one second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(verify.deadline, "time", made)
    return made


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per gradient step."""
    steps: list[int] = []
    original = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *arguments: object) -> object:
        steps.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    return steps


def problem_of(seed: int = 4, eps: float = 0.4, batch: int = 2) -> Problem:
    net, shape = network("dense", seed)
    x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Problem.margins(trace(net, shape), x, Ball("linf", eps, clip=None))


def test_every_step_asks_the_clock(clock: Clock, taken: list[int]) -> None:
    problem = problem_of(seed=5, eps=0.5)
    base = Crown().bound(problem, SameSlope().bound(problem))
    full = AlphaCrown(steps=30, box_steps=0).bound(problem, base)
    assert len(taken) == 30
    assert not full.notes
    taken.clear()
    short = AlphaCrown(steps=30, box_steps=0, time_limit=4.5).bound(problem, base)
    assert len(taken) == 4
    assert short.notes == (
        "the time was over before all gradient steps were taken: the best bounds until then are kept",
    )
    assert (base.lower <= short.lower).all()
    assert (short.lower <= full.lower + 1e-12).all()
    assert (short.lower > base.lower + 1e-6).any()
    assert short.status == (Status.TIMEOUT, Status.TIMEOUT)
    assert check(problem.graph, problem.region, problem.specification, short.certificates).agrees(short.lower, 1e-9)


@pytest.mark.parametrize("pure", [False, True])
def test_no_time_at_all_is_no_step_at_all(clock: Clock, taken: list[int], pure: bool) -> None:
    """Boxes of the previous rung stand, rows get the better of the two rules; alone, the method starts from these too."""
    problem = problem_of()
    base = None if pure else Crown().bound(problem, SameSlope().bound(problem))
    found = AlphaCrown(time_limit=0.5).bound(problem, base, pure=pure)
    assert not taken
    assert found.notes
    rules = [rule.bound(problem, pure=pure).lower for rule in (Crown(), SameSlope())]
    if not pure:
        assert base is not None
        np.testing.assert_array_equal(found.lower >= base.lower, True)
        assert sum(stage.target == "box" for stage in found.certificates[0].stages) == sum(
            stage.target == "box" for stage in base.certificates[0].stages
        )
    else:
        assert (found.lower >= np.minimum(*rules) - 1e-9).all()
    assert check(problem.graph, problem.region, problem.specification, found.certificates).agrees(found.lower, 1e-9)


def test_what_is_proved_is_proved_however_little_time_there_was(clock: Clock) -> None:
    found = AlphaCrown(time_limit=0.5).bound(problem_of(eps=0.01))
    assert found.status == (Status.VERIFIED, Status.VERIFIED)
    assert found.notes


def test_an_ascent_keeps_the_best_it_has_seen(clock: Clock) -> None:
    """The last step overshoots; what is returned is the best row by row, not the last."""
    target = torch.tensor([[0.3], [0.9]], dtype=torch.float64)

    def value(numbers):  # type: ignore[no-untyped-def]
        return -(numbers[7] - target).abs().sum(1)

    starts = [{7: torch.zeros(2, 1, dtype=torch.float64)}, {7: torch.ones(2, 1, dtype=torch.float64)}]
    nothing = Ascent(5, 0.5, 1.0).run(value, starts, Deadline(0.5))[7]
    assert nothing.tolist() == [[0.0], [1.0]]
    some = Ascent(5, 0.5, 1.0).run(value, starts, Deadline(None))[7]
    assert (value({7: some}) >= value({7: nothing})).all()
    assert ((some >= 0) & (some <= 1)).all()


def test_the_ladder_sets_the_limit() -> None:
    problem = problem_of()
    limits = []

    class Watched(AlphaCrown):
        def bound(self, problem, previous=None, *, pure=False):  # type: ignore[no-untyped-def]
            limits.append(self.time_limit)
            return dataclasses.replace(self, time_limit=1e-9).bound_as_ever(problem, previous, pure=pure)

        bound_as_ever = AlphaCrown.bound

    found = escalate(problem, (Crown(), Watched()), budget=1000.0)
    assert {d.status for d in found.decisions} == {Status.TIMEOUT}
    assert any(note.startswith("alpha: the time was over") for note in found.notes)
    found = escalate(problem, (Crown(), Watched(), MILP()), budget=1000.0)
    assert limits[1] <= 500.0 < limits[0] <= 1000.0, "half of what is left, where rungs follow"
    assert {d.method for d in found.decisions} == {"milp"}
    escalate(problem, (Crown(), Watched()))
    assert limits[2] is None


def test_a_radius_is_one_that_was_proved_in_time() -> None:
    net, shape = network("dense", 6)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    full = certified_radius(net, x, "linf", AlphaCrown(5, 5), clip=None, limit=1.0, tries=6)
    cut = certified_radius(net, x, "linf", AlphaCrown(5, 5, time_limit=1e-9), clip=None, limit=1.0, tries=6)
    assert not full.timed_out
    assert cut.timed_out
    assert (cut.radius <= full.radius + 1e-9).all()


def test_which_methods_have_a_limit() -> None:
    assert limited(AlphaCrown(), 3.0).time_limit == 3.0
    assert limited(AlphaCrown(time_limit=2.0), 3.0).time_limit == 2.0
    assert limited(MILP(), 0.0).time_limit == 1e-3
    assert limited(LPAll(SolverOptions(total_limit=1.0)), 3.0).options.total_limit == 1.0
    for method in (Crown(), Attack()):
        assert limited(method, 3.0) is method
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(InvalidArgumentError, match="time_limit"):
            AlphaCrown(time_limit=limit)
