"""The scripts around training, end to end on a few images: the table of reproductions and the benchmark of steps."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def few_digits(tmp_path: Path) -> Path:
    """A folder that looks like MNIST: ten classes of bright squares."""
    rng = np.random.default_rng(0)
    for stem, count in (("train", 200), ("t10k", 20)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 40, (count, 28, 28))
        for row, label in enumerate(labels):
            images[row, 2 * label : 2 * label + 8, 4:24] = 220
        raw = tmp_path / "data" / "MNIST" / "raw"
        write_idx(raw / f"{stem}-images-idx3-ubyte.gz", images)
        write_idx(raw / f"{stem}-labels-idx1-ubyte.gz", labels)
    return tmp_path


def run(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


COMMON = "--table mnist --sigma 0.5 --fast --epochs 1 --n 50 --stride 2 --data-root data --out out --device cpu"


@pytest.mark.slow
def test_the_table_is_made_and_made_again(few_digits: Path) -> None:
    arguments = f"{COMMON} --methods gaussian,consistency,cat-rs".split()
    done = run("reproduce_training.py", *arguments, cwd=few_digits)
    assert done.returncode == 0, done.stderr
    out = few_digits / "out"
    assert (out / "table.md").read_text() in done.stdout
    assert "No published value at n = 50" in done.stdout
    rows = json.loads((out / "table.json").read_text())
    assert [row["method"] for row in rows] == ["gaussian", "consistency", "cat-rs"]
    assert [row["passes_per_image"] for row in rows] == [1, 2, 12]
    assert all(row["images"] == 10 and row["n"] == 50 for row in rows)
    assert (out / "curves.png").stat().st_size > 1000
    assert (out / "models" / "mnist-gaussian-0.25-fast" / "model.json").exists()  # the teacher of CAT-RS
    before = {path: path.read_bytes() for path in out.rglob("model.*")}
    again = run("reproduce_training.py", *arguments, cwd=few_digits)
    assert again.returncode == 0
    assert "training mnist" not in again.stderr
    assert again.stdout == done.stdout
    assert {path: path.read_bytes() for path in out.rglob("model.*")} == before


def test_unknown_methods_are_refused(tmp_path: Path) -> None:
    done = run("reproduce_training.py", "--methods", "gaussian,magic", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no recipe for magic")
    assert not (tmp_path / "out").exists()


def test_published_values_are_keyed_by_what_must_not_be_mixed() -> None:
    sys.path.insert(0, str(SCRIPTS))
    try:
        from published_training import ACCURACY, ACR
    finally:
        sys.path.remove(str(SCRIPTS))
    assert ACR["mnist", 0.5, 10_000, 20]["gaussian"] == 1.3703
    assert ACR["mnist", 0.5, 100_000, 1]["cat-rs"] == 1.6999
    for key, methods in ACCURACY.items():
        for method, shares in methods.items():
            assert list(shares) == sorted(shares, reverse=True)
            # The area under the steps is below the mean radius by at most one step, and above it by none.
            area = 0.25 * sum(shares[1:]) / 100
            assert area <= ACR[key][method] + 0.01 <= area + 0.25 * shares[0] / 100 + 0.02, (key, method)


def test_the_benchmark_measures_each_objective(tmp_path: Path) -> None:
    arguments = ["--only", "consistency", "--arch", "mlp", "--batch-size", "4", "--rounds", "1", "--device", "cpu"]
    done = run("benchmark_training.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["objective"], found["passes"], found["rows"]) == ("consistency", 2, 8)
    assert found["ratio"] > 0
    assert found["memory_mib"] > 10
