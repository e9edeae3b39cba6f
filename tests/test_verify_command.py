"""`certify verify` and the audit of its runs: verdicts, radii, VNN-LIB, resumption, tampering, bad input."""

import csv
import io
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from certify.cli import main
from certify.journal import Journal
from certify.verification import runner
from certify.verification.arrays import arrays_path
from certify.verification.audit import audit_verification
from certify.verification.methods import MethodOptions
from certify.verification.open_folder import open_run
from certify.verification.plan import VerifyPlan
from certify.verification.row import VerifyRow
from certify.verification.setup import VerifyOptions, prepare
from tests.verify_commands import install
from verify.lp import LPLast

COMMON = ["verify", "tiny_verified:make", "--data", "digits", "--norm", "linf", "--quiet", "--device", "cpu"]
AT_EPS = [
    *COMMON,
    "--eps",
    "0.02",
    "--clip",
    "--method",
    "pgd,ibp,crown,lp-all,milp",
    "--steps",
    "10",
    "--restarts",
    "1",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path, monkeypatch)
    return tmp_path


def plan(out: Path, **changed: Any) -> VerifyPlan:
    options: dict[str, Any] = {
        "out": out,
        "methods": MethodOptions(("ibp", "crown", "pgd"), steps=10, restarts=1),
        "model": "tiny_verified:make",
        "data": "digits",
        "norm": "linf",
        "eps": 0.02,
        "clip": True,
        "indices": "0-7",
        "batch": 2,
        "device": "cpu",
    }
    return prepare(VerifyOptions(**(options | changed)))


def lines(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "verify.csv").read_text())))


def rows(out: Path) -> list[VerifyRow]:
    with Journal(out, kind="verify") as journal:
        return [VerifyRow.from_entry(entry) for entry in journal.entries()]


