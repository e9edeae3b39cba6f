"""Radii at p = 1 where they are finite: enclosed in logarithms, against extended precision down to 1e-2000."""

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from shells_reference import Long, at_linf, signed

from smoothing import Exp1, ExpInf
from smoothing.radius import limit
from smoothing.radius.limit import _log_lower, _log_upper, cubical_limit, deep_integral, signed_limit
from smoothing.radius.sign_mixture import signed_exponential_growth

extended = pytest.mark.skipif(
    np.finfo(np.longdouble).maxexp < 16_000, reason="long double holds no numbers below 1e-2000 on this platform"
)
DEPTH = 5000.0
LAST = "1e-2000"


@extended
@pytest.mark.parametrize(("d", "k", "j", "gap"), [(300, 2.0, 100.0, 1e-3), (784, 1.2, 700.0, 1e-3)])
def test_limits_of_cubes_are_enclosed(d: int, k: float, j: float, gap: float) -> None:
    lower, upper = cubical_limit(d, k, j)
    # Smaller shares add (d - j) / j times the radius of their shells at most, which is below 1e-4 here.
    exact = float(at_linf(d, k, j, DEPTH)(Long(LAST)))
    shell = (d - j) / j * math.exp(-4000.0 / (d - j)) * d
    assert lower <= exact + shell
    assert exact <= upper <= lower * (1 + gap)
    law = ExpInf((d,), scale=2.0, k=k, j=j)
    assert law.radius(1.0, "linf") == pytest.approx(2 * lower, rel=1e-9)
    assert law.radius(1.0, "linf") >= law.radius(1.0, "linf", q_upper=1e-290)


@extended
@pytest.mark.parametrize(("d", "k", "gap"), [(6, 0.5, 0.05), (5, 0.8, 0.05)])
def test_limits_of_diamonds_are_enclosed(monkeypatch: pytest.MonkeyPatch, d: int, k: float, gap: float) -> None:
    exact = float(signed(d, k, 1500.0)(Long("1e-600")))
    joined = limit._joined

    def alone(*given: Any) -> tuple[float, float]:
        """Without the bounds that few dimensions have anyway."""
        return joined(*given[:-1], (0.0, math.inf))

    for used in (joined, alone):
        monkeypatch.setattr(limit, "_joined", used)
        lower, upper = signed_limit.__wrapped__(d, k)
        assert lower <= exact * (1 + 1e-9)
        assert exact <= upper * (1 + 1e-12)
        assert upper <= lower * (1 + gap)


@pytest.mark.parametrize(("d", "k"), [(784, 0.5), (1001, 0.9)])
def test_limits_of_diamonds_in_many_dimensions_have_a_gap(d: int, k: float) -> None:
    lower, upper = signed_limit(d, k)
    assert lower <= upper <= 1.005 * lower
    law = Exp1((d,), scale=0.5, k=k)
    assert law.radius(1.0, "linf") == pytest.approx(lower / 2, rel=1e-9)
    assert law.radius(1.0, "linf") >= law.radius(1.0, "linf", q_upper=1e-290)


def test_logarithms_of_incomplete_gamma_functions_are_enclosed() -> None:
    for a in (0.3, 1.0, 2.5, 40.0, 900.0):
        for share in (1e-6, 0.01, 0.3, 0.9, 0.999, 1.0, 1.001, 1.1, 3.0, 20.0):
            u = a * share
            with mpmath.workdps(30):
                below = mpmath.log(mpmath.gammainc(a, 0, u, regularized=True))
                above = mpmath.log(mpmath.gammainc(a, u, regularized=True))
            for side, exact in ((_log_lower, float(below)), (_log_upper, float(above))):
                low, high = (float(x[0]) for x in side(a, np.array([math.log(u)])))
                assert low <= exact <= high
                # Far in its tail it is known well.
                if exact < -20 - 3 * math.log(a + 1):
                    assert high - low < 0.5


def test_the_integral_of_a_score_with_an_exponential_tail() -> None:
    """P(Z >= t) = exp(-t) / 2: Phi(p) = p (1 + log(1 / (2 p))), whose integral is log of that factor."""
    t = np.linspace(700.0, 5000.0, 8000)
    log_share = -t - math.log(2.0)
    lower, upper = deep_integral(t, log_share, log_share, float(log_share[-1]))
    exact = math.log(1 + t[-1]) - math.log(1 + t[0])
    assert lower <= exact <= upper
    assert upper - lower < 2e-3 * exact
    # Logs of probabilities that are known less well are a wider enclosure.
    wider = deep_integral(t, log_share - 0.3, log_share + 0.3, float(log_share[-1]) + 0.3)
    exact = math.log(1 + t[-1] + 0.3) - math.log(1 + t[0] + 0.3)
    assert wider[0] <= exact <= wider[1]


