"""Linear programs: fast against readable, certificates from duals, the order of the ladder, failures.

Optima on a real network: tests/test_verify_reference.py.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smoothing.errors import InvalidArgumentError
from tests.small_networks import exact_minimum, network
from verify.alpha_crown import AlphaCrown
from verify.attack import Attack
from verify.ball import Ball
from verify.checker import check
from verify.crown import Crown
from verify.escalate import escalate
from verify.interval import Interval
from verify.lp import LPAll, LPLast, ProgramTooLargeError, SolverOptions
from verify.lp import solve as solving
from verify.lp.cones import cones, constraints_of
from verify.lp.program import HullProgram
from verify.lp.reference import SolverFailedError, lp_all_reference, relaxed_minimum
from verify.lp.simplex import Answer
from verify.milp import MILP
from verify.problem import Problem
from verify.result import Guarantee, Status
from verify.same_slope import SameSlope
from verify.specification import Specification
from verify.tracing import trace

PIECEWISE = ["dense", "leaky", "residual", "joined", "conv", "pooled"]
CLIPS = [None, (0.0, 1.0)]


def problem_of(kind, seed, norm, eps, clip, batch=1):
    net, shape = network(kind, seed)
    x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Problem.margins(trace(net, shape), x, Ball(norm, eps, clip=clip))


def flat_boxes(result, image=0):
    return {k: (box.lower[image].ravel(), box.upper[image].ravel()) for k, box in result.boxes.items()}


class TestAgainstTheReference:
    @pytest.mark.parametrize("clip", CLIPS)
    @pytest.mark.parametrize(("norm", "eps"), [("linf", 0.4), ("l1", 0.9), ("l2", 0.6)])
    @pytest.mark.parametrize("kind", [*PIECEWISE, "smooth"])
    def test_rows_on_given_boxes(self, kind, norm, eps, clip):
        problem = problem_of(kind, 3, norm, eps, clip)
        base = Crown().bound(problem)
        solver = "CLARABEL" if norm == "l2" else "HIGHS"
        rows = problem.specification.matrix[0]
        boxes = flat_boxes(base)
        expected = relaxed_minimum(problem.graph, problem.region, boxes, problem.graph.output, rows, solver=solver)
        found = LPLast().bound(problem, base)
        # CROWN's own bound may be the better one where relaxations are not nested (sigmoid); the program's is compared.
        np.testing.assert_allclose(found.lower[0], np.fmax(expected, base.lower[0]), atol=1e-6)
        assert found.guarantee is Guarantee.CHECKABLE
        assert found.notes == ()

    @pytest.mark.parametrize("kind", ["dense", "residual", "conv"])
    @pytest.mark.parametrize("clip", CLIPS)
    def test_all_layers(self, kind, clip):
        problem = problem_of(kind, 5, "linf", 0.5, clip)
        rows = problem.specification.matrix[0]
        boxes, expected = lp_all_reference(problem.graph, problem.region, rows, solver="HIGHS")
        found = LPAll().bound(problem)
        np.testing.assert_allclose(found.lower[0], expected, atol=1e-6)
        for node, (lower, upper) in boxes.items():
            mine = found.boxes[node]
            # A neuron whose sign is known may keep a looser box: its hull is exact.
            open_ = (mine.lower[0].ravel() < 0) & (mine.upper[0].ravel() > 0)
            np.testing.assert_allclose(mine.lower[0].ravel()[open_], lower[open_], atol=1e-6)
            np.testing.assert_allclose(mine.upper[0].ravel()[open_], upper[open_], atol=1e-6)
            assert ((lower < 1e-9) & (upper > -1e-9) >= open_).all()

    def test_skipping_stable_neurons_changes_nothing(self):
        problem = problem_of("dense", 9, "linf", 0.3, None)
        rows = problem.specification.matrix[0]
        everything = lp_all_reference(problem.graph, problem.region, rows, solver="HIGHS")[1]
        start = flat_boxes(Crown().bound(problem))
        some = lp_all_reference(problem.graph, problem.region, rows, solver="HIGHS", start=start)[1]
        np.testing.assert_allclose(some, everything, atol=1e-7)

    def test_a_failing_solver_is_no_answer(self):
        problem = problem_of("dense", 1, "l2", 0.3, None)
        boxes = flat_boxes(Crown().bound(problem))
        rows = problem.specification.matrix[0]
        with pytest.raises(SolverFailedError, match="HIGHS"):  # no cones there
            relaxed_minimum(problem.graph, problem.region, boxes, problem.graph.output, rows, solver="HIGHS")


class TestCertificates:
    def test_slopes_give_the_optimum_back_where_a_box_is_itself_an_optimum(self):
        """There the triangle and the layers below imply the same bound, and a solver may use the one without slopes."""
        # The last two have boxes so narrow that a share of their width is less than the solver's tolerance.
        for kind, seed, norm, eps, clip, image in (
            ("conv", 629, "linf", 0.5, (0.0, 1.0), 0),
            ("conv", 116, "linf", 0.958034596243776, None, 1),
            ("leaky", 169, "l1", 0.4711912256105149, None, 0),
        ):
            problem = problem_of(kind, seed, norm, eps, clip, batch=image + 1)[image:]
            rows = problem.specification.matrix[0]
            expected = lp_all_reference(problem.graph, problem.region, rows, solver="HIGHS")[1]
            np.testing.assert_allclose(LPAll().bound(problem).lower[0], expected, atol=1e-6)

    @pytest.mark.parametrize("kind", [*PIECEWISE, "smooth"])
    @pytest.mark.parametrize(("norm", "clip"), [("linf", (0.0, 1.0)), ("l1", None), ("l2", (0.0, 1.0))])
    @pytest.mark.parametrize("method", [LPLast(), LPAll()])
    def test_the_checker_confirms_what_is_reported(self, kind, norm, clip, method):
        problem = problem_of(kind, 11, norm, 0.5, clip, batch=2)
        result = method.bound(problem)
        checked = check(problem.graph, problem.region, problem.specification, result.certificates)
        assert checked.agrees(result.lower, 1e-7)

    def test_pure_lp_last_uses_the_greedy_boxes(self):
        problem = problem_of("dense", 13, "linf", 0.6, None)
        greedy = SameSlope().bound(problem, pure=True)
        expected = relaxed_minimum(
            problem.graph,
            problem.region,
            flat_boxes(greedy),
            problem.graph.output,
            problem.specification.matrix[0],
            solver="HIGHS",
        )
        found = LPLast().bound(problem, pure=True)
        np.testing.assert_allclose(found.lower[0], expected, atol=1e-6)
        assert (greedy.lower <= found.lower + 1e-9).all()
        assert check(problem.graph, problem.region, problem.specification, found.certificates).agrees(found.lower)

    def test_wrong_duals_cannot_make_a_bound_wrong(self, monkeypatch):
        """A solver that lies about its optimum and its multipliers costs tightness, and nothing else."""
        problems = [problem_of(kind, seed, "linf", 0.7, None) for seed in range(3) for kind in ("dense", "joined")]
        honest = [LPAll().bound(problem) for problem in problems]
        rng = np.random.default_rng(0)

        class Liar(solving.Simplex):
            def minimise(self, cost, *, stop_above=None):
                answer = super().minimise(cost, stop_above=None)
                noise = rng.standard_normal
                return Answer("optimal", 1e6, noise(len(answer.row_dual)), noise(len(answer.column_dual)))

        monkeypatch.setattr(solving, "Simplex", Liar)
        looser = 0
        for problem, truth in zip(problems, honest, strict=True):
            lied = LPAll().bound(problem)
            assert (lied.lower <= truth.lower + 1e-9).all()
            looser += int((lied.lower < truth.lower - 1e-6).any())
            assert check(problem.graph, problem.region, problem.specification, lied.certificates).agrees(lied.lower)
        assert looser > 0  # the lies did arrive


class TestOrder:
    @settings(max_examples=10, deadline=None)
    @given(
        st.sampled_from(PIECEWISE),
        st.integers(0, 10_000),
        st.sampled_from(["linf", "l1"]),
        st.floats(0.05, 0.9),
        st.sampled_from(CLIPS),
    )
    def test_the_chain(self, kind, seed, norm, eps, clip):
        problem = problem_of(kind, seed, norm, eps, clip)
        below = [Interval(), SameSlope(), Crown()]
        cheap = [method.bound(problem) for method in below]
        base = Crown().bound(problem, SameSlope().bound(problem, Interval().bound(problem)))
        alpha = AlphaCrown(steps=15, box_steps=15).bound(problem, base)
        everything = LPAll().bound(problem, base)
        exact = MILP().bound(problem, everything)
        attack = Attack(steps=20, restarts=2, per_row=True).bound(problem)
        slack = 1e-6
        for result in cheap:
            assert (result.lower <= alpha.lower + slack).all()
        # Lines of max pooling are not nested as boxes shrink; the others' relaxations are.
        assert (alpha.lower <= everything.lower + slack).all() or kind == "pooled"
        assert (everything.lower <= exact.lower + 1e-5).all()
        assert (exact.lower <= attack.upper + slack).all()
        assert (exact.lower <= exact.upper + slack).all()

    @settings(max_examples=10, deadline=None)
    @given(
        st.sampled_from(["dense", "leaky", "residual", "joined", "conv"]), st.integers(0, 10_000), st.floats(0.05, 0.9)
    )
    def test_greedy_last_all_on_the_same_boxes(self, kind, seed, eps):
        problem = problem_of(kind, seed, "linf", eps, (0.0, 1.0))
        greedy = SameSlope().bound(problem, pure=True)
        last = LPLast().bound(problem, pure=True)
        everything = LPAll().bound(problem)
        assert (greedy.lower <= last.lower + 1e-6).all()
        assert (last.lower <= everything.lower + 1e-6).all()

    @pytest.mark.parametrize("kind", ["dense", "leaky", "residual", "joined"])
    @pytest.mark.parametrize(("norm", "clip"), [("linf", None), ("linf", (0.0, 1.0)), ("l1", (0.0, 1.0))])
    def test_milp_is_exact(self, kind, norm, clip):
        problem = problem_of(kind, 23, norm, 0.6, clip)
        found = MILP().bound(problem)
        expected = [exact_minimum(problem.graph, problem.region, row) for row in problem.specification.matrix[0]]
        np.testing.assert_allclose(found.lower[0], expected, atol=1e-5)
        np.testing.assert_allclose(found.upper[0], expected, atol=1e-5)
        assert (LPAll().bound(problem).lower[0] <= np.array(expected) + 1e-9).all()

    def test_one_hidden_layer_makes_all_equal_last(self):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
        problem = Problem.margins(trace(net, (4,)), torch.rand(1, 4).double(), Ball("linf", 0.3, clip=None))
        np.testing.assert_allclose(LPLast().bound(problem).lower, LPAll().bound(problem).lower, atol=1e-9)


def test_a_leaky_relu_of_slope_one_is_linear():
    """Its two lines are one: no slope to choose, and nothing to divide by."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(1.0), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    x = torch.rand(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = Problem.margins(trace(net, (3,)), x, Ball("linf", 0.6, clip=None))
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        plain[0].weight.copy_(net[2].weight @ net[0].weight)
        plain[0].bias.copy_(net[2].weight @ net[0].bias + net[2].bias)
    plain[2] = net[4]
    other = Problem.margins(trace(plain, (3,)), x, Ball("linf", 0.6, clip=None))
    np.testing.assert_allclose(LPAll().bound(problem).lower, LPAll().bound(other).lower, atol=1e-6)


