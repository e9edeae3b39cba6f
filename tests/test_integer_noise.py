"""Integer noise: its law against exact cell probabilities, its bits against the written rule, equal for all requests."""

import hashlib
import json
import math
import re
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import chi2

from smoothing import Gaussian, InvalidArgumentError, Laplace, Pareto, Phase, SmoothingDistribution, Uniform
from smoothing.distributions.table import LAWS
from smoothing.integer import (
    PhiloxIntNoise,
    grid_levels,
    integer_law,
    integer_laws,
    on_grid,
    snap,
    supports_integer_noise,
)
from smoothing.integer.source import PHASES
from smoothing.integer.thresholds import AMBIGUOUS
from smoothing.noise import block_seed, draw_block, input_base
from smoothing.noise_source import NoiseSource, TorchBlockNoise
from smoothing.noise_table import NOISE_SOURCES, rebuild_noise

LAWS_HERE = [
    (Gaussian((3, 5, 5), sigma=0.25), 255),
    (Gaussian((7,), sigma=0.5), 16),
    (Laplace((3, 5, 5), sigma=0.2), 255),
    (Uniform((3, 5, 5), sigma=0.5), 255),
    (Uniform((4,), half_width=0.25), 16),  # ends exactly on a level
    (Uniform((4,), half_width=2.5 / 16), 16),  # ends exactly between two levels
    (Gaussian((2,), sigma=0.01), 16),  # less than a step
]


def philox_by_hand(key: tuple[int, int], counter: list[int]) -> list[int]:
    """Philox4x64-10 by its definition (checked against known answers in test_philox)."""
    x0, x1, x2, x3 = counter
    for r in range(10):
        k0, k1 = (key[0] + r * 0x9E3779B97F4A7C15) % 2**64, (key[1] + r * 0xBB67AE8584CAA73B) % 2**64
        p, q = 0xD2E7470EE14C6C93 * x0, 0xCA5A826395121157 * x2
        x0, x1, x2, x3 = (q >> 64) ^ x1 ^ k0, q % 2**64, (p >> 64) ^ x3 ^ k1, p % 2**64
    return [x0, x1, x2, x3]


def law_name(row: Any) -> str:
    return f"{row[0].name}-{row[0].sigma:g}-{row[1]}" if isinstance(row, tuple) else ""


rows = pytest.mark.parametrize("row", LAWS_HERE, ids=law_name)


def exact_cdf(law: SmoothingDistribution, t: Fraction) -> Any:
    """P(z <= t) to 90 digits, written anew: quadrature-free forms other than those of the package."""
    x = mpmath.mpf(t.numerator) / t.denominator
    if isinstance(law, Gaussian):
        return mpmath.ncdf(x / mpmath.mpf(law.sigma))
    if isinstance(law, Laplace):
        b = mpmath.mpf(law.scale)
        return mpmath.mpf(1) / 2 + mpmath.sign(x) * (1 - mpmath.exp(-abs(x) / b)) / 2
    assert isinstance(law, Uniform)
    h = mpmath.mpf(law.half_width)
    return min(max((x / h + 1) / 2, mpmath.mpf(0)), mpmath.mpf(1))


def input_for(law: SmoothingDistribution, grid: int) -> torch.Tensor:
    levels = torch.from_numpy(np.random.default_rng(3).integers(0, grid + 1, law.shape))
    return levels.float() / torch.tensor(float(grid))


@rows
def test_thresholds_are_the_rounded_distribution_function(row: tuple[SmoothingDistribution, int]) -> None:
    law, grid = row
    table = integer_law(law, grid)
    with mpmath.workdps(90):
        for k in range(-table.reach, table.reach, 1 if table.reach < 1000 else 7):
            cdf = exact_cdf(law, Fraction(2 * k + 1, 2 * grid))
            assert abs(mpmath.mpf(int(table.thresholds[k + table.reach])) - cdf * 2**64) <= mpmath.mpf("0.5000001"), k
        # And nothing is left beyond that 64 bits could show.
        assert exact_cdf(law, Fraction(-2 * table.reach - 1, 2 * grid)) * 2**64 <= mpmath.mpf("0.5000001")
    assert np.all(np.diff(table.thresholds.astype(object)) >= 0)


