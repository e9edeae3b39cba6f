"""Mistakes that were made on purpose: every one of them must be noticed by a check that passes without it."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from verify_networks import network, shape_of

import verify.backward
import verify.checker
import verify.checker_minimum
import verify.region
import verify.state
from smoothing.errors import InvalidArgumentError
from verify import kernels
from verify.ball import Ball
from verify.certificate import Certificate, Slopes, Stage
from verify.checker import check
from verify.crown import Crown
from verify.graph import Graph, Input, Linear, Node
from verify.problem import Problem
from verify.relaxation.base import Lines
from verify.relaxation.leaky_relu import LeakyReLURelaxation
from verify.result import Result, verdicts
from verify.specification import Specification
from verify.tracing import trace


def bounds_hold(name: str) -> None:
    """The check of this file: sampled points respect all bounds, and the checker confirms them."""
    x = torch.rand(1, *shape_of(name), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    graph = trace(network(name), shape_of(name))
    problem = Problem.margins(graph, x, Ball("linf", 0.3, clip=None), [0])
    result = Crown().bound(problem, pure=True)  # intersected with intervals, some mistakes would not show
    noise = torch.rand(4000, *shape_of(name), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    values = problem.program.forward(x + 0.3 * (2 * noise - 1).sign() * noise.clamp(min=0.5))
    for index, box in result.boxes.items():
        node = values[index].numpy()
        assert (node >= box.lower[0] - 1e-12).all()
        assert (node <= box.upper[0] + 1e-12).all()
    checked = check(graph, problem.region, problem.specification, result.certificates)
    assert checked.agrees(result.lower, 1e-9)
    assert np.abs(checked.lower - result.lower).max() < 1e-8


def exact_affine_minimum(rounds: int) -> None:
    """Bounds of random affine maps are at most the exact minimum, in rational arithmetic, of method and checker alike."""
    rng = np.random.default_rng(8)
    for _ in range(rounds):
        weight, bias = rng.standard_normal((2, 7)) * 10.0 ** rng.integers(-4, 5, (2, 7)), rng.standard_normal(2)
        graph = Graph((Node(Input(), (), (7,)), Node(Linear(weight, bias), (0,), (2,))))
        x = rng.random((1, 7))
        region = Ball("linf", 0.1, clip=None).at(torch.from_numpy(x))
        specification = Specification.margins([0], 2)
        result = Crown().bound(Problem.build(graph, region, specification))
        row = [Fraction(a) - Fraction(b) for a, b in zip(weight[0], weight[1], strict=True)]
        low, high = ([Fraction(v) for v in side.flatten().tolist()] for side in (region.lower, region.upper))
        truth = Fraction(bias[0]) - Fraction(bias[1])
        truth += sum(a * (p if a > 0 else q) for a, p, q in zip(row, low, high, strict=True))
        checked = check(graph, region, specification, result.certificates)
        assert Fraction(float(result.lower[0, 0])) <= truth
        assert Fraction(float(checked.lower[0, 0])) <= truth


def nan_is_not_verified() -> None:
    specification = Specification.margins([0], 2)
    assert str(verdicts(specification, np.array([[np.nan]]))[0]) == "unknown"


def test_the_checks_pass_without_mutations() -> None:
    for name in ("dense", "leaky", "residual", "pooled"):
        bounds_hold(name)
    exact_affine_minimum(40)
    nan_is_not_verified()


def _flipped_slope(self: Any, box: Any, position: Any, _original: Any = LeakyReLURelaxation.lines) -> Lines:
    lines = _original(self, box, position)
    return Lines(lines.upper_slope, lines.lower_offset, lines.lower_slope, lines.upper_offset)


def _no_bias(self: Any) -> None:
    return None


def _short_transpose(self: Any, rows: Any, _original: Any = kernels._Conv2d.transpose) -> Any:
    """Without output padding the result is too small; filled up with zeros, as a careless mend would do."""
    rest, self.rest = self.rest, (0, 0)
    (back,) = _original(self, rows)
    self.rest = rest
    height, width = self.input_shape[1:]
    return [torch.nn.functional.pad(back, (width - back.shape[3], 0, height - back.shape[2], 0))]


MUTATIONS: dict[str, tuple[Any, str, Any, Callable[[], None]]] = {
    "flipped slope": (LeakyReLURelaxation, "lines", _flipped_slope, lambda: bounds_hold("dense")),
    "dropped bias of a linear layer": (kernels._Linear, "bias", _no_bias, lambda: bounds_hold("dense")),
    "dropped bias of a convolution": (kernels._Conv2d, "bias", _no_bias, lambda: bounds_hold("residual")),
    "missing output padding": (kernels._Conv2d, "transpose", _short_transpose, lambda: bounds_hold("pooled")),
    "negated shift of a scale": (
        kernels._Scale,
        "bias",
        lambda self: -self.offset,
        lambda: bounds_hold("residual"),
    ),
    "no rounding at the input": (verify.region, "gamma", lambda *_: 0.0, lambda: exact_affine_minimum(40)),
    "rounding the wrong way": (verify.region, "gamma", lambda *_: -1e-14, lambda: exact_affine_minimum(40)),
    "no rounding in the checker": (
        verify.checker_minimum,
        "UNIT",
        0.0,
        lambda: exact_affine_minimum(40),
    ),
    "NaN as verified": (
        Specification,
        "proved",
        lambda self, lower, joint=None: ~(lower <= 0).any(axis=1),
        nan_is_not_verified,
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutations_are_noticed(monkeypatch: pytest.MonkeyPatch, mutation: str) -> None:
    owner, name, replacement, noticing = MUTATIONS[mutation]
    if "rounding" in mutation:
        # Each place has an allowance of its own; the others must not cover up for the one that is missing.
        monkeypatch.setattr(verify.state, "gamma", lambda *_: 0.0)
        monkeypatch.setattr(verify.backward, "_unit", lambda _: 0.0)
        monkeypatch.setattr(verify.checker, "SPARE", -10.0)
        monkeypatch.setattr(verify.checker, "gamma", lambda *_: 0.0)
        monkeypatch.setattr(verify.checker, "UNIT", 0.0)
    monkeypatch.setattr(owner, name, replacement)
    with pytest.raises(AssertionError):
        noticing()


def _tampered(result: Result, change: Callable[[Stage], Stage]) -> tuple[Certificate, ...]:
    return tuple(Certificate(tuple(change(s) for s in c.stages), c.intervals) for c in result.certificates)


def test_a_forged_certificate_proves_nothing() -> None:
    """Slopes outside [0, 1], rows that do not exist and foreign nodes are refused; other slopes are merely other bounds."""
    x = torch.rand(1, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    graph = trace(network("dense"), (3,))
    problem = Problem.margins(graph, x, Ball("linf", 0.3, clip=None), [0])
    result = Crown().bound(problem)
    first, second = graph.activations[:2]

    def forged(value: float) -> Callable[[Stage], Stage]:
        def change(stage: Stage) -> Stage:
            slopes = {
                k: Slopes(np.arange(graph[k].size), np.full((len(stage.rows), graph[k].size), value))
                for k in (first, second)
                if k < stage.node and stage.relaxed
            }
            return Stage(stage.node, stage.rows, stage.signs, stage.target, stage.relaxed, stage.rule, slopes)

        return change

    honest = check(graph, problem.region, problem.specification, result.certificates).lower
    other = check(graph, problem.region, problem.specification, _tampered(result, forged(0.25))).lower
    assert (other != honest).any()
    outputs = problem.program.forward(x + 0.3 * (2 * torch.rand(2000, 3, dtype=torch.float64) - 1))[-1].numpy()
    assert (outputs @ problem.specification.matrix[0].T >= other[0]).all()
    for value in (1.5, -0.5):
        with pytest.raises(InvalidArgumentError, match=r"slopes must be in \[0, 1\]"):
            check(graph, problem.region, problem.specification, _tampered(result, forged(value)))
    for node, rows in ((99, [0]), (graph.output, [77])):
        stage = Stage(node, np.array(rows), np.array([1]), "specification")
        with pytest.raises(InvalidArgumentError, match="must name rows of a node"):
            check(graph, problem.region, problem.specification, [Certificate((stage,))])
    empty = check(graph, problem.region, problem.specification, [Certificate(())])
    assert str(empty.status[0]) == "unknown"
    assert (empty.lower == -np.inf).all()


def test_a_certificate_of_another_network_gives_other_bounds() -> None:
    x = torch.rand(1, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    problem = Problem.margins(trace(network("dense"), (3,)), x, Ball("linf", 0.05, clip=None), [0])
    result = Crown().bound(problem)
    other = trace(network("dense", seed=9), (3,))
    checked = check(other, problem.region, problem.specification, result.certificates)
    assert np.abs(checked.lower - result.lower).max() > 0.05, "bounds belong to the network that they are checked for"