class TestSigns:
    @pytest.mark.parametrize("kind", ["dense", "conv", "residual"])
    def test_verdicts_are_those_of_the_full_bounds(self, kind):
        verdicts = set()
        for seed in range(8):
            problem = problem_of(kind, seed, "linf", 0.15 + 0.05 * (seed % 4), None, batch=2)
            full, quick = LPAll().bound(problem), LPAll(until_sign=True).bound(problem)
            assert full.status == quick.status
            assert (quick.lower <= full.lower + 1e-9).all()
            verdicts |= set(full.status)
        assert kind == "conv" or verdicts == {Status.VERIFIED, Status.UNKNOWN}

    def test_groups_of_several_rows(self):
        net, shape = network("dense", 2)
        problem = problem_of("dense", 2, "linf", 0.2, None)
        matrix = np.concatenate([problem.specification.matrix[0], -problem.specification.matrix[0]])[None]
        specification = Specification(matrix, np.full((1, 4), 0.3), ((0, 2), (1, 3)))
        grouped = Problem.build(trace(net, shape), problem.region, specification)
        full, quick = LPAll().bound(grouped), LPAll(until_sign=True).bound(grouped)
        assert full.status == quick.status

    @pytest.mark.parametrize("until_sign", [False, True])
    def test_rows_that_are_positive_in_turns(self, until_sign):
        """|v - middle| > gap, a row for each sign: neither is positive everywhere; one of them always is, or not."""
        problem = problem_of("dense", 2, "linf", 0.3, None)
        row = problem.specification.matrix[0, 0]
        low, high = (MILP().bound(_rows(problem, sign * row[None], [0.0])).lower[0, 0] for sign in (1, -1))
        middle, reach = (low - high) / 2, -(low + high) / 2  # the row takes values in middle +- reach
        for gap, status in ((-0.1 * reach, Status.VERIFIED), (0.1 * reach, Status.FALSIFIED)):
            both = _rows(problem, np.stack([row, -row]), [-middle - gap, middle - gap])
            found = MILP(until_sign=until_sign).bound(both)
            assert found.status == (status,)
            # The two rows add up to -2 gap, which is constant: linear programs see that, rows alone do not.
            linear = LPAll(until_sign=until_sign).bound(both)
            assert linear.status == (Status.VERIFIED if gap < 0 else Status.UNKNOWN,)
            assert not (found.lower > 0).any()
            assert not (linear.lower > 0).any()


