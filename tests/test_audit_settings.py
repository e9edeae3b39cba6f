"""What a run says of itself is checked like its certificates: the words, the schedule, why it stopped, labels and inputs."""

import itertools
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_runs import cell, database, edit_payload, identity, put, run_json, write_run

from certify.audit import audit_folder
from certify.audit.replaying import ReplayOptions, replay
from certify.audit.schedule import endless_looks, give_up_limits, is_capped_schedule
from certify.audit.statement import GUARANTEE as WORDS
from certify.audit.statement import from_parting, two_digits_up
from certify.audit.stopping import check_stop
from certify.estimators import EstimatorOptions
from certify.runner import execute
from certify.setup import RunOptions, prepare
from smoothing import Gaussian, Norm
from smoothing.certificate import GUARANTEE
from smoothing.estimators import SequentialEstimator
from smoothing.estimators.base import Phase
from smoothing.estimators.thresholds import thresholds
from smoothing.integer.source import _two_digits_up
from smoothing.statistics.futility import futility_limits
from smoothing.statistics.schedule import capped_looks, geometric_looks
from smoothing.statistics.spending import spending_boundary

SEQUENTIAL = EstimatorOptions("sequential", radii="0,0.125,0.25", cap="3000")
RUNS: dict[str, dict[str, Any]] = {
    "sequential": {"estimator": SEQUENTIAL},
    "sequential-free": {"estimator": replace(SEQUENTIAL, free=True, method="zmix", cap="400")},
    "anytime": {"estimator": EstimatorOptions("anytime", radii="0,0.125,0.25", cap="1500")},
    "anytime-free": {"estimator": EstimatorOptions("anytime", radii="0,0.125,0.25", cap="120", free=True)},
    "planned": {"estimator": EstimatorOptions("planned", cap="300", pilot=100)},
    "fixed": {"n": 300, "n0": 20},
    "floating": {"n": 300, "n0": 20, "noise_version": "torch-block-v1"},
    "converted": {"n": 300, "n0": 20, "norm": "linf", "convert_from": "l2"},
    "converted-floating": {
        "n": 300,
        "n0": 20,
        "norm": "linf",
        "convert_from": "l2",
        "noise_version": "torch-block-v1",
    },
}

