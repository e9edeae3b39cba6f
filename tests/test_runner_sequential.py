"""Runs whose inputs get as many votes as they need: resumable at any look, extendable where sound, never confused."""

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certify.audit import audit_folder
from certify.audit.replaying import ReplayOptions, replay
from certify.errors import RunMismatchError, UsageError
from certify.estimators import EstimatorOptions
from certify.journal import Journal
from certify.merging import merge_shards
from certify.outcomes import ABSTAINED, REFUTED, UNDECIDED
from certify.report.sources import read_source
from certify.report.tables import certified_table
from certify.rundir import KIND, read_run
from certify.runner import execute
from certify.setup import RunOptions, prepare

MODEL = """
import torch


class Model(torch.nn.Module):
    num_classes = 3
    input_shape = (1, 4, 4)

    def forward(self, x):
        # Comparisons of single values: the same bits in any batch.
        pixels = x.flatten(1)
        return (pixels[:, 0] > 0.45).long() + (pixels[:, 5] > 0.8).long()


def fast():
    return Model()
"""

SEQUENTIAL = EstimatorOptions("sequential", radii="0,0.125,0.25", cap="400")
ANYTIME = EstimatorOptions("anytime", radii="0,0.125,0.25", cap="120")


def lay_out(place: Path, patch: pytest.MonkeyPatch) -> Path:
    """Make a model module and ten 8-bit inputs in a folder; the labels are right for most of them."""
    (place / "quick_model.py").write_text(MODEL)
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (10, 4, 4, 1), dtype=np.uint8)
    pixels = images.reshape(10, -1) / 255
    labels = (pixels[:, 0] > 0.45).astype(np.int64) + (pixels[:, 5] > 0.8)
    labels[::5] = 2
    np.savez(place / "data.npz", images=images, labels=labels)
    patch.syspath_prepend(str(place))
    patch.chdir(place)
    # The self-test of the noise is tested elsewhere; a million values at every start would be most of the time here.
    patch.setattr("certify.runner._TESTED_VALUES", 2**13)
    sys.modules.pop("quick_model", None)
    return place


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return lay_out(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run per estimator, for tests that tamper with copies of them."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        lay_out(place, patch)
        for estimator in (SEQUENTIAL, ANYTIME):
            certify(place, estimator=replace(estimator, radii="0,0.25,0.5", cap="500"), out=place / estimator.name)
    return place


def copy_of(finished: Path, name: str, folder: Path) -> None:
    shutil.copytree(finished / name, folder / "run")


def options(folder: Path, **changes: Any) -> RunOptions:
    base = RunOptions(
        model="quick_model:fast",
        data=str(folder / "data.npz"),
        noise="gaussian",
        parameters=(("sigma", 0.25),),
        estimator=SEQUENTIAL,
        batch_size=64,
        device="cpu",
        out=folder / "run",
    )
    return replace(base, **changes)


def certify(folder: Path, **changes: Any) -> list[str]:
    plan = prepare(options(folder, **changes), {}).plan
    execute(plan)
    return evidence(plan.out)


def evidence(out: Path) -> list[str]:
    with Journal(out, kind=KIND) as journal:
        return [
            json.dumps([e.index, e.payload["label"], e.payload["certificate"], [str(look) for look in e.looks]])
            for e in journal.entries()
        ]


def interrupt_after(folder: Path, monkeypatch: pytest.MonkeyPatch, batches: int, **changes: Any) -> None:
    monkeypatch.setattr("certify.window._LOOKS_SECONDS", 0.0)
    monkeypatch.setattr("certify.window._FLUSH_SECONDS", 0.0)
    seen = 0

    def stop(_votes: int) -> None:
        nonlocal seen
        seen += 1
        if seen == batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(prepare(options(folder, **changes), {}).plan, on_votes=stop)


@pytest.mark.parametrize("estimator", [SEQUENTIAL, ANYTIME, EstimatorOptions("planned", cap="300", pilot=100)])
@pytest.mark.parametrize("free", [False, True])
def test_every_estimator_runs_and_passes_the_audit(folder: Path, estimator: EstimatorOptions, free: bool) -> None:
    certify(folder, estimator=replace(estimator, free=free))
    report = audit_folder(folder / "run")
    assert report.mismatches == ()
    assert report.checked == 10
    rows = read_run(folder / "run").rows
    assert any(row.correct and row.radius > 0 for row in rows)
    votes = [row.certificate.votes for row in rows]
    assert len(set(votes)) > 1
    assert max(votes) <= {"sequential": 400, "anytime": 120, "planned": 400}[estimator.name]
    again = replay(report.run, report.spec, [0, 5, 9], ReplayOptions())
    assert not again.mismatches
    assert {look.verdict for look in again.looks} == {"equal"}


@pytest.mark.parametrize("version", ["philox-int-v1", "torch-block-v1"])
def test_batch_size_and_shards_change_nothing(folder: Path, version: str) -> None:
    def claims(out: Path) -> list[Any]:
        return [json.loads(line)[2:] for line in evidence(out)]

    certify(folder, noise_version=version)
    reference = claims(folder / "run")
    for size in (1, 7, 1024):
        certify(folder, noise_version=version, batch_size=size, out=folder / f"b{size}")
        assert claims(folder / f"b{size}") == reference
    for shard in range(4):
        certify(folder, noise_version=version, shard=f"{shard}/4", out=folder / "shards")
    merge_shards(folder / "shards")
    assert claims(folder / "shards") == reference
    assert audit_folder(folder / "shards").mismatches == ()


@pytest.mark.parametrize("batches", [2, 9])
def test_an_interrupted_run_goes_on_from_its_looks(folder: Path, monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    reference = certify(folder, out=folder / "calm")
    interrupt_after(folder, monkeypatch, batches)
    with Journal(folder / "run", kind=KIND) as journal:
        looks = journal.unfinished()
        done = {entry.index for entry in journal.entries()}
    if batches > 1:
        assert looks, "nothing was on its way"
    drawn = 0

    def count(votes: int) -> None:
        nonlocal drawn
        drawn += votes

    rows = execute(prepare(options(folder), {}).plan, on_votes=count)
    assert evidence(folder / "run") == reference
    kept = sum(found[-1].n for found in looks.values())
    needed = sum(row.certificate.votes for row in rows if row.index not in done) - kept
    assert drawn < needed + 10 * 16 + 64 * 4  # what was counted before is not drawn again


def test_killed_processes_lose_nothing_that_was_written(folder: Path) -> None:
    """SIGKILL in the middle, many times; the looks of unfinished inputs survive it."""
    reference = certify(folder, out=folder / "calm")
    script = (
        "import os, signal, sys, threading\n"
        "from pathlib import Path\n"
        "import certify.window as window\n"
        "window._LOOKS_SECONDS = window._FLUSH_SECONDS = 0.0\n"
        "sys.path.insert(0, os.getcwd())\n"
        "from test_runner_sequential import options\n"
        "from certify.runner import execute\n"
        "from certify.setup import prepare\n"
        "plan = prepare(options(Path(os.getcwd())), {}).plan\n"
        "for batches in range(2, 26, 4):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        seen = [0]\n"
        "        def stop(votes):\n"
        "            seen[0] += 1\n"
        "            if seen[0] == batches:\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "        execute(plan, on_votes=stop)\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "execute(plan)\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}:{Path(__file__).parent}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert evidence(folder / "run") == reference


# --- Extending a finished run -----------------------------------------------------------------------------------------


def test_an_anytime_run_gets_more_votes_and_ends_as_if_it_had_had_them_from_the_start(folder: Path) -> None:
    certify(folder, estimator=ANYTIME)
    before = {row.index: row for row in read_run(folder / "run").rows}
    more = replace(ANYTIME, cap="500")
    certify(folder, estimator=more)
    direct = certify(folder, estimator=more, out=folder / "direct")
    assert evidence(folder / "run") == direct
    after = {row.index: row for row in read_run(folder / "run").rows}
    assert any(after[i].certificate.votes > before[i].certificate.votes for i in after)
    assert all(after[i].seconds >= before[i].seconds for i in after)
    config = json.loads((folder / "run" / "run.json").read_text())
    assert [entry["budget"] for entry in config["settings"]["extended_from"]] == [120]
    assert audit_folder(folder / "run").mismatches == ()


@pytest.mark.parametrize("estimator", [SEQUENTIAL, replace(ANYTIME, cap="500")])
def test_further_radii_of_the_grid(folder: Path, estimator: EstimatorOptions) -> None:
    certify(folder, estimator=estimator)
    more = replace(estimator, radii="0,0.125,0.25,0.375")
    certify(folder, estimator=more)
    assert evidence(folder / "run") == certify(folder, estimator=more, out=folder / "direct")
    assert all(len(row.certificate.decisions) == 4 for row in read_run(folder / "run").rows)
    assert audit_folder(folder / "run").mismatches == ()


@pytest.mark.parametrize("batches", [2])
def test_an_extension_that_is_interrupted_is_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    certify(folder, estimator=ANYTIME)
    more = replace(ANYTIME, cap="500")
    interrupt_after(folder, monkeypatch, batches, estimator=more)
    certify(folder, estimator=more)
    assert evidence(folder / "run") == certify(folder, estimator=more, out=folder / "direct")


def test_killed_before_the_run_file_was_replaced_the_folder_is_still_the_old_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = certify(folder, estimator=ANYTIME)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("certify.rundir.write_atomically", die)
        with pytest.raises(KeyboardInterrupt):
            certify(folder, estimator=replace(ANYTIME, cap="500"))
    assert evidence(folder / "run") == []
    assert certify(folder, estimator=ANYTIME) == before


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (EstimatorOptions(), {"n": 600}, "fixed sample size cannot be extended"),
        (SEQUENTIAL, {"estimator": replace(SEQUENTIAL, cap="600")}, "cannot get a larger cap"),
        (SEQUENTIAL, {"estimator": replace(SEQUENTIAL, radii="0,0.25")}, "radii unchanged"),
        (SEQUENTIAL, {"estimator": replace(SEQUENTIAL, radii="0,0.125,0.25,0.3")}, "must continue the run's grid"),
        (ANYTIME, {"estimator": replace(ANYTIME, cap="100")}, "budget may only grow"),
        (ANYTIME, {"estimator": replace(ANYTIME, free=True)}, "mode"),
        (ANYTIME, {"estimator": SEQUENTIAL}, "It cannot be continued"),
        (EstimatorOptions("planned", cap="300", pilot=100), {"estimator": EstimatorOptions("planned")}, "planned run"),
    ],
)
def test_what_would_spend_alpha_twice_is_refused_with_the_reason(
    folder: Path, first: EstimatorOptions, second: dict[str, Any], reason: str
) -> None:
    before = certify(folder, estimator=first, n=300, indices="0-1")
    config = (folder / "run" / "run.json").read_bytes()
    with pytest.raises(RunMismatchError, match=reason) as caught:
        certify(folder, **{"estimator": first, "n": 300, "indices": "0-1", **second})
    assert "estimator." in str(caught.value)
    assert evidence(folder / "run") == before
    assert (folder / "run" / "run.json").read_bytes() == config


def test_another_seed_is_refused_whatever_the_estimator_allows(folder: Path) -> None:
    certify(folder, estimator=ANYTIME, indices="0")
    with pytest.raises(RunMismatchError, match="seed: the folder has 0, now 1"):
        certify(folder, estimator=replace(ANYTIME, cap="500"), indices="0", seed=1)


def test_a_larger_futility_is_refused_before_anything_is_replayed(folder: Path) -> None:
    certify(folder)
    less = replace(SEQUENTIAL, futility=0.0)
    extended = certify(folder, estimator=less)
    for more in (SEQUENTIAL, replace(SEQUENTIAL, futility=0.9)):
        with pytest.raises(
            RunMismatchError, match=r"cannot be continued: the futility .* may only fall, got futility=0"
        ):
            certify(folder, estimator=more)
    assert evidence(folder / "run") == extended
    assert certify(folder, estimator=less) == extended


def test_one_label_alone_is_refused_before_anything_is_written(folder: Path) -> None:
    random = np.random.default_rng(1)
    np.savez(folder / "one.npz", images=random.random((4, 1, 4, 4), dtype=np.float32), labels=np.zeros(4, dtype=int))
    (folder / "plain_model.py").write_text("def make():\n    return lambda x: x.flatten(1)[:, :10]\n")
    asked = {"data": str(folder / "one.npz"), "model": "plain_model:make"}
    with pytest.raises(UsageError, match=r"at least 2 classes are needed, got 1, as the labels .* give --num-classes"):
        prepare(options(folder, **asked), {})
    assert not (folder / "run").exists()
    certify(folder, **asked, num_classes=10)


# --- What the results say ---------------------------------------------------------------------------------------------


def test_certified_refuted_undecided_and_abstained_are_four_things(folder: Path) -> None:
    no_futility = replace(SEQUENTIAL, radii="0.125,0.25", futility=0.0)
    certify(folder, estimator=no_futility)
    rows = read_run(folder / "run").rows
    statuses = {str(row.certificate.status): row for row in rows}
    assert {"certified", "refuted"} <= set(statuses)
    undecided = replace(ANYTIME, radii="0.125,0.25", cap="8")
    certify(folder, estimator=undecided, out=folder / "short")
    short = read_run(folder / "short").rows
    assert any(str(row.certificate.status) == "undecided" for row in short)
    for row in (*rows, *short):
        code = {"certified": row.label, "refuted": REFUTED, "undecided": UNDECIDED, "abstained": ABSTAINED}
        assert row.predict == code[str(row.certificate.status)]
        assert row.correct == (str(row.certificate.status) == "certified")
        assert (row.radius > 0) == row.correct
    for out in ("run", "short"):
        texts = [(folder / out / f"certificates.{form}").read_text().splitlines() for form in ("tsv", "csv")]
        lines, rich = list(csv.DictReader(texts[0], delimiter="\t")), list(csv.DictReader(texts[1]))
        assert {line["predict"] for line in lines if line["correct"] == "0"} <= {"-2", "-3"}
        for line, more in zip(lines, rich, strict=True):
            assert {"refuted": "-3", "undecided": "-2"}.get(more["status"], line["label"]) == line["predict"]
            assert more["decisions"].split(";")[0] == f"0.125:{more['status']}"


def test_reports_tell_them_apart(folder: Path) -> None:
    certify(folder, estimator=replace(SEQUENTIAL, radii="0.125,0.25", futility=0.0))
    source = read_source(folder / "run")
    table = certified_table([source.certified])
    row = table.rows[0]
    assert row.abstention.count == 0
    assert row.refuted.count == int((source.certified.predict == REFUTED).sum()) > 0
    assert row.undecided.count == int((source.certified.predict == UNDECIDED).sum())
    certified = int(source.certified.correct.sum())
    assert certified + row.refuted.count + row.undecided.count == 10
    text = table.to_markdown()
    assert "undecided %" in text
    assert "refuted %" in text
    assert "lower Riemann sum" in text
    assert "neither is abstaining" in text
    log = read_source(folder / "run" / "certificates.tsv").certified
    assert (log.predict == source.certified.predict).all()
    (folder / "log.tsv").write_text((folder / "run" / "certificates.tsv").read_text())
    alone = read_source(folder / "log.tsv").certified
    assert (alone.predict == source.certified.predict).all()
    assert certified_table([alone]).rows[0].refuted.count == row.refuted.count


def test_a_fixed_run_says_nothing_of_undecided(folder: Path) -> None:
    certify(folder, estimator=EstimatorOptions(), n=300)
    text = certified_table([read_source(folder / "run").certified]).to_markdown()
    assert "undecided" not in text
    assert "Riemann" not in text


def test_the_curve_sharpens_to_the_result(folder: Path) -> None:
    plan = prepare(options(folder), {}).plan
    asked: list[Any] = []
    curves: list[Any] = []

    def on_votes(_votes: int) -> None:
        if asked:
            curves.append(asked[0]())

    rows = execute(plan, on_votes=on_votes, on_curve=asked.append)
    final = asked[0]()
    assert plan.grid is not None
    assert all(final.open[k] == 0 for k in range(len(plan.grid)))
    for k, radius in enumerate(plan.grid):
        assert final.certified[k] == sum(row.correct and row.radius >= radius for row in rows)
        for curve in curves:
            assert curve.certified[k] <= final.certified[k] <= curve.certified[k] + curve.open[k]
    assert curves[0].open == (10, 10, 10)
    assert "0.125:" in final.text()


# --- Noise versions ---------------------------------------------------------------------------------------------------


def test_data_on_a_grid_get_integer_noise_and_the_slack_is_recorded(folder: Path) -> None:
    certify(folder)
    config = json.loads((folder / "run" / "run.json").read_text())
    assert config["identity"]["noise_version"] == "philox-int-v1"
    assert config["identity"]["noise"]["grid"] == 255
    assert config["identity"]["torch_version"] is None
    slack = config["environment"]["probability_slack"]
    assert 0 < slack < 1e-12
    for row in read_run(folder / "run").rows:
        assert row.certificate.probability_slack == slack
        assert "whole steps" in row.certificate.covers
    # Taken off the thresholds of the grid, once.
    assert config["identity"]["estimator"]["thresholds"][0]["q0"] < 0.5


def test_a_folder_keeps_the_noise_that_it_was_begun_with(folder: Path) -> None:
    certify(folder, noise_version="torch-block-v1", indices="0-3")
    certify(folder, indices="0-5")
    assert {row.certificate.noise_version for row in read_run(folder / "run").rows} == {"torch-block-v1"}


def test_floating_point_data_get_floating_point_noise(folder: Path) -> None:
    random = np.random.default_rng(1)
    path = folder / "real.npz"
    np.savez(path, images=random.random((4, 1, 4, 4), dtype=np.float32), labels=np.zeros(4, np.int64))
    certify(folder, data=str(path))
    assert {row.certificate.noise_version for row in read_run(folder / "run").rows} == {"torch-block-v1"}
    with pytest.raises(UsageError, match="the data are not on a grid"):
        prepare(options(folder, data=str(path), noise_version="philox-int-v1", out=folder / "other"), {})


@pytest.mark.parametrize("sigma", [100.0, 13.95])
def test_noise_that_is_too_wide_for_whole_steps_is_drawn_in_floating_point(folder: Path, sigma: float) -> None:
    # 100: the noise alone leaves int16; 13.95: noise that fits alone, but not with 255 levels.
    wide = {"parameters": (("sigma", sigma),), "estimator": EstimatorOptions(), "n": 20, "n0": 1}
    prepared = prepare(options(folder, **wide), {})
    assert prepared.plan.noise == {"version": "torch-block-v1"}
    [note] = [note for note in prepared.notes if "floating point" in note]
    assert "integer noise cannot hold" in note
    rows = execute(prepared.plan)
    assert {row.certificate.noise_version for row in rows} == {"torch-block-v1"}
    assert all("whole steps" not in row.certificate.covers for row in rows)


def test_integer_noise_that_cannot_be_names_the_noise_that_can(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"must stay within 32767 steps.*--noise-version torch-block-v1"):
        prepare(options(folder, parameters=(("sigma", 100.0),), noise_version="philox-int-v1"), {})
    parameters = (("sigma", 0.25), ("k", 2.0))
    with pytest.raises(UsageError, match=r"but the law is exp_two .*--noise-version torch-block-v1"):
        prepare(options(folder, noise="exp_two", parameters=parameters, noise_version="philox-int-v1"), {})


# --- Bad options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": EstimatorOptions("sequentiel")}, "estimator must be one of fixed, sequential, anytime, planned"),
        ({"estimator": EstimatorOptions("fixed", radii="0")}, "--radii is for --estimator sequential and anytime"),
        ({"estimator": EstimatorOptions("anytime", futility=0.1)}, "--futility is for --estimator sequential"),
        ({"estimator": EstimatorOptions("sequential", cap="none")}, "--cap none is for --estimator anytime"),
        ({"estimator": EstimatorOptions("sequential", cap="many")}, "--cap must be a number of votes"),
        ({"estimator": EstimatorOptions("sequential", cap="0")}, "cap must be an integer of at least 1"),
        ({"estimator": EstimatorOptions("sequential", cap="8")}, "cap"),
        (
            {"estimator": EstimatorOptions("anytime", radii="0,0.1", cap="3")},
            "first look, which is at 4 votes, got budget=3",
        ),
        ({"estimator": EstimatorOptions("sequential", beta=1e-300)}, "beta must be at least 1e-280"),
        ({"alpha": 1e-300}, "alpha must be at least 1e-280"),
        ({"estimator": EstimatorOptions("sequential", radii="0,9")}, "every radius must be within reach"),
        ({"estimator": EstimatorOptions("sequential", radii="0,-1")}, "a radius must be finite and at least 0"),
        ({"estimator": EstimatorOptions("sequential", futility=1.0)}, r"futility must be in \[0, 1\)"),
        ({"estimator": EstimatorOptions("sequential", method="wald")}, "method must be one of gse, zmix"),
        ({"estimator": EstimatorOptions("sequential", runner_up=True)}, "--runner-up is for --estimator fixed"),
        ({"noise_version": "philox"}, "noise version must be one of auto, torch-block-v1, philox-int-v1"),
    ],
)
def test_bad_options_are_named_before_anything_is_written(folder: Path, changes: dict[str, Any], message: str) -> None:
    from smoothing.errors import InvalidArgumentError

    with pytest.raises(InvalidArgumentError, match=message):
        prepare(options(folder, **changes), {})
    assert not (folder / "run").exists()


