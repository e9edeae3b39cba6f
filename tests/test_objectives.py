"""Every objective against an independent numpy evaluation of its formula, finite differences and mutations of its code."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from scipy.special import log_softmax, logsumexp, ndtri, softmax, xlogy
from torch import Tensor, nn

from smoothing import Gaussian, Laplace, Uniform
from smoothing.attacks import exact_length
from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm
from smoothing.training import (
    OBJECTIVES,
    Batch,
    CatRS,
    Consistency,
    Direct,
    Macer,
    NoiseAugmentation,
    Objective,
    SmoothAdv,
    SmoothMix,
    Stability,
    Trainer,
    TrainingConfig,
    describe_parameters,
    make_objective,
    parse_parameters,
)
from smoothing.training.objective import NOISY_ACCURACY

ROWS, CLASSES, SHAPE, SIZE = 9, 4, (2, 3), 6
SEED = 11


def seeded(seed: int = SEED) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """f(x) = W x + b in float64, so that numpy and torch agree to many digits."""

    def __init__(self, scale: float = 1.5) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn((CLASSES, SIZE), generator=seeded(1), dtype=torch.float64) * scale)
        self.bias = nn.Parameter(torch.randn(CLASSES, generator=seeded(2), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).double() @ self.matrix.T + self.bias


@dataclass
class Setting:
    """One step: a model, a batch, a law."""

    model: Linear
    batch: Batch
    law: SmoothingDistribution

    @property
    def weights(self) -> tuple[ndarray, ndarray]:
        return self.model.matrix.detach().numpy(), self.model.bias.detach().numpy()

    @property
    def x(self) -> ndarray:
        return self.batch.x.numpy().reshape(ROWS, SIZE)

    @property
    def y(self) -> ndarray:
        return self.batch.y.numpy()

    def noise(self, m: int, generator: torch.Generator | None = None) -> ndarray:
        drawn = self.law.sample(m * ROWS, generator=generator or seeded(), dtype=torch.float64)
        return drawn.numpy().reshape(m, ROWS, SIZE)

    def logits(self, points: ndarray) -> ndarray:
        matrix, bias = self.weights
        return points @ matrix.T + bias


def setting(law: SmoothingDistribution | None = None, *, epoch: int = 20, weight: bool = True) -> Setting:
    x = torch.rand((ROWS, *SHAPE), generator=seeded(3), dtype=torch.float64)
    model = Linear()
    with torch.no_grad():
        y = model(x).argmax(1)  # mostly right, so that terms for right predictions count
    y[2] = (y[2] + 1) % CLASSES
    prediction = torch.rand((ROWS, CLASSES), generator=seeded(4))
    prediction[:, 0] = 0.0  # shares of votes hold zeros
    prediction[torch.arange(ROWS), y] += torch.tensor([0.5, 400.0, 4.0]).repeat(ROWS // 3)
    prediction = prediction / prediction.sum(1, keepdim=True)
    weights = torch.linspace(0.2, 1.8, ROWS) if weight else None
    law = law or Gaussian(SHAPE, sigma=0.5)
    return Setting(model, Batch(x, y, torch.arange(ROWS), epoch, weights, prediction), law)


# --- the formulas, in numpy ---


def pick(values: ndarray, y: ndarray) -> ndarray:
    """The label's entry in the last axis; rows are the last but one."""
    return np.take_along_axis(values, np.broadcast_to(y[..., None], (*values.shape[:-1], 1)), -1)[..., 0]


def xent(logits: ndarray, y: ndarray) -> ndarray:
    return -pick(log_softmax(logits, axis=-1), y)


def kl(p: ndarray, q: ndarray) -> ndarray:
    return (xlogy(p, p) - xlogy(p, q)).sum(-1)


def mean_softmax(s: Setting, points: ndarray, noise: ndarray) -> ndarray:
    return softmax(s.logits(points + noise), axis=-1).mean(0)


def smoothed_gradient(s: Setting, points: ndarray, noise: ndarray) -> ndarray:
    """Gradient of -log mean_i softmax_y(W (x + z_i) + b): -(1 / F_y) mean_i F_iy (W_y - sum_c F_ic W_c)."""
    matrix, _ = s.weights
    probabilities = softmax(s.logits(points + noise), axis=-1)
    mine = pick(probabilities, s.y)[..., None]
    slope = mine * (matrix[s.y] - probabilities @ matrix)
    return -slope.mean(0) / mine.mean(0)