MODEL = """
import torch


class Model(torch.nn.Module):
    num_classes = 3
    input_shape = (1, 4, 4)

    def forward(self, x):
        # Comparisons of single values: the same bits in any batch.
        pixels = x.flatten(1)
        return (pixels[:, 0] > 0.45).long() + (pixels[:, 5] > 0.8).long()


def make():
    return Model()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run of every kind; tests that tamper take copies."""
    place = tmp_path_factory.mktemp("runs")
    (place / "settings_model.py").write_text(MODEL)
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (12, 4, 4, 1), dtype=np.uint8)
    pixels = images.reshape(12, -1) / 255
    labels = (pixels[:, 0] > 0.45).astype(np.int64) + (pixels[:, 5] > 0.8)
    labels[::5] = 2
    np.savez(place / "data.npz", images=images, labels=labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        patch.setattr("certify.runner._TESTED_VALUES", 2**13)
        sys.modules.pop("settings_model", None)
        for name, changes in RUNS.items():
            certify(place, place / name, **changes)
    return place


def certify(place: Path, out: Path, **changes: Any) -> Path:
    options = RunOptions(
        model="settings_model:make",
        data=str(place / "data.npz"),
        noise="gaussian",
        parameters=(("sigma", 0.25),),
        batch_size=64,
        device="cpu",
        out=out,
    )
    execute(prepare(replace(options, **changes), {}).plan)
    return out


@pytest.fixture
def copy(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    monkeypatch.syspath_prepend(str(runs))
    return lambda name: Path(shutil.copytree(runs / name, tmp_path / name))


def rules(folder: Path) -> set[str]:
    return {mismatch.rule for mismatch in audit_folder(folder).mismatches}


def settings(folder: Path, key: str, value: Any) -> None:
    config = json.loads((folder / "run.json").read_text())
    config["settings"][key] = value
    (folder / "run.json").write_text(json.dumps(config))


# The words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_every_kind_passes_with_a_replay(runs: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(runs))
    report = audit_folder(runs / name)
    assert report.mismatches == ()
    again = replay(report.run, report.spec, [1, 2], ReplayOptions())
    assert again.mismatches == ()
    assert {look.verdict for look in again.looks} == {"equal"}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("key", ["guarantee", "covers"])
def test_other_words_are_found_in_every_row(copy: Callable[[str], Path], name: str, key: str) -> None:
    folder = copy(name)
    for index in (3, 7):
        put(key, "always true", index=index)(folder)
    found = audit_folder(folder).mismatches
    assert [(m.index, m.rule, m.recorded) for m in found] == [(3, key, "always true"), (7, key, "always true")]
    assert all(("P(f(x + z) = c)" if key == "guarantee" else "noise is drawn") in m.derived for m in found)


def _covers(folder: Path) -> str:
    with database(folder) as connection:
        (payload,) = connection.execute('SELECT payload FROM inputs WHERE "index" = 3').fetchone()
    return str(json.loads(payload)["certificate"]["covers"])


@pytest.mark.parametrize(
    ("run", "other"),
    [("floating", "fixed"), ("fixed", "floating"), ("converted", "fixed"), ("converted-floating", "floating")],
)
def test_words_of_another_kind_of_run_are_found(copy: Callable[[str], Path], runs: Path, run: str, other: str) -> None:
    folder = copy(run)
    put("covers", _covers(runs / other), index=3)(folder)
    assert [(m.index, m.rule) for m in audit_folder(folder).mismatches] == [(3, "covers")]


def test_a_smaller_number_in_the_words_is_found_and_shown(copy: Callable[[str], Path]) -> None:
    folder = copy("fixed")
    text = _covers(folder)
    number = text.partition("total variation of ")[2].partition(" ")[0]
    put("covers", text.replace(number, "1.0e-30"), index=3)(folder)
    (mismatch,) = audit_folder(folder).mismatches
    assert (mismatch.index, mismatch.rule) == (3, "covers")
    assert "1.0e-30" in mismatch.recorded
    assert number in mismatch.derived


def test_runs_on_given_votes_have_these_words_too(tmp_path: Path) -> None:
    for name, norm, source in (("a", Norm.L2, None), ("b", Norm.LINF, Norm.L2)):
        assert audit_folder(write_run(tmp_path / name, Gaussian((1, 2, 2), sigma=0.5), norm, source)).mismatches == ()
    assert WORDS == GUARANTEE


@pytest.mark.parametrize("value", [0.0, 1.6844755204045988e-16, 9.99e-5, 1e-3, 0.25, 0.995, 3.4e-20, 1.2e-4, 2e-7])
def test_two_digits_up(value: float) -> None:
    assert two_digits_up(value) == _two_digits_up(value)
    assert float(two_digits_up(value)) >= value


def test_long_texts_are_shown_from_where_they_part() -> None:
    same = "word " * 40
    assert from_parting(same + "old", same + "new") == ("... " + (same + "old")[-27:], "... " + (same + "new")[-27:])
    assert from_parting("short", "texts") == ("short", "texts")


# Labels and inputs in a replay --------------------------------------------------------------------------------------


def _relabel(folder: Path) -> None:
    """Give input 1 another label in journal and exports alike: it was right, and is wrong now."""
    for name in ("certificates.tsv", "certificates.csv"):
        cell(name, 1, "label", lambda text: str((int(text) + 1) % 3))(folder)
        cell(name, 1, "correct", lambda _: "0")(folder)
    edit_payload(folder, 1, lambda payload: payload.update(label=(payload["label"] + 1) % 3))


def _rehash(folder: Path) -> None:
    put("input_sha256", "0" * 64, index=1, inside=False)(folder)
    cell("certificates.csv", 1, "input_sha256", lambda _: "0" * 64)(folder)


@pytest.mark.parametrize(("edit", "rule"), [(_relabel, "label"), (_rehash, "input_sha256")])
def test_a_replay_compares_inputs_that_it_does_not_draw(
    copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str], edit: Callable[[Path], None], rule: str
) -> None:
    folder = copy("fixed")
    edit(folder)
    code, report = run_json(folder, capsys=capsys)
    assert (code, report["mismatches"]) == (0, [])  # without the data nobody can know
    code, report = run_json(folder, "--indices", "2,3", capsys=capsys)
    assert (code, report["passed"]) == (1, False)
    assert [(m["index"], m["where"], m["rule"]) for m in report["replay"]["mismatches"]] == [(1, "replay", rule)]


def test_a_replay_compares_the_size_of_the_data(
    copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy("floating")
    settings(folder, "data_size", 13)
    assert run_json(folder, capsys=capsys)[0] == 0
    code, report = run_json(folder, "--indices", "2", capsys=capsys)
    assert code == 1
    assert [(m["where"], m["rule"]) for m in report["replay"]["mismatches"]] == [("run.json", "data_size")]


# Settings of the estimators -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key", "value", "rule"),
    [
        ("sequential", "cap", 2900, "schedule"),
        ("sequential", "cap", 30000, "schedule"),
        ("sequential", "ratio", 1.1, "schedule"),
        ("sequential", "method", "zmix", "method"),
        ("sequential-free", "method", "gse", "method"),
        ("sequential", "beta", 0.5, "level"),
        ("sequential", "beta", 0.00099, "level"),
        ("sequential", "alpha", 0.01, "level"),
        ("sequential-free", "mode", "label", "level"),
        ("sequential", "futility", 0.0, "stop"),
        ("sequential", "futility", 0.2, "stop"),
        ("sequential-free", "futility", 0.0, "stop"),
        ("sequential", "budget", 100, "estimator"),
        ("anytime", "budget", 900, "looks"),
        ("anytime", "budget", 5000, "stop"),
        ("anytime", "budget", None, "stop"),
        ("anytime", "ratio", 1.1, "looks"),
        ("anytime", "beta", 0.5, "stop"),
        ("anytime-free", "budget", 5000, "stop"),
        ("anytime", "futility", 0.06, "estimator"),
        ("planned", "n_max", 280, "n"),
        ("planned", "precision", 0.5, "n"),
        ("planned", "pilot", 90, "looks"),
        ("fixed", "cap", 300, "estimator"),
    ],
)
def test_an_edited_estimator_is_found(copy: Callable[[str], Path], name: str, key: str, value: Any, rule: str) -> None:
    folder = copy(name)
    identity(f"estimator.{key}", value)(folder)
    assert rule in rules(folder)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("sequential", "cap", "3000"),
        ("sequential", "ratio", 1.0),
        ("sequential", "ratio", 3.0),
        ("sequential", "futility", 1.0),
        ("sequential", "futility", None),
        ("sequential", "method", ["gse"]),
        ("anytime", "budget", 0),
        ("anytime", "ratio", True),
    ],
)
def test_settings_that_no_run_can_have_are_an_error(
    copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str], name: str, key: str, value: Any
) -> None:
    from certify.cli import main

    folder = copy(name)
    identity(f"estimator.{key}", value)(folder)
    assert main(["audit", str(folder)]) == 1
    assert f"run.json cannot be audited: {key} must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [("precision", "fp8"), ("batch_size", 0), ("batch_size", "64"), ("compile", 1), ("channels_last", 0)],
)
def test_a_forward_pass_that_no_run_can_have_is_found(copy: Callable[[str], Path], key: str, value: Any) -> None:
    folder = copy("fixed")
    identity(key, value)(folder)
    assert key in rules(folder)


