"""The growth integral of spherical laws, and radii for two classes: against closed forms, quadrature and explicit sets."""

import itertools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
from mpmath import mpf
from scipy.integrate import quad
from scipy.special import betainc, betaincinv, gammaln, ndtri
from scipy.stats import beta as beta_law
from scipy.stats import gamma as gamma_law

from smoothing import Exp2, Gaussian, Pow2
from smoothing.distributions.exp_two import Exp2Profile
from smoothing.distributions.pow_two import Pow2Profile
from smoothing.radius.spherical import SphericalProfile
from smoothing.radius.spherical_growth import _caps, _cells, _means, spherical_growth

Q = np.array([0.4999, 0.49, 0.4, 0.25, 0.1, 0.01, 1e-3, 1e-4, 1e-6])


def lower(profile: SphericalProfile, q: Any = Q) -> Any:
    growth = spherical_growth(profile)
    assert growth is not None
    return growth.bounds(np.asarray(q))[0]


@pytest.mark.parametrize("d", [1, 2, 3, 5, 784, 3072, 150_528])
def test_gaussian_noise_has_its_quantiles(d: int) -> None:
    found, exact = lower(Exp2Profile(d, 2.0, 0.0)), -ndtri(Q) / math.sqrt(2)
    assert np.all(found <= exact)
    np.testing.assert_allclose(found, exact, rtol=5e-4)


@pytest.mark.parametrize("d", [1, 2, 3, 784, 3072, 150_528])
def test_a_constant_slope_has_its_closed_form(d: int) -> None:
    """exp(-r): the score is the cosine alone (Yang et al. 2020, Table 1)."""
    if d == 1:
        exact = -np.log(2 * Q)
    else:
        exact = (d - 1) * np.arctanh(np.sqrt(betaincinv(0.5, (d - 1) / 2, 1 - 2 * Q)))
    found = lower(Exp2Profile(d, 1.0, 0.0))
    assert np.all(found <= exact * (1 + 1e-12))
    np.testing.assert_allclose(found, exact, rtol=2e-5)


def exceedance(d: int, slope: Any, ppf: Any, t: float) -> tuple[float, float]:
    """P(Z >= t) and E[Z; Z >= t] by quadrature over the quantiles of r."""
    b = math.exp(float(gammaln(d / 2) - gammaln((d + 1) / 2))) / (2 * math.sqrt(math.pi))

    def parts(level: float) -> tuple[float, float]:
        value = slope(ppf(level))
        rest = max(1.0 - (t / value) ** 2, 0.0)
        return 0.5 * float(betainc((d - 1) / 2, 0.5, rest)), value * b * rest ** ((d - 1) / 2)

    def integral(which: int) -> float:
        pieces = itertools.pairwise([1e-9, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6, 1 - 1e-9])
        return float(sum(quad(lambda x: parts(x)[which], *ends, limit=100, epsabs=1e-11)[0] for ends in pieces))

    return integral(0), integral(1)


CASES = [
    (Exp2Profile(3, 0.5, 0.0), lambda r: 0.5 * r**-0.5, lambda x: gamma_law.ppf(x, 6.0) ** 2.0),
    (Exp2Profile(4, 3.0, 1.0), lambda r: 3 * r**2 + 1 / r, lambda x: gamma_law.ppf(x, 1.0) ** (1 / 3)),
    (
        Pow2Profile(3, 2.0, 4.0),
        lambda r: 8 * r / (1 + r * r),
        lambda x: math.sqrt(1 / (1 / beta_law.ppf(x, 1.5, 2.5) - 1)),
    ),
]


@pytest.mark.parametrize(("profile", "slope", "ppf"), CASES, ids=["steep at 0", "both ways", "heavy tail"])
def test_quadrature_encloses_it(profile: SphericalProfile, slope: Any, ppf: Any) -> None:
    """Chords below Phi and tangents above it, from points by another rule."""
    top = 3.0 * float(np.max([slope(ppf(x)) for x in (0.01, 0.5, 0.99)]))
    t = top * np.linspace(0.0, 1.0, 40)[:-1] ** 2
    points = [exceedance(profile.dimension, slope, ppf, float(x)) for x in t]
    share, mean = (np.array(part) for part in zip(*points, strict=True))
    known = [0.3, 0.1, 0.02]
    for q in known:
        low = high = 0.0
        for i in range(len(t) - 1):
            if share[i + 1] >= q or share[i] > q:
                left, right = max(share[i + 1], q), share[i]
                # Phi is concave, of slope t: the chord is below it, the tangent at the right end above.
                p = np.linspace(left, right, 2001)
                middle = 0.5 * (p[1:] + p[:-1])
                chord = np.interp(middle, share[[i + 1, i]], mean[[i + 1, i]])
                tangent = np.minimum(
                    mean[i] + t[i] * (middle - share[i]), mean[i + 1] + t[i + 1] * (middle - share[i + 1])
                )
                high += float(np.sum(np.diff(p) / chord))
                low += float(np.sum(np.diff(p) / tangent))
        found = float(lower(profile, [q])[0])
        assert found <= high * (1 + 1e-6)
        assert found >= low * (1 - 5e-4)
        assert high / low < 1.02


