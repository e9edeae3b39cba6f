"""Global Lipschitz constants of whole graphs, the radii that follow, and `certify verify --method spectral,lipsdp`."""

import hashlib
import json
import math
import shutil
import sqlite3
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from certify.cli import main
from certify.journal import Journal
from certify.verification.arrays import arrays_path
from certify.verification.audit import audit_verification
from certify.verification.confirm import confirm_certificate
from certify.verification.row import VerifyRow
from smoothing.errors import InvalidArgumentError
from tests.verify_commands import install
from tests.verify_networks import NETWORKS, dense, network, shape_of
from verify.errors import UnsupportedOperatorError
from verify.graph import Conv2d, Graph, Input, Linear, Node
from verify.lipschitz import network as module
from verify.lipschitz.lipsdp import prove_lipschitz
from verify.lipschitz.network import dense_chain, spectral_constants
from verify.lipschitz.proofs import (
    LipschitzProofs,
    ProgramTooLongError,
    choose_solver,
    constants_of,
    margin_floor,
    program_size,
    radius_of,
)
from verify.tracing import trace


def steepest(net: nn.Module, shape: tuple[int, ...], count: int = 200) -> float:
    """The largest spectral norm of a Jacobian at random points: a lower bound on the Lipschitz constant."""
    points = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 - 1
    points.requires_grad_()
    outputs = net(points)
    rows = [torch.autograd.grad(column.sum(), points, retain_graph=True)[0].flatten(1) for column in outputs.T]
    return float(torch.linalg.matrix_norm(torch.stack(rows, 1), ord=2).max())


class TestConstants:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_no_jacobian_is_larger(self, name: str) -> None:
        net = network(name).double()
        bound = spectral_constants(trace(net, shape_of(name)))[-1]
        assert steepest(net, shape_of(name)) <= bound < math.inf

    def test_a_linear_network_is_as_steep_as_its_matrix(self) -> None:
        """Scale, gathering and reshaping are exact: the constant is the norm of the one matrix that is left."""
        weight = np.random.default_rng(0).standard_normal((4, 6))
        graph = trace(nn.Sequential(nn.Flatten(), _linear(weight)), (1, 2, 3))
        assert spectral_constants(graph)[-1] == pytest.approx(np.linalg.norm(weight, 2), rel=1e-12)
        assert spectral_constants(graph)[-1] >= np.linalg.norm(weight, 2)

    def test_large_convolutions_are_bounded_without_a_factorisation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(50, 3)).double()
        exact = spectral_constants(trace(net, (1, 5, 5)))[-1]
        monkeypatch.setattr(module, "LARGEST_GRAM", 1)
        rough = spectral_constants(trace(net, (1, 5, 5)))[-1]
        assert steepest(net, (1, 5, 5), 50) <= exact < rough

    def test_overlapping_windows_read_a_value_more_than_once(self) -> None:
        net = nn.Sequential(nn.MaxPool2d(2, stride=1), nn.Flatten(), nn.Linear(4, 4, bias=False)).double()
        with torch.no_grad():
            net[2].weight.copy_(torch.eye(4))
        # The middle of 3x3 is in all four windows: where it is the maximum, all outputs move with it.
        assert spectral_constants(trace(net, (1, 3, 3)))[-1] == pytest.approx(2.0)


def _linear(weight: np.ndarray) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    with torch.no_grad():
        made.weight.copy_(torch.from_numpy(weight))
    return made


