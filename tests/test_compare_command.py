"""`certify compare`: both sides from their own runs, by the rules that keep the comparison honest."""

import csv
import io
import json
import math
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from certify.cli import main
from certify.comparison.report import alarms_of, summarize
from certify.comparison.rules import align
from certify.comparison.sides import read_side
from certify.errors import CertifyError, UsageError
from smoothing.threat import Norm
from tests.verify_commands import install

INPUTS = "0-3"
QUICK = ["--data", "digits", "--device", "cpu", "--quiet"]
MODEL = ["compare", "tiny_verified:make", *QUICK, "--norm", "l2", "--eps", "2", "--no-clip", "--sigma", "0.12"]
SPARING = ["--n", "500", "--steps", "5", "--restarts", "0", "--method", "crown,pgd", "--attack-steps", "5", "--m", "8"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of the tiny network with itself, smoothed: OUT with both runs in it."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        install(folder, patch)
        assert main([*MODEL, *SPARING, "--indices", INPUTS, "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path, monkeypatch)
    return tmp_path


def lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_every_radius_is_that_of_its_own_run(done: Path) -> None:
    rows = lines(done / "compare.csv")
    f = {row["image"]: row for row in rows if row["classifier"] == "f"}
    g = {row["image"]: row for row in rows if row["classifier"] == "g"}
    assert set(f) == set(g) == {"0", "1", "2", "3"}
    for certified in lines(done / "smoothing" / "certificates.csv"):
        row = g[certified["idx"]]
        assert row["radius"] == (certified["radius"] if certified["correct"] == "1" else "0.0")
        assert row["pred"] == certified["predict"]
    for verified in lines(done / "verify" / "verify.csv"):
        row = f[verified["image"]]
        assert row["radius"] == verified["radius"]
        assert row["attack_radius"] == verified["attack_radius"]
    for row in rows:
        assert (row["norm"], row["clip"], row["converted_from"]) == ("l2", "no clip", "")
        if row["attack_radius"]:
            assert math.isclose(float(row["gap"]), float(row["attack_radius"]) - float(row["radius"]), abs_tol=1e-15)
    assert {(row["guarantee"], row["alpha"], row["alpha_all"]) for row in f.values()} == {
        ("deterministic", "0.0", "0.0")
    }
    assert {(row["guarantee"], row["alpha"], row["alpha_all"]) for row in g.values()} == {
        ("probabilistic", "0.001", "0.004")
    }
    assert {(row["n0"], row["n"], row["sigma"]) for row in g.values()} == {("100", "500", "0.12")}


def test_the_summary_counts_every_input(done: Path) -> None:
    content = json.loads((done / "compare.json").read_text())
    for side in content["summary"]["sides"]:
        own = [row for row in content["rows"] if row["classifier"] == side["classifier"]]
        assert side["inputs"] == len(own) == 4
        assert side["mean_radius"] == pytest.approx(sum(row["radius"] for row in own) / 4, abs=1e-15)
        assert side["accuracy"] == sum(row["pred"] == row["label"] for row in own) / 4
        assert all(row["radius"] == 0.0 for row in own if row["pred"] != row["label"])
        shares = list(side["certified_accuracy"].values())
        assert shares == sorted(shares, reverse=True)
        assert all(a <= b for a, b in zip(shares, side["under_attack"].values(), strict=True))
    assert any(row["radius"] > 0 for row in content["rows"] if row["classifier"] == "f")
    assert any(row["radius"] > 0 for row in content["rows"] if row["classifier"] == "g")
    assert content["summary"]["alarms"] == []
    notes = " ".join(content["summary"]["notes"])
    assert "two classifiers" in notes
    assert "for 0.001 over all, run with alpha 0.00025" in notes
    for picture in ("compare-curves.png", "compare-scatter.png"):
        assert (done / picture).read_bytes().startswith(b"\x89PNG")


def test_finished_folders_give_the_same_comparison(
    done: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(done / "verify"), str(done / "smoothing")]
    assert main(["compare", *runs, "--no-attack", "--out", str(folder / "again"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    before = json.loads((done / "compare.json").read_text())["summary"]
    for one, other in zip(again["sides"], before["sides"], strict=True):
        assert (one["mean_radius"], one["certified_accuracy"]) == (other["mean_radius"], other["certified_accuracy"])
    assert again["sides"][1]["under_attack"] is None  # nothing is said of an attack that was not run
    assert again["larger_radius"] == before["larger_radius"]


def test_conversions_go_inward_and_are_flagged(done: Path) -> None:
    sides = [read_side(done / "verify"), read_side(done / "smoothing")]
    converted = align(sides, Norm.LINF)
    for side, old in zip(converted, sides, strict=True):
        assert side.converted_from is not None
        assert "inscribed ball" in side.converted_from
        for index, point in side.points.items():
            assert point.radius <= old.points[index].radius / 8  # sqrt(64)
            assert point.radius == pytest.approx(old.points[index].radius / 8)
            assert point.attack_radius is None  # it was measured in another norm
    assert all(p.radius == sides[0].points[i].radius for i, p in align(sides, Norm.L1)[0].points.items())
    assert any("converted from l2" in note for note in summarize(converted)["notes"])


def _edit(run: Path, change: Any) -> None:
    with sqlite3.connect(run / "journal.sqlite") as connection:
        for index, text in connection.execute('SELECT "index", payload FROM inputs').fetchall():
            payload = json.loads(text)
            change(payload)
            connection.execute('UPDATE inputs SET payload = ? WHERE "index" = ?', (json.dumps(payload), index))
    connection.close()


def _identity(run: Path, **changed: Any) -> None:
    config = json.loads((run / "run.json").read_text())
    config["identity"] |= changed
    (run / "run.json").write_text(json.dumps(config))


def test_a_radius_that_only_a_solver_claims_is_not_used(done: Path, tmp_path: Path) -> None:
    run = tmp_path / "verify"
    shutil.copytree(done / "verify", run)
    claim = {"method": "milp", "rests_on": "solver", "status": "verified", "radius": 1.5}
    _edit(run, lambda payload: payload["claims"].append(claim | {"margin": None, "certificate": None}))
    before, after = read_side(done / "verify"), read_side(run)
    assert {i: p.radius for i, p in after.points.items()} == {i: p.radius for i, p in before.points.items()}
    assert any("cannot be checked and is not used" in note for note in after.notes)


def test_an_attack_inside_a_certified_radius_is_an_alarm(
    done: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    side = read_side(done / "verify")
    assert alarms_of([side]) == []
    index = next(i for i, p in side.points.items() if p.radius > 0)
    assert len(alarms_of([side.with_attacks({index: side.points[index].radius}, "x")])) == 1
    run = folder / "verify"
    shutil.copytree(done / "verify", run)
    _edit(run, lambda payload: payload.update(attack_radius=1e-6) if payload["status"] == "verified" else None)
    command = ["compare", str(run), str(done / "smoothing"), "--no-attack", "--out", str(folder / "c")]
    assert main(command) == 1
    assert "ALARM" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: _identity(run, norm="linf"), "radii must be in one norm"),
        (lambda run: _identity(run, data_digest="0"), "same data set"),
        (lambda run: _identity(run, split="train"), "same data set"),
        (lambda run: _edit(run, lambda payload: payload.update(label=9)), "must be the same in both"),
        (lambda run: _edit(run, lambda payload: payload.update(input_sha256="0")), "must be the same in both"),
        (lambda run: _identity(run, against="prediction"), "must be about labels"),
    ],
)
def test_runs_that_may_not_be_compared_are_refused(done: Path, tmp_path: Path, change: Any, said: str) -> None:
    run = tmp_path / "verify"
    shutil.copytree(done / "verify", run)
    change(run)
    with pytest.raises(CertifyError, match=said):
        align([read_side(run), read_side(done / "smoothing")])


def test_other_inputs_and_unfinished_runs_are_refused(done: Path, tmp_path: Path) -> None:
    run = tmp_path / "verify"
    shutil.copytree(done / "verify", run)
    with sqlite3.connect(run / "journal.sqlite") as connection:
        connection.execute('DELETE FROM inputs WHERE "index" = 3')
    connection.close()
    with pytest.raises(CertifyError, match="must be finished to be compared, got 1 of 4"):
        read_side(run)
    config = json.loads((run / "run.json").read_text())
    config["settings"]["indices"] = [0, 1, 2]
    (run / "run.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"same inputs to be compared, got 3 and 4 .*only one of them has 3"):
        align([read_side(run), read_side(done / "smoothing")])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["compare", "tiny_verified:make", *QUICK, "--norm", "l2", "--no-clip", "--sigma", "0.1"], "got no --eps"),
        ([*[word for word in MODEL if word != "--no-clip"]], "one of --clip and --no-clip must be given"),
        (["compare", "here", "there"], "takes one MODEL, or two or more finished run folders"),
        ([*MODEL, "--norm", "l5"], "norm must be one of"),
        (["compare", *MODEL[1:], "--sigma", "-1"], "sigma"),
    ],
)
def test_bad_input(folder: Path, command: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--indices", "0", "--out", str(folder / "out")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (folder / "out").exists()


def test_a_folder_that_is_no_run_is_named(done: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that is at fault, and not the other; and why."""
    (folder / "empty").mkdir()
    (folder / "split" / "shards").mkdir(parents=True)
    (folder / "file").write_text("")
    there = str(done / "verify")
    for name, fault in {
        "absent": "there is no such folder",
        "empty": "there is no run.json in it",
        "split": f"its shards were not joined yet, run certify merge {folder / 'split'}",
        "file": "this is a file",
    }.items():
        assert main(["compare", there, str(folder / name), "--out", str(folder / "out")]) == 2
        said = " ".join(capsys.readouterr().err.split()).replace(" ", "")
        assert f"got{folder / name}:{fault}".replace(" ", "") in said
        assert f"{there}:".replace(" ", "") not in said
    assert main(["compare", str(folder / "gone"), "--out", str(folder / "out")]) == 2
    assert f"got{folder / 'gone'}:there is no such folder".replace(" ", "") in "".join(capsys.readouterr().err.split())
    assert main(["compare", str(folder / "one"), str(folder / "two"), "--out", str(folder / "out")]) == 2
    said = capsys.readouterr().err.replace(" ", "").replace("\n", "")
    assert str(folder / "one") + ":there" in said
    assert str(folder / "two") + ":there" in said