def test_the_grid_of_the_data_is_that_of_the_noise(copy: Callable[[str], Path]) -> None:
    folder = copy("fixed")
    settings(folder, "grid", 16)
    assert rules(folder) == {"grid"}


def test_noise_that_is_next_to_never_off_passes_with_its_bound(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(runs))
    monkeypatch.setattr("certify.runner._TESTED_VALUES", 2**13)
    folder = certify(runs, tmp_path / "run", parameters=(("sigma", 1e-9),), n=300, n0=20, indices="1")
    assert audit_folder(folder).mismatches == ()
    config = json.loads((folder / "run.json").read_text())
    assert 0.0 < config["environment"]["probability_slack"] < 1e-30
    config["environment"]["probability_slack"] = 1e-20
    (folder / "run.json").write_text(json.dumps(config))
    assert "probability_slack" in rules(folder)


@pytest.mark.parametrize("name", ["sequential", "anytime"])
def test_a_look_fewer_or_more_is_a_stop_without_a_reason(copy: Callable[[str], Path], name: str) -> None:
    folder = copy(name)
    with database(folder) as connection:
        query = 'SELECT n, counts FROM looks WHERE "index" = 1 ORDER BY rowid DESC LIMIT 2'
        (last, _), (before, _) = connection.execute(query).fetchall()
        connection.execute('DELETE FROM looks WHERE "index" = 1 AND n = ?', (last,))

    def shorten(payload: dict[str, Any]) -> None:
        payload["certificate"]["looks"].pop()
        payload["certificate"]["n"] = before

    edit_payload(folder, 1, shorten)
    assert (1, "stop") in {(m.index, m.rule) for m in audit_folder(folder).mismatches}


