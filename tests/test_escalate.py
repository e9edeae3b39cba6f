"""The ladder as a whole: escalation under a budget, certified radii, parts of batches, MILP's failures."""

import numpy as np
import pytest
import torch
from torch import nn

from smoothing.errors import InvalidArgumentError, UnsupportedNormError
from tests.small_networks import network
from verify.alpha_crown import AlphaCrown
from verify.attack import Attack
from verify.ball import Ball
from verify.certified_radius import attack_radius, certified_radius, nearest_attack
from verify.checker import check
from verify.crown import Crown
from verify.errors import UnsupportedOperatorError
from verify.escalate import escalate
from verify.interval import Interval
from verify.lp import LPAll, SolverOptions
from verify.milp import MILP
from verify.problem import Problem
from verify.result import Guarantee, Status
from verify.same_slope import SameSlope
from verify.selection import join_boxes, select_problem, select_result
from verify.specification import Specification
from verify.tracing import trace

QUICK = Attack(steps=20, restarts=2)


def problem_of(kind="dense", eps=0.25, batch=8, norm="linf", clip=None, seed=4):
    net, shape = network(kind, seed)
    x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Problem.margins(trace(net, shape), x, Ball(norm, eps, clip=clip))


def ladder():
    return (Interval(), SameSlope(), Crown(), QUICK, LPAll(until_sign=True), MILP(until_sign=True))


class TestEscalate:
    @pytest.mark.parametrize("kind", ["dense", "residual", "pooled"])
    def test_decides_as_exact_verification_does(self, kind):
        problem = problem_of(kind)
        exact = MILP().bound(problem)
        found = escalate(problem, ladder())
        assert [d.status for d in found.decisions] == list(exact.status)
        assert Status.UNKNOWN not in exact.status
        if kind == "dense":
            assert len({d.method for d in found.decisions}) > 1  # not all by the same rung

    def test_proofs_are_certificates_and_refutations_are_points(self):
        problem = problem_of(batch=12, eps=0.3)
        kinds = set()
        for i, decision in enumerate(escalate(problem, ladder()).decisions):
            one = problem[i : i + 1]
            kinds.add(decision.status)
            if decision.status is Status.VERIFIED and decision.guarantee is Guarantee.CHECKABLE:
                assert check(one.graph, one.region, one.specification, [decision.certificate]).status == (
                    Status.VERIFIED,
                )
            if decision.status is Status.FALSIFIED:
                point = torch.from_numpy(decision.counterexample)[None]
                assert ((point >= one.region.lower) & (point <= one.region.upper)).all()
                values = one.specification.values(one.program.forward(point)[-1].numpy())
                assert one.specification.violated(values)[0]
            if decision.guarantee is Guarantee.SOLVER:
                # A solver's word is kept apart: it does not enter the checkable bounds.
                assert not one.specification.proved(decision.lower[None])[0]
                assert one.specification.proved(decision.solver_lower[None])[0]
        assert kinds == {Status.VERIFIED, Status.FALSIFIED}

    def test_no_time_left(self):
        found = escalate(problem_of(), ladder(), budget=1e-9)
        assert {d.status for d in found.decisions} == {Status.TIMEOUT}

    def test_rungs_that_cannot_run_are_left_out(self):
        problem = problem_of(eps=0.35)
        refusing = escalate(problem, (Crown(), LPAll(SolverOptions(memory_limit=1000)), MILP(memory_limit=1000)))
        assert {d.status for d in refusing.decisions} <= {Status.VERIFIED, Status.UNKNOWN}
        assert [d.status for d in refusing.decisions] == list(Crown().bound(problem).status)
        assert len(refusing.notes) == 2
        assert all("left out" in note and "MiB" in note for note in refusing.notes)

    @pytest.mark.parametrize("error", [KeyError(3), RuntimeError("out of memory"), AssertionError()])
    @pytest.mark.parametrize("rung", [LPAll, AlphaCrown])
    def test_a_rung_that_fails_costs_no_verdict(self, monkeypatch, rung, error):
        """Whatever a rung raises, what the others have found stays, and the note says what to report."""

        def fails(self, problem, previous=None, *, pure=False):
            raise error

        problem = problem_of(eps=0.35)
        expected = escalate(problem, (Crown(), MILP()))
        monkeypatch.setattr(rung, "bound", fails)
        found = escalate(problem, (Crown(), rung(), MILP()))
        assert [d.status for d in found.decisions] == [d.status for d in expected.decisions]
        assert {d.method for d in found.decisions} == {"crown", "milp"}
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        assert [note for note in found.notes if "failed" in note] == [
            f"{rung.name} failed, earlier rungs stand: {said}"
        ]

    def test_a_failure_on_one_input_leaves_the_others(self, monkeypatch):
        """Linear programs see one input at a time."""
        bound, calls = LPAll.bound, []

        def fails_once(self, problem, previous=None, *, pure=False):
            calls.append(len(problem))
            if len(calls) == 1:
                raise KeyError(3)
            return bound(self, problem, previous, pure=pure)

        monkeypatch.setattr(LPAll, "bound", fails_once)
        found = escalate(problem_of("joined", eps=0.2), (Crown(), LPAll()))
        assert calls == [1, 1]
        assert "lp-all" in {d.method for d in found.decisions}

    def test_an_interruption_is_no_failure(self, monkeypatch):
        def interrupted(self, problem, previous=None, *, pure=False):
            raise KeyboardInterrupt

        monkeypatch.setattr(LPAll, "bound", interrupted)
        with pytest.raises(KeyboardInterrupt):
            escalate(problem_of(), (LPAll(),))

    def test_bad_arguments(self):
        with pytest.raises(InvalidArgumentError, match="rung"):
            escalate(problem_of(), ())
        with pytest.raises(InvalidArgumentError, match="budget"):
            escalate(problem_of(), budget=float("nan"))