# --- Tampering --------------------------------------------------------------------------------------------------------


def change(folder: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(folder / "run" / "journal.sqlite")
    with connection:
        connection.execute(statement, values)
    connection.close()


def rewrite(folder: Path, index: int, edit: Any) -> None:
    """Change a certificate, and its looks in the table with it."""
    connection = sqlite3.connect(folder / "run" / "journal.sqlite")
    with connection:
        [(text,)] = connection.execute('SELECT payload FROM inputs WHERE "index" = ?', (index,)).fetchall()
        payload = json.loads(text)
        edit(payload["certificate"])
        connection.execute('UPDATE inputs SET payload = ? WHERE "index" = ?', (json.dumps(payload), index))
        connection.execute('DELETE FROM looks WHERE "index" = ?', (index,))
        for look in payload["certificate"]["looks"]:
            row = (index, look["phase"], look["n"], json.dumps(look["counts"]))
            connection.execute("INSERT INTO looks VALUES (?, ?, ?, ?)", row)
    connection.close()
    for name in ("certificates.tsv", "certificates.csv"):
        (folder / "run" / name).unlink(missing_ok=True)


def one_more(certificate: dict[str, Any]) -> None:
    entry = next(e for e in certificate["decisions"] if e["status"] != "certified")
    entry["status"] = "certified"


def fewer_failures(certificate: dict[str, Any]) -> None:
    last = certificate["looks"][-1]
    last["counts"] = [0, 0, 0, 0]
    last["counts"][0] = last["n"]


def drop_a_look(certificate: dict[str, Any]) -> None:
    del certificate["looks"][1]


def larger_radius(certificate: dict[str, Any]) -> None:
    certificate["radius"] = 0.3


def other_class(certificate: dict[str, Any]) -> None:
    certificate["prediction"] = (certificate["prediction"] + 1) % 3


def no_slack(certificate: dict[str, Any]) -> None:
    certificate["probability_slack"] = 0.0


def certified_input(folder: Path) -> int:
    """The index of an input with some radii certified and some not, and several looks."""
    rows = read_run(folder / "run").rows
    for row in rows:
        statuses = {str(decision.status) for decision in row.certificate.decisions}
        if len(statuses) > 1 and "certified" in statuses and len(row.certificate.looks) > 3:
            return row.index
    raise AssertionError("no such input")


@pytest.mark.parametrize("name", ["sequential", "anytime"])
@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (one_more, "decisions"),
        (fewer_failures, "counts"),
        (larger_radius, "radius"),
        (other_class, "prediction"),
        (no_slack, "probability_slack"),
    ],
)
def test_tampered_certificates_are_found(finished: Path, tmp_path: Path, name: str, edit: Any, rule: str) -> None:
    folder = tmp_path
    copy_of(finished, name, folder)
    index = certified_input(folder)
    rewrite(folder, index, lambda certificate: None)
    assert audit_folder(folder / "run").mismatches == ()
    rewrite(folder, index, edit)
    found = audit_folder(folder / "run").mismatches
    assert any(mismatch.index == index and mismatch.rule == rule for mismatch in found), found


