"""Bound propagation: sound for every layer, ordered, exact where it must be, and confirmed by the independent checker."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor, nn
from verify_networks import NETWORKS, PIECEWISE_LINEAR, dense, network, shape_of

from smoothing.errors import InvalidArgumentError
from verify.alpha_crown import AlphaCrown
from verify.attack import Attack
from verify.ball import Ball
from verify.certificate import Certificate
from verify.checker import check
from verify.crown import Crown
from verify.graph import Graph, Input, LeakyReLU, Linear, Node
from verify.interval import Interval
from verify.method import Method
from verify.methods import METHODS
from verify.problem import Problem
from verify.region import Region
from verify.result import Guarantee, Result, Status
from verify.same_slope import SameSlope
from verify.specification import Specification
from verify.tracing import trace

SETS = [Ball(n, e, clip=c) for n, e in (("linf", 0.15), ("l2", 0.4), ("l1", 0.7)) for c in (None, (0.0, 1.0))]
SAMPLES, SAMPLES_OF_IMAGES = 20_000, 6_000
"""Points per input: a million over all cases; fewer where each is a walk through convolutions."""


def method(name: str) -> Method:
    return AlphaCrown(steps=3, box_steps=2) if name == "alpha" else METHODS[name]()


def inputs(name: str, count: int = 2, seed: int = 0) -> Tensor:
    x = torch.rand(count, *shape_of(name), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[0].flatten()[:2] = torch.tensor([0.0, 1.0])  # on the clip interval's ends
    return x


def samples(x: Tensor, ball: Ball, count: int, seed: int = 0) -> Tensor:
    """Points of the ball around one input: corners and faces more than the inside, where bounds are attained."""
    generator = torch.Generator().manual_seed(seed)
    flat = x.flatten()
    size, eps = len(flat), float(ball.eps)
    normal = torch.randn(count, size, generator=generator, dtype=torch.float64)
    if str(ball.norm) == "linf":
        step = torch.where(torch.rand(count, 1, generator=generator) < 0.7, normal.sign(), normal.clamp(-1, 1)) * eps
    elif str(ball.norm) == "l2":
        step = normal / normal.norm(dim=1, keepdim=True) * eps
        step[::3] *= torch.rand(len(step[::3]), 1, generator=generator) ** (1 / size)
    else:
        share = torch.rand(count, size, generator=generator, dtype=torch.float64) ** 4
        share[: 2 * size] = torch.eye(size, dtype=torch.float64).repeat(2, 1)[: len(share)]
        step = share / share.sum(1, keepdim=True) * normal.sign() * eps
    step[0] = 0
    points = flat + step * (1 - 1e-12)
    if ball.clip is not None:
        points = points.clamp(*ball.clip)  # towards x, which lies inside: the step only shrinks
    return points.reshape(count, *x.shape)


def assert_sound(
    graph: Graph, problem: Problem, result: Result, x: Tensor, ball: Ball, count: int | None = None
) -> None:
    count = count or (SAMPLES if x.dim() == 2 else SAMPLES_OF_IMAGES)
    for image in range(len(x)):
        values = problem.program.forward(samples(x[image], ball, count))
        for index, box in result.boxes.items():
            node = values[index].numpy()
            slack = 1e-12 * (1 + np.abs(node).max())  # of evaluating the network itself
            assert (node >= box.lower[image] - slack).all(), (result.method, index)
            assert (node <= box.upper[image] + slack).all(), (result.method, index)
        outputs = values[-1].numpy()
        rows = outputs @ problem.specification.matrix[image].T + problem.specification.offset[image]
        assert (rows >= result.lower[image] - 1e-12 * (1 + np.abs(outputs).max())).all(), result.method


CASES = [
    (name, ball)
    for name in NETWORKS
    for ball in (SETS if name in {"dense", "sigmoid", "residual", "pooled"} else SETS[1:4:2])
]


@pytest.mark.parametrize(("name", "ball"), CASES, ids=str)
def test_no_point_violates_a_bound_of_any_layer(name: str, ball: Ball) -> None:
    """A million points: every operator, norm and method, clipped and not; with the ladder's order and certificates."""
    graph, x = trace(network(name), shape_of(name)), inputs(name)
    problem = Problem.margins(graph, x, ball)
    found = {m: method(m).bound(problem) for m in METHODS if m != "alpha"}
    joined = Crown().bound(problem, found["same-slope"])
    found["alpha"] = method("alpha").bound(problem, joined)
    for result in (*found.values(), joined):
        assert result.status == tuple(Status.VERIFIED if (row > 0).all() else Status.UNKNOWN for row in result.lower)
        assert str(ball) == result.region
        assert result.guarantee is Guarantee.CHECKABLE
        checked = check(graph, problem.region, problem.specification, result.certificates)
        assert checked.agrees(result.lower, 1e-9)
        assert np.abs(checked.lower - result.lower).max() < 1e-9 * (1 + np.abs(result.lower).max())
    alpha, attack = found["alpha"].lower, Attack(steps=4, restarts=0, per_row=True).bound(problem)
    for weaker in ("ibp", "same-slope", "crown"):
        assert (found[weaker].lower <= alpha + 1e-9).all()
    assert attack.upper is not None
    assert (alpha <= attack.upper + 1e-9).all()
    # The last result's boxes are the tightest: they are the hardest to satisfy.
    assert_sound(graph, problem, found["alpha"], x, ball)