@rows
def test_total_variation_is_bounded_by_what_is_claimed(row: tuple[SmoothingDistribution, int]) -> None:
    law, grid = row
    table = integer_law(law, grid)
    steps = [0, *(int(t) for t in table.thresholds), 2**64]
    with mpmath.workdps(90):
        below = [exact_cdf(law, Fraction(2 * k + 1, 2 * grid)) for k in range(-table.reach - 1, table.reach + 1)]
        tails = below[0] + (1 - below[-1])
        differences = [
            abs((b - a) - mpmath.mpf(t - s) / 2**64)
            for a, b, s, t in zip(below, below[1:], steps, steps[1:], strict=False)
        ]
        actual = (mpmath.fsum(differences) + tails) / 2
        claimed = mpmath.mpf(table.total_variation.numerator) / table.total_variation.denominator
        assert actual <= claimed <= actual * mpmath.mpf("1.000001") + mpmath.mpf(10) ** -40
        slack = PhiloxIntNoise(law, grid=grid).probability_slack
        assert mpmath.mpf(slack) >= claimed * law.dimension
        assert slack <= float(claimed * law.dimension) * (1 + 1e-15)


def test_the_budget_is_that_of_the_study() -> None:
    # estimation.md 4.2: 1.1e-17 per coordinate at sigma .25, 3.2e-14 for CIFAR, 1.6e-12 for ImageNet.
    assert PhiloxIntNoise(Gaussian((3, 32, 32), sigma=0.25)).probability_slack == pytest.approx(3.2e-14, rel=0.03)
    assert PhiloxIntNoise(Gaussian((3, 224, 224), sigma=0.25)).probability_slack == pytest.approx(1.6e-12, rel=0.03)


def test_the_certificate_says_what_it_rests_on() -> None:
    noise = PhiloxIntNoise(Gaussian((3, 32, 32), sigma=0.25))
    said = re.search(r"total variation of (\S+) per copy", noise.covers)
    assert said is not None
    assert noise.probability_slack <= float(said[1]) <= 1.1 * noise.probability_slack
    assert "rounding to multiples of 1/255" in noise.covers


