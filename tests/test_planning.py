"""`certify plan` over numbers of votes, and how the command line names what is out of range in it."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certify.cli import main
from smoothing.errors import InvalidArgumentError
from smoothing.estimators import AnytimeEstimator, PlannedEstimator, SequentialEstimator, Threshold

MODEL = """
import torch


class Model(torch.nn.Module):
    num_classes = 3
    input_shape = (1, 4, 4)

    def forward(self, x):
        return x.flatten(1)[:, :3]


def make():
    return Model()
"""
PLAN = ("plan", "plan_model:make", "--data", "data.npz", "--noise", "gaussian", "--sigma", "0.25", "--device", "cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "plan_model.py").write_text(MODEL)
    images = np.random.default_rng(5).integers(0, 256, (12, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(12) % 3)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("plan_model", None)
    return tmp_path


def choices(capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    assert main([*PLAN, "--batch-size", "64", "--json", *options]) == 0
    return list(json.loads(capsys.readouterr().out)["choices"])


@pytest.mark.parametrize("estimator", ["sequential", "anytime"])
def test_radii_that_were_asked_for_hold_for_every_cap(
    folder: Path, estimator: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = choices(capsys, "--estimator", estimator, "--radii", "0,0.5")
    assert [row["n"] for row in rows] == [1_000, 10_000, 100_000, 1_000_000]
    assert [row["largest_radius"] for row in rows] == [0.5] * 4
    reach = [row["within_reach"] for row in rows]
    assert reach == sorted(reach)
    assert len(set(reach)) == 4
    if estimator == "sequential":
        # sigma Phi^-1(0.001^(1/n)) for n = 100,000; Cohen et al. 2019.
        assert reach[2] == pytest.approx(0.25 * 3.8111, rel=1e-4)
    rows = choices(capsys, "--estimator", estimator, "--radii", "0,0.8", "--cap", "20000")
    assert [(row["n"], row["largest_radius"], row["out_of_reach"]) for row in rows] == [
        (1_000, 0.0, [0.8]),
        (10_000, 0.0, [0.8]),
        (20_000, 0.8, []),
        (100_000, 0.8, []),
        (1_000_000, 0.8, []),
    ]


def test_a_cap_that_proves_none_of_the_radii_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--estimator", "sequential", "--radii", "0.8", "--cap", "20000")
    assert choices(capsys, *options)[0]["largest_radius"] is None
    assert main([*PLAN, "--batch-size", "64", *options]) == 0
    printed = capsys.readouterr().out
    assert "largest of the radii" in printed
    assert "none (0.8 out of reach)" in printed


@pytest.mark.parametrize("mode", [(), ("--free",)])
@pytest.mark.parametrize("estimator", ["sequential", "anytime"])
def test_what_a_cap_reaches_never_falls_as_it_grows(
    folder: Path, estimator: str, mode: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    # A label is tested at alpha, in the row of the cap that was asked for as in the others: 9,999 is next to 10,000.
    for cap in ("999", "9999", "100001"):
        rows = choices(capsys, "--estimator", estimator, "--cap", cap, *mode)
        for key in ("largest_radius", "within_reach"):
            assert [row[key] for row in rows] == sorted(row[key] for row in rows)
        assert all(row["largest_radius"] <= row["within_reach"] for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("planned", "--loss", "0"), "--loss must be in (0, 1), got --loss 0.0"),
        (("planned", "--cap", "0"), "--cap must be an integer of at least 1, got --cap 0"),
        (("planned", "--cap", "3"), "--cap must be at least 10, and 10,000 or more is usual"),
        (("sequential", "--cap", "0"), "--cap must be an integer of at least 1, got --cap 0"),
        (("anytime", "--cap", "0"), "--cap must be an integer of at least 1, got --cap 0"),
        (("planned", "--pilot", "0"), "pilot must be an integer of at least 1, got pilot=0"),
        (("sequential", "--beta", "0"), "beta must be in (0, 1), got beta=0"),
        (("anytime", "--beta", "0"), "beta must be in (0, 1), got beta=0"),
    ],
)
def test_errors_name_options_of_the_command_line(
    folder: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PLAN, "--estimator", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "n_max" not in said
    assert "precision" not in said


def test_the_library_keeps_its_own_names() -> None:
    with pytest.raises(InvalidArgumentError, match=r"precision must be in \(0, 1\), got precision=0"):
        PlannedEstimator(precision=0.0)
    with pytest.raises(InvalidArgumentError, match="n_max must be an integer of at least 1, got n_max=0"):
        PlannedEstimator(n_max=0)
    for kind in (SequentialEstimator, AnytimeEstimator):
        with pytest.raises(InvalidArgumentError, match=r"beta must be in \(0, 1\), got beta=0"):
            kind((Threshold(0.0, 0.5),), beta=0.0)
