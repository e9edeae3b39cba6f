"""Shards that get no input, and what a merge advises where shards and whole are not of one run."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from certify.cli import main

MODEL = """
import torch


def make():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    model.num_classes, model.input_shape = 3, (1, 4, 4)
    return model
"""
RUN = ("run", "shard_model:make", "--data", "data.npz", "--noise", "gaussian", "--sigma", "0.25", "--device", "cpu")
RUN += ("--batch-size", "64", "--quiet", "--out", "out")
VERIFY = (
    "verify",
    "shard_model:make",
    "--data",
    "data.npz",
    "--norm",
    "linf",
    "--eps",
    "0.01",
    "--clip",
    "--out",
    "out",
)
VERIFY += ("--quiet", "--num-classes", "3")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shard_model.py").write_text(MODEL)
    images = np.random.default_rng(5).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(6) % 3)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("shard_model", None)
    return tmp_path


@pytest.mark.parametrize("command", [(*RUN, "--n", "100"), VERIFY])
def test_a_shard_without_inputs_is_done(
    folder: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for shard in range(5):
        assert main([*command, "--max", "3", "--shard", f"{shard}/5"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("has nothing to do: the number of inputs in the selection is 3") == 2
    assert sorted(path.name for path in (folder / "out" / "shards").iterdir()) == ["0-of-5", "1-of-5", "2-of-5"]
    assert main([*command, "--max", "3", "--shard", "4/5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["inputs"] == 0
    assert said["note"].startswith("shard 4/5 has nothing to do")
    assert main(["merge", "out"]) == 0
    assert "joined 3 shards: 3 " in capsys.readouterr().out


@pytest.mark.parametrize("command", [(*RUN, "--n", "100"), VERIFY])
def test_a_selection_without_inputs_is_wrong_usage(
    folder: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--skip", "6", "--shard", "3/5"]) == 2
    assert "skip must be less than the number of inputs, 6" in capsys.readouterr().err


def extend(cap: int, *shards: str) -> None:
    for shard in shards or ("",):
        words = ("--shard", shard) if shard else ()
        assert main([*RUN, "--estimator", "anytime", "--radii", "0,0.25", "--cap", str(cap), *words]) == 0


def test_a_merge_says_how_shards_and_an_extended_whole_come_together(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extend(100, "0/2", "1/2")
    assert main(["merge", "out"]) == 0
    extend(200)
    capsys.readouterr()

    assert main(["merge", "out", "--allow-partial"]) == 1
    said = capsys.readouterr().err
    assert "out has been extended since its shards were made: repeat that command with --shard i/2 for every" in said
    assert "estimator.budget: the folder has 200, now 100" in said
    assert "--out" not in said

    extend(200, "0/2")
    capsys.readouterr()
    assert main(["merge", "out"]) == 1
    assert "repeat its command with --shard i/n for every other shard" in capsys.readouterr().err
    extend(200, "1/2")
    assert main(["merge", "out"]) == 0

    # The other way round: the shards go on, the whole stays.
    extend(300, "0/2", "1/2")
    capsys.readouterr()
    assert main(["merge", "out"]) == 1
    said = capsys.readouterr().err
    assert (
        "the shards have been extended since they were merged into out: move everything but shards/ out of out" in said
    )
    assert "--out" not in said
    for path in (folder / "out").iterdir():
        if path.name != "shards":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(["merge", "out"]) == 0


def test_a_merge_of_shards_beside_another_run_names_the_way_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--n", "100", "--shard", "0/1"]) == 0
    assert main([*RUN, "--n", "100", "--seed", "1"]) == 0
    capsys.readouterr()
    assert main(["merge", "out"]) == 1
    said = capsys.readouterr().err
    assert "out holds another run than its shards do: move everything but shards/ out of out and merge again" in said
    assert "--out" not in said


def test_different_splits_are_to_be_parted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shard in ("0/2", "0/3"):
        assert main([*RUN, "--n", "100", "--shard", shard]) == 0
    capsys.readouterr()
    assert main(["merge", "out"]) == 1
    said = capsys.readouterr().err
    assert "0-of-2, 0-of-3; keep the folders of one split there and move the others away" in said
