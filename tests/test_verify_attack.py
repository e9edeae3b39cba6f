"""Attacks: points inside the sets, the right minimum where it is known, and counterexamples that the original confirms."""

import numpy as np
import pytest
import torch
from torch import nn
from verify_networks import network

from smoothing.errors import InvalidArgumentError
from verify.attack import Attack, contains, original_of
from verify.ball import Ball
from verify.problem import Problem
from verify.region import Region
from verify.result import Guarantee, Status
from verify.specification import Specification


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_a_linear_network_is_attacked_to_the_minimum(norm: str, clip: tuple[float, float] | None) -> None:
    module = nn.Sequential(nn.Linear(6, 3)).eval()
    x = torch.rand(2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    problem = Problem.margins(module, x, Ball(norm, 0.3, clip=clip), [0, 1])
    result = Attack(steps=50, restarts=1, per_row=True).bound(problem)
    rows = torch.from_numpy(problem.specification.matrix) @ module[0].weight.double().detach()
    shift = problem.specification.matrix @ module[0].bias.double().detach().numpy()
    truth = np.array([problem.region.minimum(rows[i], torch.full((2,), i)).numpy() + shift[i] for i in range(2)])
    assert result.upper is not None
    assert (result.upper >= truth - 1e-9).all()
    np.testing.assert_allclose(result.upper, truth, atol=3e-2)
    assert result.guarantee is Guarantee.ATTACK
    assert (result.lower == -np.inf).all()


def test_counterexamples_are_confirmed_by_the_original() -> None:
    module = network("dense")
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(2))
    problem = Problem.margins(module, x, Ball("linf", 0.8, clip=(0.0, 1.0)))
    result = Attack(steps=30, restarts=2, original=original_of(module)).bound(problem)
    assert Status.FALSIFIED in result.status
    for image, (status, point) in enumerate(zip(result.status, result.counterexamples, strict=True)):
        assert (point is not None) == (status is Status.FALSIFIED)
        if point is not None:
            assert contains(problem.region, torch.from_numpy(point)[None], torch.tensor([image]))
            assert (np.abs(point - x[image].double().numpy()) <= 0.8).all()
            with torch.no_grad():
                label = module(x[image : image + 1]).argmax()
                assert module(torch.from_numpy(point)[None].float()).argmax() != label


def test_an_original_that_disagrees_confirms_nothing() -> None:
    module = network("dense")
    problem = Problem.margins(module, torch.rand(3, 3), Ball("linf", 5.0, clip=None))
    stubborn = lambda points: np.eye(3)[np.full(len(points), 0)]  # noqa: E731  always the first class
    labels = problem.specification.matrix.argmax(-1)[:, 0]
    result = Attack(steps=10, restarts=1, original=stubborn).bound(problem)
    for label, status in zip(labels, result.status, strict=True):
        assert (status is Status.FALSIFIED) == (label != 0) or status is Status.UNKNOWN
    assert all(s is Status.UNKNOWN for label, s in zip(labels, result.status, strict=True) if label == 0)


def test_boxes_of_very_different_widths() -> None:
    """One coordinate is a thousand times wider; the attack must use both, and points on the corners are allowed."""
    region = Region.box(torch.tensor([[0.0, 0.0]]), torch.tensor([[1e3, 1.0]]))
    module = nn.Linear(2, 1).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1e-3, 1.0]]))
        module.bias.zero_()
    specification = Specification(np.array([[[-1.0]]]), np.array([[1.9]]), ((0,),))  # violated where y >= 1.9
    result = Attack(steps=20, restarts=1).bound(Problem.build(module.eval(), region, specification))
    assert result.status == (Status.FALSIFIED,)


def test_bad_arguments() -> None:
    with pytest.raises(InvalidArgumentError, match="steps >= 1"):
        Attack(steps=0)
