"""The command line as people and scripts meet it: results, messages, exit codes, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from certify.cli import main
from certify.rundir import read_run

MODEL = """
import os
import time

import torch


class Model(torch.nn.Module):
    num_classes = 3
    input_shape = (1, 4, 4)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 48).reshape(16, 3).cos())

    def forward(self, x):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        return x.flatten(1) @ self.weight


def fast():
    return Model()


def broken():
    model = Model()
    model.weight.data.fill_(float("nan"))
    return model


def ten_scores():
    return lambda x: x.flatten(1)[:, :10]


def fails():
    raise ValueError("no weights today")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cli_model.py").write_text(MODEL)
    random = np.random.default_rng(5)
    np.savez(tmp_path / "data.npz", images=random.random((12, 1, 4, 4), dtype=np.float32), labels=np.arange(12) % 3)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("cli_model", None)
    return tmp_path


RUN = ["run", "cli_model:fast", "--data", "data.npz", "--noise", "gaussian", "--sigma", "0.25", "--n", "400"]
RUN += ["--device", "cpu", "--batch-size", "64"]


def test_run_report_audit_from_end_to_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--out", "run"]) == 0
    captured = capsys.readouterr()
    assert "clean accuracy" in captured.err
    assert "largest possible radius 0.52" in captured.err
    assert "12/12 inputs" in captured.err
    assert "certified accuracy at radius r" in captured.out
    lines = (folder / "run" / "certificates.tsv").read_text().splitlines()
    assert lines[0] == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    assert len(lines) == 13
    for line, row in zip(lines[1:], read_run(folder / "run").rows, strict=True):
        assert float(line.split("\t")[3]) == row.radius  # the shortest text of the float64, never rounded
    assert main(["report", "run"]) == 0
    assert "ACR" in capsys.readouterr().out
    assert (folder / "run" / "report.html").stat().st_size < 1_000_000
    assert main(["audit", "run", "--replay", "4"]) == 0
    assert "no mismatch" in capsys.readouterr().out


def test_repeating_a_finished_run_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--out", "run"]) == 0
    first = (folder / "run" / "certificates.tsv").read_bytes()
    assert main([*RUN, "--out", "run"]) == 0
    assert (folder / "run" / "certificates.tsv").read_bytes() == first
    assert main([*RUN, "--out", "run", "--seed", "1"]) == 1
    assert "seed: the folder has 0, now 1" in capsys.readouterr().err


def test_json_is_all_there_is_on_standard_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--out", "run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["inputs"] == 12
    assert set(result) >= {"certified_accuracy", "acr", "abstained", "invalid_votes", "alpha", "n", "out"}
    assert main(["plan", *RUN[1:], "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [choice["n"] for choice in plan["choices"]] == [400, 1_000, 10_000, 100_000, 1_000_000]
    radii = [choice["largest_radius"] for choice in plan["choices"]]
    assert radii == sorted(radii)
    assert radii[3] == pytest.approx(0.25 * 3.8111, rel=1e-4)  # sigma Phi^-1(0.001^(1/100000)), Cohen et al. 2019


def test_quiet_says_nothing_on_the_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--out", "run", "--quiet"]) == 0
    # What remains is a warning: a model that does not say that it was trained with noise.
    assert capsys.readouterr().err.splitlines() == [
        "warning: the model does not say that it was trained with noise: expect small radii"
    ]


@pytest.mark.parametrize(
    ("more", "drawn", "said"),
    [
        ([], "philox-int-v1", "is so narrow that it rounds to 0 steps of 1/255 in at least 99 of 100 copies"),
        (["--noise-version", "torch-block-v1"], "torch-block-v1", "x + noise is mostly rounding in float32"),
        (["--sigma", "0.05"], "philox-int-v1", None),
        (["--sigma", "0.05", "--noise-version", "torch-block-v1"], "torch-block-v1", None),
    ],
)
def test_noise_that_is_too_narrow_is_remarked_as_it_is_drawn(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], drawn: str, said: str | None
) -> None:
    """Whole steps are exact however narrow the law is: nothing is rounded in float32, but nothing is moved either."""
    images = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1)
    np.savez(folder / "bytes.npz", images=images, labels=np.arange(3))
    words = ["run", "cli_model:fast", "--data", "bytes.npz", "--noise", "gaussian", "--sigma", "1e-9", "--max", "1"]
    assert main([*words, "--n", "100", "--device", "cpu", "--out", "run", *more]) == 0
    error = " ".join(capsys.readouterr().err.split())
    assert f"drawn {drawn}" in error
    for text in ("rounds to 0 steps", "mostly rounding"):
        assert (text in error) == (said is not None and text in said)
    assert said is None or said in error


