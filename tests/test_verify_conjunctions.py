"""Groups of several rows, bounded together: weights, rungs, checker, VNN-LIB files that only a joint argument decides."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import verify.conjunctions
from certify.cli import main
from smoothing.errors import InvalidArgumentError
from tests.small_networks import network
from verify.alpha_crown import AlphaCrown
from verify.ball import Ball
from verify.certificate import Certificate, Stage
from verify.checker import check
from verify.crown import Crown
from verify.escalate import escalate
from verify.lp import LPAll, LPLast, SolverOptions
from verify.lp import finder as finding
from verify.lp.largest import LargestAnswer
from verify.lp.reference import relaxed_minimum_of_largest
from verify.milp import MILP
from verify.problem import Problem
from verify.result import Guarantee, Status
from verify.same_slope import SameSlope
from verify.specification import Specification
from verify.tracing import trace

RUNGS = (Crown(), AlphaCrown(steps=20, box_steps=0), LPLast(), LPAll(until_sign=True))


def problem_of(seed, rows=3, groups=None, *, kind="dense", eps=0.8, norm="linf", level=-0.2, batch=1):
    """Rows over a small network that nearly add up to nothing, all at `level` in the middle of the set: each falls below
    zero somewhere, but never all of them very far.
    """
    net, shape = network(kind, seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, *shape, generator=generator, dtype=torch.float64)
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(batch, rows, 3))
    matrix[:, -1] = 0.3 * rng.normal(size=(batch, 3)) - matrix[:, :-1].sum(1)
    offset = level - (matrix @ net(x).detach().numpy()[:, :, None])[..., 0]
    specification = Specification(matrix, offset, groups or (tuple(range(rows)),))
    return Problem.build(trace(net, shape), Ball(norm, eps, clip=None).at(x), specification)


def sampled(problem, count=4000, seed=0):
    """The least, over points of the set, of each group's largest row; the first input's."""
    region = problem.region
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(count, *region.center.shape[1:], generator=generator, dtype=torch.float64)
    share[: count // 2] = share[: count // 2].round()
    points = region.lower[0] + share * (region.upper[0] - region.lower[0])
    outputs = problem.program.forward(points)[-1].numpy()
    values = outputs @ problem.specification.matrix[0].T + problem.specification.offset[0]
    return np.array([values[:, list(group)].max(axis=1).min() for group in problem.specification.groups])


def levelled(problem, level):
    rows = problem.specification
    return Problem.build(problem.graph, problem.region, Specification(rows.matrix, rows.offset + level, rows.groups))


class TestBounds:
    @pytest.mark.parametrize("kind", ["dense", "joined", "pooled", "smooth"])
    def test_order_and_truth(self, kind):
        gained = 0
        for seed in (1, 2):
            problem = problem_of(seed, kind=kind, groups=((0, 1, 2), (1, 2)))
            first = Crown().bound(problem, SameSlope().bound(problem))
            results = [first, AlphaCrown(30, 0).bound(problem, first), LPLast().bound(problem, first)]
            if kind != "smooth":
                results.append(MILP().bound(problem, results[-1]))
            joint = [result.joint[0] for result in results]
            chain = [*joint, sampled(problem)]
            if kind == "smooth":
                del chain[2]
            for below, above in itertools.pairwise(chain):
                assert (below <= above + 1e-6).all()
            assert (joint[2] <= chain[-1] + 1e-6).all()
            if kind != "smooth":  # sigmoids' lines are free in alpha-CROWN, and fixed in the linear program
                np.testing.assert_allclose(joint[1], joint[2], atol=0.02)
            alone = np.array([results[2].lower[0][list(g)].max() for g in problem.specification.groups])
            assert (joint[2] >= alone - 1e-9).all()
            gained += int((joint[2] > alone + 1e-3).sum())
            for result in results[:3]:
                checked = check(problem.graph, problem.region, problem.specification, result.certificates)
                assert checked.agrees(result.lower, 1e-9, joint=result.joint)
        assert gained >= 2

    @pytest.mark.parametrize("norm", ["linf", "l1", "l2"])
    def test_linear_programs_agree_with_the_reference(self, norm):
        for seed in (1, 2):
            problem = problem_of(seed, rows=4, norm=norm)
            base = Crown().bound(problem, SameSlope().bound(problem))
            found = LPLast().bound(problem, base)
            boxes = {k: (base.boxes[k].lower[0], base.boxes[k].upper[0]) for k in problem.graph.preactivations}
            rows = problem.specification.matrix[0], problem.specification.offset[0]
            solver = "CLARABEL" if norm == "l2" else "HIGHS"
            expected = relaxed_minimum_of_largest(
                problem.graph, problem.region, boxes, problem.graph.output, *rows, solver=solver
            )
            assert found.joint[0, 0] == pytest.approx(expected, abs=1e-5)
            assert found.joint[0, 0] <= expected + 1e-6

    def test_without_activations_the_joint_bound_is_exact(self):
        """Rows y + 0.1 and 0.1 - y over y in [-1, 1]: the largest is 0.1 at least, each alone -0.9."""
        net = nn.Linear(1, 1).double()
        net.weight.data.fill_(1.0)
        net.bias.data.zero_()
        rows = Specification(np.array([[[1.0], [-1.0]]]), np.full((1, 2), 0.1), ((0, 1),))
        problem = Problem.build(trace(net, (1,)), Ball("linf", 1.0, clip=None).at(torch.zeros(1, 1)), rows)
        for rung in RUNGS:
            found = rung.bound(problem)
            assert found.joint[0, 0] == pytest.approx(0.1, abs=1e-6)
            assert (found.lower < -0.8).all()
            assert found.status == (Status.VERIFIED,)

    @pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
    def test_only_the_joint_argument_works(self, rung):
        """Just below what linear programs prove together and far above what rows prove alone: certificates, checked."""
        proved = 0
        for seed in (1, 2):
            problem = problem_of(seed, kind="pooled")
            best = LPLast().bound(problem)
            assert best.joint[0, 0] > best.lower.max() + 0.05
            problem = levelled(problem, 0.04 - best.joint[0, 0])
            found = rung.bound(problem)
            assert not (found.lower > 0).any()
            if found.status == (Status.VERIFIED,):
                checked = check(problem.graph, problem.region, problem.specification, found.certificates)
                assert checked.status == (Status.VERIFIED,)
                assert sampled(problem)[0] > 0
                proved += 1
        assert proved == 2

    def test_a_batch_is_what_its_inputs_are(self):
        problem = problem_of(3, rows=5, groups=((0, 1), (2,), (2, 3, 4)), batch=3)
        for rung in (Crown(), AlphaCrown(3, 2), LPLast()):
            together = rung.bound(problem)
            assert np.isneginf(together.joint[:, 1]).all()  # a group of one row
            for i in range(3):
                np.testing.assert_allclose(rung.bound(problem[i : i + 1]).joint, together.joint[i : i + 1], atol=1e-9)

    def test_small_chunks_change_nothing(self):
        problem = problem_of(2, rows=4, groups=((0, 1), (1, 2, 3), (0, 3)))
        small = dataclasses.replace(problem, max_bytes=1)
        np.testing.assert_allclose(Crown().bound(small).joint, Crown().bound(problem).joint, atol=1e-12)

    def test_margins_have_no_joint_bounds(self):
        net, shape = network("dense", 1)
        problem = Problem.margins(trace(net, shape), torch.rand(1, *shape).double(), Ball("linf", 0.1, clip=None))
        for rung in RUNGS:
            found = rung.bound(problem)
            assert found.joint is None
            assert all(stage.target != "conjunction" for stage in found.certificates[0].stages)


class TestSolver:
    @pytest.mark.parametrize("status", ["infeasible", "unbounded", "time limit reached", "no multipliers"])
    def test_a_failure_is_no_proof(self, monkeypatch, status):
        problem = problem_of(0, level=-0.3)
        base = Crown().bound(problem)
        assert base.status == (Status.UNKNOWN,)
        monkeypatch.setattr(finding, "minimise_largest", lambda *a, **k: LargestAnswer(status, np.nan))
        found = LPLast(until_sign=True).bound(problem, base)
        assert found.status == (Status.UNKNOWN,)
        assert (found.joint >= base.joint).all()
        assert status in found.notes[0]

    def test_an_infeasible_program_is_no_proof(self, monkeypatch):
        """Constraints that contradict each other: the solver says infeasible, the bound stays that of the rung before."""
        from verify.lp.largest import LargestProgram

        problem = problem_of(0, level=-0.3)
        base = Crown().bound(problem)
        monkeypatch.setattr(
            LargestProgram, "column_bounds", lambda self: (np.full(self.columns, 2.0), np.full(self.columns, 3.0))
        )
        found = LPLast(until_sign=True).bound(problem, base)
        assert found.status == (Status.UNKNOWN,)
        assert "failed" in found.notes[0]

    def test_what_the_solver_claims_does_not_matter(self, monkeypatch):
        """Wrong weights and multipliers give another valid bound, not the claimed one."""
        problem = problem_of(1, level=-0.3)
        true = sampled(problem)[0]

        def wrong(program, costs, constants, options, *, stop_above=None):
            rng = np.random.default_rng(3)
            duals = rng.normal(size=program.rows), rng.normal(size=program.columns)
            return LargestAnswer("optimal", 1e6, np.abs(rng.normal(size=len(constants))), *duals)

        monkeypatch.setattr(finding, "minimise_largest", wrong)
        found = LPLast().bound(problem)
        assert np.isfinite(found.joint).all()
        assert found.joint[0, 0] <= true
        assert found.status == (Status.UNKNOWN,)

    def test_no_time_left(self):
        problem = problem_of(0, level=-0.3)
        found = LPLast(SolverOptions(total_limit=1e-9)).bound(problem)
        assert found.status == (Status.UNKNOWN,)
        assert "time limit reached" in found.notes[0]


def _joint_stage(problem, weights, rows=(0,), signs=None):
    rows = np.array(rows)
    ones = np.ones(len(rows), dtype=np.int64) if signs is None else np.array(signs)
    return Stage(problem.graph.output, rows, ones, "conjunction", weights=np.array(weights, dtype=np.float64))


def _checked(problem, stage):
    return check(problem.graph, problem.region, problem.specification, [Certificate((stage,))])


class TestChecker:
    def test_any_weights_are_sound(self):
        problem = problem_of(0)
        base = Crown().bound(problem).certificates[0].stages
        true = sampled(problem)[0]
        rng = np.random.default_rng(0)
        values = set()
        for weights in [*rng.dirichlet(np.ones(3), 20), *np.eye(3)]:
            stages = (*base, _joint_stage(problem, weights[None]))
            checked = check(problem.graph, problem.region, problem.specification, [Certificate(stages)])
            assert np.isfinite(checked.joint).all()
            assert (checked.joint <= true).all()
            values.add(float(checked.joint[0, 0]))
        assert len(values) > 1

    @pytest.mark.parametrize(
        "weights",
        [[[-0.5, 1.5, 0.0]], [[2.0, 2.0, 2.0]], [[0.0, 0.0, 0.0]], [[np.nan, 1.0, 0.0]], [[np.inf, 0.0, 0.0]]],
    )
    def test_other_weights_are_refused(self, weights):
        problem = problem_of(0)
        with pytest.raises(InvalidArgumentError, match="weights must be the shares"):
            _checked(problem, _joint_stage(problem, weights))

    def test_weights_must_fit_the_group(self):
        problem = problem_of(0, groups=((0, 1), (1, 2)))
        for weights, rows in (([[0.4, 0.3, 0.3]], (0,)), ([[1.0]], (0,))):
            with pytest.raises(InvalidArgumentError, match="weights must be the shares"):
                _checked(problem, _joint_stage(problem, weights, rows))
        with pytest.raises(InvalidArgumentError, match="must name rows"):
            _checked(problem, _joint_stage(problem, [[0.5, 0.5]], (2,)))
        with pytest.raises(InvalidArgumentError, match="signs must be"):
            _checked(problem, _joint_stage(problem, [[0.5, 0.5]], (0,), (-1,)))
        for target, given in (("conjunction", None), ("box", np.ones((1, 2)))):
            with pytest.raises(InvalidArgumentError, match="weights must be"):
                Stage(1, np.array([0]), np.array([1]), target, weights=given)

    def test_the_same_weights_on_another_group_are_another_bound(self):
        """A certificate whose weights belong to other rows proves nothing of these."""
        problem = problem_of(0, level=0.0)
        found = LPAll().bound(problem)
        other = levelled(problem, -found.joint[0, 0] - 0.1)
        checked = check(other.graph, other.region, other.specification, found.certificates)
        assert checked.status == (Status.UNKNOWN,)
        assert not checked.agrees(found.lower, joint=found.joint)

    def test_storage(self):
        problem = problem_of(2, groups=((0, 1), (0, 1, 2)))
        found = AlphaCrown(10, 10).bound(problem)
        stored = [Certificate.from_arrays(c.to_arrays()) for c in found.certificates]
        checked = check(problem.graph, problem.region, problem.specification, stored)
        assert checked.agrees(found.lower, 1e-9, joint=found.joint)

    def test_a_wrong_sign_is_noticed(self, monkeypatch):
        """Weights whose signs are lost give bounds that points contradict: the rungs' own, and the checker refuses them."""
        monkeypatch.setattr(
            verify.conjunctions.Conjunctions,
            "normal",
            lambda self, numbers: numbers * torch.tensor([2.0, -0.5, -0.5], dtype=numbers.dtype),
        )
        violated = 0
        for seed in (1, 2, 3):
            problem = problem_of(seed, level=-1.0)
            found = Crown().bound(problem)
            violated += bool((found.joint[0] > sampled(problem)).any())
            with pytest.raises(InvalidArgumentError, match="weights must be the shares"):
                check(problem.graph, problem.region, problem.specification, found.certificates)
        assert violated > 0


