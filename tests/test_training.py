"""Training: objectives against numpy, determinism, schedules, failure."""

import copy
import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import smoothing.training
from smoothing import Gaussian, Laplace, Uniform
from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import ClassifierError, InvalidArgumentError
from smoothing.training import (
    OBJECTIVES,
    Batch,
    CropFlip,
    EpochDone,
    EpochStarted,
    Event,
    NoiseAugmentation,
    Objective,
    StepDone,
    Trainer,
    TrainingConfig,
    TrainingError,
    accuracy,
    make_objective,
)
from smoothing.training.batches import BatchSource
from smoothing.training.objective import NOISY_ACCURACY, Model, add_noise
from smoothing.training.optimizers import OPTIMIZERS
from smoothing.training.schedules import SCHEDULES, ScheduleLength, make_scheduler

CPU = torch.device("cpu")
LAWS = (Gaussian((3, 4), sigma=0.7), Laplace((3, 4), sigma=0.7), Uniform((3, 4), half_width=0.9))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(inputs: int, classes: int, seed: int = 0, scale: float = 0.3) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed + number)) * scale)
    return model


def blobs(n: int = 96, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Three classes of 1x4x4 images: one bright row each, and a little noise; float in [0, 1]."""
    labels = torch.arange(n) % 3
    images = torch.rand((n, 1, 4, 4), generator=seeded(seed)) * 0.2
    images[torch.arange(n), 0, labels] += 0.8
    return images, labels


def run(trainer: Trainer, images: Tensor, labels: Tensor) -> list[Event]:
    return list(trainer.fit(images, labels))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# --- objectives ---


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_noise_augmentation_is_the_cross_entropy_of_noisy_inputs(law: SmoothingDistribution) -> None:
    x = torch.rand((7, 3, 4), generator=seeded(1))
    y = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    model = linear(12, 5)
    loss, metrics = NoiseAugmentation()(model, Batch(x, y, torch.arange(7), 0), law, seeded(2))

    noise = law.sample(7, generator=seeded(2)).double().numpy()
    matrix, bias = (p.detach().double().numpy() for p in model.parameters())
    logits = (x.double().numpy() + noise).reshape(7, 12) @ matrix.T + bias
    shifted = logits - logits.max(1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    assert float(loss.detach()) == pytest.approx(-log_softmax[np.arange(7), y.numpy()].mean(), rel=1e-5)
    assert float(metrics[NOISY_ACCURACY]) == pytest.approx((logits.argmax(1) == y.numpy()).mean())

    # The gradient too: (softmax - one-hot)^T (x + z) / batch.
    loss.backward()
    residual = np.exp(log_softmax)
    residual[np.arange(7), y.numpy()] -= 1
    expected = residual.T @ (x.double().numpy() + noise).reshape(7, 12) / 7
    gradient = next(model.parameters()).grad
    assert gradient is not None
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_every_row_gets_its_own_noise() -> None:
    noise = add_noise(torch.zeros(64, 3, 4), LAWS[0], seeded())
    assert len(torch.unique(noise.flatten(1), dim=0)) == 64
    # 768 normal values: the sample deviation is within 25 % of sigma with a failure rate far below 1e-6.
    assert 0.75 * 0.7 < float(noise.std()) < 1.25 * 0.7


def test_the_table_lists_every_objective() -> None:
    for module in pkgutil.iter_modules(smoothing.training.__path__):
        importlib.import_module(f"smoothing.training.{module.name}")

    def subclasses(base: type) -> Iterator[type]:
        for child in base.__subclasses__():
            yield child
            yield from subclasses(child)

    concrete = {c for c in subclasses(Objective) if not inspect.isabstract(c) and c.__module__.startswith("smoothing.")}
    assert concrete == set(OBJECTIVES.values())
    assert all(objective.name == name for name, objective in OBJECTIVES.items())


def test_make_objective() -> None:
    assert make_objective("gaussian") == NoiseAugmentation()
    assert make_objective("gaussian").describe() == {"name": "gaussian", "parameters": {}}
    with pytest.raises(InvalidArgumentError, match=r"objective must be one of gaussian.*got objective='macr'"):
        make_objective("macr")
    with pytest.raises(InvalidArgumentError, match=r"objective gaussian takes no parameters, got weight=2"):
        make_objective("gaussian", weight=2, other=None)


# --- schedules and optimisers ---


def rates(scheduler_of: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = scheduler_of(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("name", "reference", "offset"),
    [
        (
            "onecycle",
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, 57, pct_start=0.3, cycle_momentum=False),
            0,
        ),
        ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 57), 0),
        ("step", lambda o: torch.optim.lr_scheduler.StepLR(o, 2 * 19, 0.2), 0),
    ],
)
def test_schedules_are_those_of_torch(name: str, reference: Any, offset: int) -> None:
    length = ScheduleLength(steps_per_epoch=19, epochs=3, warmup=0.3, decay_epochs=2, decay_factor=0.2)
    ours = [SCHEDULES[name](step, length) for step in range(57)]
    # torch's one-cycle scheduler ends with its last step and refuses to be asked for more.
    assert ours[:56] == pytest.approx(rates(reference, 56), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_schedules_of_short_trainings_stay_in_range(name: str, warmup: float, steps: int) -> None:
    length = ScheduleLength(1, steps, warmup, decay_epochs=1, decay_factor=0.1)
    factors = [SCHEDULES[name](step, length) for step in range(steps)]
    assert all(0.0 < factor <= 1.0 for factor in factors)
    assert max(factors) == 1.0 or (name == "onecycle" and warmup * steps > 1)
    # The scheduler goes one step beyond the last one.
    rates(lambda optimizer: make_scheduler(name, optimizer, length), steps)


def test_the_published_step_schedule_follows_from_the_defaults() -> None:
    length = TrainingConfig(epochs=90, schedule="step").schedule_length(100)
    factors = [SCHEDULES["step"](epoch * 100, length) for epoch in (0, 29, 30, 59, 60, 89)]
    assert factors == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_the_first_steps_are_those_of_sgd_with_momentum_and_decay() -> None:
    images, labels = blobs(12)
    config = TrainingConfig(
        epochs=2,
        batch_size=12,
        learning_rate=0.5,
        momentum=0.8,
        nesterov=True,
        weight_decay=0.01,
        schedule="cosine",
        report_seconds=0.0,
    )
    law = Gaussian((1, 4, 4), sigma=0.1)
    model = linear(16, 3)
    reference = copy.deepcopy(model)
    trainer = Trainer(model, law, Plain(), config)
    events = [event for event in run(trainer, images, labels) if isinstance(event, StepDone)]
    buffers = [torch.zeros_like(p) for p in reference.parameters()]
    for step, event in enumerate(events):
        rate = 0.5 * 0.5 * (1 + math.cos(math.pi * step / 2))
        assert event.learning_rate == pytest.approx(rate)
        loss = nn.functional.cross_entropy(reference(images), labels)
        assert event.loss == pytest.approx(float(loss.detach()), rel=1e-5)
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for parameter, gradient, buffer in zip(reference.parameters(), gradients, buffers, strict=True):
                decayed = gradient + 0.01 * parameter
                buffer.mul_(0.8).add_(decayed)
                parameter.sub_(rate * (decayed + 0.8 * buffer))
    assert len(events) == 2
    torch.testing.assert_close(weights(model), weights(reference), rtol=1e-5, atol=1e-6)


@dataclass(frozen=True)
class Plain(Objective):
    """Cross-entropy without noise."""

    name: ClassVar[str] = "plain"

    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        scores = model(batch.x)
        return nn.functional.cross_entropy(scores, batch.y), {
            NOISY_ACCURACY: (scores.argmax(1) == batch.y).float().mean()
        }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns(optimizer: str) -> None:
    images, labels = blobs()
    law = Gaussian((1, 4, 4), sigma=0.25)
    config = TrainingConfig(epochs=15, batch_size=16, optimizer=optimizer, learning_rate=0.1)
    events = run(Trainer(linear(16, 3), law, NoiseAugmentation(), config), images, labels)
    first, last = (event for event in (events[2], events[-1]) if isinstance(event, StepDone | EpochDone))
    assert last.loss < 0.5 * first.loss
    assert last.noisy_accuracy > 0.85


# --- the trainer ---


class Recorder(nn.Module):
    """A linear model that keeps every input that it is given in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear(16, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x.detach().clone())
        scores: Tensor = self.inner(x)
        return scores


def test_no_two_steps_see_the_same_noise() -> None:
    model = Recorder()
    config = TrainingConfig(epochs=4, batch_size=8)
    law = Gaussian((1, 4, 4), sigma=0.5)
    run(Trainer(model, law, NoiseAugmentation(), config), torch.zeros(20, 1, 4, 4), torch.arange(20) % 3)
    noise = torch.cat(model.seen).flatten(1)
    assert [len(batch) for batch in model.seen] == [7, 7, 6] * 4
    assert len(torch.unique(noise, dim=0)) == 80
    # 1,280 values: each bound is more than five standard errors away.
    assert abs(float(noise.mean())) < 5.5 * 0.5 / math.sqrt(1280)
    assert abs(float(noise.std()) / 0.5 - 1) < 5.5 / math.sqrt(2 * 1280)


def train_once(seed: int, report_seconds: float = 0.5, dropout: bool = True) -> Tensor:
    images, labels = blobs()
    layers: list[nn.Module] = [linear(16, 8), nn.ReLU()]
    model = nn.Sequential(*layers, *([nn.Dropout(0.5)] if dropout else []), linear(8, 3, seed=9))
    config = TrainingConfig(epochs=2, batch_size=32, seed=seed, report_seconds=report_seconds)
    law = Gaussian((1, 4, 4), sigma=0.5)
    run(Trainer(model, law, NoiseAugmentation(), config, transform=CropFlip(1)), images, labels)
    return weights(model)


def test_a_training_is_a_function_of_its_seed() -> None:
    first = train_once(3)
    torch.rand(5)  # whatever the program around it draws
    assert torch.equal(first, train_once(3))
    assert torch.equal(first, train_once(3, report_seconds=0.0))  # nor does it matter how often it is looked at
    assert not torch.equal(first, train_once(4))
    assert not torch.equal(train_once(3, dropout=False), train_once(4, dropout=False))


def test_global_random_state_is_left_alone() -> None:
    images, labels = blobs()
    model = nn.Sequential(linear(16, 8), nn.Dropout(0.5), linear(8, 3))
    before = torch.get_rng_state()
    for _ in Trainer(model, Gaussian((1, 4, 4), sigma=0.5), NoiseAugmentation(), TrainingConfig(2)).fit(images, labels):
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(before, torch.get_rng_state())


def test_events_tell_the_whole_story() -> None:
    images, labels = blobs(50)
    config = TrainingConfig(epochs=2, batch_size=16, report_seconds=0.0)
    trainer = Trainer(linear(16, 3), Gaussian((1, 4, 4), sigma=0.5), NoiseAugmentation(), config)
    events = run(trainer, images, labels)
    assert [type(event) for event in events] == [EpochStarted, *[StepDone] * 4, EpochDone] * 2
    assert events[0] == EpochStarted(0, 2, 4, 50)
    steps = [event for event in events if isinstance(event, StepDone) and event.epoch == 1]
    assert [(event.step, event.steps, event.images) for event in steps] == [
        (1, 4, 13),
        (2, 4, 26),
        (3, 4, 38),
        (4, 4, 50),
    ]
    done = events[-1]
    assert isinstance(done, EpochDone)
    sizes = np.array([13, 13, 12, 12])
    for name in ("loss", "noisy_accuracy"):
        assert getattr(done, name) == pytest.approx(np.dot([getattr(e, name) for e in steps], sizes) / 50)
    assert done.metrics == pytest.approx({"loss": done.loss, "noisy_accuracy": done.noisy_accuracy})
    assert done.learning_rate == steps[-1].learning_rate
    assert done.images_per_second == pytest.approx(50 / done.seconds)


def test_steps_wait_for_the_device_only_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def watched(name: str) -> Any:
        original = getattr(Tensor, name)

        def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.device.type == "cpu" and self.dtype != torch.uint8:
                reads.append(name)
            return original(self, *args, **kwargs)

        return method

    images, labels = blobs()
    config = TrainingConfig(epochs=1, batch_size=4, report_seconds=1e9)
    trainer = Trainer(linear(16, 3), Gaussian((1, 4, 4), sigma=0.5), NoiseAugmentation(), config)
    events = trainer.fit(images, labels)
    next(events)
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(Tensor, name, watched(name))
    done = next(events)
    assert isinstance(done, StepDone)
    assert done.step == 24
    assert reads == ["tolist"]


@dataclass(frozen=True)
class Breaking(Objective):
    """Noise augmentation whose loss is `value` from the given step of the given epoch on."""

    epoch: int
    step: int
    value: float
    calls: list[int]
    name: ClassVar[str] = "breaking"

    def __call__(
        self, model: Model, batch: Batch, law: SmoothingDistribution, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = NoiseAugmentation()(model, batch, law, generator)
        self.calls.append(batch.epoch)
        broken = self.calls.count(self.epoch) > self.step
        return loss * (self.value if broken else 1.0), metrics


@pytest.mark.parametrize("report_seconds", [0.0, 1e9])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverging_loss_stops_the_training(value: float, report_seconds: float) -> None:
    images, labels = blobs()
    config = TrainingConfig(epochs=3, batch_size=32, report_seconds=report_seconds, learning_rate=0.25)
    model = linear(16, 3).eval()
    trainer = Trainer(model, Gaussian((1, 4, 4), sigma=0.5), Breaking(1, 2, value, []), config)
    with pytest.raises(
        TrainingError, match=rf"loss became {value} in epoch 2 of 3, step 3; lower the learning rate"
    ) as e:
        run(trainer, images, labels)
    assert (e.value.epoch, e.value.step) == (1, 2)
    assert repr(e.value.value) == repr(value)
    assert not model.training


def test_weights_that_break_in_the_last_step_stop_the_training() -> None:
    class Exploding(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * math.inf

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = Exploding.apply(self.inner(x))
            return scores

    images, labels = blobs()
    trainer = Trainer(Model(), Gaussian((1, 4, 4), sigma=0.5), NoiseAugmentation(), TrainingConfig(1, batch_size=96))
    with pytest.raises(TrainingError, match="a weight became"):
        run(trainer, images, labels)


def test_training_flags_are_restored() -> None:
    images, labels = blobs()
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3)).eval()
    trainer = Trainer(model, Gaussian((1, 4, 4), sigma=0.5), NoiseAugmentation(), TrainingConfig(3, batch_size=32))
    events = trainer.fit(images, labels)
    next(events)
    next(events)
    assert model.training
    assert all(module.training for module in model)
    accuracy(model, images, labels)  # evaluation between events does not disturb
    assert model.training
    events.close()  # type: ignore[attr-defined]
    assert not model.training
    assert not any(module.training for module in model)


@pytest.mark.parametrize("setting", [{"precision": "bf16"}, {"channels_last": True}, {"batch_size": 1}])
def test_arithmetic_settings_train_the_same_network(setting: dict[str, Any]) -> None:
    images, labels = blobs(24)
    law = Gaussian((1, 4, 4), sigma=0.25)
    base = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(3)) * 0.2)
    results = []
    for changes in ({}, setting):
        model = copy.deepcopy(base)
        config = replace(TrainingConfig(epochs=8, batch_size=8, learning_rate=0.1), **changes)
        run(Trainer(model, law, NoiseAugmentation(), config), images, labels)
        results.append(weights(model))
        assert accuracy(model, images, labels, law, copies=10) > 0.85
    if "batch_size" not in setting:
        assert float((results[0] - results[1]).abs().max()) < 0.1