def test_shards_and_merge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--out", "whole"]) == 0
    for shard in ("0/2", "1/2"):
        assert main([*RUN, "--out", "run", "--shard", shard]) == 0
    assert "a part of the run" in capsys.readouterr().out
    assert main(["merge", "run"]) == 0
    assert "joined 2 shards: 12 certificates" in capsys.readouterr().out
    whole, joined = (
        [line.split("\t")[:5] for line in (folder / name / "certificates.tsv").read_text().splitlines()]
        for name in ("whole", "run")
    )
    assert whole == joined


def test_invalid_votes_are_reported_and_certify_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "cli_model:broken", *RUN[2:], "--out", "run"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "6,000 votes were invalid" in captured.out
    assert all(row.predict == -1 and row.radius == 0.0 for row in read_run(folder / "run").rows)


def test_predict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.fromarray(np.full((4, 4), 130, np.uint8)).save(folder / "grey.png")
    common = ["cli_model:fast", "--noise", "gaussian", "--sigma", "0.25", "--num-classes", "3", "--device", "cpu"]
    assert main(["predict", *common, "grey.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["prediction"] in (None, 0, 1, 2)
    assert main(["predict", *common, "--data", "data.npz", "--indices", "0-2"]) == 0
    assert capsys.readouterr().out.count("data.npz[") == 3
    ten = ["cli_model:ten_scores", *common[1:5], "--device", "cpu", "--data", "data.npz"]
    assert main(["predict", *ten]) == 1
    assert "give --num-classes 10" in capsys.readouterr().err
    assert main(["predict", *common, "missing.png"]) == 1
    assert "there is no file missing.png" in capsys.readouterr().err
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "large.png")
    assert main(["predict", *common, "large.png"]) == 1
    assert "has shape (1, 5, 5), but the model takes (1, 4, 4)" in capsys.readouterr().err
    assert main(["predict", *common]) == 2
    assert "either image files or --data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--noise", "gaussian", "--sigma", "0.5", "--p-lower", "0.99"], 0.5 * 2.3263478740408408),
        (["--noise", "gaussian", "--sigma", "1", "--norm", "linf", "--shape", "3x32x32", "--p-lower", "0.9"], 0.023122),
        (["--noise", "laplace", "--sigma", "1", "--norm", "l1", "--p-lower", "0.8"], 0.6479154),
        (["--noise", "uniform", "--sigma", "1", "--norm", "l1", "--p-lower", "0.99"], 1.69741),
        (["--noise", "gaussian", "--sigma", "1", "--votes", "100000/100000"], 3.8111),
        (["--noise", "gaussian", "--sigma", "1", "--q-upper", "1e-20"], 9.2623400897),
        (["--noise", "uniform", "--half-width", "1", "--norm", "l1", "--p-lower", "0.45", "--p-upper", "0.2"], 0.25),
        (["--noise", "gaussian", "--sigma", "1", "--p-lower", "0.5"], 0.0),
        (["--noise", "gaussian", "--sigma", "1", "--p-lower", "0.3"], 0.0),
    ],
)
def test_radius(arguments: list[str], expected: float, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["radius", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["radius"] == pytest.approx(expected, rel=1e-4)
    assert main(["radius", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "rounded down" in printed
    assert ("abstain" in printed) == (expected == 0.0)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["radius", "--noise", "gaussian", "--sigma", "1", "--p-lower", "nan"], 2, "p_lower must be in [0, 1]"),
        (["radius", "--noise", "gaussian", "--sigma", "1", "--p-lower", "1.5"], 2, "p_lower must be in [0, 1]"),
        (["radius", "--noise", "gaussian", "--sigma", "1"], 2, "exactly one of --p-lower, --q-upper and --votes"),
        (["radius", "--noise", "gaussian", "--sigma", "1", "--votes", "5/3"], 2, "votes must be K/N"),
        (["radius", "--noise", "gaussian", "--sigma", "0", "--p-lower", "0.9"], 2, "sigma must be positive"),
        (["radius", "--noise", "gumbel", "--sigma", "1", "--p-lower", "0.9"], 2, "noise must be one of"),
        (
            ["radius", "--noise", "laplace", "--sigma", "1", "--scale", "1", "--p-lower", "0.9"],
            2,
            "exactly one of sigma",
        ),
        (["radius", "--noise", "laplace", "--sigma", "1", "--norm", "l0", "--p-lower", "0.9"], 2, "proved norms: l1"),
        (["radius", "--noise", "gaussian", "--sigma", "1", "--shape", "3xx", "--p-lower", "0.9"], 2, "shape must be"),
        (
            ["radius", "--noise", "gaussian", "--sigma", "1", "--p-lower", "0.9", "--alpha", "5"],
            2,
            "alpha must be in (0, 1), got alpha=5",
        ),
        (
            ["radius", "--noise", "gaussian", "--sigma", "1", "--q-upper", "0.1", "--alpha", "0.01"],
            2,
            "got --alpha 0.01 without --votes: leave it out, since --q-upper is a bound already",
        ),
        (
            ["radius", "--noise", "gaussian", "--sigma", "1", "--votes", "9/10", "--alpha", "0"],
            2,
            "alpha must be in (0, 1), got alpha=0",
        ),
        (["run", "cli_model:ten_scores", *RUN[2:], "--out", "r"], 1, "got (64, 10); give --num-classes 10"),
        (["run", "cli_model:ten_scores", *RUN[2:], "--out", "r", "--quiet"], 1, "got (64, 10); give --num-classes 10"),
        (
            ["run", "cli_model:ten_scores", *RUN[2:], "--out", "r", "--num-classes", "4"],
            1,
            "got (64, 10); give --num-classes 10",
        ),
        (
            [*RUN[:8], "--out", "r", "--estimator", "anytime", "--radii", "0,0.1", "--cap", "1"],
            2,
            "first look, which is at 4 votes, got budget=1",
        ),
        (["run"], 2, "Missing argument"),
        (["run", "cli_model:fast", "--data", "data.npz"], 2, "Missing option '--out'"),
        (["fly"], 2, "No such command"),
        (["run", "cli_model:fast", "--bogus", "--data", "data.npz", "--out", "r"], 2, "No such option"),
        ([*RUN, "--out", "r", "--n", "5"], 2, "can certify nothing"),
        ([*RUN, "--out", "r", "--alpha", "1.5"], 2, "alpha must be in (0, 1), got alpha=1.5"),
        ([*RUN, "--out", "r", "--sigma", "nan"], 2, "sigma must be positive"),
        ([*RUN, "--out", "r", "--norm", "l7"], 2, "norm must be one of"),
        ([*RUN, "--out", "r", "--data", "mnits"], 2, "mnist"),
        (["run", "cli_model:fails", *RUN[2:], "--out", "r"], 1, "no weights today"),
        (["run", "no_such_module:make", *RUN[2:], "--out", "r"], 2, "no_such_module"),
        (["run", "./nowhere", *RUN[2:], "--out", "r"], 1, "does not exist"),
        (["report", "nowhere"], 1, "nowhere"),
        (["audit", "nowhere"], 1, "nowhere"),
        (["merge", "nowhere"], 1, "no shards"),
    ],
)
def test_errors_are_messages(
    folder: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    captured = capsys.readouterr()
    flat = " ".join(captured.err.replace("│", " ").split())
    assert message in flat
    assert "Traceback" not in captured.err
    assert not captured.out
    assert not (folder / "r").exists()


def test_a_program_that_calls_main_keeps_its_own_handler_of_sigterm(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main(["--version"]) == 0
    assert main(["run"]) == 2
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_signals_interrupt_and_the_same_line_resumes(folder: Path, kind: signal.Signals) -> None:
    line = [sys.executable, "-m", "certify", *RUN, "--out", "run", "--no-preflight"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PAUSE": "0.2"}
    # Shells start what they put in the background with SIGINT ignored, which a process would pass on to its children.
    before = signal.signal(kind, signal.default_int_handler)
    process = subprocess.Popen(line, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    signal.signal(kind, before)
    deadline = time.monotonic() + 60
    config = folder / "run" / "run.json"
    while time.monotonic() < deadline and process.poll() is None:
        if config.exists() and len(read_run(folder / "run").rows) >= 2:
            break
        time.sleep(0.02)
    process.send_signal(kind)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "repeat the same command to resume" in errors
    assert "Traceback" not in errors
    partial = read_run(folder / "run")
    assert 2 <= len(partial.rows) < 12
    assert not partial.complete
    assert main([*RUN, "--out", "run"]) == 0
    assert main([*RUN, "--out", "calm"]) == 0
    assert [row.certificate for row in read_run(folder / "run").rows] == [
        row.certificate for row in read_run(folder / "calm").rows
    ]


def test_demo(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", "demo", "--n", "1000", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "demo/report/certified_accuracy.png" in captured.out
    run = read_run(folder / "demo" / "run")
    assert len(run.rows) >= 100
    assert run.complete
    assert np.mean([row.correct for row in run.rows]) >= 0.9
    assert (folder / "demo" / "report" / "certified_accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert main(["audit", "demo/run", "--replay", "2"]) == 0
    model = (folder / "demo" / "model" / "model.safetensors").read_bytes()
    for change in (["--sigma", "0.5"], ["--seed", "1"], ["--n", "2000"]):
        assert main(["demo", "--out", "demo", "--n", "1000", "--device", "cpu", *change]) == 1
        assert "a demo with other settings" in capsys.readouterr().err
    assert main(["demo", "--out", "small", "--n", "5"]) == 2
    assert not (folder / "small").exists()
    assert (folder / "demo" / "model" / "model.safetensors").read_bytes() == model


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "certify", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("certify ")