def unit(v: ndarray) -> ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def shorten(v: ndarray, radius: float) -> ndarray:
    return v * np.minimum(1.0, radius / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-300))


def gaussian(s: Setting, o: NoiseAugmentation) -> ndarray:
    return xent(s.logits(s.x + s.noise(1)[0]), s.y)


def stability(s: Setting, o: Stability) -> ndarray:
    clean, noisy = s.logits(s.x), s.logits(s.x + s.noise(1)[0])
    target = softmax(clean, axis=-1)
    apart = {
        "cross-entropy": -(target * log_softmax(noisy, axis=-1)).sum(-1),
        "kl": kl(target, softmax(noisy, axis=-1)),
    }
    return xent(clean, s.y) + o.weight * apart[o.form]


def consistency(s: Setting, o: Consistency) -> ndarray:
    logits = s.logits(s.x + s.noise(o.m))
    return xent(logits, s.y).mean(0) + penalty(logits, o.weight, o.entropy)


def penalty(logits: ndarray, weight: float, entropy: float) -> ndarray:
    each = softmax(logits, axis=-1)
    mean = each.mean(0)
    return weight * sum(kl(mean, one) for one in each) / len(each) - entropy * xlogy(mean, mean).sum(-1)


def direct(s: Setting, o: Direct) -> ndarray:
    return -np.log(pick(mean_softmax(s, s.x, s.noise(o.m)), s.y))


def smoothadv(s: Setting, o: SmoothAdv) -> ndarray:
    noise = s.noise(o.m)
    eps = o.eps * min(1.0, (s.batch.epoch + 1) / o.warmup) if o.warmup else o.eps
    moved = s.x
    for _ in range(o.steps):
        gradient = smoothed_gradient(s, moved, noise)
        if o.norm == "l2":
            moved = s.x + shorten(moved + 2 * eps / o.steps * unit(gradient) - s.x, eps)
        else:
            moved = s.x + np.clip(moved + 2 * eps / o.steps * np.sign(gradient) - s.x, -eps, eps)
        moved = np.clip(moved, 0, 1)
    logits = s.logits(moved + (noise if o.multi_noise else noise[:1]))
    loss = xent(logits, s.y).mean(0)
    return loss + penalty(logits, o.consistency, o.entropy) if o.consistency else loss


def macer(s: Setting, o: Macer) -> ndarray:
    logits = s.logits(s.x + s.noise(o.m))
    loss = -np.log(pick(softmax(logits, axis=-1).mean(0), s.y))
    if s.batch.epoch < o.defer:
        return loss
    votes = softmax(o.beta * logits, axis=-1).mean(0)
    ordered = np.sort(votes, axis=-1)
    xi = ndtri(ordered[:, -1]) - ndtri(ordered[:, -2])
    counted = (votes.argmax(-1) == s.y) & (np.abs(xi) <= o.margin)
    assert 0 < counted.sum() < ROWS
    assert s.law.sigma is not None
    return loss + np.where(counted, o.weight * s.law.sigma / 2 * (o.margin - xi), 0.0)


def smoothmix(s: Setting, o: SmoothMix) -> ndarray:
    generator = seeded()
    noise = s.noise(o.m, generator)
    share = torch.rand(ROWS, generator=generator).double().numpy()[:, None] / 2
    ramp = min(1.0, (s.batch.epoch + 1) / o.warmup) if o.warmup else 1.0
    far, clean = s.x, s.x
    for step in range(o.steps):
        far = np.clip(far + o.step_size * unit(smoothed_gradient(s, far, noise)), 0, 1)
        if step == 0 and o.one_step:
            clean = s.x + shorten(far - s.x, o.step_size * ramp)
    logits = s.logits(clean + noise)
    mean = softmax(logits, axis=-1).mean(0)
    target = (1 - share) * mean + share / CLASSES
    mixed = softmax(s.logits((1 - share) * clean + share * far + noise), axis=-1)
    mixing = sum(kl(target, one) for one in mixed) / o.m
    assert 0 < (mean.argmax(-1) == s.y).sum() < ROWS
    return xent(logits, s.y).mean(0) + o.eta * ramp * (mean.argmax(-1) == s.y) * mixing


