"""The engine on a GPU: the same promises as on the CPU, and nothing that waits for the device in between."""

import pytest
import torch

from smoothing import (
    BatchingEngine,
    ForwardSettings,
    Gaussian,
    Laplace,
    Phase,
    SmoothedClassifier,
    Uniform,
    VoteRequest,
)
from smoothing.distributions.base import SmoothingDistribution

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

SHAPE = (1, 8, 8)


class Bands(torch.nn.Module):
    """Exact whatever the batch shape: labels from comparisons of one pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixel = x[:, 0, 0, 0]
        return (pixel > 0.3).long() + (pixel > 0.6).long()


def engine(law: SmoothingDistribution, batch: int) -> BatchingEngine:
    inputs = torch.linspace(0, 1, 5 * 64).reshape(5, *SHAPE)
    return BatchingEngine(Bands(), law, 3, lambda i: inputs[i], settings=ForwardSettings(batch), device="cuda", seed=3)


def requests(n: int) -> list[VoteRequest]:
    return [VoteRequest(i, phase, 0, n) for phase in (Phase.SELECT, Phase.ESTIMATE) for i in range(5)]


@pytest.mark.parametrize("law", [Gaussian(SHAPE, sigma=0.5), Laplace(SHAPE, sigma=0.5), Uniform(SHAPE, sigma=0.5)])
def test_votes_do_not_depend_on_the_batch_size(law: SmoothingDistribution) -> None:
    found = [
        {(r.index, r.phase): counts.tolist() for r, counts in engine(law, batch).votes(requests(700))}
        for batch in (1, 7, 64, 1024)
    ]
    assert all(sum(counts) == 700 for counts in found[0].values())
    assert all(other == found[0] for other in found[1:])


def test_nothing_waits_for_the_device_while_batches_are_queued() -> None:
    running = engine(Gaussian(SHAPE, sigma=0.5), 64)
    list(running.votes(requests(100)))  # allocations and compilation of kernels may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        counts = list(running.votes(requests(10_000)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(counts) == 10


def test_certificates_on_the_gpu() -> None:
    smoothed = SmoothedClassifier(Bands(), Gaussian(SHAPE, sigma=0.25), 3, device="cuda", batch_size=256)
    certificates = smoothed.certify(torch.full((2, *SHAPE), 0.95), n=20_000)
    for certificate in certificates:
        assert certificate.prediction == 2
        assert 0.30 < certificate.radius < 0.35  # the truth: 0.95 - 0.6


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision(precision: str) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 3))
    smoothed = SmoothedClassifier(
        network, Gaussian(SHAPE, sigma=0.25), 3, device="cuda", precision=precision, channels_last=True
    )
    assert smoothed.certify(torch.rand(2, *SHAPE), n=1_000)[0].precision == precision
