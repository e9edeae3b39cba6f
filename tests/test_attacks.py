"""Attacks: geometry against exact arithmetic, optima of solvable losses, the smoothed loss against numpy, foolbox."""

import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from smoothing import Gaussian
from smoothing.attacks import (
    ascend,
    base_loss,
    cross_entropy,
    ddn,
    evaluating,
    exact_length,
    input_gradient,
    margin,
    pgd,
    positive,
    smoothed_loss,
    smoothed_margin,
)
from smoothing.attacks.geometry import project, random_in_ball, settle, steepest
from smoothing.errors import InvalidArgumentError, UnsupportedNormError
from smoothing.threat import Norm, ThreatModel
from smoothing.training import NoiseAugmentation, Trainer, TrainingConfig

NORMS = (Norm.L1, Norm.L2, Norm.LINF)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(inputs: int, classes: int, seed: int = 0, scale: float = 1.0) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed + number)) * scale)
    return model


def mlp(seed: int = 0) -> nn.Module:
    return nn.Sequential(linear(16, 12, seed), nn.Tanh(), linear(12, 4, seed + 10))


# --- geometry ---


def exactly_inside(moved: Tensor, x: Tensor, norm: Norm, radius: float) -> bool:
    """Whether every row of moved lies in the ball, decided in rational arithmetic."""
    for row, start in zip(moved.flatten(1).tolist(), x.flatten(1).tolist(), strict=True):
        delta = [abs(Fraction(a) - Fraction(b)) for a, b in zip(row, start, strict=True)]
        size = {Norm.L1: sum(delta), Norm.L2: sum(d * d for d in delta), Norm.LINF: max(delta)}[norm]
        if size > (Fraction(radius) ** 2 if norm is Norm.L2 else Fraction(radius)):
            return False
    return True


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    norm=st.sampled_from(NORMS),
    radius=st.sampled_from([0.0, 1e-9, 1e-3, 0.1, 0.3, 1 / 3, 1.0, 7.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    reach=st.sampled_from([1e-6, 0.01, 1.0, 100.0]),
    box=st.sampled_from([None, (0.0, 1.0), (0.1, 0.7)]),
)
def test_settled_points_are_inside_exactly(
    seed: int, norm: Norm, radius: float, dtype: torch.dtype, reach: float, box: tuple[float, float] | None
) -> None:
    generator = seeded(seed)
    x = torch.rand((3, 2, 7), generator=generator, dtype=dtype)
    moved = x + reach * torch.randn(x.shape, generator=generator, dtype=dtype)
    point = settle(moved, x, ThreatModel(norm, radius), box)
    assert point.dtype == dtype
    assert exactly_inside(point, x, norm, radius)
    if box is not None:
        lower, upper = (torch.tensor(side, dtype=dtype) for side in box)
        assert bool(((point >= torch.minimum(lower, x)) & (point <= torch.maximum(upper, x))).all())
    # And no further in than rounding needs: a point of the ball and the box is not moved at all, up to an ulp.
    again = settle(point, x, ThreatModel(norm, radius), box)
    assert float((again - point).abs().max()) <= 4 * torch.finfo(dtype).eps * 10


@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_the_nearest_point_of_the_ball(norm: Norm) -> None:
    delta = torch.randn((40, 9), generator=seeded(1), dtype=torch.float64) * torch.logspace(-2, 0, 40)[:, None]
    radius = 0.8
    nearest = project(delta, norm, radius).numpy()
    order = {Norm.L1: 1, Norm.L2: 2, Norm.LINF: np.inf}[norm]
    assert np.linalg.norm(nearest, order, axis=1).max() <= radius * (1 + 1e-12)
    # First-order condition of a projection on a convex set: <delta - p, q - p> <= 0 for all q of the set, of which the
    # extreme point in the direction of delta - p is the worst.
    gap = delta.numpy() - nearest
    dual = {Norm.L1: np.inf, Norm.L2: 2, Norm.LINF: 1}[norm]
    worst = radius * np.linalg.norm(gap, dual, axis=1) - (gap * nearest).sum(1)
    assert worst.max() <= 1e-12
    inside = np.linalg.norm(delta.numpy(), order, axis=1) <= radius
    assert inside.any()
    assert np.array_equal(nearest[inside], delta.numpy()[inside])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1.0, 1e30])
