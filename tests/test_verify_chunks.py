"""Chunks change no bound: many rows of one input, rows of several inputs, and the lines that chunks share."""

import dataclasses

import numpy as np
import pytest
import torch

import verify.backward
from tests.verify_networks import NETWORKS, network, shape_of
from verify.ball import Ball
from verify.crown import Crown
from verify.problem import Problem
from verify.relaxation.base import broadcast, only_image
from verify.tracing import trace


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"linear"}))
@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_small_chunks_give_the_same_bounds(monkeypatch: pytest.MonkeyPatch, name: str, norm: str) -> None:
    x = torch.rand(3, *shape_of(name), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    problem = Problem.margins(trace(network(name), shape_of(name)), x, Ball(norm, 0.2, clip=(0.0, 1.0)))
    whole = Crown().bound(problem)
    single = np.concatenate([Crown().bound(problem[i : i + 1]).lower for i in range(3)])
    np.testing.assert_allclose(single, whole.lower, rtol=1e-12, atol=1e-12)
    for limit in (1, 2**12):
        monkeypatch.setattr(verify.backward, "CACHE_BYTES", limit)
        cut = Crown().bound(problem)
        np.testing.assert_allclose(cut.lower, whole.lower, rtol=1e-12, atol=1e-12)
        for node, box in whole.boxes.items():
            np.testing.assert_allclose(cut.boxes[node].lower, box.lower, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(cut.boxes[node].upper, box.upper, rtol=1e-12, atol=1e-12)


def test_less_memory_is_kept_to() -> None:
    x = torch.rand(2, 3, dtype=torch.float64)
    problem = Problem.margins(trace(network("dense"), (3,)), x, Ball("linf", 0.2, clip=None))
    small = dataclasses.replace(problem, max_bytes=1)
    np.testing.assert_allclose(Crown().bound(small).lower, Crown().bound(problem).lower, rtol=1e-12, atol=1e-12)


def test_values_of_one_input_are_a_view() -> None:
    values = torch.arange(6.0).reshape(3, 2)
    same, mixed = torch.tensor([2, 2, 2]), torch.tensor([2, 0, 2])
    assert (only_image(same), only_image(mixed), only_image(same[:0])) == (2, None, None)
    assert broadcast(values, same).data_ptr() == values[2].data_ptr()
    for image in (same, mixed, same[:0]):
        assert torch.equal(broadcast(values, image).expand(len(image), 2), values[image])