# Runs that were continued -------------------------------------------------------------------------------------------


EXTENSIONS = [
    (SEQUENTIAL, replace(SEQUENTIAL, radii="0,0.125,0.25,0.375")),
    (replace(SEQUENTIAL, futility=0.2), replace(SEQUENTIAL, futility=0.0)),
    (
        EstimatorOptions("anytime", radii="0,0.125", cap="120"),
        EstimatorOptions("anytime", radii="0,0.125,0.25", cap="1000"),
    ),
]


@pytest.mark.parametrize(("first", "then"), EXTENSIONS, ids=["radii", "futility", "budget and radii"])
@pytest.mark.parametrize("free", [False, True])
def test_a_continued_run_passes_and_its_history_is_checked(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: EstimatorOptions,
    then: EstimatorOptions,
    free: bool,
) -> None:
    monkeypatch.syspath_prepend(str(runs))
    monkeypatch.setattr("certify.runner._TESTED_VALUES", 2**13)
    certify(runs, tmp_path / "run", estimator=replace(first, free=free), indices="1,2")
    certify(runs, tmp_path / "run", estimator=replace(then, free=free), indices="1,2,3")
    assert audit_folder(tmp_path / "run").mismatches == ()
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    (before,) = config["settings"]["extended_from"]
    edits: list[tuple[str, Any]] = [("alpha", 0.01), ("beta", 0.01), ("ratio", 1.5), ("thresholds", [])]
    edits += [("futility", -0.1), ("cap", 10)] if first.name == "sequential" else [("budget", 10**6), ("budget", None)]
    for key, value in edits:
        settings(tmp_path / "run", "extended_from", [{**before, key: value}])
        assert "extended_from" in rules(tmp_path / "run"), key
    settings(tmp_path / "run", "extended_from", [before, 3])
    assert "extended_from" in rules(tmp_path / "run")


def test_a_fixed_run_has_no_history(copy: Callable[[str], Path]) -> None:
    folder = copy("fixed")
    settings(folder, "extended_from", [json.loads((folder / "run.json").read_text())["identity"]["estimator"]])
    assert rules(folder) == {"extended_from"}


