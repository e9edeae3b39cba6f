"""`certify attack` on a classifier whose smoothed version is known exactly, and on false certificates."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import certify.attacking
from certify.attacking import AttackOptions, AttackReport, attack_run
from certify.cli import main
from certify.errors import CertifyError, ModelError, UsageError
from certify.rundir import Run, read_run
from smoothing.errors import UnsupportedNormError

MODULE = '''
import torch
from torch import nn


class HalfSpace(nn.Module):
    """Class 1 where the mean of the pixels is above 1/2."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, x):
        score = self.scale * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-score, score], 1)


def make():
    return HalfSpace()


def labels():
    return Labels()


class Labels(HalfSpace):
    def forward(self, x):
        return super().forward(x).argmax(1)
'''
SIDE = 4
"""Images are 1 x SIDE x SIDE: the distance of x to the boundary of g is SIDE * |mean(x) - 1/2|."""


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "half_space_model.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    means = np.linspace(0.3, 0.7, 24)
    rng = np.random.default_rng(1)
    pixels = means[:, None, None, None] + rng.uniform(-0.04, 0.04, (24, 1, SIDE, SIDE))
    labels = (means > 0.5).astype(np.int64)
    labels[0] = 1  # one that the classifier gets wrong
    np.savez(tmp_path / "data.npz", images=pixels.astype(np.float32), labels=labels)
    out = tmp_path / "run"
    command = (
        f"run half_space_model:make --data {tmp_path / 'data.npz'} --noise gaussian --sigma 0.25 --num-classes 2 "
        f"--n0 32 --n 1000 --out {out} --device cpu --quiet"
    )
    assert main(command.split()) == 0
    return out


def distances(folder: Path) -> Any:
    with np.load(folder.parent / "data.npz") as file:
        return SIDE * np.abs(file["images"].reshape(24, -1).mean(1) - 0.5)


def test_the_attack_finds_the_boundary_and_no_alarm(run_folder: Path) -> None:
    radii = (0.1, 0.25, 0.4, 0.6)
    seen: list[tuple[int, int]] = []
    report = attack_run(
        AttackOptions(run_folder, radii=radii, m=8, steps=10, n=1500, device="cpu"), lambda *p: seen.append(p)
    )
    distance = distances(run_folder)
    rows = read_run(run_folder).rows
    for result in report.results:
        right = np.array([i != 0 for i in range(24)])
        certified = np.mean([row.correct and row.radius >= result.radius for row in rows])
        assert result.certified == pytest.approx(certified)
        # Within 0.05 of the radius, sigma 0.25 and 1500 votes may prove neither class.
        assert (right & (distance > result.radius + 1e-6)).mean() <= result.empirical
        assert result.empirical <= (right & (distance > result.radius - 0.05)).mean()
        assert result.certified <= result.empirical
    assert [r.empirical for r in report.results] == sorted((r.empirical for r in report.results), reverse=True)
    assert report.alarms == ()
    certified = sum(row.radius > 0 for row in rows)
    assert report.checked >= certified
    assert seen[-1] == (24 * 4 + certified, 24 * 4 + certified)
    assert report.alpha_each == pytest.approx(0.001 / seen[-1][1])
    # More than one start, and the base classifier (the boundary is the same here).
    base = attack_run(AttackOptions(run_folder, radii=(0.4,), m=0, steps=10, restarts=2, n=1500, device="cpu"))
    assert abs(base.results[0].empirical - report.results[2].empirical) <= 2 / 24


def inflated(run: Run, factor: float) -> Run:
    return replace(run, rows=tuple(replace(row, radius=row.radius * factor) for row in run.rows))


def test_false_certificates_raise_an_alarm(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["attack", str(run_folder), "--m", "4", "--steps", "5", "--quiet", "--device", "cpu", "--radii", "0.2"]
    assert main(command) == 0
    assert "No alarm" in capsys.readouterr().out
    monkeypatch.setattr(certify.attacking, "read_run", lambda folder: inflated(read_run(folder), 3.0))
    assert main([*command, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["alarms"]
    rows = {row.index: row for row in read_run(run_folder).rows}
    for alarm in answer["alarms"]:
        row = rows[alarm["index"]]
        assert alarm["found_class"] != alarm["certified_class"] == row.predict
        assert row.radius < alarm["distance"] <= alarm["certified_radius"] == 3.0 * row.radius
    assert main(command) == 1
    assert "ALARM" in capsys.readouterr().out


def test_fewer_inputs_and_no_attack_inside(run_folder: Path) -> None:
    report = attack_run(
        AttackOptions(run_folder, radii=(0.3,), m=4, steps=3, maximum=5, inside=False, n=100, device="cpu")
    )
    assert report.inputs == 5
    assert isinstance(report, AttackReport)
    assert json.loads(json.dumps(report.to_dict()))["folder"] == str(run_folder)
    again = attack_run(
        AttackOptions(run_folder, radii=(0.3,), m=4, steps=3, maximum=5, inside=False, n=100, device="cpu")
    )
    assert again == report


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"m": -1}, "m must be at least 0, got m=-1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"n": 0}, "n must be at least 1"),
        ({"restarts": 0}, "restarts must be at least 1"),
        ({"maximum": 0}, "maximum must be at least 1"),
        ({"radii": ()}, "radii must be positive"),
        ({"radii": (0.5, 0.25)}, "increasing"),
        ({"radii": (0.0, 0.25)}, "radii must be positive"),
    ],
)
def test_bad_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AttackOptions(Path("x"), **changes)


def test_what_cannot_be_attacked_is_refused(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = AttackOptions(run_folder, device="cpu")
    with pytest.raises(CertifyError, match="the model must be that of the run"):
        attack_run(replace(options, model="half_space_model:labels"))

    def other_norm(folder: Path) -> Run:
        run = read_run(folder)
        return replace(run, config={**run.config, "identity": {**run.identity, "norm": "l0"}})

    monkeypatch.setattr(certify.attacking, "read_run", other_norm)
    with pytest.raises(UnsupportedNormError, match="norm of an attack must be l1, l2 or linf"):
        attack_run(options)
    monkeypatch.setattr(certify.attacking, "read_run", read_run)
    with pytest.raises(CertifyError, match="is not a run folder"):
        attack_run(AttackOptions(run_folder.parent))


def test_a_classifier_of_labels_has_no_gradients(run_folder: Path) -> None:
    out = run_folder.parent / "labels"
    command = (
        f"run half_space_model:labels --data {run_folder.parent / 'data.npz'} --noise gaussian --sigma 0.25 "
        f"--num-classes 2 --n0 16 --n 100 --max 2 --out {out} --device cpu --quiet"
    )
    assert main(command.split()) == 0
    with pytest.raises(ModelError, match="an attack needs"):
        attack_run(AttackOptions(out, device="cpu"))