def catrs(s: Setting, o: CatRS) -> ndarray:
    generator = seeded()
    noise = s.noise(o.m, generator)
    chances = torch.rand((o.m, ROWS), generator=generator).numpy()
    assert s.batch.prediction is not None
    p = s.batch.prediction.double().numpy()
    logits = s.logits(s.x + noise)
    confidence = (logits.argmax(-1) == s.y).mean(0) if o.confidence == "model" else pick(p, s.y)
    accepted = np.maximum((chances < confidence).sum(0), 1)
    assert {int(a) for a in accepted} & set(range(1, o.m))
    assert (accepted == o.m).any()
    ordered = np.sort(xent(logits, s.y), axis=0)
    loss = np.array([ordered[:k, row].sum() / o.m for row, k in enumerate(accepted)])

    def moments(z: ndarray) -> tuple[ndarray, ndarray]:
        return z.mean(-1, keepdims=True), np.sqrt((z**2).mean(-1, keepdims=True))

    matrix, _ = s.weights
    mean, size = moments(noise)
    moved = noise
    for _ in range(o.steps):
        slope = (softmax(s.logits(s.x + moved), axis=-1) - p) @ matrix
        moved = noise + shorten(moved + 2 * o.eps / o.steps * unit(slope) - noise, o.eps)
        moved_mean, moved_size = moments(moved)
        moved = mean + (moved - moved_mean) / moved_size * size
    worst = np.max([kl(p, one) for one in softmax(s.logits(s.x + moved), axis=-1)], axis=0)
    return loss + o.weight * (accepted == o.m) * worst


CASES: list[tuple[Callable[..., ndarray], Objective]] = [
    (gaussian, NoiseAugmentation()),
    (stability, Stability(weight=1.7)),
    (stability, Stability(weight=1.7, form="kl")),
    (consistency, Consistency(m=3, weight=5.0, entropy=0.7)),
    (direct, Direct(m=5)),
    (smoothadv, SmoothAdv(m=3, steps=4, eps=0.6, warmup=0)),
    (smoothadv, SmoothAdv(m=3, steps=2, eps=0.2, norm="linf", warmup=50)),
    (smoothadv, SmoothAdv(m=3, steps=2, eps=0.6, warmup=30, multi_noise=False)),
    (smoothadv, SmoothAdv(m=4, steps=3, eps=0.6, consistency=1.5, entropy=0.4)),
    (macer, Macer(m=6, beta=2.0, weight=3.0, margin=1.8)),
    (macer, Macer(m=6, defer=21)),
    (smoothmix, SmoothMix(m=3, steps=3, step_size=0.4, warmup=30)),
    (smoothmix, SmoothMix(m=3, steps=2, step_size=0.4, one_step=True, warmup=30)),
    (catrs, CatRS(m=5, weight=2.0, eps=0.7, steps=3)),
    (catrs, CatRS(m=5, weight=2.0, eps=0.7, steps=2, confidence="prediction")),
]
ONLY_GAUSSIAN = (Macer, CatRS)


def name_of(value: Any) -> str:
    return f"{value.name}-{value.__class__.__name__}" if isinstance(value, Objective) else ""


@pytest.mark.parametrize(("oracle", "objective"), CASES, ids=name_of)
@pytest.mark.parametrize("weight", [False, True])
def test_losses_are_their_formulas(oracle: Callable[..., ndarray], objective: Objective, weight: bool) -> None:
    check_against(oracle, objective, setting(weight=weight))


def check_against(oracle: Callable[..., ndarray], objective: Objective, s: Setting) -> None:
    loss, metrics = objective(s.model, s.batch, s.law, seeded())
    expected = oracle(s, objective)
    if s.batch.weight is not None:
        expected = expected * s.batch.weight.numpy()
    assert float(loss.detach()) == pytest.approx(expected.mean(), rel=2e-6)
    assert loss.requires_grad
    assert not any(value.requires_grad for value in metrics.values())
    assert 0.0 <= float(metrics[NOISY_ACCURACY]) <= 1.0


@pytest.mark.parametrize(("oracle", "objective"), CASES, ids=name_of)
@pytest.mark.parametrize("law", [Laplace(SHAPE, sigma=0.4), Uniform(SHAPE, half_width=0.8)], ids=lambda law: law.name)
def test_every_law_trains_where_the_method_makes_sense(
    oracle: Callable[..., ndarray], objective: Objective, law: SmoothingDistribution
) -> None:
    if isinstance(objective, ONLY_GAUSSIAN):
        for call in (lambda: objective.check_law(law), lambda: Trainer(Linear(), law, objective, TrainingConfig(1))):
            with pytest.raises(InvalidArgumentError, match=f"objective {objective.name} needs gaussian noise"):
                call()
        return
    objective.check_law(law)
    s = setting(law)
    check_against(oracle, objective, s)