class TestLadder:
    def test_escalation_decides_by_certificates(self):
        problem = problem_of(1, rows=5, groups=((0, 1, 2), (3, 4)))
        best = LPAll().bound(problem)
        problem = levelled(problem, 0.02 - best.joint[0].min())
        (decision,) = escalate(problem, (Crown(), LPAll(until_sign=True), MILP(until_sign=True))).decisions
        assert decision.status is Status.VERIFIED
        assert decision.guarantee is Guarantee.CHECKABLE
        assert problem.specification.worst(decision.lower[None], decision.joint[None])[0] > 0
        checked = check(problem.graph, problem.region, problem.specification, [decision.certificate])
        assert checked.status == (Status.VERIFIED,)

    def test_the_best_weights_of_both_ends(self):
        """An ascent from equal weights reaches a combination that needs one row alone, and one that needs two."""
        for rows, offset, expected in (([[1.0], [-1.0]], [0.1, 0.1], 0.1), ([[1.0], [0.0]], [0.1, -0.2], -0.2)):
            net = nn.Linear(1, 1).double()
            net.weight.data.fill_(1.0)
            net.bias.data.zero_()
            specification = Specification(np.array([rows]), np.array([offset]), ((0, 1),))
            problem = Problem.build(trace(net, (1,)), Ball("linf", 1.0, clip=None).at(torch.zeros(1, 1)), specification)
            assert Crown().bound(problem).joint[0, 0] == pytest.approx(expected, abs=1e-3)