def test_directions_have_length_one_whatever_the_gradient(norm: Norm, size: float) -> None:
    gradient = torch.randn((5, 300), generator=seeded(2)) * size
    gradient[3] = 0.0
    gradient[4, 0] = torch.nan
    direction = steepest(gradient, norm)
    sizes = exact_length(direction, torch.zeros_like(direction), norm)
    assert sizes.tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0, 1.0], rel=1e-5)
    assert bool((torch.nan_to_num(gradient) * direction >= 0).all())
    assert float(direction[4, 0]) == 0.0
    if norm is Norm.L1:
        assert (direction != 0).sum(1).tolist() == [3, 3, 3, 0, 3]
        assert int(direction[0].abs().argmax()) in gradient[0].abs().topk(3).indices.tolist()


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_uniform_in_the_ball(norm: Norm) -> None:
    points = random_in_ball(torch.zeros(4000, 3, dtype=torch.float64), norm, 2.0, seeded(3))
    # The norm of a uniform point has distribution (r / R)^d; each half-space through 0 holds half of the points.
    share = (exact_length(points, torch.zeros_like(points), norm) / 2.0) ** 3
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-6
    assert stats.binomtest(int((points.sum(1) > 0).sum()), 4000).pvalue > 1e-6
    # Coordinates are exchangeable and, for l1, not concentrated: compare |z_1| with |z_3|.
    assert stats.ks_2samp(points[:2000, 0].abs().numpy(), points[2000:, 2].abs().numpy()).pvalue > 1e-6


# --- pgd ---


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_finds_the_maximum_of_a_linear_loss(norm: Norm) -> None:
    weights = torch.randn(8, generator=seeded(4), dtype=torch.float64)
    x = torch.rand((5, 8), generator=seeded(5), dtype=torch.float64)
    found = pgd(lambda v: v @ weights, x, ThreatModel(norm, 0.3), steps=60, box=None)
    dual = {Norm.L1: np.inf, Norm.L2: 2, Norm.LINF: 1}[norm]
    best = (x @ weights) + 0.3 * float(np.linalg.norm(weights.numpy(), dual))
    torch.testing.assert_close(found.loss, best, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.x @ weights, found.loss, rtol=0, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_finds_the_maximum_in_a_box(norm: Norm) -> None:
    weights = torch.tensor([3.0, -1.0, 2.0, 0.5])
    x = torch.tensor([[0.95, 0.1, 0.5, 0.5], [0.2, 0.0, 1.0, 0.9]])
    radius = 0.4
    found = pgd(lambda v: v @ weights, x, ThreatModel(norm, radius), steps=400, step_size=0.01)
    # The oracle: a linear program, or (l2) a concave program in the multiplier of the ball, solved by scipy.
    for row in range(2):
        start = x[row].double().numpy()
        assert float(found.loss[row]) == pytest.approx(_best_in_box(weights.numpy(), start, norm, radius), abs=4e-3)
    assert exactly_inside(found.x, x, norm, radius)
    assert 0.0 <= float(found.x.min()) <= float(found.x.max()) <= 1.0


def _best_in_box(weights: Any, start: Any, norm: Norm, radius: float) -> float:
    from scipy.optimize import brentq, linprog

    if norm is Norm.L2:
        moved: Callable[[float], Any] = lambda t: np.clip(start + t * weights, 0, 1)  # noqa: E731
        excess: Callable[[float], float] = lambda t: float(np.linalg.norm(moved(t) - start) - radius)  # noqa: E731
        end = 100.0
        return float(moved(end if excess(end) < 0 else brentq(excess, 0, end)) @ weights)
    if norm is Norm.LINF:
        return float(np.clip(start + radius * np.sign(weights), 0, 1) @ weights)
    d = len(start)  # delta = up - down
    result = linprog(
        -np.concatenate([weights, -weights]),
        A_ub=np.ones((1, 2 * d)),
        b_ub=[radius],
        bounds=[(0, 1 - s) for s in start] + [(0, s) for s in start],
    )
    return float(start @ weights - result.fun)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ["pgd", "ascend"])
