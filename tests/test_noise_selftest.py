"""The online self-test: true noise passes, and what a broken or exchanged generator does to noise is found."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import binom

from smoothing import Gaussian, InvalidArgumentError, Laplace, Phase, SmoothingDistribution, Uniform
from smoothing.errors import NoiseSelfTestError
from smoothing.integer import PhiloxIntNoise
from smoothing.integer.selftest import (
    _correlation,
    _mean_test,
    _shares,
    check_noise,
    check_source,
    examine_noise,
    noise_steps,
)

LAWS = [Gaussian((3, 16, 16), sigma=0.25), Laplace((3, 16, 16), sigma=0.5), Uniform((3, 16, 16), sigma=0.5)]
SAMPLES = 1366  # about a million values
laws = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)


def input_of(law: SmoothingDistribution) -> torch.Tensor:
    levels = torch.from_numpy(np.random.default_rng(5).integers(0, 256, law.shape))
    return levels.float() / torch.tensor(255.0)


def noise_of(law: SmoothingDistribution, seed: int = 0) -> np.ndarray:
    return PhiloxIntNoise(law, seed).draw_integers(input_of(law), Phase.ESTIMATE, 0, SAMPLES)


@laws
def test_true_noise_passes_as_the_classifier_is_shown_it(law: SmoothingDistribution) -> None:
    source, x = PhiloxIntNoise(law, 6), input_of(law)
    report = check_source(source, x, 0)
    assert report.passed
    assert report.values >= 2**20
    assert len(report.tests) >= 20
    copies = source.draw(x, 0, Phase.ESTIMATE, 0, 50)
    assert np.array_equal(noise_steps(copies, x), source.draw_integers(x, Phase.ESTIMATE, 0, 50))


Spoil = Callable[[np.ndarray, SmoothingDistribution], np.ndarray]


def sigma_off(noise: np.ndarray, law: SmoothingDistribution) -> np.ndarray:
    assert law.sigma is not None
    return noise_of(type(law)(law.shape, sigma=law.sigma * 0.99))


def another_law(noise: np.ndarray, law: SmoothingDistribution) -> np.ndarray:
    """Rademacher noise times sigma: the first three moments are right."""
    assert law.sigma is not None
    return (np.random.default_rng(1).integers(0, 2, noise.shape) * 2 - 1) * round(law.sigma * 255)


def repeated_block(noise: np.ndarray, law: SmoothingDistribution) -> np.ndarray:
    noise[768:896] = noise[:128]
    return noise


def repeated_piece(noise: np.ndarray, law: SmoothingDistribution) -> np.ndarray:
    """Sixteen values, once, somewhere else."""
    noise.reshape(len(noise), -1)[-1, 96:112] = noise.reshape(len(noise), -1)[3, 32:48]
    return noise


def cut_tail(noise: np.ndarray, law: SmoothingDistribution) -> np.ndarray:
    """What is beyond the outermost 5e-5 is drawn again."""
    limit = np.quantile(np.abs(noise), 1 - 5e-5)
    beyond = np.abs(noise) >= limit
    noise[beyond] = noise[~beyond][: beyond.sum()]
    return noise


def shifted(noise: np.ndarray, law: SmoothingDistribution) -> np.ndarray:
    return noise + 2


def neighbours(noise: np.ndarray, law: SmoothingDistribution) -> np.ndarray:
    """Two values in a hundred are their neighbour's."""
    flat = noise.reshape(len(noise), -1)
    copied = np.random.default_rng(1).random(flat.shape) < 0.02
    flat[:, 1:] = np.where(copied[:, 1:], flat[:, :-1], flat[:, 1:])
    return noise


def common_size(noise: np.ndarray, law: SmoothingDistribution) -> np.ndarray:
    """Uncorrelated, but large together: the values of each sample are sorted by size, signs as they were."""
    flat = noise.reshape(len(noise), -1)
    return np.sign(flat) * np.sort(np.abs(flat), axis=1)


SPOILS: list[Spoil] = [
    sigma_off, another_law, repeated_block, repeated_piece, cut_tail, shifted, neighbours, common_size
]  # fmt: skip