def test_a_missing_look_is_found(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path
    copy_of(finished, "sequential", folder)
    index = certified_input(folder)
    rewrite(folder, index, drop_a_look)
    assert any(m.index == index and m.rule == "looks" for m in audit_folder(folder / "run").mismatches)


def loosen(data: dict[str, Any]) -> None:
    data["limits"] = [min(limit + 3, n) for limit, n in zip(data["limits"], data["looks"], strict=True)]


def rename_level(data: dict[str, Any]) -> None:
    data["alpha"] = (0.5).hex()


@pytest.mark.parametrize("edit", [loosen, rename_level])
@pytest.mark.parametrize("renamed", [False, True])
def test_tampered_boundaries_are_found(finished: Path, tmp_path: Path, edit: Any, renamed: bool) -> None:
    """Under their old name by the hash; under a new one, and named so in run.json, by their error."""
    import hashlib

    folder = tmp_path
    copy_of(finished, "sequential", folder)
    config = json.loads((folder / "run" / "run.json").read_text())
    old = config["identity"]["estimator"]["boundaries"][0]
    path = folder / "run" / "boundaries" / f"{old}.json"
    data = json.loads(path.read_text())
    edit(data)
    rules = {m.rule for m in audit_folder(folder / "run").mismatches}
    assert not rules
    if renamed:
        name = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
        config["identity"]["estimator"]["boundaries"][0] = name
        (folder / "run" / "run.json").write_text(json.dumps(config))
        path = path.with_name(f"{name}.json")
    path.write_text(json.dumps(data))
    rules = {m.rule for m in audit_folder(folder / "run").mismatches}
    if not renamed:
        assert "hash" in rules
    if edit is loosen:
        assert "size" in rules
    path.unlink()
    assert "boundary" in {m.rule for m in audit_folder(folder / "run").mismatches}


def edit_config(folder: Path, edit: Any) -> None:
    path = folder / "run" / "run.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))


def weaker_threshold(config: dict[str, Any]) -> None:
    config["identity"]["estimator"]["thresholds"][1]["q0"] *= 1.01


def forgotten_slack(config: dict[str, Any]) -> None:
    config["environment"]["probability_slack"] = 0.0


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (weaker_threshold, "threshold"),
        (forgotten_slack, "probability_slack"),
    ],
)
def test_a_tampered_run_file_is_found(finished: Path, tmp_path: Path, edit: Any, rule: str) -> None:
    folder = tmp_path
    copy_of(finished, "sequential", folder)
    edit_config(folder, edit)
    assert rule in {m.rule for m in audit_folder(folder / "run").mismatches}


def test_runner_up_runs_are_audited(folder: Path) -> None:
    certify(folder, estimator=EstimatorOptions(runner_up=True), n=300)
    report = audit_folder(folder / "run")
    assert report.mismatches == ()
    rows = read_run(folder / "run").rows
    assert all(row.certificate.rival_upper is not None for row in rows)
    index = next(row.index for row in rows if row.radius > 0)

    def stronger(certificate: dict[str, Any]) -> None:
        certificate["rival_upper"] *= 0.5

    rewrite(folder, index, stronger)
    assert {m.rule for m in audit_folder(folder / "run").mismatches if m.index == index} >= {"rival_upper"}
