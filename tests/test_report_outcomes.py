"""`certify compare` keeps abstained, undecided and refuted apart, as the runs themselves do."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from certify.cli import main
from certify.estimators import EstimatorOptions
from certify.rundir import read_run
from certify.runner import execute
from certify.setup import RunOptions, prepare

MODEL = """
import torch


class Model(torch.nn.Module):
    num_classes = 2
    input_shape = (1, 4, 4)

    def forward(self, x):
        return (x.flatten(1)[:, 0] > 0.5).long()


def make():
    return Model()
"""

# With sigma = 0.25 the true radius of class 1 is the first pixel minus 0.5: the first is certified, the second cannot be
# decided by few votes, the third is far from it.
PIXELS = (255, 129, 0)
KINDS = {
    "sequential": EstimatorOptions("sequential", radii="0.125,0.25", cap="400", futility=0.0),
    "anytime": EstimatorOptions("anytime", radii="0.125,0.25", cap="8"),
    "fixed": EstimatorOptions(),
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    (tmp_path / "half_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("certify.runner._TESTED_VALUES", 2**13)
    sys.modules.pop("half_model", None)
    images = np.zeros((3, 4, 4, 1), np.uint8)
    images[:, 0, 0, 0] = PIXELS
    np.savez(tmp_path / "data.npz", images=images, labels=np.ones(3, np.int64))
    for name, estimator in KINDS.items():
        options = RunOptions(
            model="half_model:make",
            data=str(tmp_path / "data.npz"),
            noise="gaussian",
            parameters=(("sigma", 0.25),),
            estimator=estimator,
            n0=10,
            n=50,
            batch_size=32,
            device="cpu",
            out=tmp_path / name,
        )
        execute(prepare(options, {}).plan)
    return {name: tmp_path / name for name in KINDS}


def test_compare_uses_the_words_of_the_runs(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compared"
    assert main(["compare", *map(str, runs.values()), "--no-attack", "--out", str(out)]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    lines = list(csv.DictReader(io.StringIO((out / "compare.csv").read_text())))
    content = json.loads((out / "compare.json").read_text())
    seen = set()
    for (name, folder), side in zip(runs.items(), content["summary"]["sides"], strict=True):
        own = [line for line in lines if line["run"] == str(folder)]
        said = {row.index: str(row.certificate.status) for row in read_run(folder).rows}
        for line in own:
            row_says = said[int(line["image"])]
            seen.add(line["status"])
            expected = {"abstained": "abstain", "certified": "certified" if line["pred"] == "1" else "misclassified"}
            assert line["status"] == expected.get(row_says, row_says)
            assert (line["estimator"], line["cap"]) == (
                name,
                {"sequential": "400", "anytime": "8", "fixed": "60"}[name],
            )
            assert (line["n0"], line["n"]) == (("10", "50") if name == "fixed" else ("", ""))
        if name == "fixed":
            assert (side["undecided"], side["refuted"]) == (None, None)
        else:
            for reason in ("undecided", "refuted"):
                assert side[reason] == sum(status == reason for status in said.values()) / 3
        assert side["abstained"] == sum(status == "abstained" for status in said.values()) / 3
        assert (side["estimator"], side["cap"]) == (name, int(own[0]["cap"]))
        again = [row["status"] for row in content["rows"] if row["run"] == str(folder)]
        assert again == [line["status"] for line in own]
    assert {"certified", "misclassified", "abstain", "undecided", "refuted"} <= seen
    table = " ".join(shown.split())
    for words in ("All inputs (wrong, abstained, undecided and refuted: radius 0)", "undecided", "refuted"):
        assert words in table


def test_compare_says_nothing_of_undecided_where_no_run_decides_radii(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = str(runs["fixed"])
    assert main(["compare", fixed, fixed, "--no-attack", "--out", str(tmp_path / "compared")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "All inputs (wrong and abstained: radius 0)" in shown
    assert "undecided" not in shown