@laws
@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_spoiled_noise_fails(law: SmoothingDistribution, spoil: Spoil) -> None:
    if spoil is cut_tail and isinstance(law, Uniform):
        pytest.skip("a uniform law has no tail")
    table = PhiloxIntNoise(law).integer_law
    with pytest.raises(NoiseSelfTestError, match="must look like its law"):
        check_noise(spoil(noise_of(law).copy(), law), table)


@pytest.mark.parametrize("law", [Gaussian((20,), sigma=0.25), Laplace((20,), sigma=0.1), Uniform((20,), sigma=0.01)])
def test_bounds_are_bounds(law: SmoothingDistribution) -> None:
    """P(bound <= a) <= a for each kind of test, tried with 300 short samples at two levels a.

    Tests of one kind look at the same values, so that their number is no number of independent trials: twice the variance
    of independent ones is allowed, and 5.5 deviations.
    """
    source, x = PhiloxIntNoise(law, 3), input_of(law)
    repeats, size = 300, 50
    noise = source.draw_integers(x, Phase.PILOT, 0, repeats * size)
    bounds: dict[str, list[float]] = {}
    for i in range(repeats):
        for test in examine_noise(noise[i * size : (i + 1) * size], source.integer_law).tests:
            bounds.setdefault(test.name.split()[0].rstrip(","), []).append(test.bound)
    assert {"shares", "moment", "correlation", "repeats"} <= set(bounds)
    for level in (0.05, 0.002):
        for kind, found in bounds.items():
            expected = level * len(found)
            assert sum(b <= level for b in found) <= expected + 5.5 * math.sqrt(2 * expected + 1), (kind, level)
    # And they are no empty words: small ones occur.
    for kind in ("moment", "correlation"):
        assert min(bounds[kind]) <= 0.05, kind


def assert_bounds(bounds: list[float], chances: np.ndarray) -> None:
    """P(bound <= a) <= a for every a, where an outcome with a bound has that chance; exact but for float64."""
    order = np.argsort(bounds)
    reached = np.cumsum(chances[order])
    assert np.all(reached <= np.asarray(bounds)[order] * (1 + 1e-9) + 1e-14)
    # Nor are the bounds so large that nothing could fail: some are below 1e-9.
    assert min(bounds) < 1e-9


def test_bounds_are_bounds_by_enumeration() -> None:
    """Two outcomes in N draws: every possible result with its exact binomial probability."""
    n = 400
    for p in (0.5, 0.1, 0.003):
        law, chances = np.array([1 - p, p]), binom.pmf(np.arange(n + 1), n, p)
        counts = [np.array([n - k, k]) for k in range(n + 1)]
        assert_bounds([_shares(c, law).bound for c in counts], chances)
        assert_bounds([_mean_test("", c, law, np.array([0.0, 1.0])).bound for c in counts], chances)
        assert_bounds([_mean_test("", c, law, np.array([5.0, -1.0])).bound for c in counts], chances)
    # Products of signs: 2 k - N has a binomial k.
    signs = [np.repeat([1.0, -1.0], [k, n - k]) for k in range(n + 1)]
    found = [_correlation("", s, np.ones(n), variance=1.0, largest=1.0).bound for s in signs]
    assert_bounds(found, binom.pmf(np.arange(n + 1), n, 0.5))


def test_small_and_degenerate_noise() -> None:
    still = PhiloxIntNoise(Gaussian((4,), sigma=1e-5))
    assert still.integer_law.reach == 0
    assert check_noise(still.draw_integers(torch.zeros(4), Phase.ESTIMATE, 0, 10), still.integer_law).passed
    one = PhiloxIntNoise(Gaussian((1,), sigma=0.25))
    assert check_noise(one.draw_integers(torch.zeros(1), Phase.ESTIMATE, 0, 100_000), one.integer_law).passed
    with pytest.raises(NoiseSelfTestError, match="largest step"):
        check_noise(np.full((2, 1), 3000), one.integer_law)
    with pytest.raises(InvalidArgumentError, match="at least 2 samples"):
        check_noise(np.zeros((1, 4), dtype=np.int16), one.integer_law)
    with pytest.raises(InvalidArgumentError, match="false_alarm"):
        check_noise(np.zeros((2, 4), dtype=np.int16), one.integer_law, false_alarm=0.0)
