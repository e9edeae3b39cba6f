"""What tables of level sets consist of, at random lengths and thresholds, for laws from the whole range of their parameters.

Every radius of a level-set law rests on w(e) from below for one threshold. Here it is compared with quadrature that shares
nothing with the method, at the best threshold and at others. CERTIFY_RADIUS_SWEEP=N takes N draws instead of a few, and
`pytest -s` prints their gaps.
"""

import math
import os
from collections.abc import Iterator

import jaxtyping
import mpmath
import numpy as np
import pytest
from mpmath import mpf
from scipy.optimize import brentq
from spherical_reference import Density, Reference

from smoothing import Exp2, Pow2
from smoothing.distributions.exp_two import Exp2Profile
from smoothing.distributions.pow_two import Pow2Profile
from smoothing.distributions.spherical import LevelSetLaw
from smoothing.errors import InvalidArgumentError
from smoothing.radius.caps import caps_bounds
from smoothing.radius.level_set import failure_bounds, level_set_radius, thresholds
from smoothing.radius.spherical import SphericalProfile

SEED = 20_260_104
SWEEP = int(os.environ.get("CERTIFY_RADIUS_SWEEP", "0"))
DIMENSIONS = (1, 2, 3, 784, 3072, 3073, 150_528)

QUADRATURE = 3e-8
"""Relative error of the reference over max(1, k), of a probability or 1/2 minus it: steep laws have edges."""