def _write_instance(folder: Path, rows: np.ndarray, offset: np.ndarray, seed: int) -> tuple[Path, Path, nn.Sequential]:
    """A 3-6-4-3 network as ONNX, and the conjunction of all rows @ Y + offset <= 0 over the box [0.2, 0.8]^3 as VNN-LIB."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    constants, nodes, x = {}, [], "x"
    for k, layer in enumerate(part for part in net if isinstance(part, nn.Linear)):
        constants |= {f"W{k}": layer.weight.detach().numpy(), f"b{k}": layer.bias.detach().numpy()}
        nodes.append(helper.make_node("Gemm", [x, f"W{k}", f"b{k}"], [f"h{k}"], transB=1))
        x = f"h{k}"
        if k < 2:
            nodes.append(helper.make_node("Relu", [x], [f"r{k}"]))
            x = f"r{k}"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    onnx_path, path = folder / "net.onnx", folder / "p.vnnlib"
    onnx_path.write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    lines = [f"(declare-const {letter}_{i} Real)" for letter in "XY" for i in range(3)]
    lines += [f"(assert (<= X_{i} 0.8))(assert (>= X_{i} 0.2))" for i in range(3)]
    for row, d in zip(rows, offset, strict=True):
        terms = " ".join(f"(* {c!r} Y_{i})" for i, c in enumerate(row.tolist()))
        lines.append(f"(assert (<= (+ {terms}) {-float(d)!r}))")
    path.write_text("\n".join(lines))
    return onnx_path, path, net.double()


@pytest.mark.parametrize("method", ["crown", "alpha", "lp-last", "lp-all"])
def test_files_that_only_a_joint_argument_decides(tmp_path, capsys, method):
    """Y_0 - Y_1 small and Y_1 - Y_0 small: each is reached, both together never; by a checked, audited certificate."""
    rows = np.array([[1.0, -1.0, 0.25], [-1.0, 1.0, -0.25]])
    onnx_path, path, net = _write_instance(tmp_path, rows, np.zeros(2), 5)
    points = 0.2 + 0.6 * torch.rand(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    middle = float(np.median(net(points).detach().numpy() @ rows[0]))
    onnx_path, path, _ = _write_instance(tmp_path, rows, np.array([0.001 - middle, 0.001 + middle]), 5)
    out = tmp_path / "run"
    command = ["verify", "--onnx", str(onnx_path), "--vnnlib", str(path), "--method", method, "--out", str(out)]
    assert main([*command, "--json", "-q", "--device", "cpu"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == "unsat"
    assert said["rests_on"] == "certificates that the checker re-evaluates"
    assert main(["audit", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checked"] == 1


def test_a_reachable_conjunction_is_never_proved(tmp_path, capsys):
    rows = np.array([[1.0, -1.0, 0.25], [-1.0, 1.0, -0.25]])
    _, _, net = _write_instance(tmp_path, rows, np.zeros(2), 5)
    points = 0.2 + 0.6 * torch.rand(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    middle = float(np.median(net(points).detach().numpy() @ rows[0]))
    onnx_path, path, _ = _write_instance(tmp_path, rows, np.array([-0.01 - middle, -0.01 + middle]), 5)
    command = ["verify", "--onnx", str(onnx_path), "--vnnlib", str(path), "--method", "crown,alpha,pgd,lp-all,milp"]
    assert main([*command, "--out", str(tmp_path / "run"), "--json", "-q", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "sat"
