"""Chords between the nodes of a level-set table: never above the law, and far better than what composing shifts gives."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from smoothing.distributions.exp_two import Exp2Profile
from smoothing.distributions.pow_two import Pow2Profile
from smoothing.radius.curve import LevelSetCurve
from smoothing.radius.level_set import failure_bounds, make_node, slope_at_half
from smoothing.radius.spherical import Array, SphericalProfile

SHARP = 1e-7


def few_nodes(profile: SphericalProfile, lengths: list[float], power: float) -> LevelSetCurve:
    """A table of proved nodes at some lengths, as sharp as they come, with the thresholds of the middles of their cells."""
    e = np.array(lengths)
    middle = np.append(np.sqrt(e[1:] * e[:-1]), e[-1])
    t = np.array([make_node(profile, float(at)).t for at in middle])
    w, above = failure_bounds(profile, e, t, np.full_like(e, SHARP))
    far = np.append(failure_bounds(profile, e[1:], t[:-1], np.full(len(e) - 1, SHARP))[0], 0.0)
    return LevelSetCurve(e, w, np.exp(t) * (1 - 1e-14), slope_at_half(profile), above, far, power)


def exact_failures(profile: SphericalProfile, e: Array) -> Array:
    """w(e) from above, to 1e-7 of it."""
    t = np.array([make_node(profile, float(at)).t for at in e])
    return failure_bounds(profile, e, t, np.full_like(e, SHARP))[1]


def test_chords_of_a_heavy_tail() -> None:
    profile = Pow2Profile(2, 2.0, 1.01)
    power = profile.convex_power()
    assert power == pytest.approx(2.02)
    curve = few_nodes(profile, [1e6, 1.6e6, 2.4e6], power - 2)
    middle = np.array([1.25e6, 1.4e6, 2e6])
    w = exact_failures(profile, middle)
    # At the failure probability of a length, the exact radius is that length.
    radius = curve.radius(w)
    assert np.all(radius <= middle)
    assert np.all(radius >= 0.96 * middle)
    # Composing alone falls back on the node before.
    assert np.all(replace(curve, power=0.0).radius(w) < 0.82 * middle)
    # Chords of the logarithm would claim too much: the law is far from log-concave.
    assert np.all(replace(curve, power=math.inf).radius(w) > 1.01 * middle)


def test_chords_of_a_log_concave_law() -> None:
    profile = Exp2Profile(5, 2.0, 0.0)
    assert profile.convex_power() == math.inf
    curve = few_nodes(profile, [0.8, 1.0, 1.3], math.inf)
    middle = np.array([0.85, 0.95, 1.1, 1.25])
    w = ndtr(-math.sqrt(2) * middle)
    alone = LevelSetCurve(curve.e, curve.w, curve.kappa, 0.0).radius(w)
    chords = replace(curve, slope=0.0).radius(w)
    assert np.all(chords <= middle)
    assert np.all(chords > alone + 0.02)
    assert np.all(chords > 0.97 * middle)


@pytest.mark.parametrize(
    "profile", [Exp2Profile(3, 0.9, 0.0), Exp2Profile(3, 2.0, 0.5), Pow2Profile(3, 0.9, 4.0)], ids=str
)
def test_other_laws_have_no_chords(profile: SphericalProfile) -> None:
    assert profile.convex_power() is None
    r = np.linspace(0.01, 3.0, 300)
    # exp(psi / m) is not convex for any m > d: it bends down near 0, or psi is singular there.
    for m in (3.1, 30.0, 3000.0):
        with np.errstate(over="ignore"):
            value = np.exp(profile.potential(r) / m)
        assert np.any(np.diff(value, 2) < 0)


@pytest.mark.parametrize(
    "profile",
    [Exp2Profile(3, 1.0, 0.0), Exp2Profile(2, 7.0, 0.0), Pow2Profile(3, 1.0, 3.1), Pow2Profile(2, 9.0, 0.3)],
    ids=str,
)
def test_the_power_makes_the_law_convex(profile: SphericalProfile) -> None:
    m = profile.convex_power()
    assert m is not None
    assert m > profile.dimension
    r = np.linspace(0.01, 3.0, 300)
    value = profile.potential(r) if math.isinf(m) else np.exp(profile.potential(r) / m)
    assert np.all(np.diff(value, 2) >= -1e-13 * value[1:-1])