def test_all_objectives_are_tried() -> None:
    assert {type(objective) for _, objective in CASES} == set(OBJECTIVES.values())


# --- gradients ---


@pytest.mark.parametrize(("oracle", "objective"), CASES, ids=name_of)
def test_gradients_are_those_of_finite_differences(
    oracle: Callable[..., ndarray], objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the adversarial points held fixed: no gradient may flow into them, and none is missing elsewhere."""
    s = setting()
    for method in ("adversarial", "_adversary", "_move"):
        if hasattr(objective, method):
            points = getattr(objective, method)
            found: list[Any] = []

            def frozen(_self: Any, *args: Any, points: Any = points, found: list[Any] = found) -> Any:
                if not found:
                    found.append(points(*args))
                return found[0]

            monkeypatch.setattr(type(objective), method, frozen)
    loss, _ = objective(s.model, s.batch, s.law, seeded())
    loss.backward()
    gradient = s.model.matrix.grad
    assert gradient is not None
    step = 1e-6
    for row in range(CLASSES):
        for column in (0, 4):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    s.model.matrix[row, column] += sign * step
                    values.append(float(objective(s.model, s.batch, s.law, seeded())[0].detach()))
                    s.model.matrix[row, column] -= sign * step
            assert float(gradient[row, column]) == pytest.approx(
                (values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-7
            )


def test_saturated_networks_have_finite_gradients() -> None:
    for _, objective in CASES:
        for scale in (1e3, 1e5):
            s = setting()
            model = Linear(scale).float()
            loss, _ = objective(
                lambda x, model=model: model.matrix.float().matmul(x.flatten(1).float().T).T + model.bias.float(),
                replace(s.batch, x=s.batch.x.float()),
                s.law,
                seeded(),
            )
            loss.backward()
            gradient = model.matrix.grad
            assert bool(loss.isfinite()), objective
            assert gradient is not None
            assert bool(gradient.isfinite().all()), objective


# --- noise and passes ---


class Recorder(nn.Module):
    """A model that keeps its inputs and counts rows that pass through it, with and without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(SIZE, CLASSES)
        self.batch_norm = nn.BatchNorm1d(SIZE)
        self.seen: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        self.modes.append(self.training)
        scores: Tensor = self.inner(self.batch_norm(x.flatten(1)))
        return scores


@pytest.mark.parametrize(("_oracle", "objective"), CASES, ids=name_of)
def test_a_step_makes_the_passes_that_it_says(_oracle: Any, objective: Objective) -> None:
    s = setting()
    model = Recorder()
    objective(model, replace(s.batch, x=s.batch.x.float()), s.law, seeded())
    assert sum(len(x) for x in model.seen) == objective.passes * ROWS
    # Attacks look at the network in eval mode; the update happens in train mode.
    assert model.training
    assert model.modes[-1]
    attacked = isinstance(objective, SmoothAdv | SmoothMix | CatRS)
    assert (False in model.modes) == attacked


@pytest.mark.parametrize(
    "objective", [SmoothAdv(m=3, steps=2, warmup=0), SmoothAdv(m=3, attack="ddn", steps=4, warmup=0)]
)
def test_attack_and_update_share_their_noise_and_no_two_steps_do(objective: SmoothAdv) -> None:
    s = setting()
    generator = seeded()
    draws = []
    for _ in range(2):
        model = Recorder()
        batch = replace(s.batch, x=s.batch.x.float())
        objective(model, batch, s.law, generator)
        copies = [x.reshape(3, ROWS, *SHAPE) for x in model.seen]
        # Every pass sees x'_t + z_i: differences between the copies of a row are those of the noise, throughout.
        for later in copies[1:]:
            torch.testing.assert_close(later - later[:1], copies[0] - copies[0][:1], rtol=0, atol=1e-6)
        # The first pass is at x itself.
        noise = copies[0] - batch.x
        moved = copies[-1] - noise
        sizes = exact_length(moved[0], batch.x, Norm.L2)
        assert bool((sizes <= objective.eps + 1e-5).all())
        if objective.attack == "pgd":  # ddn stays where the network is wrong already
            assert bool((sizes > 0.05).all())
        torch.testing.assert_close(moved[0], moved[2], rtol=0, atol=1e-6)
        draws.append(noise)
    rows = torch.cat(draws).flatten(2).flatten(0, 1)
    assert len(torch.unique(rows, dim=0)) == 2 * 3 * ROWS
    assert float((draws[0] - draws[1]).abs().min()) > 0


@pytest.mark.parametrize("objective", [Consistency(m=4), Direct(m=4), Macer(m=4), SmoothMix(m=4), CatRS(m=4)])
def test_two_steps_see_different_noise(objective: Objective) -> None:
    s = setting()
    generator = seeded()
    rows = []
    for _ in range(2):
        model = Recorder()
        objective(model, replace(s.batch, x=torch.full_like(s.batch.x, 0.5).float()), s.law, generator)
        first = model.seen[0]
        assert len(first) == 4 * ROWS
        rows.append(first.flatten(1))
    assert len(torch.unique(torch.cat(rows), dim=0)) == 2 * 4 * ROWS


def test_warm_up_and_deferral_follow_the_epoch() -> None:
    objective = SmoothAdv(eps=1.0, warmup=10)
    assert [objective.radius(epoch) for epoch in (0, 4, 9, 30)] == [0.1, 0.5, 1.0, 1.0]
    assert SmoothAdv(eps=1.0, warmup=0).radius(0) == 1.0
    mix = SmoothMix(warmup=4)
    assert [mix.ramp(epoch) for epoch in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    s = setting()
    losses = [
        float(Macer(m=6, beta=2.0, defer=5)(s.model, replace(s.batch, epoch=epoch), s.law, seeded())[0].detach())
        for epoch in (0, 4, 5, 6)
    ]
    assert losses[0] == losses[1] < losses[2] == losses[3]


def test_ddn_trains_on_points_that_fool_the_network() -> None:
    s = setting()
    objective = SmoothAdv(m=8, attack="ddn", steps=30, eps=3.0, warmup=0)
    noise = s.law.sample(8 * ROWS, generator=seeded(), dtype=torch.float64).reshape(8, ROWS, *SHAPE)
    moved = objective.adversarial(s.model, s.batch, noise)
    assert bool((exact_length(moved, s.batch.x, Norm.L2) <= 3.0).all())
    assert 0.0 <= float(moved.min()) <= float(moved.max()) <= 1.0
    flat = noise.numpy().reshape(8, ROWS, SIZE)
    before, after = (mean_softmax(s, point.numpy().reshape(ROWS, SIZE), flat) for point in (s.batch.x, moved))
    assert (before.argmax(-1) == s.y).sum() > (after.argmax(-1) == s.y).sum()
    assert (after.argmax(-1) != s.y).sum() >= 5


def test_direct_is_at_most_the_augmented_loss() -> None:
    """Jensen: the log of the mean is at least the mean of the logs, on the same noise."""
    s = setting(weight=False)
    logits = s.logits(s.x + s.noise(6))
    loss, _ = Direct(m=6)(s.model, s.batch, s.law, seeded())
    assert float(loss.detach()) < xent(logits, s.y).mean()
    assert float(loss.detach()) == pytest.approx(
        float((np.log(6) - logsumexp(pick(log_softmax(logits, axis=-1), s.y), axis=0)).mean())
    )


# --- parameters ---


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("stability", {"weight": -1.0}, r"weight must be at least 0 and finite, got weight=-1\.0"),
    ("stability", {"form": "l2"}, "form must be one of cross-entropy, kl, got form='l2'"),
    ("consistency", {"m": 1}, "m must be an integer of at least 2, got m=1"),
    ("consistency", {"weight": float("nan")}, "weight must be at least 0"),
    ("consistency", {"entropy": -0.1}, "entropy must be at least 0"),
    ("direct", {"m": 0}, "m must be an integer of at least 1, got m=0"),
    ("smoothadv", {"m": 0}, "m must be an integer of at least 1, got m=0"),
    ("smoothadv", {"attack": "fgsm"}, "attack must be one of pgd, ddn, got attack='fgsm'"),
    ("smoothadv", {"attack": "ddn", "norm": "linf"}, "attack ddn needs norm l2"),
    ("smoothadv", {"norm": "l0"}, "the norm of an attack must be l1, l2 or linf"),
    ("smoothadv", {"norm": "l3"}, "norm must be one of l0, l1, l2, linf, got norm='l3'"),
    ("smoothadv", {"eps": 0.0}, "eps must be positive and finite"),
    ("smoothadv", {"steps": 0}, "steps must be an integer of at least 1"),
    ("smoothadv", {"warmup": -1}, "warmup must be an integer of at least 0"),
    ("smoothadv", {"m": 1, "consistency": 1.0}, "m must be an integer of at least 2"),
    ("macer", {"m": 0}, "m must be an integer of at least 1"),
    ("macer", {"weight": -2.0}, "weight must be at least 0"),
    ("macer", {"beta": 0.0}, "beta must be positive"),
    ("macer", {"margin": 0.0}, "margin must be positive"),
    ("macer", {"defer": -1}, "defer must be an integer of at least 0"),
    ("smoothmix", {"step_size": 0.0}, "step_size must be positive"),
    ("smoothmix", {"eta": -1.0}, "eta must be at least 0"),
    ("cat-rs", {"eps": -1.0}, "eps must be positive"),
    ("cat-rs", {"confidence": "mine"}, "confidence must be one of model, prediction"),
    ("cat-rs", {"lbd": 1.0}, r"objective cat-rs takes m=4, weight=1\.0, .*, got lbd=1\.0"),
]


@pytest.mark.parametrize(("name", "parameters", "message"), BAD)
def test_objectives_refuse(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        make_objective(name, **parameters)


def test_parameters_are_read_from_text() -> None:
    values = parse_parameters("smoothadv", {"m": "2", "eps": "0.5", "multi_noise": "false", "attack": "ddn"})
    assert values == {"m": 2, "eps": 0.5, "multi_noise": False, "attack": "ddn"}
    assert make_objective("smoothadv", **values).describe()["parameters"]["multi_noise"] is False
    assert make_objective("consistency", weight=5) == Consistency(weight=5.0)
    assert describe_parameters("gaussian") == "no parameters"
    assert describe_parameters("consistency") == "m=2, weight=10.0, entropy=0.5"
    for texts, message in (
        ({"m": "two"}, "m of smoothadv must be an integer, got m=two"),
        ({"eps": "x"}, "eps of smoothadv must be a number, got eps=x"),
        ({"multi_noise": "1"}, "multi_noise of smoothadv must be true or false"),
        ({"k": "1"}, "objective smoothadv takes m=4, attack=pgd, .*, got k=1"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            parse_parameters("smoothadv", texts)
    with pytest.raises(InvalidArgumentError, match="objective must be one of gaussian, stability"):
        parse_parameters("smooth", {})
    # Every parameter of every objective has a plain type that text can name.
    for objective in OBJECTIVES.values():
        assert {type(field.default) for field in fields(objective)} <= {int, float, str, bool}


def test_predictions_are_required_and_checked() -> None:
    s = setting()
    with pytest.raises(InvalidArgumentError, match="objective cat-rs needs the predictions"):
        CatRS()(s.model, replace(s.batch, prediction=None), s.law, seeded())
    images, labels = torch.rand((8, *SHAPE), generator=seeded()), torch.arange(8) % CLASSES
    trainer = Trainer(nn.Sequential(nn.Flatten(), nn.Linear(SIZE, CLASSES)), s.law, CatRS(), TrainingConfig(1))
    good = torch.full((8, CLASSES), 1 / CLASSES)
    for predictions, message in (
        (None, "objective cat-rs needs predictions"),
        (good[:7], "predictions must have one row"),
        (good * 2, "predictions must be probabilities"),
        (torch.full((8, 5), 0.2), "predictions must be over the 4 classes of the model, got 5"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            trainer.fit(images, labels, predictions=predictions)
    for weights in (torch.ones(7), torch.tensor([-1.0] * 8), torch.tensor([torch.nan] * 8)):
        with pytest.raises(InvalidArgumentError, match="weights must be 8 finite numbers of at least 0"):
            trainer.fit(images, labels, weights=weights, predictions=good)
    assert list(trainer.fit(images, labels, weights=torch.ones(8), predictions=good))


@pytest.mark.parametrize(("_oracle", "objective"), CASES, ids=name_of)
def test_every_objective_learns(_oracle: Any, objective: Objective) -> None:
    labels = torch.arange(160) % 3
    images = torch.rand((160, 1, 4, 4), generator=seeded(5)) * 0.2
    images[torch.arange(160), 0, labels] += 0.8
    predictions = torch.nn.functional.one_hot(labels, 3) * 0.7 + 0.1
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    if isinstance(objective, Macer):
        objective = Macer(m=4, defer=3, weight=1.0)
    config = TrainingConfig(epochs=8, batch_size=16, learning_rate=0.2)
    law = Gaussian((1, 4, 4), sigma=0.25)
    for _ in Trainer(model, law, objective, config).fit(images, labels, predictions=predictions):
        pass
    with torch.no_grad():
        noisy = images + law.sample(160, generator=seeded(6))
        assert float((model(noisy).argmax(1) == labels).float().mean()) > 0.9


# --- mutations: each of these mistakes must be noticed by the comparison with numpy ---


MUTATIONS = [
    ("augmentation", "add_noise(batch.x, law, generator)", "batch.x"),
    ("stability", "divergence(log_clean, log_noisy)", "divergence(log_noisy, log_clean)"),
    ("stability", "+ entropy(log_clean)", "+ entropy(log_noisy)"),
    ("consistency", "divergence(mean, log_softmax)", "divergence(log_softmax, mean)"),
    ("consistency", "entropy_weight * entropy(mean)", "entropy_weight * entropy(log_softmax).mean(0)"),
    ("direct", "own(log_mean(log_softmax), batch.y)", "own(log_softmax, batch.y).mean(0)"),
    ("adversary", "smoothed_loss(model, batch.y, noise)", "smoothed_loss(model, batch.y, noise * 0)"),
    ("adversary", "(epoch + 1) / self.warmup", "epoch / self.warmup"),
    ("smoothadv", "noisy_log_softmax(model, moved,", "noisy_log_softmax(model, batch.x,"),
    ("smoothadv", "noise if self.multi_noise else noise[:1]", "draw_noise(moved, law, self.m, generator)"),
    ("macer", "sigma / 2.0", "sigma"),
    ("macer", "(classes[:, 0] == y) &", ""),
    ("macer", "F.softmax(scores * self.beta", "F.softmax(scores"),
    ("macer", "batch.epoch >= self.defer", "batch.epoch + 1 >= self.defer"),
    ("smoothmix", "target = (1.0 - share[:, None]) * log_mean_clean.exp()", "target = log_mean_clean.exp()"),
    ("smoothmix", "torch.where(right, mixing, 0.0)", "mixing"),
    ("smoothmix", "self.eta * self.ramp(batch.epoch)", "self.eta"),
    ("smoothmix", "device=batch.x.device) / 2.0", "device=batch.x.device)"),
    ("smoothmix", "self.step_size * self.ramp(batch.epoch)", "self.step_size"),
    ("catrs", ".sort(0).values", ""),
    ("catrs", ".clamp_min(1)\n", "\n"),
    ("catrs", "torch.where(accepted == self.m, worst, 0.0)", "worst"),
    ("catrs", ".amax(0)", ".mean(0)"),
    ("catrs", "moved = mean + (moved - moved_mean) / moved_size.clamp_min(1e-12) * size", "pass"),
]


@pytest.fixture
def mutants() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("mutant_"):
            del sys.modules[name]


@pytest.mark.usefixtures("mutants")
@pytest.mark.parametrize(("file", "old", "new"), MUTATIONS)
def test_mistakes_in_the_code_are_noticed(file: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.import_module(f"smoothing.training.{file}")
    source = Path(str(original.__file__)).read_text()
    assert old in source
    name = f"mutant_{file}"
    mutant = ModuleType(name)
    sys.modules[name] = mutant
    exec(compile(source.replace(old, new), name, "exec"), mutant.__dict__)
    if file == "adversary":  # a mixin: its methods are tried in the objective that uses it
        for method in ("adversarial", "radius"):
            monkeypatch.setattr(original.Adversary, method, getattr(mutant.Adversary, method))
    noticed = False
    for oracle, objective in CASES:
        if file == "adversary":
            if not isinstance(objective, SmoothAdv):
                continue
            changed: Objective = objective
        elif type(objective).__module__ == f"smoothing.training.{file}":
            changed = getattr(mutant, type(objective).__name__)(
                **{field.name: getattr(objective, field.name) for field in fields(objective)}
            )
        else:
            continue
        s = setting()
        loss, _ = changed(s.model, s.batch, s.law, seeded())
        assert s.batch.weight is not None
        expected = float((oracle(s, objective) * s.batch.weight.numpy()).mean())
        noticed = noticed or abs(float(loss.detach()) - expected) > 1e-4 * abs(expected)
    assert noticed