def test_verdicts_at_a_radius_are_recorded_exported_and_audited(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "run"
    assert main([*AT_EPS, "--eps", "0.06", "--indices", "0-11", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    found = rows(out)
    assert [row.index for row in found] == list(range(12))
    assert result["methods"] == ["ibp", "crown", "pgd", "lp-all", "milp"]
    assert result["verified"] + result["falsified"] + result["unknown"] + result["misclassified"] == 12
    assert result["verified"] > 0
    assert result["falsified"] > 0
    assert result["misclassified"] == sum(row.predict != row.label for row in found)
    assert result["error_lower_bound"] <= result["error_upper_bound_with_solver"] <= result["error_upper_bound"]

    by_image = lines(out)
    assert {line["clip"] for line in by_image} == {"clip [0, 1]"}
    assert {(line["classifier"], line["guarantee"], line["alpha"]) for line in by_image} == {
        ("f", "deterministic", "0.0")
    }
    certified = [line for line in by_image if line["status"] == "certified"]
    assert {float(line["radius"]) for line in certified} == {0.06}
    assert all(float(line["radius"]) == 0.0 for line in by_image if line["status"] != "certified")
    assert all(float(line["attack_radius"]) <= 0.06 * (1 + 1e-12) for line in by_image if line["status"] == "falsified")

    assert main(["audit", str(out), "--json"]) == 0
    audit = json.loads(capsys.readouterr().out)
    assert audit["passed"]
    assert audit["checked"] == result["verified_with_certificate"]
    assert audit["refuted"] == result["falsified"]
    assert len(audit["resting_on_the_solver"]) == result["verified_by_solver_only"]


@pytest.mark.parametrize("mode", [[], ["--pure"], ["--radius"]], ids=["ladder", "pure", "radius"])
def test_a_method_that_fails_costs_the_others_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: list[str]
) -> None:
    """As with a solver that fails: the run ends well, says what failed and how, and passes its audit."""

    def fails(self: LPLast, *args: Any, **options: Any) -> None:
        raise KeyError(3)

    words = [*COMMON, "--eps", "0.04", "--clip", "--indices", "0-7", "--json", *mode, "--method"]
    assert main([*words, "crown", "--out", str(folder / "without")]) == 0
    monkeypatch.setattr(LPLast, "bound", fails)
    assert main([*words, "crown,lp-last", "--out", str(folder / "run")]) == 0
    without, found = rows(folder / "without"), rows(folder / "run")
    assert [row.status for row in found] == [row.status for row in without]
    assert [row.radius() for row in found] == pytest.approx([row.radius() for row in without])
    assert any(row.radius() > 0 for row in found)
    notes = {note for row in found for note in row.notes}
    assert [note for note in notes if "failed" in note and "KeyError: 3" in note and note.startswith("lp-last")]
    capsys.readouterr()
    assert main(["audit", str(folder / "run"), "--json"]) == 0


def test_no_sample_in_a_certified_ball_changes_the_class(folder: Path) -> None:
    """An oracle that knows nothing of bounds: points inside certified balls, classified by the network itself."""
    out = folder / "run"
    found = runner.execute(plan(out, search=True, eps=0.3, batch=8, methods=MethodOptions(("crown", "pgd"), 10, 0)))
    with_radius = [row for row in found if row.radius() > 0]
    assert len(with_radius) > 4
    opened = open_run(json.loads((out / "run.json").read_text()))
    generator = torch.Generator().manual_seed(0)
    for row in with_radius:
        assert row.attack_radius is not None
        assert row.radius() < row.attack_radius
        x = opened.subject.question(row.index, row.radius()).region.center
        signs = torch.randint(0, 2, (200, *x.shape[1:]), generator=generator).double() * 2 - 1
        moved = (x + row.radius() * signs).clamp(0, 1)
        assert set(opened.network.original(moved.numpy()).argmax(1).tolist()) == {row.label}


def test_radii_grow_along_the_ladder_and_the_solver_stays_apart(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "run"
    methods = ["--method", "ibp,crown,pgd,milp", "--steps", "10", "--restarts", "0"]
    command = [*COMMON, *methods, "--eps", "0.2", "--radius", "--no-clip", "--indices", "0"]
    assert main([*command, "--out", str(out), "--json"]) == 0
    mean = json.loads(capsys.readouterr().out)["mean_radius"]
    assert 0 < mean["ibp"] <= mean["crown"] <= mean["milp"]
    for row in rows(out):
        by = {claim.method: claim for claim in row.claims}
        assert by["ibp"].radius <= by["crown"].radius <= by["milp"].radius
        assert row.attack_radius is not None
        assert by["milp"].radius <= row.attack_radius
        assert by["milp"].rests_on == "solver"
        assert by["milp"].certificate is None
        assert row.radius() == by["crown"].radius  # what rests on the solver's word is never the row's own radius
    assert audit_verification(out).solver == (0,)


def test_an_interrupted_run_resumes_and_ends_as_an_undisturbed_one(folder: Path) -> None:
    whole = runner.execute(plan(folder / "whole"))
    seen: list[int] = []

    def stop(row: VerifyRow) -> None:
        seen.append(row.index)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.execute(plan(folder / "cut"), on_row=stop)
    assert len(rows(folder / "cut")) == 4  # two batches of two: rows are there before anybody is told
    assert len({line["image"] for line in lines(folder / "cut")}) == 4
    assert any("partial" in note for note in audit_verification(folder / "cut").notes)
    told: list[int] = []
    again = runner.execute(plan(folder / "cut"), on_row=lambda row: told.append(row.index))
    assert told == list(range(8))

    def timeless(row: VerifyRow) -> dict[str, Any]:
        return {k: v for k, v in row.payload().items() if k not in ("seconds", "arrays_sha256")}

    assert [timeless(row) for row in again] == [timeless(row) for row in whole]
    assert audit_verification(folder / "cut").mismatches == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"eps": 0.03}, "eps"), ({"clip": False}, "clip"), ({"methods": MethodOptions(("ibp",))}, "methods.names")],
)
def test_another_identity_is_refused_with_the_difference(folder: Path, changed: dict[str, Any], said: str) -> None:
    out = folder / "run"
    runner.execute(plan(out, indices="0"))
    with pytest.raises(Exception, match=f"(?s)holds another run.*{said}: the folder has"):
        runner.execute(plan(out, indices="0", **changed))