def test_attacks_stay_inside_and_move_wherever_there_is_a_gradient(norm: Norm, attack: str) -> None:
    model = mlp()
    x = torch.rand((30, 1, 4, 4), generator=seeded(6))
    y = torch.arange(30) % 4
    threat = ThreatModel(norm, 0.37)
    for steps in (1, 7):
        loss = base_loss(model, y)
        moved = pgd(loss, x, threat, steps=steps).x if attack == "pgd" else ascend(loss, x, threat, steps=steps)
        assert exactly_inside(moved, x, norm, 0.37)
        assert 0.0 <= float(moved.min()) <= float(moved.max()) <= 1.0
        assert bool((exact_length(moved, x, norm) > 0.02).all())
        assert bool((loss(moved) > loss(x)).all())
    # A loss so flat that a squared gradient underflows moves the input all the same; a constant one does not.
    tiny = ascend(lambda v: v.flatten(1).sum(1) * 1e-30, x * 0.5, threat, steps=1)
    assert bool((exact_length(tiny, x * 0.5, norm) > 0.3 * 0.37).all())
    assert torch.equal(ascend(lambda v: v.flatten(1).sum(1) * 0.0, x, threat, steps=3), x)
    assert torch.equal(ascend(lambda v: torch.zeros(len(v)), x, threat, steps=3), x)


def test_pgd_keeps_the_best_point_of_all_steps_and_restarts() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def wavy(v: Tensor) -> Tensor:
        values = torch.sin(40 * v).sum(1) + torch.cos(17 * v).sum(1)
        seen.append((v.detach().clone(), values.detach().clone()))
        return values

    x = torch.rand((6, 5), generator=seeded(7), dtype=torch.float64)
    found = pgd(wavy, x, ThreatModel(Norm.L2, 0.5), steps=11, restarts=4, generator=seeded(8))
    values = torch.stack([value for _, value in seen])
    assert torch.equal(found.loss, values.max(0).values)
    points = torch.stack([point for point, _ in seen])[values.argmax(0), torch.arange(6)]
    assert torch.equal(found.x, points)
    one = pgd(wavy, x, ThreatModel(Norm.L2, 0.5), steps=11)
    assert bool((found.loss >= one.loss).all())
    assert bool((found.loss > one.loss).any())
    assert exactly_inside(points, x, Norm.L2, 0.5)
    # The generator decides: the same one gives the same points, another one others.
    again = pgd(wavy, x, ThreatModel(Norm.L2, 0.5), steps=11, restarts=4, generator=seeded(8))
    other = pgd(wavy, x, ThreatModel(Norm.L2, 0.5), steps=11, random_start=True, generator=seeded(9))
    assert torch.equal(found.x, again.x)
    assert not torch.equal(one.x, other.x)


def test_a_nan_of_the_loss_is_never_best() -> None:
    x = torch.full((2, 3), 0.5)
    found = pgd(lambda v: torch.where(v.sum(1) > 1.55, torch.nan, v.sum(1)), x, ThreatModel(Norm.LINF, 0.1), steps=40)
    assert bool(found.loss.isfinite().all())
    assert bool(((found.loss >= 1.5) & (found.loss <= 1.55)).all())


def test_pgd_stops_when_every_row_has_a_counterexample() -> None:
    calls = []

    def loss(v: Tensor) -> Tensor:
        calls.append(1)
        return v.sum(1)

    x = torch.zeros(3, 4)
    found = pgd(loss, x, ThreatModel(Norm.LINF, 0.4), steps=40, box=None, stop_above=0.5)
    assert bool((found.loss > 0.5).all())
    assert len(calls) == 8  # 4 * 0.02 a step: the seventh has 0.56, and is looked at once


