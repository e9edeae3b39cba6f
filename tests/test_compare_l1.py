"""The comparison of laws at l1: the script end to end on few digits, its resumption, and its envelope."""

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from certify.metrics import CertifiedSet

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "compare_l1.py"
SETTINGS = ("--data", "digits", "--arch", "cnn", "--sigmas", "0.25", "--images", "6", "--n", "100", "--device", "cpu")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_l1", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_l1"] = module  # dataclasses look their module up
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))  # as when it is run: scripts share modules beside them
        spec.loader.exec_module(module)
    return module


def certified(radii: list[float], right: list[bool]) -> CertifiedSet:
    count = len(radii)
    correct = np.array(right)
    return CertifiedSet(
        name="made up",
        idx=np.arange(count),
        label=np.zeros(count, dtype=np.int64),
        predict=np.where(correct, 0, 1).astype(np.int64),
        radius=np.array(radii),
        correct=correct,
        seconds=np.zeros(count),
    )


def test_the_script_trains_certifies_compares_and_resumes(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figure = tmp_path / "work", tmp_path / "deep" / "l1.png"
    arguments = [*SETTINGS, "--epochs", "1", "--out", str(out), "--figure", str(figure)]
    assert script.main(arguments) == 0
    first = capsys.readouterr().out
    assert first.count("trained in") == len(script.LAWS)
    assert first.count("6 certificates") == len(script.LAWS)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.read_bytes() == (out / "l1.png").read_bytes()
    table = (out / "l1.md").read_text()
    assert table in first
    assert [line.split(" ")[1] for line in table.splitlines()[2:5]] == list(script.LAWS)
    with (out / "l1.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["law"] for row in rows} == set(script.LAWS)
    assert all(0.0 <= float(row["certified_accuracy"]) <= 1.0 and row["sigma"] == "0.25" for row in rows)

    # Repeated, nothing is trained, no vote is drawn, and the same is written.
    before = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    (out / "l1.md").unlink()
    assert script.main(arguments) == 0
    assert capsys.readouterr().out.count("trained before") == len(script.LAWS)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (out / "l1.md").read_text() == table

    # Another recipe in the same folder would mix two comparisons.
    assert script.main([*SETTINGS, "--epochs", "2", "--out", str(out)]) == 2
    assert "epochs=1, now 2 is asked for: use another --out" in capsys.readouterr().err
    assert script.main([*SETTINGS, "--epochs", "1", "--images", "100000", "--out", str(out)]) == 2
    assert "images must be in 1.." in capsys.readouterr().err


def test_the_envelope_is_the_best_sigma_at_each_radius(script: ModuleType) -> None:
    near, far = certified([0.2, 0.2, 0.2, 9.0], [True, True, True, False]), certified([0.5, 1.0, 0.1, 0.0], [True] * 4)
    row = script.envelope("uniform", [near, far], (0.25, 1.0), (0.0, 0.15, 0.3, 0.7, 2.0))
    assert row.shares == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert row.sigmas[:4] == (1.0, 0.25, 1.0, 1.0)
    assert row.acr == (pytest.approx(0.4), 1.0)


def test_the_radii_of_the_table_are_round(script: ModuleType) -> None:
    assert script.table_radii([certified([1.7], [True])]) == (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    assert script.table_radii([certified([0.04], [True])]) == (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04)