def _change_rows(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with sqlite3.connect(out / "journal.sqlite") as connection:
        for index, text in connection.execute('SELECT "index", payload FROM inputs').fetchall():
            payload = json.loads(text)
            change(payload)
            connection.execute('UPDATE inputs SET payload = ? WHERE "index" = ?', (json.dumps(payload), index))
    connection.close()


def _claims(key: str, value: Any) -> Callable[[Path], None]:
    def change(payload: dict[str, Any]) -> None:
        for claim in payload["claims"]:
            claim[key] = value(claim[key]) if callable(value) else value

    return lambda out: _change_rows(out, change)


def _weaken(out: Path) -> None:
    """A derivation that proves less than is claimed, under the right hash: the checker itself has to notice."""
    import hashlib

    for path in (out / "certificates").glob("*.npz"):
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
        for key in arrays:
            if key.endswith("/words"):
                arrays[key] = np.array(["specification", "boxes", "adaptive"])
        save: Any = np.savez_compressed
        save(path, **arrays)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with sqlite3.connect(out / "journal.sqlite") as connection:
            (text,) = connection.execute('SELECT payload FROM inputs WHERE "index" = ?', (int(path.stem),)).fetchone()
            payload = json.dumps(json.loads(text) | {"arrays_sha256": digest})
            connection.execute('UPDATE inputs SET payload = ? WHERE "index" = ?', (payload, int(path.stem)))
        connection.close()


def _spoil_arrays(out: Path) -> None:
    path = arrays_path(out, 0)
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def _say_eps(out: Path) -> None:
    config = json.loads((out / "run.json").read_text())
    config["identity"]["eps"] = 0.5
    (out / "run.json").write_text(json.dumps(config))


def _edit_csv(out: Path) -> None:
    text = (out / "verify.csv").read_text()
    (out / "verify.csv").write_text(text.replace("certified", "falsified", 1))


TAMPERING: dict[str, tuple[Callable[[Path], None], str]] = {
    "larger radius": (_claims("radius", 0.5), "radius"),
    "larger margin": (_claims("margin", lambda margin: margin + 1e-3), "margin by crown"),
    "no certificate": (_claims("certificate", None), "certificate"),
    "other basis": (_claims("rests_on", "solver"), "rests_on"),
    "other status": (lambda out: _change_rows(out, lambda p: p.update(status="falsified")), "status"),
    "other label": (lambda out: _change_rows(out, lambda p: p.update(label=9)), "label"),
    "no claim": (lambda out: _change_rows(out, lambda p: p.update(claims=[])), "status"),
    "unreadable": (lambda out: _change_rows(out, lambda p: p.pop("claims")), "row"),
    "arrays": (_spoil_arrays, "arrays"),
    "weaker derivation": (_weaken, "margin by crown"),
    "larger eps everywhere": (lambda out: (_say_eps(out), _claims("radius", 0.5)(out)), "proof by crown"),
    "eps in run.json": (_say_eps, "radius"),
    "export": (_edit_csv, "line"),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_found(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "run"
    runner.execute(plan(out, indices="0,1", methods=MethodOptions(("crown",))))
    assert audit_verification(out).mismatches == ()
    tamper, rule = TAMPERING[name]
    tamper(out)
    assert main(["audit", str(out), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["passed"]
    assert rule in {mismatch["rule"] for mismatch in found["mismatches"]}


def _change_first(out: Path, status: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the first row with a status; without the exports, the journal alone has to give it away."""
    found = next(row for row in rows(out) if row.status == status)
    _change_rows(out, lambda payload: change(payload) if payload["input_sha256"] == found.input_sha256 else None)
    for path in [*out.glob("*.csv"), *out.glob("*.json")]:
        if path.name != "run.json":
            path.unlink()


def _nothing(payload: dict[str, Any]) -> None:
    """The counterexample's claim becomes one of nothing; its point stays where it is."""
    nothing = {"rests_on": "nothing", "status": "unknown", "radius": 0.0, "margin": None, "certificate": None}
    kept = [claim for claim in payload["claims"] if claim["rests_on"] != "counterexample"]
    payload.update(status="unknown", attack_radius=None, claims=kept or [{"method": "pgd", **nothing}])


def _margins(payload: dict[str, Any]) -> None:
    for claim in payload["claims"]:
        if claim["rests_on"] in ("nothing", "counterexample"):
            claim["margin"] = 0.1


def _claims_of(payload: dict[str, Any], keep: Callable[[int], bool]) -> None:
    payload["claims"] = [claim for place, claim in enumerate(payload["claims"]) if keep(place)]


LADDER: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "an attack inside the certified ball": ("verified", lambda p: p.update(attack_radius=0.001), "attack_radius"),
    "an attack that found nothing": ("unknown", lambda p: p.update(attack_radius=0.1), "attack_radius"),
    "an unknown word": ("unknown", lambda p: p.update(status="certified"), "status"),
    "unknown as timeout": ("unknown", lambda p: p.update(status="timeout"), "status"),
    "unknown as misclassified": ("unknown", lambda p: p.update(status="misclassified"), "status"),
    "a counterexample is withdrawn": ("falsified", _nothing, "counterexample"),
    "a margin at a counterexample": ("falsified", _margins, "margin by pgd"),
    "no claim": ("unknown", lambda p: p.update(claims=[]), "claims"),
    "a claim twice": ("unknown", lambda p: p["claims"].append(p["claims"][0]), "claims"),
}
PURE: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "an attack inside the certified ball": ("verified", lambda p: p.update(attack_radius=0.001), "attack_radius"),
    "a counterexample is withdrawn": ("falsified", _nothing, "counterexample"),
    "all claims": ("unknown", lambda p: p.update(claims=[]), "claims"),
    "the first claim": ("unknown", lambda p: _claims_of(p, lambda place: place > 0), "claims"),
    "the last claim": ("unknown", lambda p: p["claims"].pop(), "claims"),
    "a claim twice": ("verified", lambda p: p["claims"].append(p["claims"][0]), "claims"),
    "a margin of nothing": ("unknown", _margins, "margin by pgd"),
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, Path]]:
    """Runs of the ladder and of methods alone with verdicts of all kinds."""
    base = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(base, monkeypatch)
        for pure in (False, True):
            methods = MethodOptions(("same-slope", "pgd"), 20, 0, pure=pure)
            runner.execute(plan(base / str(pure), indices="0-40", eps=0.05, methods=methods))
        yield {pure: base / str(pure) for pure in (False, True)}


@pytest.mark.parametrize(
    ("pure", "name"), [(False, name) for name in LADDER] + [(True, name) for name in PURE], ids=str
)
def test_rows_whose_parts_contradict_each_other(
    honest: dict[bool, Path], tmp_path: Path, pure: bool, name: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(honest[pure], out)
    status, change, rule = (PURE if pure else LADDER)[name]
    assert audit_verification(out).mismatches == ()
    _change_first(out, status, change)
    assert rule in {mismatch.rule for mismatch in audit_verification(out).mismatches}


def test_a_moved_counterexample_is_found(folder: Path) -> None:
    out = folder / "run"
    found = runner.execute(plan(out, eps=0.3, methods=MethodOptions(("pgd",), 20, 1), indices="0,1"))
    assert [row.status for row in found] == ["falsified", "falsified"]
    assert audit_verification(out).refuted == 2
    config = json.loads((out / "run.json").read_text())
    config["identity"]["eps"] = 0.01  # the point is now outside
    (out / "run.json").write_text(json.dumps(config))
    assert "counterexample" in {mismatch.rule for mismatch in audit_verification(out).mismatches}


def test_the_time_limit_means_timeout_and_proves_nothing(folder: Path) -> None:
    (row,) = runner.execute(plan(folder / "run", indices="0", budget=1e-9))
    assert row.status == "timeout"
    assert row.radius() == 0.0


def _onnx(path: Path) -> Path:
    """y = relu(x0 + x1), relu(x0 - x1)."""
    weight = np.array([[1, 1], [1, -1]], dtype=np.float32)
    nodes = [helper.make_node("MatMul", ["x", "W"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(weight, "W")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def _property(path: Path, unsafe: str) -> Path:
    names = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "Y_0", "Y_1"))
    box = "".join(f"(assert (>= X_{i} 0.0))\n(assert (<= X_{i} 1.0))\n" for i in (0, 1))
    path.write_text(f"{names}{box}(assert {unsafe})\n")
    return path


@pytest.mark.parametrize(
    ("unsafe", "verdict", "basis"),
    [
        ("(>= Y_0 2.5)", "unsat", "certificates"),  # the largest value is 2
        ("(>= Y_0 1.5)", "sat", "counterexample"),
        ("(or (and (>= X_0 0.9) (>= Y_1 1.5)) (and (<= X_0 0.1) (>= Y_0 1.2)))", "unsat", "certificates"),  # two boxes
        ("(or (and (>= X_0 0.9) (>= Y_1 1.5)) (and (<= X_0 0.1) (>= Y_0 1.05)))", "sat", "counterexample"),
        ("(and (>= X_0 2.0) (>= Y_0 0.0))", "unsat", "no input satisfies"),  # no box at all
        ("(and (= X_0 0.5) (= X_1 0.5) (<= Y_1 0.0))", "sat", "counterexample"),  # y_1 is 0 there
        ("(and (= X_0 0.5) (= X_1 0.5) (< Y_1 0.0))", "unknown", "nothing"),  # and not below
        ("(and (<= X_1 0.0) (> X_1 -1.0) (< X_0 1.0) (>= X_0 1.0) (>= Y_0 1.0))", "unsat", "no input satisfies"),
        ("(and (> X_0 0.0) (> X_1 0.0) (<= Y_0 0.0))", "unknown", "nothing"),  # only in the corner that does not belong
    ],
)
def test_vnnlib_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unsafe: str, verdict: str, basis: str
) -> None:
    network, prop = _onnx(tmp_path / "net.onnx"), _property(tmp_path / "p.vnnlib", unsafe)
    out = str(tmp_path / "run")
    command = ["verify", "--onnx", str(network), "--vnnlib", str(prop), "--method", "crown,pgd,lp-all", "-q"]
    command += ["--device", "cpu", "--out", out]
    for _ in range(2):  # the second call has nothing left to do
        assert main([*command, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["verdict"] == verdict
        assert basis in result["rests_on"]
    assert main(["audit", out]) == 0
    assert "no mismatch" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("contradiction", ["", "(assert (>= X_1 2.0))\n"])
@pytest.mark.parametrize("more", ["X_2", "Y_2"])
def test_a_file_about_another_network_proves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], contradiction: str, more: str
) -> None:
    """Not even where its assertions contradict each other, so that there is no box to compare with the network."""
    network, prop = _onnx(tmp_path / "net.onnx"), _property(tmp_path / "p.vnnlib", "(>= Y_0 2.5)")
    box = f"(assert (>= {more} 0.0))\n(assert (<= {more} 1.0))\n"
    prop.write_text(f"(declare-const {more} Real)\n{prop.read_text()}{box}{contradiction}")
    command = ["verify", "--onnx", str(network), "--vnnlib", str(prop), "--method", "crown", "-q"]
    assert main([*command, "--device", "cpu", "--out", str(tmp_path / "run"), "--json"]) == 2
    shown = capsys.readouterr()
    assert "must be about 2 inputs and 2 outputs" in shown.err
    assert not (tmp_path / "run").exists()


def test_constraints_that_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Y_1 >= 0.5 needs x_0 >= 0.5, and then Y_0 > 0.4; each alone can be reached, so that no single row is a proof."""
    network = _onnx(tmp_path / "net.onnx")
    command = ["verify", "--onnx", str(network), "--method", "crown,pgd,lp-all,milp", "-q", "--device", "cpu", "--json"]
    for limit, verdict in ((0.4, "unsat"), (0.6, "sat")):
        prop = _property(tmp_path / f"{limit}.vnnlib", f"(and (<= Y_0 {limit}) (>= Y_1 0.5))")
        out = str(tmp_path / str(limit))
        assert main([*command, "--vnnlib", str(prop), "--out", out]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["verdict"] == verdict
        assert ("solver" in result["rests_on"]) == (verdict == "unsat")
        assert main(["audit", out, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["mismatches"] == []


def test_the_boxes_of_a_file_share_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of what is left for each, all of it for the last; nothing is said to be proved when it is spent."""
    from certify.verification import runner

    boxes = " ".join(f"(and (>= X_0 {i / 4}) (<= X_0 {(i + 1) / 4}) (>= Y_0 9.0))" for i in range(4))
    network, prop = _onnx(tmp_path / "net.onnx"), _property(tmp_path / "p.vnnlib", f"(or {boxes})")
    asked: list[float] = []
    decide = runner.decide

    def slow(plan: Any, indices: Any) -> Any:
        asked.append(plan.budget)
        found = decide(plan, indices)
        found[0].seconds = min(plan.budget, 20.0)
        return found

    monkeypatch.setattr(runner, "decide", slow)
    command = ["verify", "--onnx", str(network), "--vnnlib", str(prop), "--method", "ibp", "-q", "--device", "cpu"]
    for budget, shares in ((64.0, [32.0, 22.0, 12.0, 12.0]), (1e-9, [1e-3] * 4)):
        asked.clear()
        out = str(tmp_path / str(budget))
        assert main([*command, "--budget", str(budget), "--out", out, "--json"]) == 0
        assert asked == pytest.approx(shares, abs=0.1)
        verdict = json.loads(capsys.readouterr().out)["verdict"]
        # A millisecond may be over before the pass begins.
        assert verdict == "unsat" or (budget < 1 and verdict == "timeout")


def test_a_margin_that_only_the_solver_proves_is_said_to_rest_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """max relu(x0 + x1) + relu(x0 - x1) over [-1, 1]^2 is 2, neuron by neuron relaxed it is 3: 2.5 needs branching."""
    network = _onnx(tmp_path / "net.onnx")
    prop = _property(tmp_path / "p.vnnlib", "(>= (+ Y_0 Y_1) 2.5)")
    prop.write_text(prop.read_text().replace(">= X_0 0.0", ">= X_0 -1.0").replace(">= X_1 0.0", ">= X_1 -1.0"))
    command = ["verify", "--onnx", str(network), "--vnnlib", str(prop), "-q", "--device", "cpu"]
    assert main([*command, "--method", "crown,milp", "--out", str(tmp_path / "run"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"] == "unsat"
    assert result["rests_on"] == "the solver's answer"
    assert result["verified_with_certificate"] == 0
    assert main(["audit", str(tmp_path / "run"), "--json"]) == 0
    audit = json.loads(capsys.readouterr().out)
    assert audit["checked"] == 0
    assert audit["resting_on_the_solver"] == [0]


BAD: dict[str, tuple[list[str], int, str]] = {
    "no clip flag": ([*COMMON, "--eps", "0.1"], 2, "one of --clip and --no-clip must be given"),
    "negative eps": (
        [*COMMON, "--eps", "-0.1", "--clip"],
        2,
        "eps must be a finite number of at least 0, got eps=-0.1",
    ),
    "nan eps": ([*COMMON, "--eps", "nan", "--clip"], 2, "got eps=nan"),
    "unknown method": ([*COMMON, "--eps", "0.1", "--clip", "--method", "crown,sdp"], 2, "method must be some of"),
    "method twice": ([*COMMON, "--eps", "0.1", "--clip", "--method", "ibp,ibp"], 2, "each once"),
    "no eps": ([*COMMON, "--clip"], 2, "got no --eps"),
    "no model": (["verify", "--data", "digits", "--clip"], 2, "needs a MODEL"),
    "unknown norm": ([*COMMON, "--norm", "l7", "--eps", "0.1", "--clip"], 2, "norm must be one of"),
    "budget": ([*COMMON, "--eps", "0.1", "--clip", "--budget", "0"], 2, "budget must be positive"),
    "against": ([*COMMON, "--eps", "0.1", "--clip", "--against", "luck"], 2, "against must be one of"),
    "milp in l2": ([*COMMON, "--norm", "l2", "--eps", "1", "--clip", "--method", "milp"], 2, "milp must be used with"),
    "one file": (["verify", "--onnx", "x.onnx"], 2, "must be given together"),
    "file and eps": (["verify", "--onnx", "x", "--vnnlib", "y", "--eps", "1"], 2, "the file says what is to be proved"),
    "milp of tanh": (
        ["verify", "tiny_verified:curved", *COMMON[2:], "--eps", "0.1", "--clip", "--method", "milp"],
        1,
        "which milp cannot encode",
    ),
    "unsupported": (["verify", "tiny_verified:strange", *COMMON[2:], "--eps", "0.1", "--clip"], 1, "got 2 others"),
    "no module": (
        ["verify", "tiny_verified:function", *COMMON[2:], "--eps", "0.1", "--clip"],
        1,
        "MODEL must be a module",
    ),
    "wrong shape": (
        ["verify", "tiny_verified:make", "--data", "other.npz", *COMMON[4:], "--eps", "0.1", "--clip"],
        1,
        "",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_anything_is_written(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    np.savez(folder / "other.npz", images=np.zeros((2, 5, 5, 1), dtype=np.uint8), labels=np.array([0, 1]))
    command, code, said = BAD[name]
    assert main([*command, "--out", str(folder / "run")]) == code
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("network", "prop", "said"),
    [
        (b"not a network", "(declare-const X_0 Real)", "line 1"),
        (None, "(declare-const X_0 Real)\n(assert (<= X_0", "line 2"),
        (b"not a network", None, "net.onnx"),
        (
            None,
            "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))(assert (>= X_0 0))(assert (<= Y_0 0))",
            "2 inputs and 2 outputs",
        ),
    ],
)
def test_malformed_files_are_refused_with_the_reason(
    tmp_path: Path, network: bytes | None, prop: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx_path, prop_path = _onnx(tmp_path / "net.onnx"), _property(tmp_path / "p.vnnlib", "(>= Y_0 2.5)")
    if network is not None:
        onnx_path.write_bytes(network)
    if prop is not None:
        prop_path.write_text(prop)
    command = ["verify", "--onnx", str(onnx_path), "--vnnlib", str(prop_path), "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