@pytest.mark.parametrize("name", NETWORKS)
def test_pure_methods_are_sound_and_checkable(name: str) -> None:
    graph, x, ball = trace(network(name, 1), shape_of(name)), inputs(name, seed=1), SETS[3]
    problem = Problem.margins(graph, x, ball)
    for name_of_method in METHODS:
        result = method(name_of_method).bound(problem, pure=True)
        assert result.pure
        assert_sound(graph, problem, result, x, ball, 2000)
        checked = check(graph, problem.region, problem.specification, result.certificates)
        assert checked.agrees(result.lower, 1e-9)


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
    norm=st.sampled_from(["linf", "l2", "l1"]),
    eps=st.floats(0, 3),
    clip=st.sampled_from([None, (0.0, 1.0)]),
)
def test_random_networks(sizes: list[int], seed: int, norm: str, eps: float, clip: tuple[float, float] | None) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = dense(2, *sizes, 3)
        x = torch.rand(1, 2, dtype=torch.float64)
    graph, ball = trace(module.eval(), (2,)), Ball(norm, eps, clip=clip)
    problem = Problem.margins(graph, x, ball)
    rungs = [Interval().bound(problem), SameSlope().bound(problem), Crown().bound(problem)]
    rungs.append(AlphaCrown(steps=3, box_steps=3).bound(problem))
    for result in rungs:
        assert_sound(graph, problem, result, x, ball, 300)
        assert (result.lower <= rungs[-1].lower + 1e-9).all()
        assert check(graph, problem.region, problem.specification, result.certificates).agrees(result.lower, 1e-9)


