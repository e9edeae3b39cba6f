"""A change of the service's version inside an input voids it: looks and decisions of before the change fall as well."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ctrl_c import ctrl_c_at
from prediction_service import Service, brightness_class, serve
from service_runs import (
    BATCH,
    ESTIMATORS,
    certificate,
    certificates,
    change_at,
    looks,
    one_by_one,
    rows,
    save_levels,
)

import certify.window
from certify.blackbox.source import VOID
from certify.cli import main
from certify.journal import NOT_ASKED, Journal
from certify.voiding import VoidableState
from smoothing import Gaussian
from smoothing.estimators import AnytimeEstimator, FixedEstimator, PlannedEstimator, SequentialEstimator, Status
from smoothing.estimators.base import Look, Phase, replay
from smoothing.estimators.sequential import RATIO
from smoothing.estimators.thresholds import thresholds
from smoothing.statistics.schedule import capped_looks

# Calls of 4 images, one after the other, the first about a clean image: 2..6 are the selection of "fixed" and 2..11 the
# pilot of "planned"; the others look after every call up to 82 votes, and then after two.
CHANGES = [
    *(("fixed", call) for call in (3, 6, 7, 12, 21)),
    *(("planned", call) for call in (3, 12, 14)),
    *((name, call) for name in ("sequential", "anytime") for call in (3, 9, 43)),
]
Command = Callable[..., list[str]]


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return save_levels(tmp_path / "toy.npz", (220, 40, 130))


@pytest.fixture
def command(service: Service, data: Path) -> Command:
    """The line of a run on the service, by one call at a time; of the first input where nothing else is said."""

    def line(out: Path, estimator: str, *more: str, indices: str = "0") -> list[str]:
        return one_by_one(service, data, out, estimator, *more, indices=indices)

    return line


@pytest.fixture
def every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks are in the journal as soon as they were made, and a kill finds them there."""
    monkeypatch.setattr(certify.window, "_LOOKS_SECONDS", 0.0)


def versions(out: Path, index: int = 0) -> set[str]:
    return {version for (version,) in rows(out, f'SELECT DISTINCT version FROM answers WHERE "index" = {index}')}


def check_void(out: Path, index: int = 0) -> None:
    """Check that an input proves nothing, and that the audit finds the votes that it rests on."""
    own = [look for look in looks(out) if look[0] == index]
    assert own
    for _, _, n, counts in own:
        assert json.loads(counts) == [0, 0, 0, n]
    found = certificate(out, index)
    assert found["status"] in ("abstained", "undecided")
    assert (found["radius"], found["prediction"]) == (0.0, None)
    assert all(decision["status"] == "undecided" for decision in found["decisions"])


