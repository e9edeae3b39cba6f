"""MILP on networks whose layers are very different in size, which change nothing but the meaning of absolute tolerances."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from verify import milp
from verify.ball import Ball
from verify.crown import Crown
from verify.milp import MILP
from verify.problem import Problem
from verify.result import Status

SHORT = -0.003
"""The least margin of each network: far above what any solver should lose, far below its range."""


def scaled(seed: int, scale: float, pooled: bool = False) -> tuple[nn.Module, Tensor, int]:
    """A network of two inputs whose first layer is `scale` times as large, its last one 1 / `scale` times."""
    torch.manual_seed(seed)
    middle = [nn.Linear(6, 6), nn.ReLU()]
    if pooled:
        middle = [nn.Linear(6, 12), nn.Unflatten(1, (1, 2, 6)), nn.MaxPool2d((2, 1)), nn.Flatten()]
    net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), *middle, nn.Linear(6, 2)).eval()
    x = torch.randn(1, 2) * 0.5
    with torch.no_grad():
        first, second, last = net[0], net[2], net[-1]
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        assert isinstance(last, nn.Linear)
        for tensor in (first.weight, first.bias, second.bias):
            tensor.mul_(scale)
        last.weight.div_(scale)
        label = int(net(x).argmax())
        net.double()
        steps = torch.linspace(-0.5, 0.5, 801, dtype=torch.float64)
        scores = net(torch.cartesian_prod(steps, steps) + x.double())
        last.bias[label] -= (scores[:, label] - scores[:, 1 - label]).min() - SHORT
    return net, x.double(), label


@pytest.mark.parametrize("until_sign", [False, True])
@pytest.mark.parametrize("scale", [1e-7, 1e-5, 1e-4, 1.0, 1e4])
def test_a_small_layer_is_solved_as_exactly_as_a_large_one(scale: float, until_sign: bool) -> None:
    for seed in (3, 6, 9, 10, 11):
        net, x, label = scaled(seed, scale)
        problem = Problem.margins(net, x, Ball("linf", 0.5, clip=None), [label])
        found = MILP(until_sign=until_sign).bound(problem)
        assert found.status == (Status.FALSIFIED,)
        # The grid is coarser than the solver: the true minimum is a hair below its own.
        assert found.lower[0, 0] <= SHORT + 1e-9
        if not until_sign:
            assert found.lower[0, 0] >= SHORT - 1e-3


@pytest.mark.parametrize("scale", [1e-6, 1e-5, 1.0])
def test_pools_too(scale: float) -> None:
    for seed in range(4):
        net, x, label = scaled(seed, scale, pooled=True)
        problem = Problem.margins(net, x, Ball("linf", 0.5, clip=None), [label])
        found = MILP().bound(problem)
        assert SHORT - 1e-3 <= found.lower[0, 0] <= SHORT + 1e-9
        assert found.status == (Status.FALSIFIED,)


def lying(monkeypatch: pytest.MonkeyPatch, bound: float) -> None:
    true = milp._ExactProgram.minimise

    def minimise(self: Any, *arguments: Any) -> Any:
        return dataclasses.replace(true(self, *arguments), bound=bound, point=None)

    monkeypatch.setattr(milp._ExactProgram, "minimise", minimise)


def test_a_proof_that_an_attack_refutes_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, label = scaled(3, 1.0)
    problem = Problem.margins(net, x, Ball("linf", 0.5, clip=None), [label])
    base = Crown().bound(problem)
    lying(monkeypatch, 0.5)
    found = MILP().bound(problem, base)
    assert found.status == (Status.FALSIFIED,)
    np.testing.assert_array_equal(found.lower, base.lower)
    assert "an attack found a point below HiGHS's bound" in found.notes[0]


def test_a_bound_above_an_attack_is_dropped_even_where_the_property_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, label = scaled(3, 1.0)
    problem = Problem.margins(net, x, Ball("linf", 0.01, clip=None), [label])
    honest = MILP().bound(problem, base := Crown().bound(problem))
    if base.status != (Status.VERIFIED,):
        assert honest.status == (Status.VERIFIED,)
    hard = dataclasses.replace(base, lower=np.full_like(base.lower, -1.0))
    lying(monkeypatch, float(honest.lower[0, 0]) + 0.5)
    found = MILP().bound(problem, hard)
    assert found.status == (Status.UNKNOWN,)
    assert found.lower[0, 0] == -1.0
    assert len(found.notes) == 1


def test_where_the_relaxation_has_no_multipliers_no_bound_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, label = scaled(3, 1.0)
    problem = Problem.margins(net, x, Ball("linf", 0.01, clip=None), [label])
    monkeypatch.setattr(milp, "_allowance", lambda *arguments: float("inf"))
    base = dataclasses.replace(found := Crown().bound(problem), lower=np.full_like(found.lower, -1.0))
    assert MILP().bound(problem, base).status == (Status.UNKNOWN,)