def exact_minimum(module: nn.Sequential, region: Region, row: np.ndarray) -> float:
    """min of a row over a box for a network with one hidden layer, by one linear program per activation pattern."""
    first, last = module[0], module[2]
    W, b = first.weight.detach().double().numpy(), first.bias.detach().double().numpy()
    V, c = last.weight.detach().double().numpy(), last.bias.detach().double().numpy()
    bounds = list(zip(region.lower.flatten().tolist(), region.upper.flatten().tolist(), strict=True))
    best = np.inf
    for pattern in itertools.product((0.0, 1.0), repeat=len(b)):
        on = np.array(pattern)
        sign = np.where(on > 0, -1.0, 1.0)
        weight = row @ (V * on)
        found = linprog(weight @ W, A_ub=sign[:, None] * W, b_ub=-sign * b, bounds=bounds)
        if found.status == 0:
            best = min(best, float(found.fun + weight @ b + row @ c))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_against_enumeration_of_activation_patterns(seed: int) -> None:
    """Never above the exact minimum; equal to it where no neuron is undecided."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = dense(2, 5, 3).eval()
        x = torch.rand(1, 2, dtype=torch.float64)
    decided = 0
    for eps in (0.01, 0.3, 1.0):
        problem = Problem.margins(module, x, Ball("linf", eps, clip=None))
        result = AlphaCrown(steps=40).bound(problem)
        truth = np.array([exact_minimum(module, problem.region, row) for row in problem.specification.matrix[0]])
        assert (result.lower[0] <= truth + 1e-7).all()
        box = result.boxes[problem.graph.preactivations[0]]
        if not ((box.lower < 0) & (box.upper > 0)).any():
            decided += 1
            np.testing.assert_allclose(result.lower[0], truth, atol=1e-7)
    assert decided or seed > 0


def test_alpha_reaches_the_linear_program() -> None:
    """One hidden layer, so the optimum of the triangle relaxation is one small LP, solved here by another code."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = dense(3, 8, 3).eval()
        x = torch.rand(1, 3, dtype=torch.float64)
    problem = Problem.margins(module, x, Ball("linf", 0.4, clip=(0.0, 1.0)))
    result = AlphaCrown(steps=200).bound(problem)
    box = result.boxes[problem.graph.preactivations[0]]
    lower, upper = box.lower[0], box.upper[0]
    W, b = module[0].weight.detach().double().numpy(), module[0].bias.detach().double().numpy()
    V, c = module[2].weight.detach().double().numpy(), module[2].bias.detach().double().numpy()
    undecided = (lower < 0) & (upper > 0)
    assert undecided.sum() >= 2
    slope = np.where(undecided, upper / (upper - lower), (lower >= 0).astype(float))
    chord = np.where(undecided, -slope * lower, 0.0)
    # Variables (x, z): z <= slope * (Wx + b) + chord; z >= 0; z >= Wx + b where the neuron may be active.
    eye = np.eye(8)
    maybe = upper > 0
    A = np.vstack([np.hstack([-slope[:, None] * W, eye]), np.hstack([W, -eye])[maybe]])
    limit = np.concatenate([slope * b + chord, -b[maybe]])
    edges = list(zip(problem.region.lower.flatten().tolist(), problem.region.upper.flatten().tolist(), strict=True))
    for row, bound in zip(problem.specification.matrix[0], result.lower[0], strict=True):
        found = linprog(np.concatenate([np.zeros(3), row @ V]), A_ub=A, b_ub=limit, bounds=edges + [(0, None)] * 8)
        assert bound == pytest.approx(found.fun + row @ c, abs=1e-3)
        assert bound <= found.fun + row @ c + 1e-7


@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_a_point_is_evaluated(name: str) -> None:
    """eps = 0: all bounds are the network's own values."""
    graph, x = trace(network(name), shape_of(name)), inputs(name)
    problem = Problem.margins(graph, x, Ball("l2", 0.0, clip=None))
    truth = problem.specification.values(problem.program.forward(x)[-1].numpy())
    for name_of_method in METHODS:
        np.testing.assert_allclose(method(name_of_method).bound(problem).lower, truth, atol=1e-10)


def test_batches_rows_and_chunks_change_nothing() -> None:
    graph, x, ball = trace(network("residual"), shape_of("residual")), inputs("residual", 5), SETS[1]
    problem = Problem.margins(graph, x, ball)
    whole = Crown().bound(problem)
    small = Crown().bound(Problem.margins(graph, x, ball, max_bytes=40_000))
    np.testing.assert_allclose(small.lower, whole.lower, atol=1e-12)
    single = np.concatenate([Crown().bound(problem[i : i + 1]).lower for i in range(5)])
    np.testing.assert_allclose(single, whole.lower, atol=1e-12)
    assert check(graph, problem.region, problem.specification, small.certificates).agrees(whole.lower, 1e-9)


def test_single_precision_is_sound_and_close() -> None:
    graph, x, ball = trace(network("residual"), shape_of("residual")), inputs("residual"), SETS[1]
    double = Crown().bound(Problem.margins(graph, x, ball))
    single = Crown().bound(Problem.margins(graph, x, ball, dtype=torch.float32))
    assert (single.lower <= double.lower + 1e-9).all()
    np.testing.assert_allclose(single.lower, double.lower, atol=2e-2)