class TestRadius:
    @pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
    def test_linear_classifiers_have_a_known_radius(self, norm, dual):
        torch.manual_seed(0)
        net = nn.Linear(5, 2).double()
        x = torch.randn(3, 5, dtype=torch.float64)
        row = (net.weight[0] - net.weight[1]).detach().numpy()
        exact = np.abs((net(x)[:, 0] - net(x)[:, 1]).detach().numpy()) / np.linalg.norm(row, ord=dual)
        found = certified_radius(net, x, norm, Crown(), clip=None, limit=10.0, relative=0.001)
        assert (found.radius <= exact).all()
        assert (found.radius >= 0.998 * exact).all()
        assert (found.open_above >= exact * (1 - 1e-9)).all()  # at the exact radius, rounding decides
        # The loss is linear too: a few steps from the middle find the nearest point of each ball.
        attacked = attack_radius(net, x, norm, clip=None, limit=10.0, attack=Attack(steps=5, restarts=0))
        assert (attacked >= exact * (1 - 1e-9)).all()
        assert (attacked <= 1.02 * exact).all()

    def test_the_radius_is_one_that_was_proved(self):
        net, shape = network("dense", 6)
        x = torch.rand(4, *shape, dtype=torch.float64)
        found = certified_radius(net, x, "linf", Crown(), clip=(0.0, 1.0), limit=2.0)
        graph = trace(net, shape)
        assert (found.radius > 0).any()
        for i, certificate in enumerate(found.certificates):
            if certificate is not None:
                problem = Problem.margins(graph, x[i : i + 1], Ball("linf", float(found.radius[i]), clip=(0.0, 1.0)))
                checked = check(graph, problem.region, problem.specification, [certificate])
                assert checked.status == (Status.VERIFIED,)

    def test_better_methods_and_warm_starts(self):
        net, shape = network("dense", 6)
        x = torch.rand(4, *shape, dtype=torch.float64)
        attacked = attack_radius(net, x, "linf", clip=None, limit=2.0, attack=QUICK)
        options = {"clip": None, "limit": np.minimum(attacked, 2.0)}
        crown = certified_radius(net, x, "linf", SameSlope(), **options)
        best = certified_radius(net, x, "linf", LPAll(until_sign=True), start=crown.radius, **options)
        cold = certified_radius(net, x, "linf", LPAll(), **options)
        assert (crown.radius <= best.radius).all()
        np.testing.assert_allclose(best.radius, cold.radius, rtol=0.012)
        assert (best.radius <= attacked).all()

    def test_no_time_left(self):
        net, shape = network("dense", 6)
        x = torch.rand(3, *shape, dtype=torch.float64)
        start = np.array([0.01, 0.0, 0.02])
        found = certified_radius(net, x, "linf", MILP(), clip=None, limit=1.0, start=start, budget=1e-9)
        np.testing.assert_array_equal(found.radius, start)
        assert found.timed_out
        assert not certified_radius(net, x, "linf", Crown(), clip=None, limit=0.01).timed_out

    def test_the_nearest_points_are_there_and_as_far_as_said(self):
        net, shape = network("dense", 6)
        x = torch.rand(3, *shape, dtype=torch.float64)
        found = nearest_attack(
            net, x, "linf", clip=(-1.0, 2.0), limit=2.0, attack=Attack(steps=10, restarts=0), steps=6
        )
        assert np.isfinite(found.distance).any()
        for i, (distance, point) in enumerate(zip(found.distance, found.points, strict=True)):
            assert np.isfinite(distance) == (point is not None)
            if point is not None:
                assert ((point >= -1) & (point <= 2)).all()
                moved = np.abs(point - x[i].numpy()).max()
                assert moved <= distance <= moved * (1 + 1e-12)
                assert net(torch.from_numpy(point)[None]).argmax() != net(x[i : i + 1]).argmax()

    def test_wrong_labels_have_radius_zero(self):
        net, shape = network("dense", 6)
        x = torch.rand(3, *shape, dtype=torch.float64)
        wrong = (net(x).argmax(1).numpy() + 1) % 3
        found = certified_radius(net, x, "linf", Crown(), clip=None, limit=1.0, labels=wrong)
        assert (found.radius == 0).all()
        assert (found.tried == 0).all()

    def test_no_attack_succeeds_on_a_constant_network(self):
        net = nn.Linear(3, 2).double()
        net.weight.data.zero_()
        quick = Attack(steps=3, restarts=1)
        found = attack_radius(net, torch.rand(2, 3).double(), "linf", clip=None, limit=1.0, attack=quick)
        assert np.isinf(found).all()

    def test_bad_arguments(self):
        net, shape = network("dense", 6)
        x = torch.rand(1, *shape, dtype=torch.float64)
        for limit in (float("inf"), float("nan"), -1.0):
            with pytest.raises(InvalidArgumentError, match="limit"):
                certified_radius(net, x, "linf", Crown(), clip=None, limit=limit)