def test_boxes_may_differ_by_coordinate_and_inputs_lie_outside() -> None:
    lower, upper = torch.tensor([0.0, -1.0]), torch.tensor([0.3, 1.0])
    x = torch.tensor([[0.1, 0.0], [0.5, 0.0]])  # the second lies beyond the box in its first coordinate
    found = pgd(lambda v: v.sum(1), x, ThreatModel(Norm.LINF, 0.5), box=(lower, upper))
    torch.testing.assert_close(found.x, torch.tensor([[0.3, 0.5], [0.5, 0.5]]))


def test_attacks_leave_weights_gradients_and_flags_alone() -> None:
    model = nn.Sequential(linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), linear(8, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.rand((6, 16), generator=seeded(9)), torch.arange(6) % 3
    model[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        ascend(base_loss(model, y), x, ThreatModel(Norm.L2, 0.5), steps=3)
        pgd(base_loss(model, y), x, ThreatModel(Norm.L2, 0.5), steps=3)
        with torch.no_grad():  # the caller's mode does not matter
            ascend(base_loss(model, y), x, ThreatModel(Norm.L2, 0.5), steps=1)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


BAD = [
    (lambda x: pgd(_sum, x, ThreatModel(Norm.L0, 1.0)), "norm of an attack must be l1, l2 or linf, got norm=l0"),
    (lambda x: pgd(_sum, x, ThreatModel(Norm.L2, 1.0), steps=-1), "steps must be an integer of at least 0"),
    (lambda x: pgd(_sum, x, ThreatModel(Norm.L2, 1.0), restarts=0), "restarts must be an integer of at least 1"),
    (lambda x: pgd(_sum, x, ThreatModel(Norm.L2, 1.0), restarts=2), "a random start needs a generator"),
    (lambda x: ascend(_sum, x, ThreatModel(Norm.L2, 1.0), steps=1, random_start=True), "needs a generator"),
    (lambda x: pgd(_sum, x, ThreatModel(Norm.L2, 1.0), step_size=0.0), "step_size must be positive and finite"),
    (lambda x: pgd(_sum, x, ThreatModel(Norm.L2, 1.0), box=(1.0, 0.0)), "a box must have lower <= upper"),
    (lambda x: ddn(positive(_sum), x, ThreatModel(Norm.LINF, 1.0)), "norm of a DDN attack must be l2, got norm=linf"),
    (lambda x: ddn(positive(_sum), x, ThreatModel(Norm.L2, 1.0), steps=0), "steps must be an integer of at least 1"),
    (lambda x: ddn(positive(_sum), x, ThreatModel(Norm.L2, 1.0), gamma=1.0), r"gamma must be in \(0, 1\)"),
    (lambda x: ddn(positive(_sum), x, ThreatModel(Norm.L2, 1.0), first_norm=0.0), "first_norm must be positive"),
    (lambda x: ddn(positive(_sum), x, ThreatModel(Norm.L2, 1.0), levels=1), "levels must be at least 2"),
]


def _sum(v: Tensor) -> Tensor:
    return v.flatten(1).sum(1)


@pytest.mark.parametrize(("call", "message"), BAD)
def test_attacks_refuse(call: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        call(torch.zeros(2, 3))
    assert isinstance(caught.value, UnsupportedNormError) == ("norm" in message.replace("first_norm", ""))


# --- losses ---


def test_the_smoothed_loss_is_the_log_of_the_mean_probability() -> None:
    model = linear(6, 5, scale=2.0)
    x, y = torch.rand((4, 6), generator=seeded(1)), torch.tensor([0, 4, 2, 2])
    noise = torch.randn((7, 4, 6), generator=seeded(2))
    matrix, bias = (parameter.detach().double().numpy() for parameter in model.parameters())
    logits = (x.double().numpy() + noise.double().numpy()) @ matrix.T + bias
    softmax = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    mean = softmax.mean(0)
    expected = -np.log(mean[np.arange(4), y.numpy()])
    found = smoothed_loss(model, y, noise)(x)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5)
    mean_of_logs = -np.log(softmax)[:, np.arange(4), y.numpy()].mean(0)
    assert np.abs(mean_of_logs - expected).min() > 1e-2  # another function, and a test that would notice it
    others = mean.copy()
    others[np.arange(4), y.numpy()] = 0.0
    np.testing.assert_allclose(
        smoothed_margin(model, y, noise)(x).detach().numpy(), np.log(others.max(1)) + expected, rtol=1e-4
    )
    # m = 0: no noise.
    clean = x.double().numpy() @ matrix.T + bias
    own = clean[np.arange(4), y.numpy()]
    np.testing.assert_allclose(base_loss(model, y)(x).detach().numpy(), np.log(np.exp(clean).sum(1)) - own, rtol=1e-5)
    clean[np.arange(4), y.numpy()] = -np.inf
    np.testing.assert_allclose(base_loss(model, y, margin)(x).detach().numpy(), clean.max(1) - own, rtol=1e-5)


def test_input_gradients_are_those_of_finite_differences() -> None:
    model = mlp().double()
    x = torch.rand((3, 16), generator=seeded(3), dtype=torch.float64)
    y = torch.tensor([1, 0, 3])
    noise = torch.randn((5, 3, 16), generator=seeded(4), dtype=torch.float64)
    for loss in (smoothed_loss(model, y, noise), smoothed_margin(model, y, noise), base_loss(model, y)):
        gradient, values = input_gradient(loss, x)
        assert torch.equal(values, loss(x).detach())
        step = 1e-6
        for column in range(0, 16, 5):
            shift = torch.zeros_like(x)
            shift[:, column] = step
            difference = (loss(x + shift) - loss(x - shift)).detach() / (2 * step)
            torch.testing.assert_close(gradient[:, column], difference, rtol=1e-5, atol=1e-8)


def test_a_saturated_classifier_still_has_a_gradient() -> None:
    model = linear(6, 3, scale=9.0)
    x = torch.rand((4, 6), generator=seeded(5))
    noise = torch.randn((3, 4, 6), generator=seeded(6)) * 0.01
    y = model(x).argmax(1)
    gradient, values = input_gradient(smoothed_loss(model, y, noise), x)
    assert float(values.min()) < 1e-4
    assert bool((gradient.flatten(1).abs().amax(1) > 0).all())


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Gaussian, Tensor, Tensor]:
    """A small network, trained under noise on blurred stripes of four classes, and test inputs."""
    law = Gaussian((1, 6, 6), sigma=0.5)

    def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(n) % 4
        images = torch.rand((n, 1, 6, 6), generator=seeded(seed)) * 0.4
        for label in range(4):
            images[labels == label, :, label : label + 3] += 0.5
        return images, labels

    model = nn.Sequential(linear(36, 24, scale=0.2), nn.ReLU(), linear(24, 4, seed=3, scale=0.2))
    config = TrainingConfig(epochs=12, batch_size=64, learning_rate=0.1)
    for _ in Trainer(model, law, NoiseAugmentation(), config).fit(*draw(1024, 1)):
        pass
    model.eval()
    return model, law, *draw(200, 2)


def test_the_smoothed_attack_is_stronger_on_the_smoothed_classifier(
    trained: tuple[nn.Module, Gaussian, Tensor, Tensor],
) -> None:
    model, law, x, y = trained
    threat = ThreatModel(Norm.L2, 0.7)

    def noise(m: int, seed: int) -> Tensor:
        return law.sample(m * len(x), generator=seeded(seed)).unflatten(0, (m, len(x)))  # type: ignore[no-any-return, no-untyped-call]

    fresh = smoothed_loss(model, y, noise(400, 9))
    with torch.no_grad():
        base = fresh(ascend(base_loss(model, y), x, threat, steps=20, step_size=0.1))
        smoothed = fresh(ascend(smoothed_loss(model, y, noise(32, 1)), x, threat, steps=20, step_size=0.1))
        clean = fresh(x)
    gain = (smoothed - base).double().numpy()
    # Paired over the inputs: the mean gain is more than five standard errors above 0 (false failure below 1e-6).
    assert gain.mean() > 5 * gain.std() / math.sqrt(len(gain)) > 0
    assert float((base - clean).mean()) > 0.05


# --- ddn ---


def test_ddn_finds_the_nearest_point_of_another_class() -> None:
    model = linear(20, 3).double()
    x = torch.randn((25, 20), generator=seeded(7), dtype=torch.float64)
    y = model(x).argmax(1)
    matrix, bias = (parameter.detach().numpy() for parameter in model.parameters())
    logits = x.numpy() @ matrix.T + bias
    # Distance to the nearest of the hyperplanes f_c = f_y.
    distance = np.array(
        [
            min(
                (logits[i, label] - logits[i, c]) / np.linalg.norm(matrix[label] - matrix[c])
                for c in range(3)
                if c != label
            )
            for i, label in enumerate(y.tolist())
        ]
    )
    loss = positive(base_loss(model, y, margin))
    found = ddn(loss, x, ThreatModel(Norm.L2, 50.0), steps=200, box=None)
    assert bool(found.found.all())
    sizes = exact_length(found.x, x, Norm.L2).numpy()
    assert (sizes >= distance * (1 - 1e-9)).all()
    # A direction may lead to the second nearest hyperplane: the attack is a heuristic, the median is not.
    assert (sizes <= distance * 1.2 + 0.01).all()
    assert np.median(sizes / distance) < 1.01
    assert bool((model(found.x).argmax(1) != y).all())
    # With a radius in between, exactly the near ones are found; the others move as far as they may.
    radius = float(np.median(distance))
    near = ddn(loss, x, ThreatModel(Norm.L2, radius), steps=200, box=None)
    assert exactly_inside(near.x, x, Norm.L2, radius)
    clear = np.abs(distance / radius - 1) > 0.05
    assert np.array_equal(near.found.numpy()[clear], (distance < radius)[clear])
    missed = ~near.found.numpy()
    assert missed.any()
    assert (exact_length(near.x, x, Norm.L2).numpy()[missed] > 0.9 * radius).all()


def test_ddn_on_a_grid_and_in_the_box() -> None:
    model = linear(20, 3)
    x = (torch.rand((25, 20), generator=seeded(8)) * 255).round() / 255
    y = model(x).argmax(1)
    found = ddn(positive(base_loss(model, y, margin)), x, ThreatModel(Norm.L2, 2.0), steps=60, levels=256)
    assert bool(found.found.any())
    assert exactly_inside(found.x, x, Norm.L2, 2.0)
    assert 0.0 <= float(found.x.min()) <= float(found.x.max()) <= 1.0
    inner = found.found & (exact_length(found.x, x, Norm.L2) < 1.9)
    steps = found.x[inner] * 255
    assert float((steps - steps.round()).abs().max()) < 1e-3


# --- foolbox ---


def test_our_attacks_are_as_strong_as_those_of_foolbox(trained: tuple[nn.Module, Gaussian, Tensor, Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
        model, _, x, y = trained
        theirs = foolbox.PyTorchModel(model, bounds=(0, 1))
        attacks = foolbox.attacks
        for norm, attack, radius in (
            (Norm.L2, attacks.L2ProjectedGradientDescentAttack, 0.9),
            (Norm.LINF, attacks.LinfProjectedGradientDescentAttack, 0.15),
        ):
            _, [points], _ = attack(steps=30, rel_stepsize=0.1, random_start=False)(theirs, x, y, epsilons=[radius])
            ours = pgd(base_loss(model, y), x, ThreatModel(norm, radius), steps=30, step_size=0.1 * radius)
            loss = cross_entropy(model(points).detach(), y)
            assert float(loss.mean()) > 2 * float(cross_entropy(model(x).detach(), y).mean())
            assert float((ours.loss - loss).mean()) > -0.01 * float(loss.mean())
        _, points, found = attacks.DDNAttack(steps=100)(theirs, x, y, epsilons=None)
        ours_ddn = ddn(positive(base_loss(model, y, margin)), x, ThreatModel(Norm.L2, 10.0), steps=100)
        assert bool(found.all())
        assert bool(ours_ddn.found.all())
        ratio = exact_length(ours_ddn.x, x, Norm.L2).mean() / exact_length(points, x, Norm.L2).mean()
        assert 0.97 < float(ratio) < 1.03
