"""Denoisers: shapes, sizes of the published networks, independence of rows, and that they denoise."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from denoisers import CLASSICAL, DENOISERS, ClassicalDenoiser, Denoiser, DnCNN, MemNet, UNet, build_denoiser, sizes_of
from smoothing.errors import InvalidArgumentError

SMALL: dict[str, Callable[[int], nn.Module]] = {
    "dncnn": lambda channels: DnCNN(channels, depth=4, width=8),
    "memnet": lambda channels: MemNet(channels, width=8, memory_blocks=2, residual_blocks=2),
    "unet": lambda channels: UNet(channels, width=8, levels=2),
}
FAMILIES = {DnCNN: "dncnn", MemNet: "memnet", UNet: "unet"}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def stripes(n: int, size: int = 24) -> Tensor:
    """Images of wide bars at random positions: easy to denoise, and not constant."""
    generator = torch.Generator().manual_seed(1)
    phase = torch.rand(n, 1, 1, 1, generator=generator) * size
    return (((torch.arange(size) + phase) // 6) % 2).expand(n, 1, size, size) * 0.6 + 0.2


def test_every_network_is_in_the_table() -> None:
    built = {type(build_denoiser(name, 1)) for name in DENOISERS}
    assert built == set(FAMILIES)


def test_published_sizes() -> None:
    # Counted by hand: 3x3 convolutions, one bias (the first), two parameters a channel of batch normalisation.
    for width, name in ((64, "dncnn"), (128, "dncnn-wide")):
        expected = (3 * 9 + 1) * width + 15 * (9 * width**2 + 2 * width) + 9 * width * 3
        assert count(build_denoiser(name, 3)) == expected
    unit = 2 * (9 * 64 * 64 + 2 * 64)
    gates = sum((6 + earlier) * 64 * (64 + 2) for earlier in (1, 2, 3))
    assert count(build_denoiser("memnet", 3)) == (9 * 3 * 64 + 2 * 3) + 18 * unit + gates + (9 * 64 * 3 + 2 * 64)
    depths = {name: sum(isinstance(m, nn.Conv2d) for m in build_denoiser(name, 3).modules()) for name in DENOISERS}
    assert (depths["dncnn"], depths["dncnn-small"], depths["memnet"]) == (17, 6, 1 + 36 + 3 + 1)


def test_sizes_by_name() -> None:
    """The two networks of the paper are two sizes of one architecture, and any other size is at hand."""
    assert sizes_of("dncnn") == {"depth": 17, "width": 64}
    assert sizes_of("dncnn-wide") == {"depth": 17, "width": 128}
    assert count(build_denoiser("dncnn", 3, {"width": 128})) == count(build_denoiser("dncnn-wide", 3))
    assert count(build_denoiser("dncnn-wide", 3, {"depth": 6, "width": 32})) == count(build_denoiser("dncnn-small", 3))
    for name, row in DENOISERS.items():
        assert row.sizes["width"] == int(row.summary.split("width ")[1].split(",")[0])
        smaller = count(build_denoiser(name, 1, {"width": row.sizes["width"] // 2}))
        assert smaller < count(build_denoiser(name, 1))
        assert count(build_denoiser(name, 1, row.sizes)) == count(build_denoiser(name, 1))
    with pytest.raises(
        InvalidArgumentError, match="the denoiser memnet takes width, got depth; depth belongs to dncnn, "
    ):
        build_denoiser("memnet", 1, {"depth": 3})
    with pytest.raises(InvalidArgumentError, match="the denoiser dncnn takes depth and width, got levels"):
        sizes_of("dncnn", {"levels": 3})


@pytest.mark.parametrize("name", SMALL)
@given(channels=st.sampled_from([1, 3]), height=st.integers(1, 19), width=st.integers(1, 19), n=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_any_size_and_rows_alone(name: str, channels: int, height: int, width: int, n: int) -> None:
    torch.manual_seed(0)
    network = SMALL[name](channels).eval()
    x = torch.rand(n, channels, height, width)
    with torch.no_grad():
        together = network(x, 0.25)
        alone = torch.cat([network(row[None], 0.25) for row in x])
    assert together.shape == x.shape
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_learns_to_denoise(name: str) -> None:
    torch.manual_seed(0)
    network = SMALL[name](1)
    assert isinstance(network, Denoiser)
    clean = stripes(32)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(60):
        noisy = clean + 0.3 * torch.randn_like(clean)
        loss = (network(noisy, 0.3) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fresh = clean + 0.3 * torch.randn_like(clean)
    with torch.no_grad():
        error = float((network.eval()(fresh, 0.3) - clean).square().mean())
    assert error < 0.5 * float((fresh - clean).square().mean())


def test_unet_starts_as_the_identity_and_is_told_sigma() -> None:
    torch.manual_seed(0)
    network = UNet(1, width=8).eval()
    x = torch.rand(2, 1, 9, 10)
    torch.testing.assert_close(network(x, 0.5), x, rtol=0, atol=0)
    nn.init.normal_(network.exit.weight)
    assert not torch.equal(network(x, 0.5), network(x, 0.25))


@pytest.mark.parametrize("method", CLASSICAL)
@pytest.mark.parametrize("channels", [1, 3])
def test_classical_denoisers_denoise(method: str, channels: int) -> None:
    clean = stripes(2).expand(2, channels, 24, 24).contiguous()
    sigma = 0.2
    noisy = clean + sigma * torch.from_numpy(np.random.default_rng(0).normal(size=clean.shape)).float()
    denoise = ClassicalDenoiser(method)
    result = denoise(noisy, sigma)
    assert result.dtype == noisy.dtype
    assert result.shape == noisy.shape
    assert bool(((result >= 0) & (result <= 1)).all())
    assert float((result - clean).square().mean()) < 0.6 * sigma**2
    assert torch.equal(denoise(noisy, sigma), result), "a base classifier must be deterministic here"
    assert torch.equal(denoise(noisy[1:], sigma), result[1:]), "rows must not depend on the batch"
    assert len(denoise(noisy[:0], sigma)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_denoiser("resnet", 3), "denoiser must be one of dncnn, "),
        (lambda: ClassicalDenoiser("median"), "method must be one of non-local-means, "),
        (lambda: ClassicalDenoiser()(torch.zeros(1, 1, 4, 4), math.nan), "sigma must be positive"),
        (lambda: ClassicalDenoiser()(torch.zeros(1, 1, 4, 4), 0.0), "sigma must be positive"),
        (lambda: DnCNN(3, depth=2), "depth must be at least 3, got depth=2"),
        (lambda: DnCNN(0), "channels must be at least 1"),
        (lambda: MemNet(memory_blocks=0), "memory_blocks must be at least 1"),
        (lambda: UNet(width=6), "width must be a multiple of 4, got width=6"),
        (lambda: UNet(levels=0), "channels and levels must be at least 1"),
    ],
)
def test_bad_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        call()
