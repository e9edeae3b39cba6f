"""Sets of inputs: the minimum of a linear function over ball and box, against enumeration and a linear program."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from smoothing.errors import InvalidArgumentError
from smoothing.threat import Norm, ThreatModel
from verify.ball import Ball
from verify.checker_minimum import InputSet, minimum
from verify.region import Region

SETS = [(norm, clip) for norm in ("linf", "l2", "l1") for clip in (None, (0.0, 1.0))]


def exact(row: np.ndarray, x: np.ndarray, ball: Ball) -> float:
    """min aᵀx by enumeration of the coordinates that the box stops (l2), or by a linear program."""
    low, high = (np.full_like(x, -np.inf), np.full_like(x, np.inf)) if ball.clip is None else (0.0 - x, 1.0 - x)
    eps, size = float(ball.eps), len(x)
    if ball.norm is Norm.LINF:
        return float(row @ x + np.minimum(row * np.maximum(-eps, low), row * np.minimum(eps, high)).sum())
    if ball.norm is Norm.L1:  # delta = p - q, sum p + q <= eps
        bounds = [(0, None if np.isinf(h) else h) for h in high] + [(0, None if np.isinf(v) else -v) for v in low]
        found = linprog(np.concatenate([row, -row]), A_ub=np.ones((1, 2 * size)), b_ub=[eps], bounds=bounds)
        return float(row @ x + found.fun)
    stop = np.where(row > 0, low, high)
    best = np.inf
    for stopped in itertools.product((False, True), repeat=size):
        mask = np.array(stopped)
        if not np.isfinite(stop[mask]).all():
            continue
        left = eps**2 - (stop[mask] ** 2).sum()
        length = np.linalg.norm(row[~mask])
        if left < 0:
            continue
        step = np.zeros(size)
        step[mask] = stop[mask]
        if length > 0:
            step[~mask] = -row[~mask] * np.sqrt(left) / length
        if ((step >= low - 1e-12) & (step <= high + 1e-12)).all():
            best = min(best, float(row @ (x + step)))
    return best


@pytest.mark.parametrize(("norm", "clip"), SETS)
@pytest.mark.parametrize("eps", [0.0, 0.2, 0.7, 5.0])
def test_minimum_is_the_exact_one_from_below(norm: str, clip: tuple[float, float] | None, eps: float) -> None:
    rng = np.random.default_rng(5)
    ball = Ball(norm, eps, clip=clip)
    x = rng.random((4, 6))
    x[1] = [0.0, 1.0, 0.0, 1.0, 0.5, 0.5]  # on the box: no room on one side
    rows = rng.standard_normal((40, 6)) * 10.0 ** rng.integers(-3, 3, (40, 1))
    rows[0], rows[1], rows[2, 3:] = 0.0, 1.0, 0.0
    image = np.arange(40) % 4
    region = ball.at(torch.from_numpy(x))
    found = region.minimum(torch.from_numpy(rows), torch.from_numpy(image)).numpy()
    truth = np.array([exact(row, x[i], ball) for row, i in zip(rows, image, strict=True)])
    scale = np.abs(rows).sum(1)
    tolerance = 1e-6 if norm == "l1" else 1e-12  # that of the linear program
    assert (found <= truth + tolerance * scale).all()
    assert (found >= truth - (tolerance + 1e-12) * (scale + 1e-300)).all()
    numbers = [v.numpy() for v in (region.center, region.lower, region.upper)]
    for i in range(4):
        inputs = InputSet(*(v[i] for v in numbers), region.norm, region.eps, region.clipped)
        checked = minimum(rows[image == i], inputs)
        np.testing.assert_allclose(checked, found[image == i], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_intersection_is_strictly_better_than_either(norm: str) -> None:
    x, rows = torch.full((1, 5), 0.1), torch.ones(1, 5, dtype=torch.float64)
    image = torch.zeros(1, dtype=torch.int64)
    both = float(Ball(norm, 0.35, clip=(0.0, 1.0)).at(x).minimum(rows, image))
    alone = float(Ball(norm, 0.35, clip=None).at(x).minimum(rows, image))
    box = float(Ball("linf", 0.35, clip=(0.0, 1.0)).at(x).minimum(rows, image))
    assert both >= max(alone, box) - 1e-12
    assert both > alone + 0.1 or norm == "l1"


@pytest.mark.parametrize(("norm", "clip"), SETS)
def test_gradient_is_the_minimiser(norm: str, clip: tuple[float, float] | None) -> None:
    """The derivative of min aᵀx in a is a minimising x: inside the set, and it attains the value."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 7, generator=generator, dtype=torch.float64)
    rows = torch.randn(3, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    image = torch.zeros(3, dtype=torch.int64)
    ball = Ball(norm, 0.4, clip=clip)
    for rounded in (True, False):
        value = ball.at(x).minimum(rows, image, rounded=rounded)
        (point,) = torch.autograd.grad(value.sum(), rows)
        torch.testing.assert_close((point * rows).sum(1), value, rtol=1e-9, atol=1e-9)
        order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
        assert (torch.linalg.vector_norm(point - x, ord=order, dim=1) <= 0.4 + 1e-9).all()
        assert clip is None or ((point >= -1e-12) & (point <= 1 + 1e-12)).all()


def test_lower_precision_only_makes_sets_larger() -> None:
    ball = Ball("linf", 0.1, clip=None)
    region = ball.at(torch.rand(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    single = region.to(torch.device("cpu"), torch.float32)
    assert (single.lower.double() <= region.lower).all()
    assert (single.upper.double() >= region.upper).all()


@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf")])
def test_bad_radius(eps: float) -> None:
    with pytest.raises(InvalidArgumentError, match=f"eps must be a finite number of at least 0, got eps={eps}"):
        Ball("linf", eps, clip=None)


def test_bad_sets() -> None:
    with pytest.raises(InvalidArgumentError, match="got norm='l0'"):
        Ball("l0", 1.0, clip=None)
    with pytest.raises(InvalidArgumentError, match="norm must be one of"):
        Ball("l3", 1.0, clip=None)
    with pytest.raises(InvalidArgumentError, match="low < high"):
        Ball("l2", 1.0, clip=(1.0, 0.0))
    with pytest.raises(TypeError):
        Ball("l2", 1.0)  # type: ignore[call-arg]
    with pytest.raises(InvalidArgumentError, match="inputs must lie inside the clip interval"):
        Ball("l2", 1.0, clip=(0.0, 1.0)).at(torch.tensor([[0.5, 1.0001]]))
    with pytest.raises(InvalidArgumentError, match="inputs must be finite"):
        Ball("l2", 1.0, clip=None).at(torch.tensor([[float("nan")]]))
    with pytest.raises(InvalidArgumentError, match="lower <= upper"):
        Region.box(torch.ones(1, 2), torch.zeros(1, 2))


def test_the_clip_is_printed() -> None:
    assert "not clipped" in str(Ball.of(ThreatModel(Norm.L2, 0.5), clip=None))
    assert "clipped to [0.0, 1.0]" in Ball("linf", 0.5, clip=(0, 1)).at(torch.zeros(1, 1)).description
    assert Ball("l2", 0.5, clip=None).threat == ThreatModel(Norm.L2, 0.5)
