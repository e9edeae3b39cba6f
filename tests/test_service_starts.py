"""What starts of a run on a service, its shards and its logs make of one another: nothing is lost, and nothing is mixed."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prediction_service import Service, brightness_class, serve
from service_runs import BATCH, account, certificates, looks, rows, run_line, save_levels, service_settings, wrong_order

from certify.blackbox.caller import _Wait
from certify.blackbox.record import Record
from certify.cli import main
from certify.report.service import read_service
from certify.rundir import read_config

N0, N, INPUTS = 2, 20, 24
COST = N0 + N


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(_Wait, "__call__", lambda self, state: 0.002)  # how long a client waits is tested elsewhere
    with serve() as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return save_levels(tmp_path / "toy.npz", np.linspace(8, 248, INPUTS).astype(int).tolist())


def line(service: Service, data: Path, out: Path, *more: str) -> list[str]:
    return run_line(service, data, out, *more, n0=N0, n=N)


def stated(folder: Path) -> str:
    facts = read_service(folder, read_config(folder), range(INPUTS))
    assert facts is not None
    return " ".join(facts.sentences())


# --- Starts -----------------------------------------------------------------------------------------------------------


def test_what_clean_images_have_shown_is_said_by_every_start(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.classify = wrong_order
    out = tmp_path / "run"
    for more in (("--max", "3"), ("--max", "3"), ("--max", "4")):
        assert main(line(service, data, out, *more)) == 0
        [warning] = service_settings(out)["warnings"]
        assert "right on 0 of 3 clean images" in warning
        assert "right on 0 of 3 clean images" in " ".join(capsys.readouterr().err.split())
    before = service_settings(out)
    service.fault = lambda number, images: "503"
    assert main(line(service, data, out, "--max", "5", "--patience", "0.05")) == 1
    assert "the service gave no label" in capsys.readouterr().err
    assert service_settings(out) == before, "a start that comes to nothing takes nothing back"


def test_a_run_that_goes_on_against_advice_says_so(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.classify = wrong_order
    out = tmp_path / "run"
    assert main(line(service, data, out)) == 1
    assert main(line(service, data, out, "--no-preflight", "--max", "1")) == 0
    [warning] = service_settings(out)["warnings"]
    assert f"right on 0 of {INPUTS} clean images" in warning
    assert "the run goes on all the same (--no-preflight" in warning
    assert "may be chance" not in warning
    assert "The run warned: the service is right on 0" in stated(out)


def test_where_clean_images_use_up_the_budget_nothing_more_is_asked(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calls without an answer among them: what is left does not suffice for an input, and known images would be in vain."""
    service.version = None
    turn = iter(range(10**6))
    service.fault = lambda number, images: "503" if len(images) > 1 and next(turn) < 6 else None
    limit = 1 + INPUTS + COST + 3 * 2
    more = ("--canaries", "2", "--concurrency", "1", "--max-queries", str(limit))
    assert main(line(service, data, tmp_path / "run", *more)) == 1
    assert f"the budget sufficed for 0 of {INPUTS} inputs" in capsys.readouterr().err
    assert account(tmp_path / "run") == {-2: 1, -3: 6 * BATCH, -4: INPUTS}
    assert service.taken == 1 + 6 * BATCH + INPUTS <= limit
    assert main(line(service, data, tmp_path / "run", "--canaries", "2", "--max", "2")) == 0
    assert account(tmp_path / "run") == {0: 2 * COST, -2: 1 + 1 + 3 * 2, -3: 6 * BATCH, -4: INPUTS}


