"""Servers, and ONNX Runtime in this process, give the votes that PyTorch gives.

Real servers are outside the gate, for they take environments of their own:

    CERTIFY_SERVER_ENVIRONMENTS=~/.cache/certify-servers pytest -m servers -n 0 -s tests/test_real_servers.py

The folder holds one virtual environment per server, which `scripts/services.py` makes there on first use (some hundred MB
from the package index). `pytest` alone deselects what is marked `servers`; `-m` on the command line replaces that choice.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from certify.blackbox.local import torch_function
from certify.blackbox.onnx_runtime import OnnxRuntime
from smoothing import Gaussian
from smoothing.estimators import Phase
from smoothing.noise_source import TorchBlockNoise

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
VARIABLE = "CERTIFY_SERVER_ENVIRONMENTS"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`scripts/compare_services.py`, as it is when run from its folder."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    threads = torch.get_num_threads()
    yield importlib.import_module("compare_services")
    torch.set_num_threads(threads)
    for name in ("compare_services", "services"):
        sys.modules.pop(name, None)


@pytest.mark.servers
@pytest.mark.parametrize("server", ["mlserver", "litserve"])
def test_a_real_server_votes_like_pytorch(script: ModuleType, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(
            f"{VARIABLE} must name the folder of the servers' environments, which are installed there if absent"
        )
    inputs, n = 10, 50
    environments = str(Path(folder).expanduser())
    result = script.main(["--environments", environments, "--servers", server, "--inputs", str(inputs), "--n", str(n)])
    shown = capsys.readouterr().out
    with capsys.disabled():
        print(shown)
    assert result == 0
    assert "all votes agree" in shown
    assert [line for line in shown.splitlines() if line.startswith(server) and f" {inputs * n} votes, " in line]


@pytest.fixture
def classifier() -> torch.nn.Module:
    """A linear classifier of 8 by 8 images that knows nothing, so that noise moves its label."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with torch.no_grad():
        torch.nn.init.normal_(model[1].weight, generator=torch.Generator().manual_seed(3))
    return model.eval()


def test_onnx_runtime_votes_like_pytorch(script: ModuleType, classifier: torch.nn.Module, tmp_path: Path) -> None:
    """The onnxruntime adapter, against the direct forward pass: same noise, clip and 8-bit step, sample by sample.

    It is ONNX Runtime as a *service*: the file sees k / 255 in float32, after clipping and rounding, as a server in front of
    it would feed it. The model `onnx:FILE` of `certify run` is another base classifier: it runs the same file on the noisy
    input as it is, unclipped and unrounded, like any local model.
    """
    path = tmp_path / "model.onnx"
    script.export_onnx(classifier, (1, 8, 8), path)
    noise = TorchBlockNoise(Gaussian((1, 8, 8), sigma=0.5), seed=4)
    images = {2: torch.full((1, 8, 8), 0.1), 9: torch.full((1, 8, 8), 0.9)}
    votes = script.directly(classifier, noise, images, 200)
    found = script.ask(OnnxRuntime(str(path), batch=7), noise, images, 200, 10)
    assert set(found) == set(votes)
    assert script.differences({key: vote for key, vote in votes.items() if not vote.tie}, found) == []
    assert sum(vote.tie for vote in votes.values()) <= 4
    assert len(set(found.values())) > 2, "the noise moves the label, or this would compare nothing"
    # Near 0 and 1 with sigma = 0.5 half of the pixels are clipped: left out, the votes are others.
    unclipped = {
        (index, sample): str(label)
        for index, image in images.items()
        for sample, label in enumerate(classifier(noise.draw(image, index, Phase.ESTIMATE, 0, 200)).argmax(1).tolist())
    }
    assert script.differences(votes, unclipped)


def test_onnx_runtime_gives_no_label_for_scores_that_are_not_finite(script: ModuleType, tmp_path: Path) -> None:
    class Root(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sqrt(x.flatten(1)[:, :2] - 0.5)

    path = tmp_path / "model.onnx"
    script.export_onnx(Root(), (1, 1, 2), path)
    images = np.array([[255, 200], [130, 255], [255, 100]], np.uint8).reshape(3, 1, 2, 1)
    assert torch_function(Root())(images) == [0, 1, None]
    assert [answer.label for answer in OnnxRuntime(str(path))._run(images)] == ["0", "1", None]


def test_every_sample_that_differs_is_listed(script: ModuleType) -> None:
    vote = script.Vote
    expected = {
        (8, 0): vote("2", 0.5, False),
        (3, 11): vote("1", 1.25e-7, True),
        (3, 2): vote("0", 0.25, False),
        (8, 1): vote("1", 0.75, False),
    }
    found = {(8, 0): "2", (3, 11): "4", (3, 2): ""}
    assert script.differences(expected, found) == [
        "    input 3, sample 2: no label, PyTorch 0; its two largest scores differ by 0.25",
        "    input 3, sample 11: label 4, PyTorch 1; its two largest scores differ by 1.25e-07, a near-tie",
        "    input 8, sample 1: no vote, PyTorch 1; its two largest scores differ by 0.75",
    ]
    assert script.differences(expected, {key: value.label for key, value in expected.items()}) == []


def test_an_altered_vote_fails_the_comparison(
    script: ModuleType, classifier: torch.nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single wrong vote is found, listed, and makes the script fail."""
    ask, altered = script.ask, False

    def asked(*arguments: object) -> dict[tuple[int, int], str]:
        found: dict[tuple[int, int], str] = ask(*arguments)
        if altered:
            found[0, 3] = str((int(found[0, 3]) + 1) % 10)
        return found

    script.small_classifier, script.ask = lambda sigma: classifier, asked
    quick = ["--environments", "unused", "--servers", "", "--inputs", "3", "--n", "20"]
    assert script.main(quick) == 0
    shown = capsys.readouterr().out
    assert "ONNX Runtime in process" in shown
    assert "60 votes, 60 equal" in shown
    altered = True
    assert script.main(quick) == 1
    shown = capsys.readouterr().out
    assert "59 equal, 0 near-ties differ, 1 others differ" in shown
    assert "input 0, sample 3: label" in shown
    assert "1 votes disagree" in shown
