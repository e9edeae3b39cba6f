"""Every vote rests on noise of its own: the engine shows each sample once, and a batch's noise repeated is noticed.

A repeated batch adds votes that say nothing new, as if n were larger than it is: bounds would be too good by any factor.
"""

import functools
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor

import smoothing.estimators.fixed
from certify.cli import main
from certify.estimators import EstimatorOptions
from certify.runner import execute
from certify.setup import RunOptions, prepare
from smoothing import BatchingEngine, FixedEstimator, ForwardSettings, Gaussian, Phase, VoteRequest
from smoothing.driver import drive
from smoothing.estimators import Status
from smoothing.integer import PhiloxIntNoise
from smoothing.noise import BLOCK, draw_block, input_base
from smoothing.noise_cache import NoiseCache
from smoothing.noise_source import NoiseSource, TorchBlockNoise

SHAPE = (1, 2, 4)
LAW = Gaussian(SHAPE, sigma=0.25)
SEED = 7
SOURCES = ["torch-block-v1", "philox-int-v1"]


def inputs(index: int) -> Tensor:
    levels = torch.randint(0, 256, SHAPE, generator=torch.Generator().manual_seed(index))
    return levels.float() / 255.0


def source(version: str, seed: int = SEED) -> NoiseSource:
    return TorchBlockNoise(LAW, seed) if version == "torch-block-v1" else PhiloxIntNoise(LAW, seed)


def samples_of(version: str, index: int, phase: Phase, start: int, stop: int) -> Tensor:
    """Return the samples by other code than the engine's: block by block, or by torch's integer operations."""
    if version == "philox-int-v1":
        return PhiloxIntNoise(LAW, SEED, integer_arithmetic=True).draw(inputs(index), index, phase, start, stop)
    base, x = input_base(SEED, LAW, index), inputs(index)
    blocks = [draw_block(torch.Generator(), LAW, x, base, phase, block) for block in range(-(-stop // BLOCK))]
    return torch.cat(blocks)[start:stop]


@pytest.mark.parametrize("version", SOURCES)
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1024])
def test_the_engine_shows_every_sample_once(version: str, batch_size: int) -> None:
    shown: list[Tensor] = []

    def classifier(x: Tensor) -> Tensor:
        shown.append(x.clone())
        return torch.zeros(len(x), dtype=torch.long)

    engine = BatchingEngine(
        classifier, LAW, 2, inputs, settings=ForwardSettings(batch_size), seed=SEED, noise=source(version)
    )
    # As looks ask for them: growing prefixes of several inputs and phases in turn, with ends inside of blocks.
    ends = [0, 5, 6, 17, 128, 130, 301]
    requests = [
        VoteRequest(index, phase, start, stop)
        for start, stop in itertools.pairwise(ends)
        for index in (0, 3)
        for phase in (Phase.SELECT, Phase.ESTIMATE)
    ]
    list(engine.votes(requests))
    seen = torch.cat(shown)[: sum(request.stop - request.start for request in requests)]
    expected = torch.cat([samples_of(version, r.index, r.phase, r.start, r.stop) for r in requests])
    assert torch.equal(seen, expected)
    assert len(torch.unique(seen, dim=0)) == len(seen)


# Breaking the engine on purpose -------------------------------------------------------------------------------------


def repeat_batches(monkeypatch: pytest.MonkeyPatch, length: int = 64) -> None:
    """Make the engine give every batch of `length` samples of an input the noise of the first one."""
    samples = NoiseCache.samples

    def repeating(self: NoiseCache, index: int, phase: Phase, start: int, stop: int) -> Iterator[Tensor]:
        while start < stop:
            step = min(length - start % length, stop - start)
            yield from samples(self, index, phase, start % length, start % length + step)
            start += step

    monkeypatch.setattr(NoiseCache, "samples", repeating)


def false_certificates(version: str, repeats: int, alpha: float) -> int:
    """Return how many of `repeats` inputs get a certificate that is false, by a classifier that is a fair coin.

    Class 0 where the first of two pixels of equal level is larger under noise, class 1 where the second is, and "invalid"
    where they are equal: no class has more than half of the votes, so that any certificate is false.
    """

    def coin(x: Tensor) -> Tensor:
        first, second = x.flatten(1)[:, 0], x.flatten(1)[:, 1]
        return torch.where(first == second, 2, (second > first).long())

    def level(index: int) -> Tensor:
        return torch.full(SHAPE, index / 255.0)

    assert repeats <= 256, "inputs of one content have one noise in integers"
    estimator = FixedEstimator(n0=63, n=512, alpha=alpha)
    states = {index: estimator.start(None) for index in range(repeats)}
    engine = BatchingEngine(coin, LAW, 2, level, settings=ForwardSettings(1024), seed=SEED, noise=source(version))
    for _ in drive(engine, states):
        pass
    return sum(state.result().status is Status.CERTIFIED for state in states.values())


ALPHA, REPEATS = 0.1, 256
MOST = int(binom.isf(1e-7, REPEATS, ALPHA))
"""More false certificates than this happen with probability 1e-7 at most if each has probability ALPHA."""


@pytest.fixture(autouse=True)
def remembered_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is a pure function of three numbers and is asked for the same ones all the time: compute each once."""
    bound = functools.cache(smoothing.estimators.fixed.failure_upper_bound)
    monkeypatch.setattr(smoothing.estimators.fixed, "failure_upper_bound", bound)


@pytest.mark.parametrize("version", SOURCES)
def test_certificates_on_noise_of_their_own_are_false_as_rarely_as_alpha_says(version: str) -> None:
    assert false_certificates(version, REPEATS, ALPHA) <= MOST


@pytest.mark.parametrize("version", SOURCES)
def test_a_batch_of_noise_repeated_breaks_the_coverage(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    repeat_batches(monkeypatch)
    assert false_certificates(version, REPEATS, ALPHA) > MOST


MODEL = """
import torch


class Model(torch.nn.Module):
    num_classes = 2
    input_shape = (1, 2, 4)

    def forward(self, x):
        return (x.flatten(1)[:, 0] > 0.5).long()


def make():
    return Model()
"""


@pytest.mark.parametrize("version", SOURCES)
@pytest.mark.parametrize("estimator", [EstimatorOptions(), EstimatorOptions("sequential", radii="0,0.25", cap="400")])
def test_a_run_with_repeated_batches_fails_its_replay(
    version: str,
    estimator: EstimatorOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "repeating_model.py").write_text(MODEL)
    images = np.stack([(inputs(i) * 255).round().numpy().astype(np.uint8)[0, :, :, None] for i in range(3)])
    images[:, 0, 0, 0] = (125, 130, 180)
    np.savez(tmp_path / "data.npz", images=images, labels=np.array([0, 1, 1]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("certify.runner._TESTED_VALUES", 2**13)
    sys.modules.pop("repeating_model", None)
    options = RunOptions(
        model="repeating_model:make",
        data=str(tmp_path / "data.npz"),
        noise="gaussian",
        parameters=(("sigma", 0.25),),
        noise_version=version,
        estimator=estimator,
        n=400,
        n0=64,
        seed=SEED,
        batch_size=64,
        device="cpu",
        out=tmp_path / "run",
    )
    with monkeypatch.context() as patch:
        repeat_batches(patch)
        execute(prepare(options, {}).plan)
    assert main(["audit", str(tmp_path / "run"), "--json"]) == 0  # no arithmetic can tell
    capsys.readouterr()
    assert main(["audit", str(tmp_path / "run"), "--replay", "3", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["replay"]["mismatches"]
    assert {mismatch["rule"] for mismatch in found} == {"votes"}
