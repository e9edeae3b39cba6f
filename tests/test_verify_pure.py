"""`certify verify --pure`, the robust error of a run, and the points behind attack distances: recorded, shown, audited."""

import csv
import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certify.cli import main
from certify.journal import Journal
from certify.verification.arrays import POINT, arrays_path
from certify.verification.audit import audit_verification
from certify.verification.open_folder import open_run
from certify.verification.row import VerifyRow
from tests.verify_commands import install
from verify.ball import Ball
from verify.interval import Interval
from verify.problem import Problem
from verify.result import Status
from verify.same_slope import SameSlope

COMMON = ["verify", "tiny_verified:make", "--data", "digits", "--norm", "linf", "--quiet", "--device", "cpu"]
SPARING = ["--steps", "10", "--restarts", "0"]
INPUTS = "0-11"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path, monkeypatch)
    return tmp_path


def rows(out: Path) -> list[VerifyRow]:
    with Journal(out, kind="verify") as journal:
        return [VerifyRow.from_entry(entry) for entry in journal.entries()]


def table(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    lines = csv.DictReader(io.StringIO((out / "robust_error.csv").read_text()))
    return {(line["side"], line["method"]): line for line in lines}


def set_payload(out: Path, index: int, **changed: Any) -> None:
    with sqlite3.connect(out / "journal.sqlite") as connection:
        (text,) = connection.execute('SELECT payload FROM inputs WHERE "index" = ?', (index,)).fetchone()
        payload = json.dumps(json.loads(text) | changed)
        connection.execute('UPDATE inputs SET payload = ? WHERE "index" = ?', (payload, index))
    connection.close()


def test_every_method_stands_for_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts of `--pure` are those of `bound(..., pure=True)`; the ladder's are never worse, and its order is kept."""
    command = [
        *COMMON,
        *SPARING,
        "--eps",
        "0.06",
        "--clip",
        "--indices",
        INPUTS,
        "--method",
        "ibp,same-slope,pgd,lp-last",
    ]
    assert main([*command, "--pure", "--out", str(folder / "pure")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "pure: every method alone" in shown
    assert "lower <= true <= upper" in shown
    assert main([*command, "--out", str(folder / "ladder")]) == 0
    config = json.loads((folder / "pure" / "run.json").read_text())
    assert config["identity"]["methods"]["pure"] is True
    assert "pure" not in json.loads((folder / "ladder" / "run.json").read_text())["identity"]["methods"]
    subject: Any = open_run(config).subject
    right = [row.index for row in rows(folder / "pure") if row.correct]
    wrong = 12 - len(right)
    labels = [subject.label(index) for index in right]
    problem = Problem.margins(subject.network.graph, subject.inputs(right), Ball("linf", 0.06, clip=(0.0, 1.0)), labels)
    alone, together = table(folder / "pure"), table(folder / "ladder")
    for method in (Interval(), SameSlope()):
        proved = method.bound(problem, pure=True).status.count(Status.VERIFIED)
        assert int(alone["upper", method.name]["count"]) == 12 - proved
    for key, line in alone.items():
        assert int(together[key]["count"]) <= int(line["count"])
        assert (line["pure"], together[key]["pure"]) == ("True", "False")
    assert int(alone["lower", "clean"]["count"]) == wrong
    assert int(alone["lower", "pgd"]["count"]) <= int(alone["upper", "lp-last"]["count"])
    for row in rows(folder / "pure"):
        assert [claim.method for claim in row.claims] == ["ibp", "same-slope", "pgd", "lp-last"]
    names = {line["method"] for line in csv.DictReader(io.StringIO((folder / "pure" / "verify.csv").read_text()))}
    assert names == {"ibp (pure)", "same-slope (pure)", "pgd (pure)", "lp-last (pure)"}
    report = audit_verification(folder / "pure")
    assert report.mismatches == ()
    assert "robust_error.csv" in report.exports
    # Every bound of every method is checked, those that prove nothing too.
    assert report.checked + report.bounds == 3 * len(right)


def test_pure_radii_are_those_of_the_method_alone(folder: Path) -> None:
    command = [*COMMON, "--eps", "0.2", "--radius", "--no-clip", "--indices", "0,1", "--method", "ibp,crown"]
    assert main([*command, "--pure", "--out", str(folder / "pure")]) == 0
    assert main([*command, "--method", "crown", "--pure", "--out", str(folder / "crown")]) == 0
    for both, single in zip(rows(folder / "pure"), rows(folder / "crown"), strict=True):
        by = {claim.method: claim for claim in both.claims}
        assert by["crown"].radius == single.radius() > by["ibp"].radius > 0
        assert (by["ibp"].certificate, by["crown"].certificate) == ("ibp", "crown")
    assert audit_verification(folder / "pure").mismatches == ()


def test_a_borrowed_proof_is_no_pure_one(folder: Path) -> None:
    out = folder / "run"
    command = [*COMMON, "--eps", "0.02", "--clip", "--indices", "0", "--method", "same-slope,crown", "--pure"]
    assert main([*command, "--out", str(out)]) == 0
    (row,) = rows(out)
    claims = row.payload()["claims"]
    set_payload(out, 0, claims=[{**claim, "certificate": "crown"} for claim in claims])
    assert {mismatch.rule for mismatch in audit_verification(out).mismatches} >= {"pure same-slope"}


def test_bounds_of_the_error_are_audited_and_lie_around_each_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "run"
    command = [*COMMON, *SPARING, "--eps", "0.06", "--clip", "--indices", INPUTS, "--method", "ibp,crown,pgd,milp"]
    assert main([*command, "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    found = {(line["side"], line["method"]): line for line in result["robust_error"]}
    assert list(found) == [
        ("lower", "clean"),
        ("lower", "pgd"),
        ("lower", "milp"),
        ("upper", "ibp"),
        ("upper", "crown"),
        ("upper", "milp"),
    ]
    shares = [found[key]["share"] for key in list(found)]
    assert shares[0] <= shares[1] <= shares[2] <= shares[5] <= shares[4] <= shares[3]
    assert shares[2] == result["error_lower_bound"]
    assert shares[5] == pytest.approx(result["error_upper_bound_with_solver"], abs=1e-12)
    assert {key: float(line["share"]) for key, line in table(out).items()} == {k: v["share"] for k, v in found.items()}
    assert main(["audit", str(out)]) == 0
    text = (out / "robust_error.csv").read_text()
    (out / "robust_error.csv").write_text(text.replace("upper,ibp,12,", "upper,ibp,12,1", 1))
    assert [m.rule for m in audit_verification(out).mismatches] == ["table"]


class TestNearest:
    @pytest.fixture
    def out(self, folder: Path) -> Path:
        command = [*COMMON, *SPARING, "--eps", "0.3", "--radius", "--clip", "--indices", "0,1", "--method", "ibp,pgd"]
        assert main([*command, "--out", str(folder / "run")]) == 0
        return folder / "run"

    def test_the_point_is_kept_and_confirmed(self, out: Path) -> None:
        report = audit_verification(out)
        assert (report.nearest, report.mismatches) == (2, ())
        assert not any("no stored point" in note for note in report.notes)
        subject: Any = open_run(json.loads((out / "run.json").read_text())).subject
        for row in rows(out):
            with np.load(arrays_path(out, row.index)) as file:
                point = file[POINT]
            assert subject.network.original(point[None]).argmax() != row.label
            moved = np.abs(point - subject.inputs([row.index])[0].numpy()).max()
            assert moved <= row.attack_radius == pytest.approx(moved, rel=1e-12)
            assert 0 < row.radius() < row.attack_radius

    @pytest.mark.parametrize("factor", [0.5, 1.5, 0.0])
    def test_another_distance_is_found(self, out: Path, factor: float) -> None:
        distance = rows(out)[0].attack_radius
        assert distance is not None
        set_payload(out, 0, attack_radius=distance * factor)
        assert "attack_radius" in {mismatch.rule for mismatch in audit_verification(out).mismatches}

    def test_a_distance_without_a_point_is_said_to_be_unchecked(self, out: Path) -> None:
        set_payload(out, 0, arrays_sha256=None, claims=[])
        report = audit_verification(out)
        assert any("1 attack distances have no stored point" in note for note in report.notes)
        assert report.nearest == 1