def test_merged_shards_pass(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from certify.merging import merge_shards

    monkeypatch.syspath_prepend(str(runs))
    monkeypatch.setattr("certify.runner._TESTED_VALUES", 2**13)
    for shard in range(2):
        certify(runs, tmp_path / "run", estimator=replace(SEQUENTIAL, cap="400"), shard=f"{shard}/2")
    merge_shards(tmp_path / "run")
    assert audit_folder(tmp_path / "run").mismatches == ()


# The arithmetic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1.01, 1.05, 1.5, 2.0])
def test_looks_are_those_of_the_program(ratio: float) -> None:
    assert [*itertools.islice(endless_looks(ratio), 300)] == [*itertools.islice(geometric_looks(ratio), 300)]
    for cap in (1, 3, 4, 5, 400, 3000):
        looks = capped_looks(ratio, cap)
        assert is_capped_schedule(looks, ratio, cap)
        assert not is_capped_schedule(looks, ratio, cap + 1)
        if len(looks) > 3:
            assert not is_capped_schedule(looks[:-1], ratio, cap)
            assert not is_capped_schedule((*looks[:-2], looks[-1]), ratio, cap)


@pytest.mark.parametrize("cap", [20, 400, 3000])
@pytest.mark.parametrize("q0", [0.5, 0.2, 0.01])
@pytest.mark.parametrize("futility", [0.0, 0.06, 0.4])
def test_futility_limits_are_derived_again(cap: int, q0: float, futility: float) -> None:
    boundary = spending_boundary(q0, 0.001, capped_looks(1.05, cap))
    limits = give_up_limits(boundary.looks, max(boundary.limits), futility)
    recorded = futility_limits(boundary, futility)
    assert all(least <= limit <= sure for limit, (least, sure) in zip(recorded, limits, strict=True))
    assert sum(least < sure for least, sure in limits) <= 2


@pytest.mark.parametrize("mode", ["label", "free"])
def test_stops_of_random_walks_are_derived_again(mode: Any) -> None:
    """Votes of many probabilities, by the program's own state; and none of its looks may be missing or too many."""
    from certify.audit.findings import Findings

    grid = thresholds(Gaussian((1,), sigma=0.5), "l2", (0.0, 0.25, 0.5))
    estimator = SequentialEstimator(grid, cap=600, mode=mode, futility=0.1)
    looks = capped_looks(1.05, 600)
    below, above = ([b.limits for b in group] for group in (estimator.boundaries, estimator.refutations))
    give_up = [give_up_limits(b.looks, max(b.limits), 0.1) for b in estimator.boundaries]
    random = np.random.default_rng(0)

    def audited(counts: list[tuple[int, ...]]) -> int:
        found = Findings()
        check_stop(
            0,
            counts,
            1 if mode == "label" else None,
            [t.radius for t in grid],
            lambda j, look, f, n: f <= below[j][look],
            lambda j, look, f, n: f >= above[j][look],
            lambda j, look, f, n: f >= give_up[j][look][1],
            looks[len(counts)] if len(counts) < len(looks) else None,
            found,
        )
        return len(found.mismatches)

    for p in np.linspace(0.2, 1.0, 60):
        votes = random.choice(3, size=600, p=[0.7 * (1 - p), p, 0.3 * (1 - p)])
        state = estimator.start(1 if mode == "label" else None)
        counts: list[tuple[int, ...]] = []
        while (wanted := state.next_look()) is not None:
            seen = np.bincount(votes[: wanted.n], minlength=4)
            counts.append(tuple(int(count) for count in seen))
            state.update(Phase.ESTIMATE, seen)
        assert audited(counts) == 0
        if len(counts) < len(looks):
            more = tuple(int(c) for c in np.bincount(votes[: looks[len(counts)]], minlength=4))
            assert audited([*counts, more]) == 1