class TestChains:
    @pytest.mark.parametrize("name", ["dense", "sigmoid", "linear", "norm1d"])
    def test_joined_layers_are_the_network(self, name: str) -> None:
        """Between two points all activations of a chain are replaced by their quotients: the product is the difference."""
        net, (size,) = network(name).double(), shape_of(name)
        graph = trace(net, (size,))
        chain = dense_chain(graph)
        from verify.kernels import Program

        points = torch.rand(2, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
        values = Program(graph, "cpu", torch.float64).forward(points)
        moved = (points[1] - points[0]).numpy()
        for layer, k in zip(chain.layers, (*graph.activations, None), strict=True):
            before = values[-1] if k is None else values[graph[k].inputs[0]]
            np.testing.assert_allclose(layer @ moved, (before[1] - before[0]).numpy(), atol=1e-12)
            moved = (values[k][1] - values[k][0]).numpy() if k is not None else moved
        assert all(0 <= error < 1e-13 for error in chain.errors)
        assert (max(chain.errors) > 0) == (name in ("linear", "norm1d"))  # only these have something to join

    @pytest.mark.parametrize("joined", [False, True])
    def test_factors_that_are_computed_are_not_taken_to_be_exact(self, joined: bool) -> None:
        """1 / 9 is no float64: a mean in front, alone or with a layer behind it, is as far off as in exact arithmetic."""
        net = nn.Sequential(nn.AvgPool2d(3), nn.Flatten(), *([nn.Linear(4, 3)] if joined else []), nn.ReLU())
        net.append(nn.Linear(3 if joined else 4, 2))
        chain = dense_chain(trace(net, (1, 6, 6)))
        layer = [[Fraction(float(v)) for v in row] for row in chain.layers[0]]
        exact = [[Fraction(int(v != 0), 9) for v in row] for row in dense_chain(trace(net[:2], (1, 6, 6))).layers[0]]
        if joined:
            weight = [[Fraction(float(v)) for v in row] for row in net[2].weight.detach().numpy()]
            columns = list(zip(*exact, strict=True))
            exact = [[sum(a * b for a, b in zip(row, c, strict=True)) for c in columns] for row in weight]
        difference = np.array(
            [[float(a - b) for a, b in zip(*rows, strict=True)] for rows in zip(layer, exact, strict=True)]
        )
        assert 0 < np.linalg.norm(difference, 2) <= chain.errors[0] < 1e-13
        # What is proved pays for it.
        multipliers = np.full(len(chain.layers[0]), 10.0)
        proved = [prove_lipschitz(chain.layers, multipliers, chain.slopes, errors) for errors in (None, chain.errors)]
        assert proved[0] <= proved[1] < math.inf

    def test_an_error_of_a_layer_is_paid_for(self) -> None:
        """What is proved with errors holds for every network that is as near as that."""
        rng = np.random.default_rng(2)
        for slopes in ((0.0, 1.0), (0.1, 1.0)):
            weights = [0.5 * _unit(rng, shape) for shape in ((5, 3), (4, 5), (2, 4))]
            multipliers = rng.uniform(0.8, 1.2, 9)
            exact = prove_lipschitz(weights, multipliers, slopes)
            for error in (1e-6, 1e-4):
                wide = prove_lipschitz(weights, multipliers, slopes, (error, error, error))
                assert exact < wide < math.inf
                for _ in range(30):
                    moved = [w + error * _unit(rng, w.shape) for w in weights]
                    assert prove_lipschitz(moved, multipliers, slopes) <= wide

    def test_what_is_no_chain_is_refused_by_name(self) -> None:
        with pytest.raises(UnsupportedOperatorError, match="MaxPool, which LipSDP cannot take"):
            dense_chain(trace(network("pooled"), shape_of("pooled")))
        with pytest.raises(UnsupportedOperatorError, match="read by 3 nodes"):
            choose_solver(trace(network("residual"), shape_of("residual")))

    def test_programs_that_take_too_long_are_refused_with_the_estimate(self) -> None:
        small, medium, large = (trace(dense(3, n, 3), (3,)) for n in (90, 400, 1200))
        assert [program_size(graph) for graph in (small, medium, large)] == [93, 403, 1203]
        assert (choose_solver(small), choose_solver(medium)) == ("CLARABEL", "SCS")
        with pytest.raises(ProgramTooLongError, match=r"side 600 at most for SCS .* got side 1203, .* about 8 minutes"):
            choose_solver(large)
        with pytest.raises(ProgramTooLongError, match="side 100 at most for CLARABEL"):
            choose_solver(medium, "CLARABEL")
        assert choose_solver(large, "MOSEK") == "MOSEK"


def _unit(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    step = rng.standard_normal(shape)
    return step / np.linalg.norm(step, 2)


class TestRadii:
    def test_predictions_do_not_change_inside(self) -> None:
        net = network("norm1d").double()
        graph = trace(net, (3,))
        proofs = LipschitzProofs(graph)
        generator = torch.Generator().manual_seed(3)
        points = torch.rand(8, 3, dtype=torch.float64, generator=generator) * 3 - 1
        labels = net(points).argmax(1).tolist()
        gains = []
        for x, label in zip(points, labels, strict=True):
            floor = margin_floor(graph, x.numpy(), label)
            logits = net(x[None])[0].detach().numpy()
            exact = np.delete(logits[label] - logits, label)
            assert (floor <= exact + 1e-12).all()
            np.testing.assert_allclose(floor, exact, atol=1e-9)
            radii = [
                radius_of(floor, proofs.of(name, label).constants) for name in ("spectral", "lipsdp", "lipsdp-pairs")
            ]
            # Neither of the first two is always the better one; the last is, up to its solver's accuracy.
            assert radii[2] >= max(radii[:2]) * (1 - 1e-5) > 0
            gains.append(radii[2] / radii[0])
            step = torch.randn(2000, 3, dtype=torch.float64, generator=generator)
            inside = x + radii[2] * step / step.norm(dim=1, keepdim=True)
            assert set(net(inside).argmax(1).tolist()) == {label}
        assert np.mean(gains) > 1.2
        assert proofs.notes == {}

    def test_bad_numbers_prove_nothing(self) -> None:
        for margins, constants in (([1.0, 0.0], [1.0, 1.0]), ([1.0, np.nan], [1.0, 1.0]), ([1.0, 1.0], [1.0, np.inf])):
            assert radius_of(np.array(margins), np.array(constants)) == 0.0
        assert radius_of(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == pytest.approx(1.5)
        assert radius_of(np.array([1.0]), np.array([3.0])) < 1 / 3

    def test_any_multipliers_are_sound_and_shapes_are_checked(self) -> None:
        graph = trace(network("dense"), (3,))
        spectral = constants_of(graph, 0, "spectral", np.zeros((0, 0)))
        for fill in (np.nan, 0.0, -1.0, 1e-12, np.inf):
            np.testing.assert_array_equal(constants_of(graph, 0, "lipsdp", np.full((1, 11), fill)), spectral)
        steep = steepest(network("dense").double(), (3,))
        for seed in range(5):
            random = np.random.default_rng(seed).exponential(5.0, (1, 11))
            assert (constants_of(graph, 0, "lipsdp", random) >= min(steep, spectral.min())).all()
        for shape in ((2, 11), (1, 10), (0, 0)):
            with pytest.raises(InvalidArgumentError, match="multipliers must have the shape"):
                constants_of(graph, 0, "lipsdp", np.ones(shape))
        with pytest.raises(InvalidArgumentError, match="method must be one of"):
            constants_of(graph, 0, "sdp", np.ones((1, 11)))
        with pytest.raises(InvalidArgumentError, match=r"label must be in \[0, 3\)"):
            constants_of(graph, 3, "spectral", np.zeros((0, 0)))

    def test_a_solver_that_fails_leaves_the_spectral_bound_and_a_note(self) -> None:
        graph = trace(network("dense"), (3,))
        proofs = LipschitzProofs(graph, "NO_SUCH_SOLVER")
        found = proofs.of("lipsdp", 1)
        np.testing.assert_array_equal(found.constants, proofs.of("spectral", 1).constants)
        (note,) = proofs.notes["lipsdp"]
        assert "NO_SUCH_SOLVER failed" in note

    def test_outputs_that_are_no_linear_layer(self) -> None:
        """The last node is a convolution: there are no rows of a matrix to subtract, and sqrt(2) stands in."""
        weight = np.ones((1, 1, 1, 1))
        last = Conv2d(weight, np.zeros(1), (1, 1), (0, 0, 0, 0), (1, 1), 1)
        graph = Graph((Node(Input(), (), (2,)), Node(Linear(np.eye(2), np.zeros(2)), (0,), (2,))))
        assert constants_of(graph, 0, "spectral", np.zeros((0, 0)))[0] == pytest.approx(math.sqrt(2))
        assert isinstance(last, Conv2d)


L2 = ["verify", "tiny_verified:make", "--data", "digits", "--norm", "l2", "--quiet", "--device", "cpu"]
SEARCH = [*L2, "--eps", "3", "--radius", "--no-clip", "--indices", "0,1"]
SOLVERS = "sdp-solver must be one of the installed solvers of semidefinite programs, CLARABEL, "


def rows(out: Path) -> list[VerifyRow]:
    with Journal(out, kind="verify") as journal:
        return [VerifyRow.from_entry(entry) for entry in journal.entries()]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lipschitz")
    with pytest.MonkeyPatch.context() as patch:
        install(folder, patch)
        command = [*SEARCH, "--method", "spectral,lipsdp,crown", "--sdp-solver", "CLARABEL"]
        assert main([*command, "--pure", "--out", str(folder / "run")]) == 0
    return folder / "run"


class TestCommand:
    @pytest.fixture
    def copied(self, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        install(tmp_path, monkeypatch)
        shutil.copytree(done, tmp_path / "run")
        return tmp_path / "run"

    def test_radii_rest_on_multipliers_that_the_audit_proves_again(self, copied: Path) -> None:
        gains = []
        for row in rows(copied):
            by = {claim.method: claim for claim in row.claims}
            assert 0 < by["spectral"].radius <= by["lipsdp"].radius < by["crown"].radius
            gains.append(by["lipsdp"].radius / by["spectral"].radius)
            assert {claim.rests_on for claim in row.claims} == {"certificate"}
            with np.load(arrays_path(copied, row.index)) as file:
                assert file["lipsdp/multipliers"].shape == (1, 24)
        assert max(gains) > 1.01  # the semidefinite bound is not the other one in disguise
        report = audit_verification(copied)
        assert report.mismatches == ()
        assert report.checked == 6

    @pytest.mark.parametrize("changed", ["radius", "margin", "multipliers", "absent", "other"])
    def test_tampering_is_found(self, copied: Path, changed: str) -> None:
        path = arrays_path(copied, 0)
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
        (row,) = (row for row in rows(copied) if row.index == 0)
        payload = row.payload()
        claim = next(claim for claim in payload["claims"] if claim["method"] == "lipsdp")
        if changed == "radius":
            claim["radius"] *= 1 + 1e-6
        elif changed == "margin":
            claim["margin"] += 1e-3
        elif changed == "multipliers":
            arrays["lipsdp/multipliers"] = arrays["lipsdp/multipliers"] * 3.0
        elif changed == "absent":
            del arrays["lipsdp/multipliers"]
        else:
            claim["certificate"] = "spectral"
        save: Any = np.savez_compressed
        save(path, **arrays)
        payload["arrays_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        with sqlite3.connect(copied / "journal.sqlite") as connection:
            connection.execute('UPDATE inputs SET payload = ? WHERE "index" = 0', (json.dumps(payload),))
        connection.close()
        found = {mismatch.rule for mismatch in audit_verification(copied).mismatches}
        assert found & {"proof by lipsdp", "margin by lipsdp", "certificate", "pure lipsdp"}

    def test_the_ladder_starts_from_what_constants_prove(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        install(tmp_path, monkeypatch)
        command = [*SEARCH, "--method", "ibp,spectral", "--out", str(tmp_path / "run"), "--json"]
        assert main(command) == 0
        mean = json.loads(capsys.readouterr().out)["mean_radius"]
        assert list(mean) == ["spectral", "ibp"]
        assert 0 < mean["spectral"] <= mean["ibp"]
        assert audit_verification(tmp_path / "run").mismatches == ()

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            # A misspelt solver, and one that is installed but takes no semidefinite programs.
            ([*L2, "--eps", "1", "--no-clip", "--radius", "--method", "lipsdp", "--sdp-solver", "NOPE"], SOLVERS),
            ([*L2, "--eps", "1", "--no-clip", "--radius", "--method", "lipsdp", "--sdp-solver", "HIGHS"], SOLVERS),
            ([*L2, "--eps", "1", "--no-clip", "--method", "lipsdp"], "got norm=l2 without --radius"),
            ([*L2, "--norm", "linf", "--eps", "1", "--no-clip", "--radius", "--method", "spectral"], "got norm=linf"),
        ],
    )
    def test_other_questions_are_refused(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        command: list[str],
        said: str,
    ) -> None:
        install(tmp_path, monkeypatch)
        assert main([*command, "--indices", "0", "--out", str(tmp_path / "run")]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "run").exists()

    def test_a_method_that_breaks_off_speaks_once_of_each_input(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Memory gives out at the second input: the first keeps its claim, the second has one as well."""
        from certify.verification import searching

        install(tmp_path, monkeypatch)
        asked: list[int] = []

        def confirm(*arguments: Any) -> Any:
            asked.append(len(asked))
            if len(asked) > 1:
                raise MemoryError
            return confirm_certificate(*arguments)

        monkeypatch.setattr(searching, "confirm_certificate", confirm)
        assert main([*SEARCH, "--method", "ibp,crown", "--out", str(tmp_path / "run")]) == 0
        found = rows(tmp_path / "run")
        assert [[claim.method for claim in row.claims] for row in found] == [["ibp", "crown"]] * 2
        assert [row.claims[0].status for row in found] == ["verified", "unknown"]
        assert audit_verification(tmp_path / "run").mismatches == ()

    def test_a_program_that_takes_too_long_is_left_out_with_a_note(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from verify.lipschitz import proofs

        install(tmp_path, monkeypatch)
        monkeypatch.setattr(proofs, "SIZE_LIMITS", {"CLARABEL": 10, "SCS": 40})
        command = [*SEARCH, "--method", "spectral,lipsdp", "--out", str(tmp_path / "run"), "--json"]
        assert main(command) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["mean_radius"]["lipsdp"] == found["mean_radius"]["spectral"] > 0
        assert any("lipsdp: left out" in note and "got side 48" in note for note in found["notes"])
        assert audit_verification(tmp_path / "run").mismatches == ()
