"""`certify run` and `certify plan` on a prediction service: journalled, resumable, audited, within the budget."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ctrl_c import ctrl_c_at
from prediction_service import NAMES, Service, brightness_class, serve
from service_runs import BATCH, account, certificates, looks, rows, run_line, save_levels

from certify.cli import main

N0, N, INPUTS = 5, 40, 3


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return save_levels(tmp_path / "toy.npz", (40, 130, 220))


def command(service: Service, data: Path, out: Path, *more: str) -> list[str]:
    return run_line(service, data, out, "--no-preflight", *more, n0=N0, n=N)


def answers(folder: Path) -> int:
    [(found,)] = rows(folder, 'SELECT count(*) FROM answers WHERE "index" >= 0')
    return int(found)


def beside(folder: Path) -> dict[int, int]:
    """What was sent and is no vote, by key."""
    return {key: count for key, count in account(folder).items() if key < 0}


def test_run_audit_and_replay_from_a_record(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, first, second = tmp_path / "answers.jsonl", tmp_path / "first", tmp_path / "second"
    assert main(command(service, data, first, "--record", str(log))) == 0, capsys.readouterr().err
    checks = 1  # the question before the first vote
    assert service.billed == INPUTS * (N0 + N) + checks
    assert main(["audit", str(first)]) == 0, capsys.readouterr().out
    assert main(command(service, data, first)) == 0
    assert service.billed == INPUTS * (N0 + N) + checks, "a finished run asks nothing"
    assert main(command(service, data, second, "--from-record", str(log))) == 0, capsys.readouterr().err
    assert service.billed == INPUTS * (N0 + N) + checks
    assert looks(second) == looks(first)
    assert certificates(second) == certificates(first)
    assert main(["audit", str(second)]) == 0, capsys.readouterr().out
    other = command(service, data, tmp_path / "third", "--from-record", str(log), "--seed", "1")
    assert main(other) == 1
    assert "belongs to another run: its seed is 0, but this run has 1" in capsys.readouterr().err
    fewer = command(service, data, tmp_path / "fourth", "--from-record", str(log))
    fewer[fewer.index("--n") + 1] = str(N // 2)
    assert main(fewer) == 1, "choosing n after looking at the answers spends alpha twice"
    assert "belongs to another run: its estimator is" in capsys.readouterr().err


def test_the_audit_recounts_the_answers(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(service, data, tmp_path / "run")) == 0
    with sqlite3.connect(tmp_path / "run" / "journal.sqlite") as connection:
        connection.execute("UPDATE answers SET label = '' WHERE \"index\" = 1 AND phase = 'estimate' AND sample = 7")
    connection.close()
    assert main(["audit", str(tmp_path / "run")]) == 1
    assert "by its answers" in capsys.readouterr().out


def test_merged_shards_keep_their_answers(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.fault = lambda number, images: "503" if number == 5 else None
    for shard in ("0/2", "1/2"):
        assert (
            main(command(service, data, tmp_path / "run", "--shard", shard, "--preflight", "--concurrency", "1")) == 0
        )
    assert main(command(service, data, tmp_path / "whole")) == 0
    for _ in range(2):  # merging again adds nothing
        assert main(["merge", str(tmp_path / "run")]) == 0
        assert looks(tmp_path / "run") == looks(tmp_path / "whole")
        assert answers(tmp_path / "run") == answers(tmp_path / "whole")
        # Each shard has asked its own questions beside the votes, and has its own calls without an answer.
        assert beside(tmp_path / "run") == {-2: 2, -3: BATCH, -4: INPUTS}
    assert main(["audit", str(tmp_path / "run")]) == 0
    capsys.readouterr()


def test_the_budget_is_never_exceeded_and_is_resumed(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(service, data, out, "--max-queries", str(2 * (N0 + N) + 3))) == 0
    capsys.readouterr()
    assert len(certificates(out)) == 1 + 2
    assert service.billed == 2 * (N0 + N) + 1
    assert main(command(service, data, out)) == 0
    assert len(certificates(out)) == 1 + 3
    assert main(command(service, data, tmp_path / "small", "--max-queries", str(N))) == 1
    assert "too small for one input" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()


def test_plan_says_what_it_costs(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [a for a in command(service, data, tmp_path) if a not in ("--quiet", "--out", str(tmp_path))]
    money = ["--price-per-1000", "2", "--price-date", "2026-11-01", "--max-cost", "0.2", "--rate", "10"]
    assert main(["plan", *arguments[1:], *money, "--json"]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert found["queries"] == 3 * (N0 + N)
    assert found["inputs_within_budget"] == 100 // (N0 + N)
    assert found["cost"] == pytest.approx(91 * 0.002), "the question before the first vote is paid too"
    assert found["hours"] == pytest.approx((90 / 4 + 1) / 10 / 3600)
    assert 0 < found["largest_radius"] < found["largest_radius_for_money"]
    assert service.billed == 0


def test_money_is_not_spent_unasked(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    paid = ("--price-per-1000", "1")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert main(command(service, data, tmp_path / "run", *paid)) == 130
    assert service.billed == 0
    assert main(command(service, data, tmp_path / "run", *paid, "--yes")) == 0, capsys.readouterr().err
    assert service.billed == INPUTS * (N0 + N), "no question beside the votes without a budget"


@pytest.mark.slow
def test_sigkill_at_random_moments_loses_no_answer(service: Service, data: Path, tmp_path: Path) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "killed"
    assert main(command(service, data, undisturbed)) == 0
    billed, kills, dice = service.billed, 0, random.Random(5)
    service.fault = lambda number, images: dice.choice(["slow", "503", "429", "drop", *[None] * 8])
    concurrency, batch = 2, 4
    arguments = [sys.executable, "-m", "certify", *command(service, data, out, "--concurrency", str(concurrency))]
    process = None
    for _ in range(20):
        before = service.billed
        process = subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
        while service.billed < before + dice.randint(1, 60) and process.poll() is None:
            time.sleep(0.02)
        if process.poll() is None and kills < 3:
            process.send_signal(signal.SIGKILL)
            kills += 1
            process.communicate()
            continue
        _, error = process.communicate()
        assert process.returncode == 0, error.decode()
        break
    assert process is not None
    assert process.returncode == 0
    extra = service.billed - 2 * billed
    print(f"{kills} kills; {service.billed - billed} images billed, {billed} undisturbed; {extra} twice")
    # Each start asks one question first; each kill loses at most the calls in flight.
    assert 0 <= extra <= kills * (concurrency * batch + 1)
    assert looks(out) == looks(undisturbed)
    assert certificates(out) == certificates(undisturbed)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--service", "modle=x"], 2, "the oip adapter takes model"),
        (["--service", "model"], 2, "must be KEY=VALUE"),
        (["--adapter", "ois"], 2, "adapter must be one of oip"),
        (["--class-names", "a,b"], 2, "there must be 3 class names, got 2"),
        (["--max-cost", "1"], 2, "max_cost needs the price"),
        (["--rate", "0"], 2, "rate must be positive"),
        (["--from-record", "absent.jsonl"], 2, "absent.jsonl does not exist"),
        (["--estimator", "anytime", "--max-queries", "1000"], 1, "too small for one input"),
        (["--service", "model=boy"], 1, "check the address and the name of the model"),
    ],
)
def test_bad_options(
    service: Service,
    data: Path,
    tmp_path: Path,
    more: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = command(service, data, tmp_path / "run", *more)
    if "anytime" in more:
        arguments = [a for a in arguments if a not in ("--n0", str(N0), "--n", str(N))]
    assert main(arguments) == code
    assert message in capsys.readouterr().err
    assert service.billed == 0


def test_a_service_behind_a_denoiser(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, denoised = tmp_path / "plain", tmp_path / "denoised"
    images = np.stack([np.full((8, 8, 1), level, np.uint8) for level in (88, 150, 170)])
    np.savez(data, images=images, labels=np.array(brightness_class(images)))
    assert main(command(service, data, plain)) == 0
    assert main(command(service, data, denoised, "--denoiser", "classical:gaussian")) == 0, capsys.readouterr().err
    assert looks(plain) != looks(denoised)
    assert main(["audit", str(denoised)]) == 0
    assert NAMES[0] == "ant"


CANARIES = ("--canaries", "2", "--concurrency", "1")
ESTIMATING = 1 + 2 + 6 + 2  # the question, the canaries, the selection in calls of 4, the canaries again


def test_canaries_of_a_run_that_is_interrupted_and_resumed(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.version = None
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "run"
    assert main(command(service, data, undisturbed, *CANARIES)) == 0, capsys.readouterr().err
    billed = service.billed
    with ctrl_c_at(service, service.requests + ESTIMATING + 13):
        assert main(command(service, data, out, *CANARIES)) == 130
    assert N0 * INPUTS < answers(out) < (N0 + N) * INPUTS
    assert main(command(service, data, out, *CANARIES)) == 0, capsys.readouterr().err
    assert looks(out) == looks(undisturbed)
    assert certificates(out) == certificates(undisturbed)
    # The second start asks one question and checks the canaries before and after the selection, of which all is there; the
    # call that the interrupt hit may be paid twice.
    assert 0 <= service.billed - 2 * billed - (1 + 2 + 2) <= 4
    assert main(["audit", str(out)]) == 0, capsys.readouterr().out


def test_changed_canaries_void_what_the_interrupted_run_had_asked(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.version = None
    out = tmp_path / "run"
    assert main(command(service, data, out, *CANARIES, "--indices", "0")) == 0, capsys.readouterr().err
    good = certificates(out)
    with ctrl_c_at(service, service.requests + 1 + 2 + 4 + 2 + 13):  # like ESTIMATING, with two inputs
        assert main(command(service, data, out, *CANARIES)) == 130
    billed = service.billed
    service.classify = lambda images: [0] * len(images)
    for _ in range(2):
        capsys.readouterr()
        assert main(command(service, data, out, *CANARIES)) == 1
        assert "the service has changed: its labels of 2 known images" in capsys.readouterr().err
    assert service.billed == billed + 2 * (1 + 2), "nothing is asked of a service that is another"
    service.classify = brightness_class
    assert main(command(service, data, out, *CANARIES)) == 0, capsys.readouterr().err
    assert certificates(out)[:2] == good, "an input that was finished before stays certified"
    void = [line.split("\t") for line in certificates(out)[2:]]
    assert [(line[0], line[2]) for line in void] == [("1", "-1"), ("2", "-1")]
    assert main(["audit", str(out)]) == 0, capsys.readouterr().out


ADAPTER = """url = "{url}/json"
headers = {{ Authorization = "Bearer ${{TEST_KEY}}" }}
body = {{ image = "{{{{png_base64}}}}" }}
label = "results[0].name"
version = "model.version"
"""


@pytest.mark.parametrize(
    ("old", "new", "more", "code", "message"),
    [
        ("label =", "lable =", (), 2, "unknown key 'lable' (did you mean 'label'?)"),
        ("url =", "url = 3 #", (), 2, "url must be of type str, got 3"),
        ("results[0]", "results[0", (), 2, "label is not a JMESPath"),
        # What stands in the wrong place may be a secret.
        ("headers = {", 'headers = "Bearer s3cr3t" #', (), 2, "headers must be of type dict, got str"),
        ("/json", "/other?key=s3cr3t-value", (), 2, "the parameter key of the address looks like a secret"),
        ("TEST_KEY", "WRONG_KEY", (), 1, "refused the credentials (HTTP 401); check the environment variable"),
        ("TEST_KEY", "ABSENT_KEY", (), 2, "the environment variable ABSENT_KEY is not set"),
        ("/json", "/nothing", (), 1, "HTTP 404 from http://127.0.0.1"),
        ("", "", ("--class-names", "dog,owl,cow"), 1, "the service's label 'ant' is outside the 3 classes"),
        ("", "", ("--label-map", "absent.csv"), 2, "cannot read the label map absent.csv"),
        ("", "", ("--label-map", os.devnull), 2, "holds no line label,class"),
    ],
)
def test_bad_input_with_an_adapter_file(
    service: Service,
    data: Path,
    tmp_path: Path,
    old: str,
    new: str,
    more: tuple[str, ...],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_KEY", "s3cr3t-value")
    monkeypatch.setenv("WRONG_KEY", "wrong")
    file = tmp_path / "api.toml"
    file.write_text(ADAPTER.format(url=service.url).replace(old, new, 1))
    names = () if more else ("--class-names", ",".join(NAMES))
    arguments = [
        *("run", f"{service.url}/json", "--adapter", "http-json", "--service", f"file={file}", *names, *more),
        *("--data", str(data), "--num-classes", "3", "--noise", "gaussian", "--sigma", "0.25"),
        *("--n0", str(N0), "--n", str(N), "--quiet", "--out", str(tmp_path / "run")),
    ]
    if "/nothing" in new:
        arguments[1] = f"{service.url}/nothing"
    assert main(arguments) == code
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "s3cr3t" not in error


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        (["--adapter", "oip", "--service", "model=m", "--service", "headers=X-Foo=${NOPE}"], "variable NOPE is"),
        (["--adapter", "openai-chat", "--service", "model=m", "--service", "key_variable=NOPE"], "variable NOPE is"),
        (["--adapter", "hf-endpoint", "--service", "key_variable=EMPTY"], "variable EMPTY is"),
        (["--adapter", "http-json", "--service", "file=api.toml"], "variables NOPE_URL, NOPE, EMPTY are"),
    ],
)
def test_variables_that_are_not_set_are_wrong_usage(
    data: Path,
    tmp_path: Path,
    options: list[str],
    absent: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found before the plan is shown and before anybody is asked whether to pay; a plan alone needs no secrets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOPE", raising=False)
    monkeypatch.setenv("EMPTY", "")
    url = "http://127.0.0.1:9/${NOPE_URL}" if "http-json" in options else "http://127.0.0.1:9/"
    (tmp_path / "api.toml").write_text(
        f'url = "{url}"\nlabel = "label"\nheaders = {{ X-Foo = "${{NOPE}}" }}\n'
        'body = { image = "{{png_base64}}", more = ["${EMPTY}", "${NOPE}"] }\n'
    )
    words = [
        *(url, *options, "--data", str(data), "--num-classes", "3", "--class-names", ",".join(NAMES)),
        *("--noise", "gaussian", "--sigma", "0.25", "--n", "100"),
    ]
    assert main(["run", *words, "--out", "run"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"the environment {absent} not set" in error
    assert "votes" not in error
    assert not (tmp_path / "run").exists()
    assert main(["plan", *words]) == 0


def test_a_host_that_is_not_there(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    away = Service()
    away.url = "http://127.0.0.1:9"
    assert main(command(away, data, tmp_path / "run", "--patience", "0.2")) == 1
    error = capsys.readouterr().err
    assert "the service does not answer: cannot connect to http://127.0.0.1:9" in error
    assert "Traceback" not in error
