"""The audit's own arithmetic for level sets and for scores without an integral, against closed forms and mpmath."""

import math

import numpy as np
import pytest
from mpmath import mp
from scipy.special import betainc

from certify.audit.exact import context
from certify.audit.growth import cube_growth, diamond_growth
from certify.audit.level_sets import LevelSets, cap_share, exponential_sets, power_sets
from certify.audit.radii_shapes import exponential_radius
from smoothing import Exp2, Pow2
from smoothing.distributions.spherical import LevelSetLaw
from smoothing.radius.level_set import level_set_radius


def normal_quantile(w: float) -> float:
    return float(-mp.sqrt(2) * mp.erfinv(2 * mp.mpf(w) - 1))


@pytest.mark.parametrize("d", [2, 3, 10, 784, 150_528])
def test_caps_have_their_share(d: int) -> None:
    y = np.array([-1.5, -1.0, -4 / math.sqrt(d + 16), -0.5 / math.sqrt(d), 0.0, 1e-3 / math.sqrt(d), 0.9, 1.0, 2.0])
    share = cap_share(d, y)
    for cosine, value in zip(y, share, strict=True):
        v = min(max((1 + float(cosine)) / 2, 0.0), 1.0)
        assert value == pytest.approx(float(betainc((d - 1) / 2, (d - 1) / 2, v)), rel=1e-10, abs=0.0)


@pytest.mark.parametrize("d", [1, 2, 5, 784])
@pytest.mark.parametrize(("t", "e"), [(0.5, 1.0), (-0.4, 0.7), (3.0, 0.6)])
def test_bounds_on_gaussian_caps_are_above_and_close(d: int, t: float, e: float) -> None:
    # psi(|x|) - psi(|x - v|) = 2 <x, v> - e^2 for psi = r^2, and <x, v> / e is normal of variance 1/2.
    exact = float(mp.erfc((t + e * e) / (2 * e)) / 2)
    bound = exponential_sets(d, 2.0, 0.0).bound(t, e, 1e-4)
    assert exact < bound < exact + 1.2e-4
    assert exponential_sets(d, 2.0, 0.0).estimate(t, e) == pytest.approx(exact, rel=1e-4 if d == 2 else 1e-6, abs=1e-7)


@pytest.mark.parametrize("d", [2, 5, 784, 3072])
@pytest.mark.parametrize("w", [0.499, 0.1, 1e-6])
def test_gaussian_radii_lie_just_below_their_bounds(d: int, w: float) -> None:
    estimate, high = exponential_sets(d, 2.0, 0.0).radius(w)
    exact = normal_quantile(w) / math.sqrt(2)
    assert estimate == pytest.approx(exact, rel=2e-4 if d == 2 else 1e-6)
    assert exact < high < exact * 1.003


REFERENCE = [
    ("exp_two", (1.0, 0.0), 0.1, 1.281324),
    ("exp_two", (10.0, 100.0), 0.1, 1.281143),
    ("exp_two", (2.0, 3064.0), 0.01, 2.13062),
    ("exp_two", (2.0, 3071.0), 0.2, 0.3393527),
    ("pow_two", (2.0, 1538.0), 0.4, 0.1905631),
    ("pow_two", (2.0, 1544.0), 0.01, 2.210579),
]
"""(law, shape parameters, 1 - p, radius at sigma = 1), d = 3072; derived with other code, in part by simulation."""


@pytest.mark.parametrize(("name", "shapes", "w", "expected"), REFERENCE, ids=str)
def test_radii_are_those_of_the_reference_table(
    name: str, shapes: tuple[float, float], w: float, expected: float
) -> None:
    d, (k, second) = 3072, shapes
    if name == "exp_two":
        sets = exponential_sets(d, k, second)
        square = mp.gammaprod([(d + 2 - second) / k], [(d - second) / k]) / d
    else:
        sets = power_sets(d, k, second)
        square = mp.gammaprod([(d + 2) / k, second - (d + 2) / k], [d / k, second - d / k]) / d
    sigma = float(mp.sqrt(square))
    estimate, high = sets.radius(w)
    assert estimate / sigma == pytest.approx(expected, rel=1e-6)
    assert 1 < high / estimate < 1.003


DIRECT = [
    (Exp2((1,), scale=1.0, k=0.5), exponential_sets(1, 0.5, 0.0), 0.1),
    (Exp2((4,), scale=1.0, k=3, j=2.5), exponential_sets(4, 3.0, 2.5), 0.4),
    (Exp2((784,), scale=1.0, k=1), exponential_sets(784, 1.0, 0.0), 0.01),
    (Pow2((784,), scale=1.0, k=2, a=396), power_sets(784, 2.0, 396.0), 0.4),
]


@pytest.mark.parametrize(("law", "sets", "w"), DIRECT, ids=["line", "cusp", "exponential", "power"])
def test_proved_radii_lie_below_the_bound_and_inflated_ones_above(law: LevelSetLaw, sets: LevelSets, w: float) -> None:
    proved = level_set_radius(law.profile, w).lower
    estimate, high = sets.radius(w)
    assert estimate * (1 - 1e-4) < proved < high < 1.01 * proved


@pytest.mark.parametrize("k", [0.3, 2.0, 40.0])
@pytest.mark.parametrize("q", [0.49, 0.3, 0.2, 0.01, 1e-9])
def test_the_sum_of_two_signs_is_a_sign_or_nothing(k: float, q: float) -> None:
    # Z is 0 with probability 1/2, else +-2 W: half of the radius for one sign at 2 q, after a stretch of constant Phi.
    exact_context = context()
    two = exact_context.mpf(2)
    mean = k * exact_context.gammaprod([two / k + 1 - 1 / exact_context.mpf(k)], [two / k])
    exact = (0.5 - max(q, 0.25)) / (mean / 2)
    if q < 0.25:
        exact += exponential_radius(exact_context.mpf(k), exact_context.zero, exact_context.mpf(2 * q), 2) / 2
    low, high = diamond_growth(2, k).radius(q)
    assert low < exact < high < low * (1 + 3e-7)


@pytest.mark.parametrize("q", [0.49, 0.2, 0.01, 1e-6])
def test_scores_with_a_valley_are_enclosed(q: float) -> None:
    # d = 3, k = 2, j = 1: g = 1/r + 2 r, r^2 exponential; {g >= c} with c = sqrt(8) cosh x is r <= e^-x / sqrt 2 and
    # r >= e^x / sqrt 2, and E[g; r in I] = int_I (2 + 4 r^2) exp(-r^2) dr.
    def moment(r: object) -> object:
        return 2 * mp.sqrt(mp.pi) * mp.erf(r) - 2 * r * mp.exp(-r * r)  # type: ignore[operator]

    def share(x: object) -> object:
        return (1 - mp.exp(-mp.exp(-2 * x) / 2) + mp.exp(-mp.exp(2 * x) / 2)) / 2  # type: ignore[operator]

    def growth(x: object) -> object:
        total = 2 * mp.sqrt(mp.pi)
        return (moment(mp.exp(-x) / mp.sqrt(2)) + total - moment(mp.exp(x) / mp.sqrt(2))) / 2  # type: ignore[operator]

    with mp.workdps(25):
        end = mp.findroot(lambda x: mp.log(share(x)) - mp.log(q), (0.1, 2.0), solver="secant")
        exact = mp.quad(lambda x: -mp.diff(share, x) / growth(x), mp.linspace(0, end, 8))
    low, high = cube_growth(3, 2.0, 1.0).radius(q)
    assert low < exact < high < low * (1 + 3e-7)
