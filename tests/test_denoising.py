"""Training of denoisers: losses against numpy, frozen classifiers stay frozen, and the pair beats no denoiser."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.datasets import load_dataset
from certify.models.architectures import build_architecture
from denoisers import DenoisedClassifier, DnCNN, UNet
from denoisers.training import (
    DENOISING_OBJECTIVES,
    DenoisingObjective,
    DenoisingTask,
    MeanSquaredError,
    Stability,
    make_denoising_objective,
)
from smoothing import Gaussian, SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.training import Trainer, TrainingConfig
from smoothing.training.objective import Batch

SHAPE = (1, 8, 8)
LAW = Gaussian(SHAPE, sigma=0.5)


def classifier(seed: int) -> nn.Module:
    return build_architecture("mlp", num_classes=10, input_shape=SHAPE, seed=seed)


def batch(n: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.rand(n, *SHAPE, generator=generator), torch.arange(n) % 10, torch.arange(n), 0)


def noise_of(n: int) -> Tensor:
    return LAW.sample(n, generator=torch.Generator().manual_seed(7))


def cross_entropy(scores: Any, labels: Any) -> float:
    shifted = scores - scores.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-logs[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize("name", DENOISING_OBJECTIVES)
@pytest.mark.parametrize("turns", [1, 2])
def test_losses_against_numpy(name: str, turns: int) -> None:
    torch.manual_seed(0)
    networks = [classifier(seed).eval() for seed in (1, 2)]
    task = DenoisingTask(DnCNN(1, depth=3, width=4).eval(), networks, 0.5)
    examples = batch()
    objective = make_denoising_objective(name, task)
    for _ in range(turns):
        loss, metrics = objective(task, examples, LAW, torch.Generator().manual_seed(7))
    asked = networks[turns % 2]
    with torch.no_grad():
        estimate = task.denoiser(examples.x + noise_of(6), 0.5)
        scores = asked(estimate).double().numpy()
        own = asked(examples.x).argmax(1).numpy()
    error = float(np.mean((estimate.double().numpy() - examples.x.numpy()) ** 2))
    expected = {
        "mse": error,
        "stability": cross_entropy(scores, own),
        "classification": cross_entropy(scores, examples.y.numpy()),
    }[name]
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["squared_error"]) == pytest.approx(error, rel=1e-5)
    assert float(metrics["noisy_accuracy"]) == pytest.approx(float(np.mean(scores.argmax(1) == examples.y.numpy())))


def test_stability_with_squared_error() -> None:
    torch.manual_seed(0)
    task = DenoisingTask(DnCNN(1, depth=3, width=4).eval(), [classifier(1)], 0.5)

    def loss(objective: DenoisingObjective) -> float:
        return float(objective(task, batch(), LAW, torch.Generator().manual_seed(7))[0].detach())

    both = loss(Stability(task, mse_weight=3.0))
    assert both == pytest.approx(loss(Stability(task)) + 3 * loss(MeanSquaredError(task)), rel=1e-5)


def fit(task: DenoisingTask, name: str, *, epochs: int, images: Tensor, labels: Tensor) -> Trainer:
    config = TrainingConfig(epochs=epochs, batch_size=64, optimizer="adam", learning_rate=1e-2, weight_decay=0.0)
    trainer = Trainer(task, LAW, make_denoising_objective(name, task), config)
    for _ in trainer.fit(images, labels):
        pass
    return trainer


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_dataset("digits", split="train")
    everything = range(len(data))
    return data.inputs(everything), torch.from_numpy(data.labels(everything))


@pytest.fixture(scope="module")
def plain(digits: tuple[Tensor, Tensor]) -> nn.Module:
    """A classifier trained without any noise."""
    network = classifier(0)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for epoch in range(15):
        order = torch.randperm(len(digits[0]), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(64):
            loss = F.cross_entropy(network(digits[0][rows]), digits[1][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def noisy_accuracy(model: Callable[[Tensor], Tensor], digits: tuple[Tensor, Tensor]) -> float:
    noise = LAW.sample(len(digits[0]), generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        return float((model(digits[0] + noise).argmax(1) == digits[1]).float().mean())


@pytest.mark.parametrize("name", DENOISING_OBJECTIVES)
def test_a_denoiser_lets_a_plain_classifier_stand_noise(
    name: str, plain: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    torch.manual_seed(0)
    before = copy.deepcopy(plain.state_dict())
    task = DenoisingTask(UNet(1, width=8, levels=2), [plain], 0.5)
    fit(task, name, epochs=5, images=digits[0], labels=digits[1])
    pair = DenoisedClassifier(task.denoiser.eval(), plain, 0.5)
    assert noisy_accuracy(pair, digits) > noisy_accuracy(plain, digits) + 0.03
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    assert not plain.training


def test_interrupted_training_goes_on_with_the_same_surrogate(digits: tuple[Tensor, Tensor]) -> None:
    networks = [classifier(seed) for seed in (1, 2, 3)]

    def task() -> DenoisingTask:
        torch.manual_seed(0)
        return DenoisingTask(DnCNN(1, depth=3, width=4), networks, 0.5)

    images, labels = (
        digits[0][:300],
        digits[1][:300],
    )  # 5 batches an epoch: an epoch does not end with the first surrogate
    whole = task()
    fit(whole, "stability", epochs=2, images=images, labels=labels)
    config = TrainingConfig(epochs=2, batch_size=64, optimizer="adam", learning_rate=1e-2, weight_decay=0.0)
    first = task()
    halted = Trainer(first, LAW, Stability(first), config)
    events = halted.fit(images, labels)
    while type(next(events)).__name__ != "EpochDone":
        pass
    state = halted.state_dict()
    events.close()
    second = task()
    resumed = Trainer(second, LAW, Stability(second), config)
    resumed.load_state_dict(state)
    for _ in resumed.fit(images, labels):
        pass
    for key, value in whole.denoiser.state_dict().items():
        assert torch.equal(value, second.denoiser.state_dict()[key]), key


def test_without_a_classifier_there_is_only_the_squared_error(digits: tuple[Tensor, Tensor]) -> None:
    task = DenoisingTask(DnCNN(1, depth=3, width=4), [], 0.5)
    loss, metrics = MeanSquaredError(task)(task, batch(), LAW, torch.Generator().manual_seed(7))
    assert math.isfinite(float(loss.detach()))
    assert math.isnan(float(metrics["noisy_accuracy"]))
    for name in set(DENOISING_OBJECTIVES) - {"mse"}:
        with pytest.raises(InvalidArgumentError, match="give a classifier, or surrogates"):
            make_denoising_objective(name, task)
    with pytest.raises(InvalidArgumentError, match="objective must be one of mse, stability, classification, got"):
        make_denoising_objective("l1", task)
    with pytest.raises(InvalidArgumentError, match="sigma must be positive"):
        DenoisingTask(DnCNN(1, depth=3, width=4), [], 0.0)


def test_every_objective_is_in_the_table() -> None:
    assert set(DENOISING_OBJECTIVES.values()) == set(DenoisingObjective.__subclasses__())
    assert isinstance(LAW, SmoothingDistribution)
