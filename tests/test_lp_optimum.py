"""LP-ALL and LP-LAST are the optima of their linear programs, and no bound of the ladder below is better.

Narrow networks with large weights: there triangles are most often tight against their own boxes, of which slopes know
nothing.
"""

import numpy as np
import pytest
import torch
from torch import nn

from verify.alpha_crown import AlphaCrown
from verify.ball import Ball
from verify.checker import check
from verify.crown import Crown
from verify.interval import Interval
from verify.lp import LPAll, LPLast
from verify.lp import solve as solving
from verify.lp.finder import SlopeFinder
from verify.lp.reference import lp_all_reference, relaxed_minimum
from verify.lp.simplex import Answer
from verify.problem import Problem

CLOSE = 1e-6


def narrow(seed, widths, leaky, clip, eps=0.5, factor=2):
    torch.manual_seed(seed)
    layers, before = [], 3
    for width in widths:
        linear = nn.Linear(before, width)
        linear.weight.data *= factor
        layers += [linear, nn.LeakyReLU(0.2) if leaky else nn.ReLU()]
        before = width
    net = nn.Sequential(*layers, nn.Linear(before, 3))
    x = torch.rand(1, 3, dtype=torch.float64)
    return Problem.margins(net, x, Ball("linf", eps, clip=clip))


def drawn(seed):
    """A network of 3 to 5 layers: ReLU or leaky, with and without a clip interval."""
    rng = np.random.default_rng(seed)
    widths = rng.integers(2, 5, size=rng.integers(2, 5)).tolist()  # behind them comes one layer more
    return narrow(seed, widths, seed % 3 == 0, (0.0, 1.0) if seed % 2 else None, float(rng.choice([0.3, 0.5, 1.0])))


def flat(boxes):
    return {k: (box.lower[0].ravel(), box.upper[0].ravel()) for k, box in boxes.items()}


def assert_equal(found, expected):
    np.testing.assert_array_less(np.abs(found - expected) / (1 + np.abs(expected)), CLOSE)


@pytest.mark.parametrize("first", range(0, 104, 8))
def test_the_very_optimum_and_no_better_bound_below(first):
    for seed in range(first, first + 8):
        problem = drawn(seed)
        rows = problem.specification.matrix[0]
        start = flat(Crown().bound(problem).boxes)
        expected = lp_all_reference(problem.graph, problem.region, rows, solver="HIGHS", start=start)[1]
        found = LPAll().bound(problem)
        assert_equal(found.lower[0], expected)
        alpha = AlphaCrown(steps=30, box_steps=20).bound(problem)
        assert (found.lower >= alpha.lower - CLOSE).all(), seed
        assert_equal(LPAll().bound(problem, alpha).lower[0], found.lower[0])
        # From the boxes of the rung below, and of the rung itself: LP-LAST's program is LP-ALL's last.
        last = LPLast().bound(problem, alpha)
        assert (last.lower >= alpha.lower - CLOSE).all(), seed
        assert_equal(LPLast().bound(problem, found).lower[0], found.lower[0])
        if seed % 4 == 0:
            boxes = flat(alpha.boxes)
            given = relaxed_minimum(problem.graph, problem.region, boxes, problem.graph.output, rows, solver="HIGHS")
            assert_equal(last.lower[0], given)


def test_hairs_of_the_layers_below_leave_room():
    """The weights make more of the hairs below than a hair of its own is: a neuron's box bound, and the row lost 0.07."""
    problem = narrow(238, (3, 3, 3, 3), False, None)
    found = LPAll().bound(problem)
    rows = problem.specification.matrix[0]
    expected = lp_all_reference(problem.graph, problem.region, rows, solver="CLARABEL")[1]
    assert_equal(found.lower[0], expected)
    np.testing.assert_allclose(found.lower[0], [0.59330528, 0.11860286], atol=1e-6)
    assert (found.lower >= AlphaCrown().bound(problem).lower - CLOSE).all()
    assert check(problem.graph, problem.region, problem.specification, found.certificates).agrees(found.lower)


