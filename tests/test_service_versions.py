"""A label without a version, beside labels with one, is the answer of another build; and what counts as a version."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ctrl_c import ctrl_c_at
from prediction_service import Service, serve
from service_runs import (
    ESTIMATORS,
    certificate,
    certificates,
    change_at,
    looks,
    one_by_one,
    rows,
    run_line,
    save_levels,
    service_settings,
)

import certify.window
from certify.blackbox.answers import RefusedError
from certify.blackbox.http_json import HttpJson
from certify.blackbox.source import VOID
from certify.cli import main

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
    def line(out: Path, estimator: str, *more: str, indices: str = "0") -> list[str]:
        return one_by_one(service, data, out, estimator, *more, indices=indices)

    return line


def versions(out: Path, index: int = 0) -> set[str | None]:
    return {version for (version,) in rows(out, f'SELECT DISTINCT version FROM answers WHERE "index" = {index}')}


def check_void(out: Path, index: int = 0) -> None:
    own = [look for look in looks(out) if look[0] == index]
    assert own
    for _, _, n, counts in own:
        assert json.loads(counts) == [0, 0, 0, n]
    found = certificate(out, index)
    assert found["status"] in ("abstained", "undecided")
    assert (found["radius"], found["prediction"]) == (0.0, None)


def check_replay(line: list[str], out: Path, again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a run, its replay from the record and the audits of both agree."""
    assert main(["audit", str(out)]) == 0, capsys.readouterr().out
    replayed = [str(again) if part == str(out) else "--from-record" if part == "--record" else part for part in line]
    assert main(replayed) == 0, capsys.readouterr().err
    assert looks(again) == looks(out)
    assert certificates(again) == certificates(out)
    assert main(["audit", str(again)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("call", [3, 12])
@pytest.mark.parametrize("there", [True, False], ids=["vanishes", "appears"])
def test_a_version_that_vanishes_or_appears_voids_the_input(
    service: Service,
    command: Command,
    name: str,
    call: int,
    there: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service.version = "1" if there else None
    change_at(service, call, None if there else "1")
    out = tmp_path / "run"
    line = command(out, name, "--record", str(tmp_path / "log.jsonl"), "--canaries", "0")
    assert main(line) == 0, capsys.readouterr().err
    assert {"1", None} <= versions(out)
    check_void(out)
    check_replay(line, out, tmp_path / "again", capsys)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("canaries", ["0", "2"])
def test_interrupted_between_two_builds(
    service: Service,
    command: Command,
    name: str,
    canaries: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(certify.window, "_LOOKS_SECONDS", 0.0)
    out = tmp_path / "run"
    line = command(out, name, "--record", str(tmp_path / "log.jsonl"), "--canaries", canaries)
    with ctrl_c_at(service, service.requests + 14):
        assert main(line) == 130
    assert versions(out) == {"1"}
    service.version = None
    assert main(line) == 0, capsys.readouterr().err
    assert {"1", None} <= versions(out)
    check_void(out)
    check_replay(line, out, tmp_path / "again", capsys)


@pytest.mark.parametrize("fault", ["400", "empty"])
def test_answers_without_a_label_may_lack_a_version(
    service: Service, data: Path, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.fault = lambda number, images: fault if number in (5, 12) else None
    adapter = tmp_path / "adapter.toml"
    adapter.write_text(
        f'url = "{service.url}/json"\nlabel = "results[0].name"\nversion = "model.version"\n'
        'body = { image = "{{png_base64}}" }\n'
    )
    out, log = tmp_path / "run", tmp_path / "log.jsonl"
    line = ["run", f"{service.url}/json", "--adapter", "http-json", "--service", f"file={adapter}", "--data", str(data)]
    line += [
        "--num-classes",
        "3",
        "--label-map",
        str(tmp_path / "names.csv"),
        "--noise",
        "gaussian",
        "--sigma",
        "0.25",
    ]
    line += ["--n0", "20", "--n", "100", "--indices", "0", "--no-preflight", "--quiet"]
    line += ["--out", str(out), "--record", str(log)]
    (tmp_path / "names.csv").write_text("ant,0\nbee,1\ncat,2\n")
    assert main(line) == 0, capsys.readouterr().err
    assert versions(out) == {"1", None}
    assert certificate(out)["radius"] > 0.0
    check_replay(line, out, tmp_path / "again", capsys)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_inputs_that_nothing_watches_are_void(
    service: Service, command: Command, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(out, name)) == 0, capsys.readouterr().err
    good = certificate(out)
    assert good["radius"] > 0.0
    service.version = None
    line = command(out, name, "--record", str(tmp_path / "log.jsonl"), indices="0-2")
    assert main(line) == 0, capsys.readouterr().err
    assert certificate(out) == good
    for index in (1, 2):
        assert {None, VOID} <= versions(out, index)
        assert "1" not in versions(out, index)
        check_void(out, index)
    check_replay(line, out, tmp_path / "again", capsys)


def test_a_version_named_only_before_the_first_vote(
    service: Service, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_at(service, 2, None)
    out = tmp_path / "run"
    line = command(out, "fixed", "--record", str(tmp_path / "log.jsonl"))
    line.remove("--quiet")
    assert main(line) == 0
    shown = capsys.readouterr()
    assert "names none any more" in " ".join((shown.err + shown.out).split())
    assert {None, VOID} <= versions(out)
    check_void(out)
    check_replay(line, out, tmp_path / "again", capsys)


def test_known_images_watch_instead(
    service: Service, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(out, "fixed", "--canaries", "2")) == 0, capsys.readouterr().err
    service.version = None
    line = command(out, "fixed", "--canaries", "2", "--record", str(tmp_path / "log.jsonl"), indices="0-2")
    assert main(line) == 0, capsys.readouterr().err
    for index in (1, 2):
        assert versions(out, index) == {None}
        assert certificate(out, index)["radius"] > 0.0
    check_replay(line, out, tmp_path / "again", capsys)


def test_known_images_where_only_some_clean_images_name_a_version(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_at(service, 2, None)
    out = tmp_path / "run"
    line = run_line(service, data, out, "--concurrency", "1", n0=20, n=60)
    assert main(line) == 0, capsys.readouterr().err
    assert service_settings(out)["canaries"] == 3, "as many as the data set has images"
    assert certificate(out)["radius"] > 0.0


def test_the_audit_finds_a_version_that_vanished(
    service: Service, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(out, "fixed")) == 0, capsys.readouterr().err
    with sqlite3.connect(out / "journal.sqlite") as connection:
        connection.execute('UPDATE answers SET version = NULL WHERE "index" = 0 AND sample > 30')
    connection.close()
    assert main(["audit", str(out)]) == 1
    assert "by its answers the input is void" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "version"),
    [
        ("v 1", "v 1"),
        (" 1", " 1"),
        (1, "1"),
        (1.5, "1.5"),
        (True, "true"),
        ({"b": 1, "a": [2]}, '{"a":[2],"b":1}'),
        ([1, None], "[1,null]"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (0, "0"),
        (False, "false"),
        (None, None),
        ("  ", None),
        ([None, ""], None),
        ({}, None),
    ],
)
def test_versions_of_any_type_are_read(found: Any, version: str | None) -> None:
    adapter = HttpJson("http://localhost", raw=True, label="label", version="version")
    answer = adapter.read({"label": "cat", "version": found})
    assert (answer.label, answer.version) == ("cat", version)


def test_versions_nested_beyond_reading_are_no_answer() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    adapter = HttpJson("http://localhost", raw=True, label="label", version="version")
    with pytest.raises(RefusedError):
        adapter.read({"label": "cat", "version": deep})


@pytest.mark.parametrize("version", [{"a": 1}, [1], 1.5, True])
def test_a_log_whose_version_is_no_text_is_refused(
    service: Service, command: Command, version: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    assert main(command(tmp_path / "run", "fixed", "--record", str(log))) == 0, capsys.readouterr().err
    lines = log.read_text().splitlines()
    lines[4] = json.dumps([*json.loads(lines[4])[:4], version])
    body = "".join(line + "\n" for line in lines[:-1])
    end = json.dumps({"answers": len(lines) - 2, "sha256": hashlib.sha256(body.encode()).hexdigest()})
    log.write_text(body + end + "\n")
    assert main(command(tmp_path / "again", "fixed", "--from-record", str(log))) == 1
    shown = capsys.readouterr().err
    assert "line 5" in shown
    assert "must be text or null" in shown