def test_nothing_is_certified_that_is_not_a_number() -> None:
    huge = Linear(np.full((2, 1), 1e300), np.zeros(2))
    last = Linear(np.array([[1e300, 1e300], [1e300, -1e300]]), np.zeros(2))
    nodes = (Node(Input(), (), (1,)), Node(huge, (0,), (2,)), Node(LeakyReLU(), (1,), (2,)), Node(last, (2,), (2,)))
    problem = Problem.margins(Graph(nodes), torch.ones(1, 1), Ball("linf", 0.1, clip=None), [0])
    for name in METHODS:
        result = method(name).bound(problem)
        assert result.status == (Status.UNKNOWN,), name
        assert not np.isnan(result.lower).any()
    specification = Specification.margins([0], 3)
    for bad in (np.nan, np.inf, -np.inf, 0.0, -1.0):
        assert not specification.proved(np.array([[1.0, bad]])).any()
    assert specification.proved(np.array([[1.0, 5e-324]])).all()


def test_certificates_survive_storage() -> None:
    graph, x, ball = trace(network("leaky"), shape_of("leaky")), inputs("leaky"), SETS[0]
    problem = Problem.margins(graph, x, ball)
    result = method("alpha").bound(problem)
    stored = tuple(Certificate.from_arrays(c.to_arrays()) for c in result.certificates)
    first = check(graph, problem.region, problem.specification, result.certificates)
    assert (first.lower == check(graph, problem.region, problem.specification, stored).lower).all()
    broken = result.certificates[0].to_arrays()
    del broken["1/rows"]
    with pytest.raises(InvalidArgumentError, match="must hold the arrays"):
        Certificate.from_arrays(broken)


def test_groups_of_rows() -> None:
    """A conjunction is refuted by any of its constraints, a disjunction only by all."""
    matrix, offset = np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]), np.zeros((1, 3))
    specification = Specification(matrix, offset, ((0, 1), (2,)))
    assert specification.proved(np.array([[-1.0, 0.5, 0.1]])).all()
    assert not specification.proved(np.array([[-1.0, -0.5, 0.1]])).any()
    assert specification.violated(np.array([[-1.0, 0.0, 5.0]])).all()
    assert specification.worst(np.array([[-1.0, 0.5, 0.1]])).tolist() == [0.1]
    with pytest.raises(InvalidArgumentError, match="groups must be non-empty"):
        Specification(matrix, offset, ((0, 1),))


def test_bad_input() -> None:
    graph = trace(network("dense"), (3,))
    x, ball = torch.rand(2, 3), SETS[0]
    with pytest.raises(InvalidArgumentError, match=r"inputs must have the shape \(3,\)"):
        Problem.build(graph, ball.at(torch.rand(2, 4)), Specification.margins([0, 1], 3))
    with pytest.raises(InvalidArgumentError, match="one specification per input"):
        Problem.margins(graph, x, ball, [0])
    with pytest.raises(InvalidArgumentError, match=r"labels must be in \[0, 3\)"):
        Problem.margins(graph, x, ball, [0, 3])
    with pytest.raises(InvalidArgumentError, match="must have 3 columns"):
        Problem.build(graph, ball.at(x), Specification.margins([0, 1], 4))
    problem = Problem.margins(graph, x, ball)
    result = Crown().bound(problem)
    with pytest.raises(InvalidArgumentError, match="previous must be None"):
        Crown().bound(problem, result, pure=True)
    with pytest.raises(InvalidArgumentError, match="same problem"):
        Crown().bound(problem[:1], result)
    with pytest.raises(InvalidArgumentError, match="previous must carry certificates"):
        Crown().bound(problem, Attack(steps=1, restarts=0).bound(problem))
    with pytest.raises(InvalidArgumentError, match="steps must be at least 0"):
        AlphaCrown(steps=-1)