def _rows(problem, matrix, offset):
    """The same sets, with other rows in one group."""
    rows = Specification(matrix[None], np.array([offset], dtype=float), (tuple(range(len(matrix))),))
    return Problem.build(problem.graph, problem.region, rows)


class TestCones:
    def test_cutting_out_the_cone_changes_no_optimum(self):
        torch.manual_seed(1)
        parts = [nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1), nn.ReLU()]
        net = nn.Sequential(*parts, nn.Flatten(), nn.Linear(75, 3)).double()
        problem = Problem.margins(
            trace(net, (1, 10, 10)), torch.rand(1, 1, 10, 10).double(), Ball("l1", 2.0, clip=None)
        )
        graph, boxes = problem.graph, flat_boxes(Crown().bound(problem))
        program = HullProgram(graph, problem.region, boxes)
        node = graph.preactivations[1]
        expression = program.reach(node)
        constraints = constraints_of(program)
        found = list(cones(program, constraints, expression.matrix))
        assert sorted(np.concatenate([cone.objectives for cone in found])) == list(range(graph[node].size))
        assert max(len(cone.columns) for cone in found) < program.columns
        for cone in found[::7]:
            part = constraints.part(cone.rows, cone.columns)
            own = solving.Simplex(part.matrix, part.row_bounds, part.column_bounds)
            whole = solving.Simplex(constraints.matrix, constraints.row_bounds, constraints.column_bounds)
            for objective in cone.objectives:
                cost = expression.matrix[[objective]].toarray()[0]
                assert own.minimise(cost[cone.columns]).objective == pytest.approx(
                    whole.minimise(cost).objective, abs=1e-9
                )

    def test_processes_give_the_same_bounds(self):
        problem = problem_of("conv", 31, "linf", 0.4, None)
        one, two = LPAll().bound(problem), LPAll(SolverOptions(jobs=2)).bound(problem)
        np.testing.assert_allclose(one.lower, two.lower, atol=1e-9)