def test_thresholds_that_are_not_deep_enough_leave_what_was_known() -> None:
    lower, upper = cubical_limit(2, 2.0, 0.5)
    assert lower <= upper <= lower * (1 + 1e-7)


@pytest.mark.parametrize(
    ("log_u", "a"), [(-103_000.0, 15_680.0), (-96_707.4, 3_010_560.0), (-99_986.0, 150_530.0), (18.3261, 1.5e8)]
)
def test_the_allowance_grows_with_the_size_of_the_terms(log_u: float, a: float) -> None:
    """Here terms of up to 10^11 are rounded by more than 1e-7."""
    with mpmath.workdps(50):
        u, term, total, n = mpmath.exp(log_u), mpmath.mpf(1), mpmath.mpf(1), 0
        while term > 1e-40:
            n += 1
            term *= u / (mpmath.mpf(a) + n)
            total += term
        exact = mpmath.mpf(a) * log_u - u - mpmath.loggamma(mpmath.mpf(a) + 1) + mpmath.log(total)
        low, high = (mpmath.mpf(float(x[0])) for x in _log_lower(a, np.array([log_u])))
        assert low <= exact <= high
        # An error of log u counts a times.
        moved = 1e-9 * a
        low, high = (mpmath.mpf(float(x[0])) for x in _log_lower(a, np.array([log_u + 1e-9]), 1e-9))
        assert low <= exact <= high <= exact + 3 * moved + 1e-3


@pytest.mark.parametrize(("d", "k", "j"), [(10, 1.01, 5.0), (784, 1.0001, 300.0), (3, 1.0000001, 1e-12)])
def test_limits_of_cubes_with_an_exponent_close_to_one(d: int, k: float, j: float) -> None:
    """The far root of the score is beyond float64 there, and its share is nothing rather than not a number."""
    lower, upper = cubical_limit(d, k, j)
    assert 0 < lower <= upper <= lower * 1.005
    law = ExpInf((d,), scale=1.0, k=k, j=j)
    assert law.radius(1.0, "linf") == pytest.approx(lower, rel=1e-9)
    assert law.radius(1.0, "linf") >= law.radius(1.0, "linf", q_upper=1e-290)


@pytest.mark.parametrize(("d", "k", "gap"), [(2, 0.02, 1e-6), (10, 0.05, 1e-5), (50, 0.999999, 1e-4)])
def test_limits_of_diamonds_at_extreme_exponents(d: int, k: float, gap: float) -> None:
    lower, upper = signed_limit(d, k)
    assert 0 < lower <= upper <= lower * (1 + gap)


def test_a_quantile_that_does_not_exist_is_infinite() -> None:
    assert limit._quantile_above(1e6, -0.1) == math.inf
    log_u = limit._quantile_above(40.0, -900.0)
    assert float(_log_lower(40.0, np.array([log_u]))[0][0]) >= -900.0


@pytest.mark.parametrize(("d", "k"), [(20, 0.05), (6, 0.03)])
def test_scores_that_underflow_leave_limits_finite(d: int, k: float) -> None:
    """R(0) at l1 is int u^(a-1) e^-u / (k gamma(a + 1 - 1/k, u)) du, a = d / k, for scale 1: 1e13 to 1e50 here.

    Products of the least shares with such scores are 0 in float64; their lines had no offset, and infinite integrals.
    """
    law = Exp1((d,), k=k, scale=1.0)
    a, power = mpmath.mpf(d) / mpmath.mpf(k), 1 / mpmath.mpf(k)
    with mpmath.workdps(30):

        def integrand(u: mpmath.mpf) -> mpmath.mpf:
            return u ** (a - 1) * mpmath.exp(-u) / (mpmath.mpf(k) * mpmath.gammainc(a + 1 - power, 0, u))

        exact = mpmath.quad(integrand, [a * x / 4 for x in (0, 1, 2, 3, 4, 5, 6, 8, 12, 20)])
        found = [law.radius(1 - q, "l1", q_upper=q) for q in (1e-300, 0.0)]
        assert found[0] <= found[1] <= exact
        assert found[1] >= exact * (1 - mpmath.mpf("1e-6"))
    for q in (1e-300, 0.0):
        assert math.isfinite(law.radius(1 - q, "linf", q_upper=q))


def test_next_to_the_smallest_shares_cells_are_not_divided_for_ever() -> None:
    growth = signed_exponential_growth(100, 0.05)
    assert len(growth.thresholds) < 30_000
    assert growth.relative_gap(np.array([0.49, 0.1, 1e-6])).max() < 1e-6
