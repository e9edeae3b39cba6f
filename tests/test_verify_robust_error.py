"""Robust error: every bound against the truth, which enumeration of activation patterns gives on tiny networks."""

import numpy as np
import pytest
import torch
from torch import nn

from smoothing.errors import InvalidArgumentError
from tests.small_networks import exact_minimum
from verify.attack import Attack
from verify.ball import Ball
from verify.crown import Crown
from verify.interval import Interval
from verify.lp import LPAll
from verify.method import Method
from verify.milp import MILP
from verify.problem import Problem
from verify.result import Guarantee
from verify.robust_error import ErrorBound, RobustError, robust_error
from verify.same_slope import SameSlope
from verify.tracing import trace

QUICK = Attack(steps=5, restarts=0)
METHODS: tuple[Method, ...] = (
    Interval(),
    SameSlope(),
    Crown(),
    QUICK,
    LPAll(until_sign=True),
    MILP(until_sign=True),
)
COUNT = 8


@pytest.fixture(scope="module")
def asked() -> tuple[Problem, int]:
    """Six neurons in two layers, on eight inputs, the first of them labelled wrongly; and the true robust error."""
    with torch.random.fork_rng():
        torch.manual_seed(147)
        net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double().eval()
        x = torch.rand(COUNT, 2, dtype=torch.float64) * 2 - 0.5
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
        labels = net(x).argmax(1).numpy()
    labels[0] = 1 - labels[0]
    graph = trace(net, (2,))
    problem = Problem.margins(graph, x, Ball("linf", 0.2, clip=None), labels)
    lowest = [exact_minimum(graph, problem.region[i : i + 1], problem.specification.matrix[i, 0]) for i in range(COUNT)]
    return problem, sum(value <= 0 for value in lowest)


@pytest.mark.parametrize("pure", [False, True])
def test_the_truth_lies_between_every_two_bounds(asked: tuple[Problem, int], pure: bool) -> None:
    problem, truth = asked
    found = robust_error(problem, METHODS, pure=pure)
    counts = {(bound.side, bound.method): bound.count for bound in found.bounds}
    assert (found.wrong, truth) == (1, 4)
    for (side, method), count in counts.items():
        assert count <= truth if side == "lower" else count >= truth, method
    # The bounds are far enough apart for a wrong one to be seen.
    assert counts["lower", "pgd"] < truth < counts["upper", "lp-all"] < counts["upper", "ibp"] < COUNT
    # MILP is exact, from both sides; what is checkable is not mixed with its word.
    assert counts["upper", "milp"] == truth
    assert found.best(solver=True) == truth / COUNT <= found.best() == counts["upper", "lp-all"] / COUNT
    assert found.lower == max(counts["lower", "pgd"], counts["lower", "milp"]) / COUNT
    assert counts["upper", "lp-all"] <= counts["upper", "crown"] <= counts["upper", "ibp"]
    assert found.guarantee["milp"] is Guarantee.SOLVER
    assert found.guarantee["lp-all"] is Guarantee.CHECKABLE
    assert "pgd" not in found.upper
    assert found.pure is pure
    assert str(found) == "50.00 % <= robust error <= 62.50 % (8 inputs)"


def test_pure_methods_stand_for_themselves(asked: tuple[Problem, int]) -> None:
    """A weaker method after a stronger one: in the ladder it inherits, pure it does not."""
    problem, _ = asked
    ladder, alone = (robust_error(problem, (LPAll(), Interval()), pure=pure) for pure in (False, True))
    assert ladder.upper["ibp"] == ladder.upper["lp-all"] < alone.upper["ibp"]
    assert alone.upper["ibp"] == robust_error(problem, (Interval(),)).upper["ibp"]


def test_the_table_says_what_each_bound_rests_on(asked: tuple[Problem, int]) -> None:
    rows = robust_error(asked[0], (Crown(), QUICK, MILP())).table()
    assert [(row["side"], row["method"]) for row in rows] == [
        ("lower", "clean"),
        ("lower", "pgd"),
        ("lower", "milp"),
        ("upper", "crown"),
        ("upper", "milp"),
    ]
    assert all(row["share"] == row["count"] / row["inputs"] for row in rows)
    assert "solver" in rows[-1]["rests_on"]
    assert "checker" in rows[-2]["rests_on"]


def test_without_a_method_nothing_is_bounded(asked: tuple[Problem, int]) -> None:
    problem, _ = asked
    everything = robust_error(problem, (Crown(),), right=np.zeros(COUNT, dtype=bool))
    assert (everything.clean, everything.lower, everything.best()) == (1.0, 1.0, 1.0)
    assert RobustError(2, 0, (ErrorBound("milp", "upper", 1, Guarantee.SOLVER),)).best() == 1.0
    with pytest.raises(InvalidArgumentError, match="at least one method"):
        robust_error(problem, ())
    with pytest.raises(InvalidArgumentError, match="one value per input"):
        robust_error(problem, (Crown(),), right=np.ones(3, dtype=bool))