def test_an_early_stop_whose_slopes_do_not_show_the_sign_is_solved_to_the_end(monkeypatch):
    """The multipliers of a program that stopped once a sign was known are none of an optimum."""
    problem = narrow(18, (4, 6, 6, 4), False, None)
    base = Interval().bound(problem)  # knows few signs
    expected = LPAll().bound(problem, base)
    stopped = 0

    class Early(solving.Simplex):
        def minimise(self, cost, *, stop_above=None):
            nonlocal stopped
            answer = super().minimise(cost, stop_above=None)
            if stop_above is None or not answer.objective > stop_above:
                return answer
            stopped += 1  # a sign, and multipliers of nothing
            return Answer("bound", answer.objective, 0 * answer.row_dual, 0 * answer.column_dual)

    monkeypatch.setattr(solving, "Simplex", Early)
    early = LPAll().bound(problem, base)
    assert stopped > 0
    assert_equal(early.lower[0], expected.lower[0])


def test_a_box_that_binds_gets_room(monkeypatch):
    """Without what the programs say about the neurons' reach, the rows are solved again with the room that they need."""
    problem = narrow(238, (3, 3, 3, 3), False, None)
    expected = LPAll().bound(problem)
    program = SlopeFinder._program

    def forgetful(self, sweep, image, node):
        self._reached.clear()
        return program(self, sweep, image, node)

    monkeypatch.setattr(SlopeFinder, "_program", forgetful)
    assert_equal(LPAll().bound(problem).lower[0], expected.lower[0])


def curved(seed, kinds, factor):
    """Sigmoid and tanh, among ReLUs or alone, with weights so large that most neurons are saturated over the box."""
    torch.manual_seed(seed)
    layers, before = [], 3
    for kind in kinds:
        linear = nn.Linear(before, 5)
        linear.weight.data *= factor
        layers += [linear, kind()]
        before = 5
    return nn.Sequential(*layers, nn.Linear(before, 3)).double().eval()


CURVED = [
    (nn.Tanh, nn.Tanh),
    (nn.Sigmoid, nn.Sigmoid),
    (nn.Tanh, nn.Sigmoid, nn.Tanh),
    (nn.ReLU, nn.Sigmoid, nn.ReLU),
    (nn.Tanh, nn.LeakyReLU, nn.Sigmoid),
]


def names(kinds):
    return "-".join(kind.__name__ for kind in kinds)


@pytest.mark.parametrize("factor", [1, 5, 20, 100])
@pytest.mark.parametrize("kinds", CURVED, ids=names)
def test_curved_networks_of_any_weights_are_sound_and_no_worse_than_crown(kinds, factor):
    """Slopes of an S-shaped neuron are not the program's to choose: where rows are solved again, they stay."""
    generator = torch.Generator().manual_seed(7)
    for seed in range(4):
        net = curved(seed, kinds, factor)
        x = torch.rand(1, 3, generator=generator, dtype=torch.float64)
        problem = Problem.margins(net, x, Ball("linf", 0.1, clip=None))
        crown = Crown().bound(problem)
        noise = torch.rand(3000, 3, generator=generator, dtype=torch.float64) * 2 - 1
        noise[:1500] = noise[:1500].sign()
        lowest = problem.specification.values(net(x + 0.1 * noise).detach().numpy()).min(0)
        for method in (LPLast(), LPAll(), LPAll(until_sign=True)):
            found = method.bound(problem, crown)
            assert (found.lower[0] <= lowest + 1e-9 * (1 + np.abs(lowest))).all()
            assert (found.lower >= crown.lower).all()
            for node, box in crown.boxes.items():
                assert (found.boxes[node].lower >= box.lower).all()
                assert (found.boxes[node].upper <= box.upper).all()
            checked = check(problem.graph, problem.region, problem.specification, found.certificates)
            assert checked.agrees(found.lower, 1e-7)


@pytest.mark.parametrize("kinds", CURVED, ids=names)
def test_no_program_of_a_curved_network_fails(kinds):
    """Lines of saturated neurons lie next to each other: a solver that scales them apart calls the program infeasible."""
    for factor in (1, 20, 100):
        net = curved(0, kinds, factor)
        x = torch.rand(1, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        problem = Problem.margins(net, x, Ball("linf", 0.1, clip=None))
        assert LPAll().bound(problem, Crown().bound(problem)).notes == ()
