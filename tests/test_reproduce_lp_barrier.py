"""The script that reproduces the relaxation-barrier tables: whose results its journals are, and what it refuses."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"


def weights(path, seed, inputs=784, first="1"):
    """A checkpoint of the family: one hidden layer of four."""
    random = torch.Generator().manual_seed(seed)
    state = {
        f"{first}.weight": torch.randn(4, inputs, generator=random) / 10,
        f"{first}.bias": torch.zeros(4),
        "3.weight": torch.randn(10, 4, generator=random),
        "3.bias": torch.zeros(10),
    }
    path.parent.mkdir(exist_ok=True)
    torch.save(state, path)
    return path


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).random((1, 1, 28, 28), dtype=np.float32))
    return path


def run(*arguments):
    """Run the script in this process, as a new one would: nothing of an earlier run is remembered."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.syspath_prepend(str(SCRIPTS))
        patch.setattr(sys, "argv", ["reproduce_lp_barrier.py", *(str(argument) for argument in arguments)])
        for module in ("reproduce_lp_barrier", "barrier_networks"):
            sys.modules.pop(module, None)
        import reproduce_lp_barrier as script

        try:
            script.main()
        except SystemExit as stop:
            code = stop.code
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def table2(tmp_path, images, *files):
    return run("table2", "--weights", *files, "--images", images, "--out", tmp_path / "out")


def rows(finished):
    assert finished.returncode == 0, finished.stderr
    return [line for line in finished.stdout.splitlines() if line.startswith("| LP") or line.startswith("| PGD")]


def test_a_network_is_never_answered_from_another_ones_journal(tmp_path, images):
    one, other = weights(tmp_path / "a" / "net.pth", 1), weights(tmp_path / "b" / "net.pth", 2)
    both = rows(table2(tmp_path, images, one, other))
    first, second = both[: len(both) // 2], both[len(both) // 2 :]
    assert first != second
    journals = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(journals) == 4  # radii and attacks of two networks
    # Overwritten weights: the file's old results are not theirs, and the other file's are.
    one.write_bytes(other.read_bytes())
    assert rows(table2(tmp_path, images, one)) == second
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == journals
    # Nor are those of other images.
    np.save(images, np.random.default_rng(1).random((1, 1, 28, 28), dtype=np.float32))
    assert rows(table2(tmp_path, images, one)) != second
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_several_processes_find_the_same(tmp_path, images):
    net = weights(tmp_path / "net.pth", 1)
    np.save(images, np.random.default_rng(2).random((2, 1, 28, 28), dtype=np.float32))
    alone = rows(table2(tmp_path, images, net))
    line = [sys.executable, SCRIPTS / "reproduce_lp_barrier.py", "table2", "--weights", net, "--images", images]
    done = subprocess.run(
        [*map(str, line), "--out", str(tmp_path / "two"), "--jobs", "2"], capture_output=True, text=True, check=False
    )
    done.stdout = done.stdout.replace(str(tmp_path / "two"), str(tmp_path / "out"))
    assert rows(done) == alone


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: weights(path, 1, first="a"), "not the weights of a network"),
        (lambda path: path.write_bytes(b"no checkpoint"), "not the weights of a network"),
        (lambda path: path.with_suffix(".safetensors").write_bytes(b"none"), "not the weights of a network"),
        (lambda path: torch.save([1, 2], path), "not the weights of a network"),
        (lambda path: None, "there is no such file"),
        (lambda path: weights(path, 1, inputs=10), "does not take images of shape (1, 28, 28)"),
    ],
)
def test_unusable_weights_are_refused_in_a_line(tmp_path, images, make, said):
    path = tmp_path / "net.pth"
    make(path)
    path = next((p for p in tmp_path.iterdir() if p.suffix == ".safetensors"), path)
    finished = table2(tmp_path, images, weights(tmp_path / "good.pth", 1), path)
    assert finished.returncode == 2
    assert len(finished.stderr.splitlines()) == 1
    assert str(path) in finished.stderr
    assert said in finished.stderr
    assert not (tmp_path / "out").exists()


def test_unusable_data_are_refused_in_a_line(tmp_path, images):
    path = weights(tmp_path / "net.pth", 1)
    for content in (None, b"", b"no array"):
        images.unlink(missing_ok=True)
        if content is not None:
            images.write_bytes(content)
        finished = table2(tmp_path, images, path)
        assert (finished.returncode, len(finished.stderr.splitlines())) == (2, 1)
        assert str(images) in finished.stderr
    finished = run("table1", "--weights", path, "--eps", 0.1, "--data-root", tmp_path, "--out", tmp_path / "out")
    assert (finished.returncode, len(finished.stderr.splitlines())) == (2, 1)
    assert str(tmp_path) in finished.stderr