def test_lines_are_never_below_what_they_bound() -> None:
    """H(t) against its integral, where cells and caps are rounded: a spread law, and a steep one."""
    for profile, slope, ppf in CASES:
        cells = _cells(profile)
        assert cells is not None
        mass, most, _, outside = cells
        a, above, _ = _caps(profile.dimension)
        for t in (0.05, 0.3, 1.0, 2.5):
            share, mean = exceedance(profile.dimension, slope, ppf, t)
            found = float(_means(np.array([t]), most, mass * most, a, above)[0]) + outside
            exact = mean - t * share
            assert exact - 1e-7 <= found <= exact * (1 + 1e-3) + 1e-7


@pytest.mark.parametrize("d", [2, 3, 784])
def test_means_of_caps_are_rounded_up(d: int) -> None:
    """E(c - a)_+ in 40 digits; next to it, within the allowance for incomplete beta functions."""
    a, above, share = _caps(d)
    with mpmath.workdps(40):
        b = mpmath.gamma(mpf(d) / 2) / (2 * mpmath.sqrt(mpmath.pi) * mpmath.gamma(mpf(d + 1) / 2))
        for i in range(0, len(a) - 1, len(a) // 30):
            x = mpf(float(a[i]))
            mean = b * (1 - x * x) ** (mpf(d - 1) / 2)
            if mean < mpf(10) ** -280:
                continue
            exact = mpmath.betainc(mpf(d - 1) / 2, 0.5, 0, 1 - x * x, regularized=True) / 2
            assert abs(share[i] / exact - 1) < 5e-12 + 1e-15 * d
            found = mpf(float(above[i])) - (mean - x * exact)
            assert 0 < found < (3e-11 + 2e-15 * d) * (mean + x * exact)


def test_means_of_caps_in_a_large_dimension() -> None:
    """At a = 0 it is half the mean absolute cosine, a quotient of gamma functions that logs of them would not give."""
    for d in (150_528, 2_000_000):
        with mpmath.workdps(40):
            exact = mpmath.exp(mpmath.loggamma(mpf(d) / 2) - mpmath.loggamma(mpf(d + 1) / 2)) / (
                2 * mpmath.sqrt(mpmath.pi)
            )
            assert 0 < mpf(float(_caps(d)[1][0])) / exact - 1 < 3e-11 + 1.1e-15 * d


def test_an_infinite_mean_slope_proves_nothing() -> None:
    assert spherical_growth(Exp2Profile(2, 1.0, 1.5)) is None
    law = Exp2((2,), sigma=1.0, k=1, j=1.5)
    assert law.radius(0.9, "l2", rival_upper=0.02) == pytest.approx(law.radius(0.94, "l2"), rel=1e-9)


# --- Two classes ------------------------------------------------------------------------------------------------------

PAIRS = [(0.95, 0.01), (0.6, 0.2), (0.45, 0.3), (0.3, 0.05), (0.999, 1e-4), (0.75, 0.25), (0.2, 0.19)]


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_two_classes_under_gaussian_noise_by_another_name(norm: str) -> None:
    law, gaussian = Exp2((7,), sigma=0.5, k=2, j=0), Gaussian((7,), sigma=0.5)
    for p, rival in PAIRS:
        factor = math.sqrt(7) if norm == "linf" else 1.0
        expected = gaussian.radius(p, "l2", rival_upper=rival) / factor
        assert law.radius(p, norm, rival_upper=rival) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "law",
    [Exp2((3,), sigma=1.0, k=1, j=0), Pow2((784,), sigma=1.0, k=2, a=400.0)],
    ids=lambda law: law.identity,
)
def test_two_classes_have_half_the_difference_of_growths_at_least(law: Exp2 | Pow2) -> None:
    growth = spherical_growth(law.profile)
    assert growth is not None
    assert law.scale is not None

    def integral(p: float) -> float:
        return law.scale * math.copysign(float(growth.bounds(np.array([min(p, 1 - p)]))[0][0]), p - 0.5)  # type: ignore[operator]

    for p, rival in PAIRS:
        radius = law.radius(p, "l2", rival_upper=rival)
        slack = 1e-3 if rival == 1 - p else 1e-9  # one class: its radius is that of the table
        assert radius >= 0.5 * (integral(p) - integral(rival)) * (1 - slack)
        assert radius >= law.radius(p, "l2") >= 0
        assert radius >= law.radius((1 + p - rival) / 2, "l2") * (1 - 1e-9)
        assert radius <= law.radius(p, "l2", rival_upper=0.9 * rival)
        assert law.radius(p, "linf", rival_upper=rival) == pytest.approx(radius / math.sqrt(law.dimension), rel=1e-12)
    assert law.radius(0.3, "l2", rival_upper=0.3) == 0.0
    assert law.radius(0.3, "l2", rival_upper=0.0) == math.inf, "a region of no probability never gets any"
    assert law.radius(0.0, "l2", rival_upper=0.0) == 0.0


def test_a_closed_form_for_two_classes() -> None:
    """exp(-r) in three dimensions: lam atanh(2 p - 1) of the differential method, in exact arithmetic."""
    law = Exp2((3,), scale=0.7, k=1, j=0)
    for p, rival in ((0.3, 0.05), (0.45, 0.3), (0.55, 0.1)):
        # P(c >= a) = (1 - a) / 2 in three dimensions: Phi(p) = p (1 - p), G(p) = log(p / (1 - p)).
        grown = [float(mpf(x) / (1 - mpf(x))) for x in (p, rival)]
        exact = 0.7 * 0.5 * math.log(grown[0] / grown[1])
        found = law.radius(p, "l2", rival_upper=rival)
        assert found >= exact * (1 - 2e-5)
        if p < 0.5:
            assert found <= exact * 1.05, "level sets give a little more for some pairs, not that much"
