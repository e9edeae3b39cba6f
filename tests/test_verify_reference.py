"""The real networks of the LP relaxation barrier: reference values of other tools, and linear programs' optima."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from verify_networks import barrier_network

from verify.alpha_crown import AlphaCrown
from verify.ball import Ball
from verify.checker import check
from verify.graph import Graph
from verify.methods import METHODS
from verify.problem import Problem
from verify.tracing import trace

pytestmark = pytest.mark.shared
NAMES = {"IBP": "ibp", "CROWN-IBP": "crown-ibp", "CROWN-same-slope": "same-slope", "CROWN": "crown"}
CASES = [
    ("MLP_2_100", "ADV", "linf", 0.1, True),
    ("MLP_2_100", "ADV", "linf", 0.1, False),
    ("MLP_2_100", "ADV", "l2", 0.5, False),
    ("MLP_2_100", "ADV", "l1", 1.0, False),
    ("MLP_2_100", "LPD", "linf", 0.1, True),
    ("MLP_2_100", "NOR", "linf", 0.02, True),
]
_graphs: dict[str, Graph] = {}


def graph_of(shared_dir: Path, name: str) -> Graph:
    if name not in _graphs:
        _graphs[name] = trace(barrier_network(name, shared_dir / "models" / "lp_barrier"), (1, 28, 28))
    return _graphs[name]


def images(shared_dir: Path, indices: list[int]) -> torch.Tensor:
    return torch.from_numpy(np.load(shared_dir / "models" / "lp_barrier" / "ten_test_images.npy"))[indices]


def references(shared_dir: Path, kind: str, **wanted: Any) -> list[dict[str, Any]]:
    values = json.loads((shared_dir / "reference" / "verification_values.json").read_text())
    return [entry for entry in values[kind] if all(entry.get(k) == v for k, v in wanted.items())]


@pytest.mark.parametrize(
    ("published", "case"),
    [(n, c) for c in CASES for n in NAMES if n != "CROWN-IBP" or c[1:3] == ("ADV", "linf")],  # all that there are
    ids=str,
)
def test_published_methods(shared_dir: Path, published: str, case: tuple[str, str, str, float, bool]) -> None:
    """To 1e-9, run as published; and the ladder's variant is never below, but for rounding."""
    arch, mode, norm, eps, clip = case
    entries = references(shared_dir, "bounds", arch=arch, mode=mode, norm=norm, eps=eps, clip01=clip, method=published)
    assert entries
    x = images(shared_dir, [entry["image"] for entry in entries])
    ball = Ball(norm, eps, clip=(0.0, 1.0) if clip else None)
    problem = Problem.margins(graph_of(shared_dir, f"mnist_{arch}_{mode}"), x, ball)
    assert problem.specification.targets is not None
    assert problem.specification.targets.tolist() == [entry["targets"] for entry in entries]
    truth = np.array([entry["margin_lower"] for entry in entries])
    result = METHODS[NAMES[published]]().bound(problem, pure=True)
    np.testing.assert_allclose(result.lower, truth, rtol=0, atol=1e-9)
    assert (METHODS[NAMES[published]]().bound(problem).lower >= truth - 1e-9).all()


@pytest.mark.parametrize("published", ["IBP", "CROWN-IBP", "CROWN-same-slope", "CROWN"])
@pytest.mark.parametrize("clip", [True, False])
def test_published_methods_on_a_convolutional_network(shared_dir: Path, published: str, clip: bool) -> None:
    entries = references(
        shared_dir, "bounds", arch="mnist_cnn_small", norm="linf", eps=0.1, clip01=clip, method=published, image=1
    )
    ball = Ball("linf", 0.1, clip=(0.0, 1.0) if clip else None)
    problem = Problem.margins(graph_of(shared_dir, "mnist_cnn_small_ADV"), images(shared_dir, [1]), ball)
    result = METHODS[NAMES[published]]().bound(problem, pure=True)
    np.testing.assert_allclose(result.lower, [entries[0]["margin_lower"]], rtol=0, atol=1e-9)


def test_l2_on_a_convolutional_network_is_tighter_than_the_reference_tool(shared_dir: Path) -> None:
    """The reference tool charges border pixels with the whole kernel; the exact dual norm is smaller there."""
    (entry,) = references(shared_dir, "bounds", arch="mnist_cnn_small", norm="l2", method="IBP", image=0)
    problem = Problem.margins(
        graph_of(shared_dir, "mnist_cnn_small_ADV"), images(shared_dir, [0]), Ball("l2", 0.5, clip=None)
    )
    result = METHODS["ibp"]().bound(problem)
    truth = np.array([entry["margin_lower"]])
    assert (result.lower > truth).all()
    assert (result.lower < 0.9 * truth).all(), "the same order of magnitude"
    checked = check(problem.graph, problem.region, problem.specification, result.certificates)
    assert checked.agrees(result.lower, 1e-8)


@pytest.mark.parametrize("clip", [True, False])
def test_alpha_reaches_lp_all(shared_dir: Path, clip: bool) -> None:
    """Between CROWN and LP-ALL, within 0.01 of it after 100 steps, and confirmed by the checker."""
    entries = references(shared_dir, "lp", arch="MLP_2_100", mode="ADV", clip01=clip)[:3]
    x = images(shared_dir, [entry["image"] for entry in entries])
    ball = Ball("linf", 0.1, clip=(0.0, 1.0) if clip else None)
    problem = Problem.margins(graph_of(shared_dir, "mnist_MLP_2_100_ADV"), x, ball)
    result = AlphaCrown(steps=100).bound(problem)
    optimum, crown = (np.array([entry[k] for entry in entries]) for k in ("LP_ALL", "CROWN"))
    assert (result.lower >= crown - 1e-9).all()
    assert (result.lower <= optimum + 1e-6).all()
    assert (result.lower >= optimum - 0.01).all()
    assert check(problem.graph, problem.region, problem.specification, result.certificates).agrees(result.lower, 1e-8)


def test_the_box_helps_l2_and_l1(shared_dir: Path) -> None:
    """The exact intersection with [0, 1] certifies more than the ball alone, for every image and target."""
    graph, x = graph_of(shared_dir, "mnist_MLP_2_100_ADV"), images(shared_dir, [0, 1, 2])
    for norm, eps in (("l2", 0.5), ("l1", 2.0)):
        alone = METHODS["crown"]().bound(Problem.margins(graph, x, Ball(norm, eps, clip=None)))
        both = METHODS["crown"]().bound(Problem.margins(graph, x, Ball(norm, eps, clip=(0.0, 1.0))))
        assert (both.lower > alone.lower + 0.1).all()
