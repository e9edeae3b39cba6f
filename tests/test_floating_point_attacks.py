"""Red team: three attacks through floating point earn a false certificate on the plain path and none on the integer path."""

import math

import numpy as np
import pytest
import torch

from smoothing import InvalidArgumentError, Phase
from smoothing.integer import PhiloxIntNoise
from smoothing.integer.grid import values_of
from smoothing.integer.redteam import LAYOUT, LONGEST_PAIR, Attack, black_pixels, cut_tails, judge, low_bits
from smoothing.noise_source import TorchBlockNoise
from smoothing.statistics import failure_upper_bound

SEED = 7


def test_low_bits_on_the_plain_path() -> None:
    attack = low_bits()
    verdict = judge(attack, TorchBlockNoise(attack.law, SEED), 100_000)
    # estimation.md 4.1: R = 1.143 at x = 1, and probability .340 at x = 0, at distance 1.
    assert verdict.false_certificate
    assert verdict.at_x.radius == pytest.approx(1.143, abs=1e-3)
    assert verdict.distance == 1.0
    assert verdict.at_other is not None
    assert verdict.at_other.prediction == 0


def test_low_bits_on_the_integer_path() -> None:
    attack = low_bits()
    noise = PhiloxIntNoise(attack.law, SEED)
    verdict = judge(attack, noise, 100_000)
    assert not verdict.false_certificate
    assert verdict.at_x.prediction == 1
    # Not only is the other input outside: every grid point within the radius has class 1, in exact probabilities.
    cells, reach = noise.integer_law.exact, noise.integer_law.reach
    for k in range(255 - math.floor(verdict.at_x.radius * 255), 256 + math.floor(verdict.at_x.radius * 255)):
        shown = torch.from_numpy(values_of(np.arange(k - reach, k + reach + 1), 255)).unsqueeze(1)
        ones = attack.classifier(shown).numpy()
        assert cells[ones == 1].sum() > 0.5, k


def test_black_pixels_on_the_plain_path() -> None:
    attack = black_pixels()
    verdict = judge(attack, TorchBlockNoise(attack.law, SEED), 20_000)
    # estimation.md 4.1: two legal images .088 apart, probability .867 of fine bits at the black one and 0 at the other.
    assert verdict.false_certificate
    assert verdict.distance == pytest.approx(0.088, abs=1e-3)
    assert verdict.at_x.radius > 9 * verdict.distance
    assert verdict.at_other is not None
    assert verdict.at_other.prediction == 0
    assert verdict.at_other.p_lower > 0.85


def test_black_pixels_on_the_integer_path() -> None:
    attack = black_pixels()
    verdict = judge(attack, PhiloxIntNoise(attack.law, SEED), 20_000)
    assert not verdict.false_certificate
    # True to the last bit: on the grid no value has fine bits, so that the classifier is constant.
    shown = torch.from_numpy(values_of(np.arange(-2000, 2000), 255))
    assert bool((attack.classifier(shown.repeat(2, 1)) == 1).all())
    assert verdict.at_other is not None
    assert verdict.at_x.prediction == verdict.at_other.prediction == 1


def tails() -> tuple[Attack, int]:
    """With 12,000 votes the true law shows 11 failures on average. Nothing is left to chance: both seeds are fixed."""
    return cut_tails(30_720), 12_000


def test_cut_tails_on_the_plain_path() -> None:
    attack, n = tails()
    verdict = judge(attack, TorchBlockNoise(attack.law, SEED), n, batch_size=128)
    assert attack.failure == pytest.approx(15_360 * math.exp(-(LONGEST_PAIR**2) / 2), rel=1e-3)
    assert verdict.false_certificate
    assert verdict.at_x.radius > verdict.distance


def test_cut_tails_on_the_integer_path() -> None:
    attack, n = tails()
    noise = PhiloxIntNoise(attack.law, SEED)
    verdict = judge(attack, noise, n, batch_size=128)
    assert not verdict.false_certificate
    assert verdict.at_x.radius < verdict.distance
    # What is compared with is the failure probability of the integer law as well: pairs, cell by cell.
    steps = np.arange(-noise.integer_law.reach, noise.integer_law.reach + 1).astype(np.float64)
    limit = (0.25 * (LONGEST_PAIR + 1e-5) * 255) ** 2
    cells = noise.integer_law.exact
    pair = float(cells @ (steps[:, None] ** 2 + steps[None, :] ** 2 > limit) @ cells)
    assert attack.failure is not None
    assert -math.expm1(15_360 * math.log1p(-pair)) == pytest.approx(attack.failure, rel=0.02)


def test_the_attack_on_single_values() -> None:
    """Its votes take half a minute (`scripts/attack_floating_point.py`); here is what it rests on."""
    attack = cut_tails(150_528, pairs=False)
    assert attack.failure is not None
    # estimation.md 4.3: 8.0e-9 a coordinate, true p = .9988 in the dimension of ImageNet, which proves 3.03 sigma.
    assert attack.failure == pytest.approx(1.2e-3, rel=0.01)
    assert attack.law.radius(1 - attack.failure, "l2", q_upper=attack.failure) == pytest.approx(0.25 * 3.03, abs=0.002)
    # With 100,000 votes and no failure among them, 3.81 sigma are claimed: false. In the dimension of CIFAR-10 they are not.
    assert failure_upper_bound(0, 100_000, 0.001) < attack.failure
    small = cut_tails(3_072, pairs=False)
    assert small.failure is not None
    assert failure_upper_bound(0, 100_000, 0.001) > small.failure > failure_upper_bound(0, 1_000_000, 0.001)
    # The classifier fails beyond the limit, on both sides and in any place; and torch's noise never is beyond.
    inside = torch.zeros(1, 150_528)
    inside[0, ::7], inside[0, 1::7] = 0.25 * LONGEST_PAIR, -0.25 * LONGEST_PAIR
    assert attack.classifier(inside).tolist() == [1]
    for place, sign in ((0, 1), (99_999, -1), (150_527, 1)):
        beyond = inside.clone()
        beyond[0, place] = sign * 0.25 * (LONGEST_PAIR + 1e-4)
        assert attack.classifier(beyond).tolist() == [0]
    draw = TorchBlockNoise(attack.law, SEED).bind(attack.x, 0)
    assert attack.classifier(draw(Phase.ESTIMATE, 0, 128)).tolist() == [1] * 128


def test_the_attack_fits_the_layout_of_pairs() -> None:
    """The two normals of a pair are LAYOUT apart: e^(-(a^2 + b^2) / 2) 2^24 is an integer where it is small."""
    z = torch.empty(2**22).normal_(generator=torch.Generator().manual_seed(1)).double().reshape(-1, 2, LAYOUT)
    squares = (z[:, 0] ** 2 + z[:, 1] ** 2).flatten()
    counts = torch.exp(-squares[squares > 20.0] / 2) * 2**24
    assert len(counts) > 50
    assert float((counts - counts.round()).abs().max()) < 0.01
    with pytest.raises(InvalidArgumentError, match="multiple of 16"):
        cut_tails(40)