class TestMILP:
    def test_refuses_by_name(self):
        with pytest.raises(UnsupportedOperatorError, match="Sigmoid"):
            MILP().bound(problem_of("smooth"))
        with pytest.raises(UnsupportedNormError, match="l2"):
            MILP().bound(problem_of(norm="l2"))
        for options in ({"time_limit": 0.0}, {"time_limit": float("nan")}, {"gap": 1.0}):
            with pytest.raises(InvalidArgumentError):
                MILP(**options)

    def test_only_inputs_that_cheaper_rungs_leave_open_get_a_program(self, monkeypatch):
        """With stop-at-sign: LP-ALL where CROWN does not prove, branch and bound where LP-ALL does not either."""
        import verify.milp as module

        problem = problem_of(eps=0.35, seed=5)
        exact = MILP().bound(problem)
        crown = Crown().bound(problem, SameSlope().bound(problem))
        linear = LPAll().bound(problem, crown)
        left = [[i for i, s in enumerate(r.status) if s is not Status.VERIFIED] for r in (crown, linear)]
        assert len(problem) > len(left[0]) > len(left[1]) > 0
        asked, relaxed = [], []
        build, bound = module._exact_program, LPAll.bound

        def record(problem, previous, image, limit):
            asked.append(image)
            return build(problem, previous, image, limit)

        def count(self, problem, previous=None, *, pure=False):
            relaxed.append((self.until_sign, len(problem)))
            return bound(self, problem, previous, pure=pure)

        monkeypatch.setattr(module, "_exact_program", record)
        monkeypatch.setattr(LPAll, "bound", count)
        found = MILP(until_sign=True).bound(problem)
        assert found.status == exact.status
        assert asked == left[1]
        assert relaxed == [(True, len(left[0]))]

    def test_a_time_limit_is_no_proof(self):
        problem = problem_of(eps=0.3)
        base = LPAll().bound(problem)
        found = MILP(time_limit=1e-9).bound(problem, base)
        assert (found.lower >= base.lower).all()
        for before, after in zip(base.status, found.status, strict=True):
            assert after is (Status.VERIFIED if before is Status.VERIFIED else Status.TIMEOUT)

    def test_a_single_point_is_decided(self):
        """A program without variables: HiGHS calls it empty, and gives no bound."""
        problem = problem_of(eps=0.0, batch=2)
        exact = problem.specification.values(problem.program.forward(problem.region.center)[-1].numpy())
        for until_sign in (False, True):
            found = MILP(until_sign=until_sign).bound(problem, Interval().bound(problem))
            assert set(found.status) == {Status.VERIFIED}
        np.testing.assert_allclose(MILP().bound(problem, Interval().bound(problem)).lower, exact, atol=1e-5)
        wrong = Problem.build(
            problem.graph, problem.region, Specification(-problem.specification.matrix, np.zeros((2, 2)), ((0, 1),))
        )
        found = MILP().bound(wrong, Interval().bound(wrong))
        assert set(found.status) == {Status.FALSIFIED}

    def test_an_infeasible_program_is_no_proof(self, monkeypatch):
        import verify.milp as module

        problem = problem_of(eps=0.35)
        base = LPAll().bound(problem)
        original = module._exact_program

        def contradictory(*args):
            program = original(*args)
            program.column_bounds[0][-1] = 1.0
            program.column_bounds[1][-1] = 0.0
            return program

        monkeypatch.setattr(module, "_exact_program", contradictory)
        found = MILP().bound(problem, base)
        np.testing.assert_array_equal(found.lower, base.lower)
        assert Status.FALSIFIED not in found.status
        assert any("no bound" in note for note in found.notes)

    def test_a_claimed_point_must_be_confirmed(self, monkeypatch):
        import verify.milp as module

        problem = problem_of(eps=0.01, batch=2)  # robust: no point breaks it
        monkeypatch.setattr(
            module._ExactProgram,
            "minimise",
            lambda self, *args: module._Answer("optimal", -5.0, np.full(3, 0.5)),
        )
        base = Crown().bound(problem)
        found = MILP().bound(problem, base)
        assert Status.FALSIFIED not in found.status
        assert found.counterexamples == (None, None)


class TestSelection:
    def test_parts_of_a_batch(self):
        problem = problem_of(batch=5)
        result = Crown().bound(problem)
        part, mine = select_problem(problem, [3, 1]), select_result(result, [3, 1])
        again = Crown().bound(part)
        np.testing.assert_allclose(again.lower, mine.lower, atol=1e-12)
        assert again.status == mine.status
        assert check(part.graph, part.region, part.specification, mine.certificates).agrees(mine.lower)

    def test_only_like_sets_are_joined(self):
        x = torch.rand(1, 3).double()
        joined = join_boxes([Ball("linf", 0.1, clip=None).at(x), Ball("linf", 0.2, clip=None).at(x)])
        assert len(joined) == 2
        with pytest.raises(InvalidArgumentError):
            join_boxes([Ball("l2", 0.1, clip=None).at(x), Ball("l2", 0.2, clip=None).at(x)])
        with pytest.raises(InvalidArgumentError):
            join_boxes([])
