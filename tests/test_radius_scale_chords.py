"""Chords in the logarithm of the length: sums of scores against theory, and no table above an independent quadrature."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import betaincinv
from scipy.stats import beta, gamma
from spherical_reference import Density, Reference

from smoothing.distributions.exp_two import Exp2Profile
from smoothing.distributions.pow_two import Pow2Profile
from smoothing.radius.curve import LevelSetCurve
from smoothing.radius.level_set import failure_bounds, level_set_radius, make_node, slope_at_half
from smoothing.radius.scale_chords import ScaleScores, scale_share
from smoothing.radius.spherical import Array, SphericalProfile

SHARP = 1e-7


def scores_of(profile: SphericalProfile) -> ScaleScores:
    scores = ScaleScores.of(profile)
    assert scores is not None
    return scores


@pytest.mark.parametrize(
    "profile",
    [
        Pow2Profile(1, 0.1, 10.1),
        Pow2Profile(2, 0.1, 40.1),
        Pow2Profile(3, 2.0, 1.6),
        Pow2Profile(3072, 0.3, 10240.4),
        Exp2Profile(1, 1.0, 0.9),
        Exp2Profile(3, 100.0, 1.9),
        Exp2Profile(784, 0.5, 0.0),
        Exp2Profile(150_528, 2.0, 150_526.9),
    ],
    ids=str,
)
def test_sums_of_scores_are_above_and_close_to_their_theory(profile: Pow2Profile | Exp2Profile) -> None:
    scores, d, k = scores_of(profile), profile.dimension, profile.k
    if isinstance(profile, Pow2Profile):  # r^k / (1 + r^k) is Beta(d / k, a - d / k)
        a = profile.a
        variance = d * (k * a - d) / (a + 1)
        law = beta(d / k, a - d / k)

        def score(q: Array) -> tuple[Array, Array]:
            share = law.ppf(q)
            return d - k * a * share, k * k * a * share * (1 - share)

    else:  # r^k is Gamma((d - j) / k)
        variance = k * (d - profile.j)
        other = gamma((d - profile.j) / k)

        def score(q: Array) -> tuple[Array, Array]:
            return d - profile.j - k * other.ppf(q), k * k * other.ppf(q)

    assert variance * (1 - 1e-9) <= scores.squared[1, -1] <= variance * 1.05
    # The integral of w^2 - h' is 0: what is above 0 of it is half of what it is without its sign.
    levels = (np.arange(2_000_000) + 0.5) / 2_000_000
    value, slope = score(levels)
    curved = value**2 - slope
    half = 0.5 * float(np.mean(np.abs(curved)))
    assert half * 0.999 <= scores.total <= half * 1.05
    ranked = np.cumsum(np.sort(np.maximum(curved, 0.0))[::-1]) / len(levels)
    for m in (0.5, 0.1, 1e-2, 1e-3, 1e-4):
        exact = ranked[int(m * len(levels)) - 1]
        assert exact * 0.995 <= float(np.interp(m, *scores.curved)) <= exact * 1.08, m
    assert np.all(np.diff(scores.curved[1]) >= 0)
    moves = np.diff(scores.curved[0]) > 1e-9  # below, the sum of the masses is rounded
    rates = np.diff(scores.curved[1])[moves] / np.diff(scores.curved[0])[moves]
    assert np.all(np.diff(rates) <= 1e-3 * rates[:-1])


def test_the_tail_beyond_the_last_cell_is_counted() -> None:
    """A set of the probability 1e-17 lies in the first cell or beyond the last, where nothing but bounds is known."""
    profile = Pow2Profile(2, 0.5, 9.0)
    law = beta(4.0, 5.0)
    first = float(2 - 4.5 * betaincinv(4.0, 5.0, 1e-17))
    last = 2 - 4.5 * float(law.isf(1e-17))
    found = float(np.interp(1e-17, *scores_of(profile).squared))
    assert max(first**2, last**2) * 1e-17 <= found <= 3e-15


def test_what_lies_beyond_float64_is_counted() -> None:
    """log |x| beyond 290 log 10, where 39 % of this law are: h still moves at its full rate there."""
    k, shape = 0.003, 7.0
    law = gamma(shape)
    scores = scores_of(Exp2Profile(1, k, 1 - k * shape))
    u = law.ppf((np.arange(1_000_000) + 0.5) / 1_000_000)
    square = (k * (shape - u)) ** 2
    assert scores.squared[1, 0] >= np.mean(square * (np.log(u) / k > 290 * math.log(10)))
    assert scores.squared[1, -1] >= np.mean(square)
    assert float(np.interp(0.6, *scores.squared)) >= np.sum(np.sort(square)[-600_000:]) / 1_000_000


def few_nodes(profile: SphericalProfile, lengths: list[float]) -> LevelSetCurve:
    """A table of proved nodes at some lengths, as sharp as they come, with the thresholds of the middles of their cells."""
    e = np.array(lengths)
    middle = np.append(np.sqrt(e[1:] * e[:-1]), e[-1])
    t = np.array([make_node(profile, float(at)).t for at in middle])
    w, above = failure_bounds(profile, e, t, np.full_like(e, SHARP))
    far = np.append(failure_bounds(profile, e[1:], t[:-1], np.full(len(e) - 1, SHARP))[0], 0.0)
    kappa = np.exp(t) * (1 - 1e-14)
    spent = scores_of(profile).losses(e, w, kappa)
    return LevelSetCurve(e, w, kappa, slope_at_half(profile), above, far, spent=spent)


def profile_of(density: Density) -> SphericalProfile:
    if density.a is None:
        return Exp2Profile(density.d, density.k, density.j)
    return Pow2Profile(density.d, density.k, density.a)


CASES = [
    (Density(1, 0.3, a=4.5), 0.01, 0.4),
    (Density(1, 0.3, a=4.5), 1e3, 0.1),
    (Density(2, 0.1, a=40.1), 0.01, 0.1),
    (Density(3, 0.5, a=6.4), 0.1, 0.1),
    (Density(784, 0.2, a=3923.0), 0.03, 0.05),
    (Density(1, 1.0, j=0.9), 1.0, 0.1),
    (Density(3, 0.5, j=1.5), 0.1, 0.05),
]


@pytest.mark.parametrize(("density", "level", "width"), CASES, ids=str)
def test_chords_stay_below_the_law(density: Density, level: float, width: float) -> None:
    profile = profile_of(density)
    lengths = [level * profile.quantile(0.5, upper=False) * math.exp(i * width) for i in range(4)]
    curve = few_nodes(profile, lengths)
    assert np.all(np.isfinite(curve.spent[:-1]))
    middle = np.array([e * math.exp(f * width) for e, f in zip(lengths, (0.3, 0.5, 0.7), strict=False)])
    exact = np.array([Reference(density, float(e)).failure() for e in middle])
    # At the failure probability of a length, the exact radius is that length.
    w = exact * (1 + 1e-7)
    radius = curve.radius(w)
    assert np.all(radius <= middle)
    # Composing falls back on the node before, or nearly so.
    alone = replace(curve, spent=np.empty(0)).radius(w)
    assert np.all(radius >= alone)
    assert np.mean(np.log(middle / radius)) < 0.5 * np.mean(np.log(middle / alone))
    # Without what is given up, the chord would claim more, and in places more than the law allows.
    generous = replace(curve, spent=np.where(np.isfinite(curve.spent), 0.0, np.inf)).radius(w)
    assert np.all(generous >= radius)
    if level > 1:  # a heavy tail: w is convex in log e
        assert np.any(generous > middle * (1 + 3e-5))


def test_cells_that_are_too_wide_have_no_chord() -> None:
    profile = Pow2Profile(784, 0.9, 1500.0)
    e = np.array([1.0, 10.0, 10.01])
    losses = scores_of(profile).losses(e, np.array([0.3, 0.2, 0.1]), np.array([1.2, 1.5, 2.0]))
    assert math.isinf(losses[0])
    assert 0 < losses[1] < 1e-3
    assert math.isinf(losses[2])


def test_shares_solve_their_equation() -> None:
    rng = np.random.default_rng(5)
    start, loss = rng.uniform(0.2, 0.3, 1000), 10 ** rng.uniform(-8, 0, 1000)
    end = start * rng.uniform(0.1, 0.999, 1000)
    w = end + (start - end) * rng.uniform(0, 1, 1000)
    share = scale_share(loss, start, end, w)
    assert np.all((share >= 0) & (share <= 1 + 1e-12))
    reached = (1 - share) * start + share * end - 4 * share * (1 - share) * loss
    assert np.all(np.abs(reached - w) <= 1e-13)
    assert scale_share(np.zeros(1), np.array([0.3]), np.array([0.2]), np.array([0.225]))[0] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("density", "most"),
    [
        (Density(1, 0.1, a=11.0), 15_000),  # the exponent of its tail is 0.1
        (Density(5, 0.5, a=14.0), 2_500),
    ],
    ids=str,
)
def test_tables_with_chords_are_close_below_the_law(density: Density, most: int) -> None:
    profile = profile_of(density)
    curve = LevelSetCurve.build(profile)
    assert len(curve.spent) == len(curve.e) <= most
    inner = (curve.w < 0.4905) & (curve.w > 4e-7)
    assert curve.gaps()[inner].max() <= 7e-4
    w = np.array([1e-6, 1e-2, 0.3, 0.49])
    for at, radius in zip(w, curve.radius(w), strict=True):
        known, beyond = (Reference(density, float(radius * factor)).failure() for factor in (1.0, 1 + 1e-3))
        assert known >= at * (1 - 1e-8)
        assert beyond <= at * (1 + 1e-8)
    fine = np.concatenate(
        (np.geomspace(1e-6, 0.4999, 4000), np.repeat(curve.w, 3) * np.tile([1 - 1e-15, 1, 1 + 1e-15], len(curve.w)))
    )
    assert np.all(np.diff(curve.radius(np.sort(fine))) <= 0)


@pytest.mark.parametrize(
    ("density", "w"),
    [
        (Density(1, 100.0, j=0.9), 1.3e-4),  # a support that nearly ends: no set is likely beyond it
        (Density(5, 100.0, j=3.0), 9e-6),
        (Density(5, 54.0, a=5 / 54 + 0.003), 3.8e-4),  # thresholds from quadrature are right to a percent only
    ],
    ids=str,
)
def test_direct_radii_of_steep_laws(density: Density, w: float) -> None:
    found = level_set_radius(profile_of(density), w)
    assert found.lower <= found.estimate <= found.lower * (1 + 1e-5)
    assert Reference(density, found.lower).failure() >= w * (1 - 1e-8)
    assert Reference(density, found.lower * (1 + 2e-5)).failure() < w
