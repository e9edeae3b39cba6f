"""Points of LP-ALL's polytope: never below its optimum, and the verdicts that they give are LP-ALL's own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from smoothing.errors import InvalidArgumentError
from tests.small_networks import network
from tests.verify_networks import barrier_network, dense
from verify.ball import Ball
from verify.crown import Crown
from verify.lp import LPAll, LPLast
from verify.lp.refutation import refute_by_programs, refute_lp_all, refute_lp_last
from verify.problem import Problem
from verify.result import Status
from verify.same_slope import SameSlope
from verify.selection import select_problem, select_result
from verify.specification import Specification
from verify.tracing import trace

MODELS = Path(__file__).parents[2] / "shared" / "models" / "lp_barrier"
CLIPS = [None, (0.0, 1.0)]


def problem_of(kind, seed, eps, clip, batch=4, norm="linf"):
    net, shape = network(kind, seed)
    x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Problem.margins(trace(net, shape), x, Ball(norm, eps, clip=clip))


def deep_problem(seed, eps, clip, batch=4):
    torch.manual_seed(seed)
    net = dense(4, 8, 8, 8, 8, 3).eval()
    for part in net[::2]:
        torch.nn.init.normal_(part.weight, std=1.5 / part.in_features**0.5)
    x = torch.rand(batch, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Problem.margins(trace(net, (4,)), x, Ball("linf", eps, clip=clip))


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("kind", ["dense", "leaky", "residual", "joined", "conv", "deep"])
def test_no_point_is_below_the_optimum(kind, clip):
    """The containment itself: a chord over a box that is too wide would give points that LP-ALL cuts off."""
    problem = deep_problem(2, 0.2, clip) if kind == "deep" else problem_of(kind, 2, 0.4, clip)
    base = Crown().bound(problem)
    optimum = LPAll().bound(problem, base).lower
    for box_steps, steps in ((1, 1), (15, 30)):
        found = refute_lp_all(problem, base, box_steps=box_steps, steps=steps)
        assert (found.values >= optimum - 1e-7).all()
    by_programs = refute_by_programs(problem, found).values
    assert (by_programs >= optimum - 1e-6).all()
    assert (by_programs <= found.values).all()
    # And they come close, or would decide nothing.
    assert np.median(found.values - optimum) < 0.05 * np.abs(optimum).max()


@pytest.mark.parametrize("kind", ["dense", "residual", "joined", "conv", "deep"])
def test_inner_boxes_lie_within_those_of_lp_all(kind):
    problem = deep_problem(4, 0.2, None) if kind == "deep" else problem_of(kind, 4, 0.4, None)
    base = Crown().bound(problem)
    boxes, full = refute_lp_all(problem, base, box_steps=4).boxes, LPAll().bound(problem, base)
    assert set(boxes) == set(problem.graph.preactivations)
    for node, (lower, upper) in boxes.items():
        low, high, known_low, known_high = (
            side.reshape(len(problem), -1)
            for box in (full.boxes[node], base.boxes[node])
            for side in (box.lower, box.upper)
        )
        open_ = (known_low < 0) & (known_high > 0)  # elsewhere any box of the known sign will do
        assert open_.any() or kind == "conv"
        assert (lower >= low - 1e-9)[open_].all()
        assert (upper <= high + 1e-9)[open_].all()
        assert (lower <= upper).all()
        assert ((lower >= 0) | (upper <= 0))[~open_].all()


def test_the_quick_verdicts_are_those_of_lp_all():
    """24 inputs of random networks, with both answers: none refuted that LP-ALL proves, and hardly one left open."""
    refuted, proved = [], []
    for seed, eps in ((0, 0.06), (3, 0.2)):
        problem = deep_problem(seed, eps, CLIPS[seed % 2], batch=12)
        base = Crown().bound(problem)
        refuted.append(refute_lp_all(problem, base, box_steps=10, steps=40).refuted)
        proved.append(np.array([s is Status.VERIFIED for s in LPAll(until_sign=True).bound(problem, base).status]))
    refuted, proved = np.concatenate(refuted), np.concatenate(proved)
    assert proved.sum() >= 9
    assert (~proved).sum() >= 9
    assert not (refuted & proved).any()
    assert (~refuted & ~proved).sum() <= 2


def test_a_group_is_refuted_only_if_all_of_its_rows_fail():
    problem = problem_of("dense", 3, 0.4, None, batch=1)
    base = SameSlope().bound(problem)
    values = refute_lp_all(problem, base, steps=20).values[0]
    matrix = problem.specification.matrix[:, :1].repeat(2, axis=1)
    # The same row twice, shifted so that one copy fails and the other cannot.
    offset = np.array([[-values[0] - 1.0, -values[0] + 100.0]])
    for groups, expected in ((((0,), (1,)), True), (((0, 1),), False)):
        other = Problem(problem.graph, problem.region, Specification(matrix, offset, groups), problem.program)
        found = refute_lp_all(other, SameSlope().bound(other), steps=20)
        assert found.refuted.tolist() == [expected]
        assert bool(LPAll().bound(other).status[0] is Status.VERIFIED) is not expected


def test_values_within_the_tolerance_decide_nothing():
    problem = problem_of("dense", 4, 0.4, None, batch=1)
    base = Crown().bound(problem)
    worst = refute_lp_all(problem, base).values.min()
    assert worst < 0
    assert refute_lp_all(problem, base, tolerance=-worst / 2).refuted.all()
    assert not refute_lp_all(problem, base, tolerance=-worst * 2).refuted.any()


def test_small_chunks_and_parts_of_a_batch():
    """Points are not the same to the last bit, and ties may fall otherwise; what they show must hold all the same."""
    problem = deep_problem(1, 0.1, None)
    base = Crown().bound(problem)
    optimum = LPAll().bound(problem, base).lower
    small = Problem(problem.graph, problem.region, problem.specification, problem.program, max_bytes=4096)
    part = select_problem(problem, [2, 0]), select_result(base, [2, 0])
    for found, expected in ((refute_lp_all(small, base), optimum), (refute_lp_all(*part), optimum[[2, 0]])):
        assert (found.values >= expected - 1e-7).all()
        assert np.median(found.values - expected) < 0.05 * np.abs(optimum).max()


@pytest.mark.parametrize("kind", ["dense", "residual", "deep"])
def test_lp_last(kind):
    """On the boxes of pure same-slope, as published."""
    problem = deep_problem(5, 0.1, None) if kind == "deep" else problem_of(kind, 5, 0.3, None)
    greedy = SameSlope().bound(problem, pure=True)
    optimum = LPLast().bound(problem, pure=True).lower
    found = refute_lp_last(problem, greedy, steps=30)
    assert (found.values >= optimum - 1e-7).all()
    assert np.median(found.values - optimum) < 0.05 * np.abs(optimum).max()


@pytest.mark.parametrize(
    ("kind", "norm", "dtype", "word"),
    [
        ("smooth", "linf", torch.float64, "leaky ReLUs"),
        ("pooled", "linf", torch.float64, "MaxPool"),
        ("dense", "l2", torch.float64, "boxes"),
        ("dense", "linf", torch.float32, "float64"),
    ],
)
def test_what_is_not_covered_is_refused(kind, norm, dtype, word):
    net, shape = network(kind, 0)
    problem = Problem.margins(trace(net, shape), torch.rand(1, *shape), Ball(norm, 0.1, clip=None), dtype=dtype)
    with pytest.raises(InvalidArgumentError, match=word):
        refute_lp_all(problem, Crown().bound(problem))


@pytest.mark.parametrize("bad", [{"steps": 0}, {"box_steps": 0}, {"tolerance": 0.0}, {"tolerance": float("nan")}])
def test_numbers_out_of_range(bad):
    problem = problem_of("dense", 0, 0.1, None, batch=1)
    with pytest.raises(InvalidArgumentError, match="at least 1"):
        refute_lp_all(problem, Crown().bound(problem), **bad)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"tolerance": -1.0}])
def test_numbers_out_of_range_of_lp_last(bad):
    problem = problem_of("dense", 0, 0.1, None, batch=1)
    with pytest.raises(InvalidArgumentError, match="at least 1"):
        refute_lp_last(problem, Crown().bound(problem), **bad)


@pytest.mark.parametrize(("name", "eps"), [("mnist_MLP_2_100_NOR", 0.02), ("mnist_MLP_2_100_ADV", 0.06)])
def test_a_real_network(name, eps):
    if not (MODELS / f"{name}.safetensors").exists():
        pytest.skip("needs the networks of models/lp_barrier")
    x = torch.from_numpy(np.load(MODELS / "ten_test_images.npy"))[:4]
    problem = Problem.margins(barrier_network(name, MODELS), x, Ball("linf", eps, clip=(0.0, 1.0)))
    base = Crown().bound(problem, SameSlope().bound(problem))
    found, full = refute_lp_all(problem, base, box_steps=3, steps=15), LPAll().bound(problem, base)
    assert (found.values >= full.lower - 1e-6).all()
    assert found.refuted.tolist() == [status is not Status.VERIFIED for status in full.status]
    assert found.refuted.any()
    assert not found.refuted.all()