@rows
def test_cells_have_the_probability_of_what_rounds_to_them(row: tuple[SmoothingDistribution, int]) -> None:
    law, grid = row
    table = integer_law(law, grid)
    assert table.exact.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.array_equal(table.exact, table.exact[::-1])
    # Real noise, rounded: not the thresholds' way of looking at it. A difference of 1.2 % of the largest cells shows.
    z = type(law)((400_000,), **law.parameters).sample(
        1, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    rounded = np.rint(z.numpy().ravel() * grid).astype(int)
    counts = np.bincount(np.clip(rounded, -table.reach, table.reach) + table.reach, minlength=2 * table.reach + 1)
    assert p_value(counts, table.exact) > 1e-6


def p_value(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Pearson's chi-square, cells merged to at least 50 expected."""
    total, seen, expected = counts.sum(), [0.0], [0.0]
    for count, probability in zip(counts, probabilities, strict=True):
        if expected[-1] >= 50:
            seen.append(0.0)
            expected.append(0.0)
        seen[-1] += count
        expected[-1] += probability * total
    if len(expected) > 1 and expected[-1] < 50:
        last = expected.pop()
        expected[-1] += last
        last = seen.pop()
        seen[-1] += last
    if len(expected) == 1:
        return 1.0
    statistic = sum((s - e) ** 2 / e for s, e in zip(seen, expected, strict=True))
    return float(chi2.sf(statistic, len(expected) - 1))


@pytest.mark.parametrize("row", LAWS_HERE[:6], ids=law_name)
def test_drawn_noise_fits_its_cells(row: tuple[SmoothingDistribution, int]) -> None:
    law, grid = row
    noise = PhiloxIntNoise(law, 11, grid=grid)
    table = noise.integer_law
    n = 1_500_000 // law.dimension
    drawn = noise.draw_integers(input_for(law, grid), Phase.ESTIMATE, 0, n)
    counts = np.bincount(drawn.astype(int).ravel() + table.reach, minlength=2 * table.reach + 1)
    assert p_value(counts, table.exact) > 1e-6
    # The row of a cube of eight whole cells has none that 16 bits do not decide.
    assert table.ambiguous_share < 0.1


@rows
def test_samples_are_those_of_the_written_rule(row: tuple[SmoothingDistribution, int]) -> None:
    """The rule in `smoothing.integer.source`, done again in Python's integers with all 64 bits of every value."""
    law, grid = row
    x = input_for(law, grid)
    levels = [round(float(v) * grid) for v in x.flatten()]
    content = hashlib.sha256(f"{law.shape}|".encode() + b"".join(k.to_bytes(8, "little") for k in levels)).hexdigest()
    text = b""
    for part in ("philox-int-v1", "9", "model", law.identity, str(grid), content):
        text += len(part).to_bytes(8, "little") + part.encode()
    digest = hashlib.sha256(text).digest()
    key = (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"))
    d, phase, start = law.dimension, Phase.PILOT, 2**33 - 2
    got = PhiloxIntNoise(law, 9, grid=grid, model_digest="model").draw(x, 4, phase, start, start + 4).flatten(1)
    thresholds = [int(t) for t in integer_law(law, grid).thresholds]
    for row_, i in enumerate(range(start, start + 4)):
        for j in range(d):
            first = philox_by_hand(key, [i * math.ceil(d / 16) + j // 16, 0, 3, 0])
            upper = first[j % 16 // 4] >> (16 * (j % 4)) & 0xFFFF
            second = philox_by_hand(key, [i * math.ceil(d / 4) + j // 4, 0, 3, 1])
            word = upper << 48 | second[j % 4] >> 16
            n = sum(t <= word for t in thresholds) - len(thresholds) // 2
            assert got[row_, j].item() == np.float32(Fraction(levels[j] + n, grid)), (i, j)


@rows
def test_the_same_bits_however_they_are_asked_for(row: tuple[SmoothingDistribution, int]) -> None:
    law, grid = row
    x = input_for(law, grid)
    noise = PhiloxIntNoise(law, 2, grid=grid)
    whole = noise.draw(x, 0, Phase.ESTIMATE, 0, 1100)
    assert whole.dtype == torch.float32
    assert whole.shape == (1100, *law.shape)
    for size in (1, 7, 64, 1024):
        draw = noise.bind(x, 0)
        stop = min(1100, 40 * size)
        parts = [draw(Phase.ESTIMATE, i, min(i + size, stop)) for i in range(0, stop, size)]
        assert torch.equal(torch.cat(parts), whole[:stop]), size
    assert torch.equal(noise.draw(x, 0, Phase.ESTIMATE, 517, 518), whole[517:518])


@rows
def test_torch_integer_operations_give_the_same_bits(row: tuple[SmoothingDistribution, int]) -> None:
    law, grid = row
    x = input_for(law, grid)
    for phase in PHASES:
        one = PhiloxIntNoise(law, 2, grid=grid).draw(x, 0, phase, 1000, 1064)
        other = PhiloxIntNoise(law, 2, grid=grid, integer_arithmetic=True).draw(x, 0, phase, 1000, 1064)
        assert torch.equal(one, other)


def test_both_ways_to_the_lower_bits_and_large_inputs() -> None:
    """Few samples take the lower bits from a stream, many from single blocks; and pieces do not end with samples."""
    law = Gaussian((3, 40, 40), sigma=0.25)
    x = input_for(law, 255)
    draw = PhiloxIntNoise(law, 1).bind(x, 0)
    many = draw(Phase.ESTIMATE, 0, 100)
    few = torch.cat([draw(Phase.ESTIMATE, i, i + 1) for i in range(100)])
    assert torch.equal(many, few)
    assert torch.equal(many[40:], draw(Phase.ESTIMATE, 40, 100))
    device = PhiloxIntNoise(law, 1, integer_arithmetic=True)
    assert torch.equal(many[:3], device.draw(x, 0, Phase.ESTIMATE, 0, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@rows
def test_a_gpu_gives_the_same_bits(row: tuple[SmoothingDistribution, int]) -> None:
    law, grid = row
    x = input_for(law, grid)
    host = PhiloxIntNoise(law, 2, grid=grid).draw(x, 0, Phase.ESTIMATE, 1000, 3100)
    for given in (x, x.cuda()):
        device = PhiloxIntNoise(law, 2, "cuda", grid=grid).draw(given, 0, Phase.ESTIMATE, 1000, 3100)
        assert device.is_cuda
        assert torch.equal(device.cpu(), host)


def test_noise_depends_on_everything_that_it_should_and_on_nothing_else() -> None:
    law = Gaussian((8,), sigma=0.5)
    x = input_for(law, 255)
    other = x.clone()
    other[0] = (1.0 - x[0] > 0.5).float()

    def steps(noise: PhiloxIntNoise, x: torch.Tensor, index: int = 0, phase: Phase = Phase.ESTIMATE) -> list[int]:
        copies = noise.draw(x, index, phase, 0, 4)
        return (grid_levels(copies, noise.grid) - grid_levels(x, noise.grid)).ravel().tolist()

    base = steps(PhiloxIntNoise(law, 1, model_digest="a"), x)
    assert (
        steps(PhiloxIntNoise(law, 1, model_digest="a"), x, index=5) == base
    )  # seeds cannot be shopped for by position
    changed = [
        steps(PhiloxIntNoise(law, 2, model_digest="a"), x),
        steps(PhiloxIntNoise(law, 1, model_digest="b"), x),
        steps(PhiloxIntNoise(law, 1, model_digest="a"), other),
        steps(PhiloxIntNoise(Gaussian((2, 4), sigma=0.5), 1, model_digest="a"), x.reshape(2, 4)),
        steps(PhiloxIntNoise(Gaussian((8,), sigma=0.5000001), 1, model_digest="a"), x),
        *(
            steps(PhiloxIntNoise(law, 1, model_digest="a"), x, phase=phase)
            for phase in PHASES
            if phase != Phase.ESTIMATE
        ),
    ]
    assert len({tuple(c) for c in [base, *changed]}) == len(changed) + 1


def test_phases_all_have_a_number() -> None:
    assert set(PHASES) == set(Phase)
    assert sorted(PHASES.values()) == list(range(len(PHASES)))


def test_guide_agrees_with_the_thresholds_at_both_ends_of_every_entry() -> None:
    for law, grid in LAWS_HERE:
        table = integer_law(law, grid)
        first = np.arange(2**16, dtype=np.uint64) << np.uint64(48)
        last = first + np.uint64(2**48 - 1)
        decided = table.guide != AMBIGUOUS
        assert np.array_equal(table.decide(first)[decided], table.guide[decided])
        assert np.array_equal(table.decide(last)[decided], table.guide[decided])
        assert np.all(table.decide(first)[~decided] < table.decide(last)[~decided])


def test_votes_have_the_probability_of_the_theorem() -> None:
    """f(a) = [a_1 > t] after rounding: P = 1 - F((k + 1/2) / grid - x), which 200,000 votes find to five deviations."""
    for law, threshold in (
        (Gaussian((2,), sigma=0.25), 0.3),
        (Laplace((2,), sigma=0.25), 0.1),
        (Uniform((2,), sigma=0.25), 0.2),
    ):
        x = torch.tensor([100 / 255, 0.0])
        copies = PhiloxIntNoise(law, 8).draw(x, 0, Phase.ESTIMATE, 0, 200_000)
        share = float((copies[:, 0] > threshold).double().mean())
        below = math.floor(threshold * 255) - 100  # the last step that is not above the threshold
        p = 1.0 - float(exact_cdf(law, Fraction(2 * below + 1, 510)))
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / 200_000)


class TestGrid:
    def test_levels_and_back(self) -> None:
        for grid in (1, 16, 255, 65535, 65536):
            levels = torch.arange(-200, 400).double()
            x = (levels / grid).float()
            assert on_grid(x, grid)
            assert grid_levels(x, grid).tolist() == levels.long().tolist()
            assert torch.equal(snap(x, grid), x)

    def test_off_the_grid(self) -> None:
        x = torch.tensor([0.0, 0.5, 1.0])
        assert not on_grid(x, 255)
        assert on_grid(x, 16)
        with pytest.raises(InvalidArgumentError, match=r"grid k/255.*1 coordinates off it, the first being 0.5.*snap"):
            grid_levels(x, 255)
        assert on_grid(snap(x, 255), 255)
        one_bit_off = torch.nextafter(torch.tensor([128 / 255]), torch.tensor([1.0]))
        assert not on_grid(one_bit_off, 255)
        for bad in (math.nan, math.inf, -math.inf, 1e30):
            assert not on_grid(torch.tensor([bad]), 255)
            with pytest.raises(InvalidArgumentError):
                snap(torch.tensor([bad]), 255)
        # Another float64 than the float32 of the level is another input.
        assert not on_grid(torch.tensor([1 / 255], dtype=torch.float64), 255)

    def test_levels_that_are_too_large(self) -> None:
        with pytest.raises(InvalidArgumentError, match="32767"):
            grid_levels(torch.tensor([40_000.0]), 1)
        assert not on_grid(torch.tensor([40_000.0]), 1)

    @pytest.mark.parametrize("grid", [0, -1, True, 2**16 + 1])
    def test_the_grid_is_a_number_of_steps(self, grid: int) -> None:
        with pytest.raises(InvalidArgumentError, match="number of steps per unit"):
            on_grid(torch.zeros(1), grid)
        with pytest.raises(InvalidArgumentError, match="number of steps per unit"):
            PhiloxIntNoise(Gaussian((2,), sigma=0.5), grid=grid)


class TestRefusals:
    def test_inputs_off_the_grid_are_named(self) -> None:
        noise = PhiloxIntNoise(Gaussian((2,), sigma=0.5))
        with pytest.raises(InvalidArgumentError, match="input 17 has 2 coordinates off it"):
            noise.bind(torch.tensor([0.1234, 0.5]), 17)

    def test_other_shapes(self) -> None:
        with pytest.raises(InvalidArgumentError, match="input 3 has shape"):
            PhiloxIntNoise(Gaussian((2,), sigma=0.5)).bind(torch.zeros(3), 3)

    def test_laws_without_integer_noise(self) -> None:
        with pytest.raises(InvalidArgumentError, match="integer noise is for gaussian, laplace, uniform"):
            PhiloxIntNoise(Pareto((2,), sigma=0.5, a=5))
        assert {law.name for law in LAWS.values() if law in integer_laws} == {"gaussian", "laplace", "uniform"}
        assert supports_integer_noise(Laplace((2,), sigma=1.0))
        assert not supports_integer_noise(Pareto((2,), sigma=0.5, a=5))

    def test_noise_and_levels_that_int16_does_not_hold(self) -> None:
        with pytest.raises(InvalidArgumentError, match="within 32767 steps"):
            PhiloxIntNoise(Uniform((1,), half_width=200.0))
        noise = PhiloxIntNoise(Uniform((1,), half_width=12.0))
        assert noise.bind(torch.tensor([116.0]), 0)(Phase.ESTIMATE, 0, 5).shape == (5, 1)
        with pytest.raises(InvalidArgumentError, match="levels plus noise"):
            noise.bind(torch.tensor([117.0]), 0)

    @pytest.mark.parametrize(("start", "stop"), [(0, 0), (5, 3), (-1, 2), (0, 2**40)])
    def test_ranges(self, start: int, stop: int) -> None:
        with pytest.raises(InvalidArgumentError):
            PhiloxIntNoise(Gaussian((2,), sigma=0.5)).draw(torch.zeros(2), 0, Phase.ESTIMATE, start, stop)


class TestSources:
    def test_torch_blocks_are_those_of_the_released_rule(self) -> None:
        law = Gaussian((3, 5), sigma=0.5)
        x = torch.rand((3, 5), generator=torch.Generator().manual_seed(1))
        noise = TorchBlockNoise(law, 77)
        generator = torch.Generator()
        blocks = torch.cat(
            [draw_block(generator, law, x, input_base(77, law, 5), Phase.SELECT, block) for block in range(3)]
        )
        assert torch.equal(noise.draw(x, 5, Phase.SELECT, 0, 300), blocks[:300])
        assert torch.equal(noise.draw(x, 5, Phase.SELECT, 130, 131), blocks[130:131])
        # The rule itself, written out once more: seed, generator, law.
        generator.manual_seed(block_seed(input_base(77, law, 5), Phase.SELECT, 1))
        again = torch.empty((128, 3, 5)).normal_(0.0, 0.5, generator=generator) + x
        assert torch.equal(noise.draw(x, 5, Phase.SELECT, 128, 256), again)
        assert noise.probability_slack == 0.0
        assert "not covered" in noise.covers

    @pytest.mark.parametrize("version", sorted(NOISE_SOURCES))
    def test_a_description_rebuilds_the_source(self, version: str) -> None:
        law = Gaussian((4,), sigma=0.5)
        extra = {"grid": 16, "model_digest": "abc"} if version == "philox-int-v1" else {}
        source = NOISE_SOURCES[version](law, 3, "cpu", **extra)
        assert isinstance(source, NoiseSource)
        assert source.version == version
        again = rebuild_noise(json.loads(json.dumps(source.describe())), law, 3)
        assert again.describe() == source.describe()
        x = torch.tensor([0.0, 0.25, 0.5, 1.0])
        one, other = source.draw(x, 1, Phase.PREDICT, 3, 9), again.draw(x, 1, Phase.PREDICT, 3, 9)
        assert torch.equal(one, other)
        assert source.covers == again.covers
        assert source.probability_slack == again.probability_slack

    def test_unknown_descriptions(self) -> None:
        law = Gaussian((4,), sigma=0.5)
        with pytest.raises(InvalidArgumentError, match="torch-block-v1, philox-int-v1, got 'philox-int-v0'"):
            rebuild_noise({"version": "philox-int-v0"}, law, 3)
        with pytest.raises(InvalidArgumentError, match="cannot be built"):
            rebuild_noise({"version": "torch-block-v1", "grid": 255}, law, 3)