def check_replay(line: list[str], out: Path, log: Path, again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a run, its replay from the record and the audits of both agree."""
    assert main(["audit", str(out)]) == 0, capsys.readouterr().out
    replayed = [str(again) if part == str(out) else "--from-record" if part == "--record" else part for part in line]
    assert str(log) in replayed
    assert main(replayed) == 0, capsys.readouterr().err
    assert looks(again) == looks(out)
    assert certificates(again) == certificates(out)
    assert main(["audit", str(again)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", ESTIMATORS)
def test_without_a_change_the_input_is_certified(
    command: Command, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "run"
    line = command(out, name, "--record", str(log))
    assert main(line) == 0, capsys.readouterr().err
    assert certificate(out)["radius"] > 0.0
    check_replay(line, out, log, tmp_path / "again", capsys)


@pytest.mark.parametrize(("name", "call"), CHANGES)
def test_a_change_in_any_phase_voids_all_looks(
    service: Service, command: Command, name: str, call: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_at(service, call)
    log, out = tmp_path / "log.jsonl", tmp_path / "run"
    line = command(out, name, "--record", str(log))
    assert main(line) == 0, capsys.readouterr().err
    assert {"1", "2"} <= versions(out)
    check_void(out)
    check_replay(line, out, log, tmp_path / "again", capsys)
    billed = service.billed
    assert main(line) == 0, "a finished run asks nothing"
    assert service.billed == billed


def test_a_radius_that_was_certified_before_the_change_falls(
    service: Service, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "run"
    assert main(command(undisturbed, "sequential")) == 0, capsys.readouterr().err
    grid = thresholds(Gaussian((1, 8, 8), sigma=0.25), "l2", (0.1, 0.2, 0.45))
    seen = [Look(Phase(phase), n, tuple(json.loads(counts))) for _, phase, n, counts in looks(undisturbed)]
    before = replay(SequentialEstimator(grid, alpha=0.01, cap=200), seen[:-1], label=2).result()
    assert [str(decision.status) for decision in before.decisions] == ["certified", "certified", "undecided"]
    # Nothing but the last call, for the last look, is answered by another version.
    change_at(service, service.requests)
    assert main(command(out, "sequential")) == 0, capsys.readouterr().err
    assert rows(out, "SELECT count(*) FROM answers WHERE version = '2'")[0][0] in range(1, BATCH + 1)
    check_void(out)
    assert main(["audit", str(out)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", ESTIMATORS)
def test_inputs_beside_a_void_one(
    service: Service, command: Command, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, log, out = tmp_path / "undisturbed", tmp_path / "log.jsonl", tmp_path / "run"
    assert main(command(undisturbed, name, indices="0-2")) == 0, capsys.readouterr().err
    # Among the last calls: the last input is under way, the others are finished or have all of their answers.
    last = -(-max(n for index, _, n, _ in looks(undisturbed) if index == 2) // BATCH)
    change_at(service, service.requests - 1 if last > 2 else service.requests)
    line = command(out, name, "--record", str(log), indices="0-2")
    assert main(line) == 0, capsys.readouterr().err
    void = [index for index in range(3) if len(versions(out, index)) > 1]
    assert len(void) in (1, 2)
    for index in range(3):
        if index in void:
            check_void(out, index)
        else:
            assert [look for look in looks(out) if look[0] == index] == [
                look for look in looks(undisturbed) if look[0] == index
            ]
            assert certificates(out)[1 + index] == certificates(undisturbed)[1 + index]
    check_replay(line, out, log, tmp_path / "again", capsys)


@pytest.mark.usefixtures("every_look")
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupted_before_or_after_the_change(
    service: Service, command: Command, name: str, when: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "run"
    line = command(out, name, "--record", str(log))
    stop = 14
    if name in ("sequential", "anytime"):
        line[line.index(f"batch={BATCH}")] = "batch=1"
        looked = next(n for n, more in pairwise(capped_looks(RATIO, 200)) if more >= n + 3)
        stop = 1 + looked + 3
    if when == "after":
        change_at(service, stop - 1)
    with ctrl_c_at(service, service.requests + stop):
        assert main(line) == 130
    before = looks(out)
    assert [json.loads(counts)[-1] for *_, counts in before] == [0] * len(before)
    assert before, "the journal holds looks of before the change"
    assert len(versions(out)) == (1 if when == "before" else 2)
    service.version = "2"
    assert main(line) == 0, capsys.readouterr().err
    check_void(out)
    check_replay(line, out, log, tmp_path / "again", capsys)


@pytest.mark.usefixtures("every_look")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_killed_while_a_void_input_is_written(
    service: Service,
    command: Command,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "run"
    line = command(out, name, "--record", str(log))
    change_at(service, 14)

    def stop(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "record_inputs", stop)
        assert main(line) == 130
    assert any(json.loads(counts)[-1] == 0 for *_, counts in looks(out)), "looks of before the change are left"
    assert not rows(out, "SELECT * FROM inputs")
    billed = service.billed
    assert main(line) == 0, capsys.readouterr().err
    assert service.billed == billed, "nothing is asked about a void input"
    check_void(out)
    check_replay(line, out, log, tmp_path / "again", capsys)


@pytest.mark.usefixtures("every_look")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_changed_canaries_void_looks_of_before(
    service: Service, command: Command, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.version = None
    log, out = tmp_path / "log.jsonl", tmp_path / "run"
    line = command(out, name, "--record", str(log), "--canaries", "2")
    with ctrl_c_at(service, service.requests + 21):
        assert main(line) == 130
    assert any(json.loads(counts)[-1] == 0 for *_, counts in looks(out)), "looks that a good check has followed"
    service.classify = lambda images: [0] * len(images)
    assert main(line) == 1
    assert "1 inputs asked since the last good check are void" in capsys.readouterr().err
    service.classify = brightness_class
    billed = service.billed
    assert main(line) == 0, capsys.readouterr().err
    assert service.billed - billed <= 1 + 2 * 3, "a question and known images, but nothing about a void input"
    assert VOID in versions(out)
    check_void(out)
    check_replay(line, out, log, tmp_path / "again", capsys)


@pytest.mark.usefixtures("every_look")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_all_looks_are_there_when_the_canaries_change(
    service: Service,
    command: Command,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.version = None
    log, out = tmp_path / "log.jsonl", tmp_path / "run"
    line = command(out, name, "--record", str(log), "--canaries", "2", indices="0,1")

    def stop(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "record_inputs", stop)
        assert main(line) == 130
    service.classify = lambda images: [0] * len(images)
    main(line)  # whether anything is left to be asked depends on when the second input was done
    capsys.readouterr()
    service.classify = brightness_class
    assert main(line) == 0, capsys.readouterr().err
    for index in (0, 1):
        if VOID in versions(out, index):
            check_void(out, index)
    check_replay(line, out, log, tmp_path / "again", capsys)


def test_an_input_finished_before_the_change_stays_certified(
    service: Service, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "run"
    assert main(command(out, "sequential")) == 0, capsys.readouterr().err
    good = certificate(out)
    service.version = "2"
    line = command(out, "sequential", "--record", str(log), indices="0-2")
    assert main(line) == 0, capsys.readouterr().err
    assert certificate(out) == good
    assert certificate(out, 1)["radius"] > 0.0, "one version inside each input"
    check_replay(line, out, log, tmp_path / "again", capsys)


def test_more_votes_of_another_version_void_an_extended_input(
    service: Service, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    narrow = command(out, "anytime")
    narrow[narrow.index("--radii") + 1] = "0.1,0.45"
    narrow[narrow.index("--cap") + 1] = "40"
    assert main(narrow) == 0, capsys.readouterr().err
    assert [d["status"] for d in certificate(out)["decisions"]] == ["certified", "undecided"]
    service.version = "2"
    narrow[narrow.index("--cap") + 1] = "200"
    assert main(narrow) == 0, capsys.readouterr().err
    check_void(out)
    assert main(["audit", str(out)]) == 0, capsys.readouterr().out


def test_the_rest_of_a_void_request_is_not_asked(
    service: Service, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "run"
    line = command(out, "fixed", "--record", str(log))
    line[line.index("--n") + 1] = "2400"
    change_at(service, 20)
    change = service.classify

    def classify(images: Any) -> list[int]:
        time.sleep(0.01)
        return change(images)

    service.classify = classify
    assert main(line) == 0, capsys.readouterr().err
    [(unasked,)] = rows(out, f"SELECT count(*) FROM answers WHERE version = '{NOT_ASKED}'")
    assert unasked >= 400
    assert service.billed == 1 + 20 + 2400 - unasked
    check_void(out)
    check_replay(line, out, log, tmp_path / "again", capsys)


@pytest.mark.parametrize("status", ["certified", "refuted"])
def test_the_audit_lets_no_void_input_claim_anything(
    service: Service, command: Command, status: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_at(service, 9)
    out = tmp_path / "run"
    assert main(command(out, "sequential")) == 0, capsys.readouterr().err
    with Journal(out, kind="smoothing", write=True) as journal:
        [entry] = journal.entries()
        payload = entry.payload
        for claim in (payload["certificate"], *payload["certificate"]["decisions"]):
            claim["status"] = status
        journal.reopen([0])
        journal.record_input(0, payload, entry.looks)
    assert main(["audit", str(out)]) == 1
    assert "by its answers the input is void" in capsys.readouterr().out


GRID = thresholds(Gaussian((1,), sigma=0.5), "l2", (0.0, 0.5))


@pytest.mark.parametrize(
    "estimator",
    [
        FixedEstimator(n0=5, n=20),
        PlannedEstimator(pilot=20, n_max=100),
        PlannedEstimator(pilot=1, n_max=100, mode="free"),
        SequentialEstimator(GRID, cap=1_000),
        SequentialEstimator(GRID, cap=1_000, mode="free"),
        AnytimeEstimator(GRID, budget=None),
        AnytimeEstimator(GRID, budget=None, mode="free"),
    ],
    ids=repr,
)
def test_the_state_of_a_void_input_comes_to_an_end_that_proves_nothing(estimator: Any) -> None:
    void = False
    state = VoidableState(estimator.start(0), lambda: estimator.start(0), 4, lambda: void)
    wanted = state.next_look()
    assert wanted is not None
    state.update(wanted.phase, np.array([wanted.n, 0, 0, 0]))
    assert not state.annul()
    wanted = state.next_look()
    assert wanted is not None
    void = True
    state.update(wanted.phase, np.array([wanted.n, 0, 0, 0]))
    assert state.next_look() is None
    assert state.annulled
    found = state.result()
    assert found.status in (Status.ABSTAINED, Status.UNDECIDED)
    assert found.prediction is None
    assert all(look.counts == (0, 0, 0, look.n) for look in found.looks)