BAD_CONFIGS = [
    ({"epochs": 0}, "epochs must be an integer of at least 1, got epochs=0"),
    ({"epochs": True}, "epochs must be an integer"),
    ({"batch_size": -3}, "batch_size must be an integer of at least 1, got batch_size=-3"),
    ({"decay_epochs": 0}, "decay_epochs must be an integer of at least 1"),
    ({"learning_rate": 0.0}, r"learning_rate must be positive and finite, got learning_rate=0\.0"),
    ({"learning_rate": math.nan}, "learning_rate must be positive and finite, got learning_rate=nan"),
    ({"learning_rate": math.inf}, "learning_rate must be positive"),
    ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
    ({"momentum": 0.0}, "momentum must be positive with nesterov"),
    ({"weight_decay": -1e-4}, "weight_decay must be at least 0"),
    ({"warmup": 1.0}, r"warmup must be in \[0, 1\)"),
    ({"decay_factor": 0.0}, r"decay_factor must be in \(0, 1\]"),
    ({"report_seconds": -1.0}, "report_seconds must be at least 0"),
    ({"optimizer": "lbfgs"}, "optimizer must be one of sgd, adam, got optimizer='lbfgs'"),
    ({"schedule": "linear"}, "schedule must be one of onecycle, step, cosine, got schedule='linear'"),
    ({"precision": "fp16"}, "precision must be one of fp32, bf16, got precision='fp16'"),
    ({"seed": -1}, "seed must be an integer"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_CONFIGS)
def test_config_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        TrainingConfig(**arguments)


def test_fit_refuses_what_does_not_fit() -> None:
    images, labels = blobs(12)
    law, config = Gaussian((1, 4, 4), sigma=0.5), TrainingConfig(1)
    trainer = Trainer(linear(16, 3), law, NoiseAugmentation(), config)
    with pytest.raises(InvalidArgumentError, match=r"images must have the law's shape \(1, 4, 4\), got \(4, 4\)"):
        trainer.fit(images[:, 0], labels)
    with pytest.raises(InvalidArgumentError, match="at least one image"):
        trainer.fit(images[:0], labels[:0])
    with pytest.raises(InvalidArgumentError, match=r"labels must be one per image, got \(11,\) for 12 images"):
        trainer.fit(images, labels[1:])
    with pytest.raises(InvalidArgumentError, match="class numbers from 0, got -1"):
        trainer.fit(images, labels - 1)
    with pytest.raises(InvalidArgumentError, match=r"labels must be in 0\.\.2, the classes of the model, got 3"):
        trainer.fit(images, labels + 1)
    with pytest.raises(ClassifierError, match=r"failed on a batch of shape \(2, 1, 4, 4\)"):
        Trainer(linear(15, 3), law, NoiseAugmentation(), config).fit(images, labels)
    with pytest.raises(
        ClassifierError, match=r"must return scores \[batch, classes\], got torch.float32 \(2, 1, 4, 4\)"
    ):
        Trainer(nn.Sequential(nn.Conv2d(1, 1, 1)), law, NoiseAugmentation(), config).fit(images, labels)
    with pytest.raises(InvalidArgumentError, match="must have parameters that require a gradient"):
        Trainer(nn.Flatten(), law, NoiseAugmentation(), config)


# --- batches, augmentation, evaluation ---


def test_an_epoch_holds_every_example_once() -> None:
    images = torch.arange(23, dtype=torch.uint8).reshape(23, 1)
    source = BatchSource(images, torch.arange(23), batch_size=5, device=CPU, seed=1)
    orders = []
    for epoch in range(2):
        batches = list(source.epoch(epoch))
        assert [len(batch.y) for batch in batches] == [5, 5, 5, 4, 4]
        order = torch.cat([batch.index for batch in batches])
        assert sorted(order.tolist()) == list(range(23))
        assert torch.equal(torch.cat([batch.y for batch in batches]), order)
        assert torch.equal(torch.cat([batch.x for batch in batches]), (order / 255).unsqueeze(1))
        assert all(batch.epoch == epoch for batch in batches)
        orders.append(order)
    assert not torch.equal(*orders)
    assert torch.equal(orders[0], torch.cat([batch.index for batch in source.epoch(0)]))


def test_crop_flip_moves_and_mirrors() -> None:
    x = torch.rand((200, 2, 6, 5), generator=seeded(1)) + 0.5  # never 0, so that padding is seen
    out = CropFlip(2)(x, seeded(2))
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    seen = set()
    for image, result in zip(padded, out, strict=True):
        windows = {(top, left): image[:, top : top + 6, left : left + 5] for top in range(5) for left in range(5)}
        found = [(*place, False) for place, window in windows.items() if torch.equal(result, window)]
        found += [(*place, True) for place, window in windows.items() if torch.equal(result, window.flip(2))]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 40  # of 50; 200 draws leave 10 unseen with a probability far below 1e-6
    assert torch.equal(CropFlip(0, flip=False)(x, seeded()), x)
    with pytest.raises(InvalidArgumentError, match="padding must be at least 0"):
        CropFlip(-1)


def test_accuracy_counts() -> None:
    class Odd(nn.Module):
        """Label 1 above 0.5; NaN at exactly 1."""

        def forward(self, x: Tensor) -> Tensor:
            score = x.flatten(1).sum(1)
            scores = torch.stack([0.5 - score, score - 0.5], 1)
            return torch.where(score[:, None] == 1.0, torch.nan, scores)

    images = torch.tensor([[0.1], [0.2], [0.9], [1.0]])
    labels = torch.tensor([0, 1, 1, 1])
    assert accuracy(Odd(), images, labels, batch_size=3) == 0.5
    law = Uniform((1,), half_width=0.35)
    # P(0.2 + z > 0.5) = 1/14; the other two of the first three never change.
    found = accuracy(Odd(), images[:3], labels[:3], law, copies=2000)
    assert abs(found - (2 + 1 / 14) / 3) < 5.5 * math.sqrt(1 / 14 / 2000) / 3
    assert accuracy(Odd(), images, labels, law, seed=1) == accuracy(Odd(), images, labels, law, seed=1, copies=1)
    with pytest.raises(InvalidArgumentError, match="copies must be at least 1"):
        accuracy(Odd(), images, labels, law, copies=0)