def test_a_last_check_that_the_budget_does_not_cover_certifies_nothing(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calls without an answer use up what was reserved for it: the budget has ended the run, and no answer is lost."""
    service.version = None
    limit = 1 + 2 * COST + 3 * 2
    service.fault = lambda number, images: "503" if len(images) == 1 and service.billed >= limit - 2 else None
    line_of = [*line(service, data, tmp_path / "run", "--canaries", "2", "--concurrency", "1", "--no-preflight")]
    line_of += ["--max", "2", "--max-queries"]
    assert main([*line_of, str(limit)]) == 1
    assert "the budget sufficed for 0 of 2 inputs; repeat the line with a larger" in capsys.readouterr().err
    assert service.taken == limit
    assert account(tmp_path / "run")[0] == 2 * COST
    service.fault = lambda number, images: None
    assert main([*line_of, str(2 * limit)]) == 0, capsys.readouterr().err
    assert len(certificates(tmp_path / "run")) == 1 + 2
    assert account(tmp_path / "run")[0] == 2 * COST, "no vote was asked for again"
    assert main(["audit", str(tmp_path / "run")]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "version"),
    [
        ((), "1"),
        (("--no-preflight",), "1"),
        (("--canaries", "3"), "1"),
        (("--canaries", "3", "--preflight", "--price-per-1000", "1", "--yes"), None),
        (("--max-queries", "200"), "1"),
        (("--max-queries", "200", "--canaries", "2"), None),
        (("--max-cost", "0.2", "--price-per-1000", "1", "--yes"), "1"),
        (("--price-per-1000", "1", "--yes", "--canaries", "2"), None),
    ],
)
def test_a_run_asks_what_the_plan_says(
    service: Service,
    data: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    version: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a fixed number of votes: by the server's own count. What the plan says may come on top is left out here."""
    service.version = version
    words = [a for a in line(service, data, Path("unused"), *more) if a not in ("--quiet", "--out", "unused", "--yes")]
    assert main(["plan", *words[1:], "--json"]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert service.taken == 0
    assert main(line(service, data, tmp_path / "run", *more)) == 0, capsys.readouterr().err
    assert len(certificates(tmp_path / "run")) == 1 + found["inputs_within_budget"]
    assert service.taken == service.billed == found["total_queries"] == sum(account(tmp_path / "run").values())


def test_hours_count_calls(service: Service, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [a for a in line(service, data, Path("unused"), "--rate", "10") if a not in ("--quiet", "--out", "unused")]
    assert main(["plan", *words[1:], "--json"]) == 0
    calls = (INPUTS * COST + INPUTS) / BATCH + 1
    assert json.loads(capsys.readouterr().out)["hours"] == pytest.approx(calls / 10 / 3600)


# --- Shards -----------------------------------------------------------------------------------------------------------


def test_merged_shards_say_together_what_they_have_found(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.version = None
    out = tmp_path / "run"
    for shard in ("0/2", "1/2"):
        assert main(line(service, data, out, "--shard", shard, "--canaries", "2")) == 0, capsys.readouterr().err
    for _ in range(2):
        assert main(["merge", str(out)]) == 0
        text = stated(out)
        assert f"{INPUTS} clean images before the votes, of which the service got {INPUTS} right" in text
        assert "Canaries: 2 known images" in text
        assert "The run warned" not in text
    assert service_settings(out)["preflight"] == {"images": INPUTS, "right": INPUTS, "no_class": 0, "p_value": None}
    assert main(["audit", str(out)]) == 0, capsys.readouterr().out


def test_shards_of_a_service_that_changed_between_them(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.version = None
    out, half = tmp_path / "run", INPUTS // 2
    for shard in ("0/2", "1/2"):
        assert main(line(service, data, out, "--shard", shard, "--canaries", "2")) == 0, capsys.readouterr().err
        service.classify = wrong_order
    assert main(["merge", str(out)]) == 0
    text = stated(out)
    assert f"{INPUTS} clean images before the votes, of which the service got {half} right" in text
    assert f"The run warned: the service is right on 0 of {half} clean images" in text
    assert "the shards do not agree on the service's labels of known images" in text


# --- Logs -------------------------------------------------------------------------------------------------------------


def test_the_log_of_a_run_that_its_budget_ended_is_whole(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calls overtake one another, so that an input that the budget has cut off has gaps; what is finished is replayed."""
    out, log = tmp_path / "run", tmp_path / "log.jsonl"
    service.fault = lambda number, images: "503" if number % 4 == 0 else None
    more = ("--no-preflight", "--max-queries", str(3 * COST + 1), "--max", "3", "--record", str(log))
    # Two calls at a time: the first input is finished before the budget ends, whatever the machine does.
    assert main(line(service, data, out, *more, "--concurrency", "2")) == 0, capsys.readouterr().err
    done = [row.split("\t")[0] for row in certificates(out)[1:]]
    assert 0 < len(done) < 3
    there = {index for (index,) in rows(out, 'SELECT DISTINCT "index" FROM answers WHERE "index" >= 0')}
    assert len(there) == 3, "one was cut off"
    assert Record(log).keys == tuple(map(int, done))
    taken = service.taken
    again = line(service, data, tmp_path / "again", "--indices", ",".join(done), "--from-record", str(log))
    assert main(again) == 0, capsys.readouterr().err
    assert service.taken == taken
    assert certificates(tmp_path / "again") == certificates(out)
    # Going on, the run asks for the rest, and its log is that of all of it.
    service.fault = lambda number, images: None
    assert main(line(service, data, out, "--no-preflight", "--max", "3", "--record", str(log))) == 0
    assert Record(log).keys == (0, 1, 2)


def test_a_log_fills_up_a_folder_whose_answers_are_its_own(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, log = tmp_path / "whole", tmp_path / "log.jsonl"
    assert main(line(service, data, whole, "--no-preflight", "--max", "2", "--record", str(log))) == 0
    for name, classify, code in (("same", brightness_class, 0), ("other", wrong_order, 1)):
        out = tmp_path / name
        service.classify = classify
        # Cut off within the first input: its budget goes to calls without an answer.
        service.fault = lambda number, images: "503" if len(images) > 1 and number % 3 == 0 else None
        limited = ("--no-preflight", "--max", "1", "--max-queries", str(COST + 1), "--concurrency", "1")
        assert main(line(service, data, out, *limited)) == 1
        assert 0 < account(out)[0] < COST
        capsys.readouterr()
        assert main(line(service, data, out, "--max", "2", "--from-record", str(log))) == code
        if code:
            assert "holds answers about input 0 that are not those of the log" in capsys.readouterr().err
            assert 0 < account(out)[0] < COST
            continue
        assert looks(out) == looks(whole)
        assert certificates(out) == certificates(whole)
        assert main(["audit", str(out)]) == 0, capsys.readouterr().out
