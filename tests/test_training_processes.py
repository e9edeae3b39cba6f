"""Training by two processes: the same step as by one, noise of their own, one checkpoint."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from certify.cli import main
from certify.cli.train import _without_processes
from certify.errors import UsageError
from certify.models import load_checkpoint
from certify.training.launch import STORE, joined, launched
from smoothing.errors import InvalidArgumentError
from smoothing.training.batches import BatchSource
from smoothing.training.processes import Processes

SCRIPT = Path(__file__).parent / "training_together.py"


def run_together(out: Path, kind: str, count: int) -> list[dict[str, Any]]:
    children = []
    for rank in range(count):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if count > 1:
            environment |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                STORE: str(out / "store"),
            }  # fmt: skip
        children.append(subprocess.Popen([sys.executable, str(SCRIPT), str(out), kind], env=environment))
    assert [child.wait() for child in children] == [0] * count
    return [torch.load(out / f"{kind}-{rank}.pt", weights_only=True) for rank in range(count)]


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    [alone] = run_together(tmp_path / "one", "plain", 1)
    first, second = run_together(tmp_path / "two", "plain", 2)
    for name, value in alone["state"].items():
        torch.testing.assert_close(first["state"][name], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(first["state"][name], second["state"][name])
    # Each sees its share of every batch: together, what the one has seen.
    assert [len(x) for x in alone["seen"]] == [10] * 15
    assert [len(x) for x in first["seen"]] == [5] * 15
    for whole, *parts in zip(alone["seen"], first["seen"], second["seen"], strict=True):
        assert torch.equal(torch.cat(parts), whole)
    # And the figures are those of the shares.
    np.testing.assert_allclose((np.array(first["losses"]) + np.array(second["losses"])) / 2, alone["losses"], rtol=1e-5)


def test_each_process_draws_noise_of_its_own(tmp_path: Path) -> None:
    first, second = run_together(tmp_path, "gaussian", 2)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name])
    rows = torch.cat([torch.cat(part["seen"]).flatten(1) for part in (first, second)])
    assert len(torch.unique(rows, dim=0)) == len(rows) == 150
    # The noise itself: the images are in [0, 1.8], and differ from epoch to epoch by noise alone.
    assert float((first["seen"][0] - second["seen"][0]).abs().min()) > 0


def test_shares_of_a_batch() -> None:
    rows = torch.arange(11)
    parts = [Processes(rank, 3).share(rows) for rank in range(3)]
    assert torch.equal(torch.cat(parts), rows)
    assert [len(part) for part in parts] == [4, 4, 3]
    # Means over the parts, scaled, have the mean over all as their mean.
    values = torch.rand(11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scaled = [float(values[p].mean()) * Processes(r, 3).scale(len(p), 11) for r, p in enumerate(parts)]
    assert sum(scaled) / 3 == pytest.approx(float(values.mean()))
    assert Processes.current() == Processes(0, 1)
    assert Processes().tell("x") == "x"
    with pytest.raises(InvalidArgumentError, match="a batch must have an example for each of 4 processes"):
        BatchSource(
            torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64), batch_size=3, device=torch.device("cpu"), seed=0,
            processes=Processes(0, 4),
        )  # fmt: skip


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    rng = np.random.default_rng(7)
    labels = np.arange(60) % 3
    images = rng.integers(0, 60, (60, 8, 8, 1)).astype(np.uint8)
    for label in range(3):
        images[labels == label, 2 * label : 2 * label + 2] += 180
    np.savez(tmp_path / "tiny.npz", images=images, labels=labels)
    return tmp_path / "tiny.npz"


def command(tiny: Path, name: str) -> list[str]:
    text = (
        f"train --data {tiny} --arch cnn --sigma 0.25 --objective consistency --epochs 3 --batch-size 16 --held-out 0.2 "
        f"--select acr --select-votes 16 --select-images 4 --device cpu --out {tiny.parent / name}"
    )
    return text.split()


def test_the_command_and_torchrun_write_the_same_checkpoint(tiny: Path) -> None:
    ours = [sys.executable, "-m", "certify", *command(tiny, "ours"), "--processes", "2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "certify"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for line in (ours, [*torchrun, *command(tiny, "theirs")]):
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Checkpoint in") == 1
        assert done.stderr.count("epoch 3/3") == 1
    for name in ("ours", "theirs"):
        folder = tiny.parent / name
        assert sorted(path.name for path in folder.iterdir()) == [
            "model.json", "model.safetensors", "train.csv", "train.png",
        ]  # fmt: skip
    weights = [(tiny.parent / name / "model.safetensors").read_bytes() for name in ("ours", "theirs")]
    assert weights[0] == weights[1]
    assert load_checkpoint(tiny.parent / "ours")[1].training["epoch"] == 3


def test_a_failure_stops_all_processes(tiny: Path) -> None:
    line = [sys.executable, "-m", "certify", *command(tiny, "bad"), "--lr", "1e30", "--warmup", "0", "--processes=2"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "training diverged" in done.stderr
    assert not (tiny.parent / "bad" / "model.json").exists()


def test_what_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*command(tiny, "bad"), "--processes", "0"]) == 2
    assert "processes must be at least 1, got processes=0" in capsys.readouterr().err
    assert _without_processes(["train", "--processes", "2", "--lr", "1", "--processes=3"]) == ["train", "--lr", "1"]
    assert not launched()
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert not launched()
    monkeypatch.setenv("MASTER_PORT", "1")
    assert launched()
    with pytest.raises(UsageError, match="several processes each take a device of their own"), joined("cuda:0"):
        pass
    with pytest.raises(UsageError, match="each process needs a device, got 2 processes for 0 devices"), joined("cuda"):
        pass