class TestFailures:
    @pytest.mark.parametrize("status", ["infeasible", "time limit reached", "unbounded", "optimal"])
    def test_no_multipliers_means_the_previous_rung(self, monkeypatch, status):
        problem = problem_of("joined", 0, "linf", 0.7, None)
        base = Crown().bound(problem)

        class Broken(solving.Simplex):
            def minimise(self, cost, *, stop_above=None):
                # What it claims as an optimum must not matter: here it claims a proof.
                return Answer(status, 1e6 if status == "optimal" else float("nan"), None, None)

        monkeypatch.setattr(solving, "Simplex", Broken)
        for method in (LPLast(), LPAll(), LPAll(until_sign=True)):
            result = method.bound(problem, base)
            np.testing.assert_allclose(result.lower, base.lower, atol=1e-9)
            if result.notes or not method.until_sign:  # a verdict may need no program at all
                assert "failed" in result.notes[0]
                assert "previous rung" in result.notes[0]

    def test_multipliers_that_are_not_numbers(self, monkeypatch):
        problem = problem_of("joined", 0, "linf", 0.7, None)

        class Broken(solving.Simplex):
            def minimise(self, cost, *, stop_above=None):
                answer = super().minimise(cost)
                return Answer("optimal", np.nan, np.full_like(answer.row_dual, np.nan), answer.column_dual)

        monkeypatch.setattr(solving, "Simplex", Broken)
        result = LPAll().bound(problem)
        assert np.isfinite(result.lower).all()
        assert result.notes

    def test_a_real_time_limit(self):
        problem = problem_of("joined", 0, "linf", 0.7, None)
        result = LPAll(SolverOptions(time_limit=1e-9)).bound(problem)
        assert (result.lower >= Crown().bound(problem).lower - 1e-9).all()

    def test_a_limit_for_all_programs_together(self, monkeypatch):
        """None is begun after it: the previous rung stands, with a note; and the ladder hands its budget on."""
        problem = problem_of("joined", 0, "linf", 0.7, None)
        base = Crown().bound(problem, SameSlope().bound(problem))
        options = SolverOptions(total_limit=1e-9)
        for method in (LPLast(options), LPAll(options), LPAll(options, until_sign=True)):
            result = method.bound(problem, base)
            np.testing.assert_allclose(result.lower, base.lower, atol=1e-9)
            assert "time limit reached" in result.notes[0]
        assert LPAll(SolverOptions(total_limit=1e3)).bound(problem, base).notes == ()
        given = []
        bound = LPAll.bound
        monkeypatch.setattr(LPAll, "bound", lambda self, *a, **k: given.append(self.options) or bound(self, *a, **k))
        escalate(problem, (Crown(), LPAll()), budget=100)
        escalate(problem, (Crown(), LPAll(SolverOptions(total_limit=3))), budget=100)
        escalate(problem, (Crown(), LPAll()))
        assert 40 < given[0].total_limit <= 50
        assert [options.total_limit for options in given[1:]] == [3, None]

    def test_an_unknown_conic_solver(self):
        problem = problem_of("joined", 0, "l2", 0.9, None)
        result = LPAll(SolverOptions(conic_solver="NONE_SUCH")).bound(problem)
        assert "NONE_SUCH" in result.notes[0]
        np.testing.assert_allclose(result.lower, Crown().bound(problem, SameSlope().bound(problem)).lower, atol=1e-9)

    def test_too_large_is_refused_with_the_estimate(self):
        problem = problem_of("joined", 0, "linf", 0.7, None)
        for method in (LPAll(SolverOptions(memory_limit=1000)), MILP(memory_limit=1000)):
            with pytest.raises(ProgramTooLargeError, match=r"estimate of 0\.00\d+ MiB"):
                method.bound(problem)

    def test_nothing_is_printed(self, capfd):
        problem = problem_of("joined", 0, "linf", 0.7, None)
        MILP().bound(problem, LPAll().bound(problem))
        assert capfd.readouterr() == ("", "")

    def test_bad_options(self):
        for options in ({"jobs": 0}, {"time_limit": 0.0}, {"time_limit": float("nan")}, {"total_limit": 0}):
            with pytest.raises(InvalidArgumentError):
                SolverOptions(**options)
        problem = problem_of("joined", 0, "linf", 0.7, None)
        with pytest.raises(InvalidArgumentError, match="pure"):
            LPAll().bound(problem, Crown().bound(problem), pure=True)