@pytest.fixture(scope="module", autouse=True)
def without_runtime_checks() -> Iterator[None]:
    """Shapes are not what is tested here, and checking them takes a third of the time."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def draw(rng: np.random.Generator) -> tuple[SphericalProfile, Density]:
    """A law of any dimension, k from 0.1 to 100, anywhere or next to the limit of its other parameter."""
    while True:
        d = int(rng.choice(DIMENSIONS)) if rng.random() < 0.5 else int(np.exp(rng.uniform(0.0, math.log(150_528.5))))
        k = float(np.exp(rng.uniform(math.log(0.1), math.log(100.0))))
        if d / k > 1.9e6:
            continue
        near, kind = 10.0 ** rng.uniform(-3.0, 0.0), rng.integers(3)
        if rng.random() < 0.5:
            a = (d + (2 + near, 2 + 100 * near, 0.1 + near)[kind]) / k
            if a > d / k:
                return Pow2Profile(d, k, a), Density(d, k, a=a)
        j = max(float((0.0, rng.uniform(0.0, d), max(d - 1.0, 0.9) - near)[kind]), 0.0)
        # A tenth of the mass below 1e-300; and on the line there is no formula for k >= 1 only.
        if (d - j) / k > 1e-3 and not (d == 1 and k >= 1 and j == 0):
            return Exp2Profile(d, k, j), Density(d, k, j=j)


@pytest.mark.parametrize("index", range(SWEEP or 2))
def test_nodes_are_never_above_and_close_below_quadrature(index: int) -> None:
    rng = np.random.default_rng([SEED, index])
    profile, density = draw(rng)
    typical = profile.quantile(0.5, upper=False) / math.sqrt(profile.dimension)
    e = typical * float(10.0 ** rng.uniform(-1.5, 0.7))
    best = float(thresholds(profile, np.array([e]), np.array([1.0]))[0])
    reference, rounding = Reference(density, e), QUADRATURE * max(1.0, density.k)
    other = best * float(np.exp(rng.normal())) if rng.random() < 0.5 else float(10.0 ** rng.uniform(-3.0, 1.0))
    for t in (best, other):
        one = np.ones(1)
        low, high = failure_bounds(profile, e * one, t * one, 1e-6 * one)
        known = reference.failure_at(t)
        # The terms of the difference may be far larger than it.
        error = rounding * min(abs(known), abs(0.5 - known)) + 1e-12 * (1 + math.exp(-t))
        assert low[0] <= known + error, (profile, e, t)
        if t == best and 1e-9 < known < 0.4999:
            gap = (known - low[0]) / min(known, 0.5 - known)
            print(f"{profile} e {e:.3g} w {known:.3g} gap {gap:.1e}")
            assert gap <= 2e-4
        for sign in (1.0, -1.0):
            chance = reference.chance(sign * t)
            low, high = caps_bounds(profile, sign * t * one, e * one, 1e-7 * one)
            assert low[0] <= chance + rounding * min(chance, 1 - chance) + 1e-12, (profile, e, sign * t)
            assert high[0] >= chance - 1e-5 * min(chance, 1 - chance) - 1e-9, (profile, e, sign * t)


# --- Radii: norms, scales, two classes, limits -------------------------------------------------------------------------

LAWS = [Exp2((5,), scale=1.0, k=1.5), Pow2((7,), scale=1.0, k=2.0, a=5.0), Exp2((1,), scale=1.0, k=0.5)]


def least_after(reference: Reference, q: float) -> float:
    """The least probability, after the shift, of a set of probability 1 - q: from below, by duality near its threshold."""
    low, high = -3.0, 3.0
    while reference.chance(high) > q:
        high *= 2
    while reference.chance(low) < q:
        low *= 2
    t = brentq(lambda t: reference.chance(t) - q, low, high, xtol=2e-3)
    return reference.chance(-t) + math.exp(t) * (reference.chance(t) - q)


def reference_of(law: LevelSetLaw, e: float) -> Reference:
    assert isinstance(law.k, float)
    if isinstance(law, Pow2):
        assert isinstance(law.a, float)
        return Reference(Density(law.dimension, law.k, a=law.a), e)
    assert isinstance(law, Exp2)
    return Reference(Density(law.dimension, law.k, j=float(law.j)), e)


@pytest.mark.parametrize("law", LAWS if SWEEP else LAWS[1:2], ids=lambda law: law.identity)
def test_the_top_class_still_leads_at_a_radius_for_two_classes(law: LevelSetLaw) -> None:
    rng = np.random.default_rng([SEED, 1, LAWS.index(law)])
    for _ in range(max(SWEEP // 10, 1)):
        q = float(np.exp(rng.uniform(math.log(1e-3), math.log(0.6))))
        rival = float(min(q, 1 - q) * rng.uniform(0.05, 0.95))
        e = law.radius(1 - q, "l2", q_upper=q, rival_upper=rival)
        assert e > 0
        if q < 0.5:
            assert e >= law.radius(1 - q, "l2", q_upper=q)
        reference = reference_of(law, e)
        top, other = least_after(reference, q), 1 - least_after(reference, rival)
        assert top >= other - 2e-6


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.identity)
def test_radii_are_monotone_scale_and_stay_below_direct_ones(law: LevelSetLaw) -> None:
    rng = np.random.default_rng([SEED, 2, LAWS.index(law)])
    p = np.sort(
        np.concatenate(
            (rng.uniform(0.5, 1.0, 500), 0.5 + 10.0 ** rng.uniform(-14, -1, 200), 1 - 10.0 ** rng.uniform(-14, -1, 200))
        )
    )
    radius = law.radius(p, "l2")
    assert np.all(np.diff(radius) >= 0)
    assert np.all(np.isfinite(radius))
    for scale in 10.0 ** rng.uniform(-3.0, 3.0, 3):
        parameters = {**law.parameters, law.scale_name: float(scale)}
        scaled = type(law)(law.shape, **parameters)
        for norm, factor in (("l1", 1.0), ("l2", 1.0), ("linf", math.sqrt(law.dimension))):
            np.testing.assert_allclose(scaled.radius(p, norm), radius * scale / factor, rtol=1e-13)
    for w in (0.5 - 1e-9, 0.31, 2e-5) if SWEEP else (0.31,):
        direct = level_set_radius(law.profile, w).lower
        assert law.radius(1 - w, "l2", q_upper=w) <= law.direct_radius(w, "l2").lower <= direct
    assert law.radius(np.array([0.0, 0.3, 0.5]), "l2").tolist() == [0.0, 0.0, 0.0]
    assert law.radius(1.0, "l2") == math.inf
    for bad in (math.nan, -1e-9, 1.0000001):
        with pytest.raises(InvalidArgumentError, match="p_lower must be in"):
            law.radius(bad, "l2")


# --- What the thresholds of heavy tails rest on ------------------------------------------------------------------------


def test_contraction_of_power_laws_is_enclosed() -> None:
    """exp(-t/a) is below the rounding of 1 for most thresholds of a law next to its limit."""
    rng = np.random.default_rng([SEED, 3])
    lost = 0
    with mpmath.workdps(260):
        for index in range(20 * SWEEP or 200):
            k, a = float(np.exp(rng.uniform(math.log(0.1), math.log(2000.0)))), float(10.0 ** rng.uniform(-2.0, 5.0))
            rate = float(10.0 ** rng.uniform(-12.0, 2.7) if index % 4 else rng.uniform(35.0, 38.5))
            # Anywhere, or where s is nearly 0.
            limit = rate + math.log(-math.expm1(-rate))
            power = float(limit * (1 + rng.choice([-1, 1]) * 10.0 ** rng.uniform(-16, 0))) if index % 3 else 0.0
            power = power or float(rng.uniform(-3.0, 80.0))
            r = math.exp(min(max(power / k, -600.0), 600.0))
            t = rate * a * (1 if index % 5 else -1)
            delta, error = (float(x[0]) for x in Pow2Profile(1, k, a).log_contraction(np.array([r]), np.array([t])))
            rest = (1 + mpf(r) ** mpf(k)) * mpmath.exp(-mpf(t) / mpf(a)) - 1
            if rest <= 0:  # there is no s: it may be called as short as one likes
                assert math.isinf(delta) or math.isinf(error), (k, a, r, t)
                continue
            exact = mpmath.log(mpf(r)) - mpmath.log(rest) / mpf(k)
            if math.isfinite(delta) and math.isfinite(error):
                assert abs(exact - mpf(delta)) <= mpf(error), (k, a, r, t)
                assert error <= 0.5 * abs(delta) + 1.0, (k, a, r, t)
            elif mpmath.expm1(mpf(t) / mpf(a)) / mpf(r) ** mpf(k) < 1 - mpf("1e-10"):
                lost += 1
    assert lost == 0


def test_a_law_beyond_float64_has_the_linear_radius() -> None:
    """Half of the mass of a law with a k - d = 0.001 lies beyond 1e290."""
    law = Pow2((3,), scale=1.0, k=0.1, a=30.01)
    radius = law.radius(np.array([0.5, 0.6, 0.9, 1.0]), "l2")
    assert radius[0] == 0
    assert 0 < radius[1] < radius[2] < radius[3] == math.inf
    assert radius[2] == pytest.approx(4 * radius[1], rel=1e-9)


def test_steep_laws_on_the_line_have_a_radius_next_to_one_half() -> None:
    """(2 p - 1)^60 is below float64: the density is flat there."""
    law = Exp2((1,), scale=2.0, k=60.0)
    exact = 2 * 2e-7 * math.gamma(1 + 1 / 60)
    assert exact * (1 - 1e-9) <= law.radius(0.5 + 1e-7, "l2") <= exact
