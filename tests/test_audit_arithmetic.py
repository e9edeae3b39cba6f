"""The audit's exact arithmetic: tails, bounds, quantiles and published radii."""

import math
from fractions import Fraction
from pathlib import Path

import mpmath
import pytest
from audit_runs import write_run

from certify.audit import audit_folder
from certify.audit.exact import context, lower_tail, upper_bound
from certify.audit.radii import GAUSSIAN, LAPLACE, UNIFORM, ExactLaw, conversion_factor, normal_quantile


@pytest.mark.parametrize("q", [0.5, 0.03125, 0.9, 1e-3, 1e-9])
@pytest.mark.parametrize(("failures", "n"), [(0, 1), (0, 50), (3, 50), (25, 50), (48, 50), (49, 50), (130, 200)])
def test_lower_tail_equals_the_sum_of_its_terms(failures: int, n: int, q: float) -> None:
    p = Fraction(q)
    direct = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(failures + 1))
    mp = context()
    expected = mp.mpf(direct.numerator) / direct.denominator
    assert abs(lower_tail(failures, n, p) / expected - 1) < mp.mpf(10) ** -38


def test_lower_tail_at_its_ends() -> None:
    assert lower_tail(-1, 10, Fraction(1, 2)) == 0
    assert lower_tail(10, 10, Fraction(1, 2)) == 1
    assert lower_tail(3, 10, Fraction(0)) == 1
    assert lower_tail(3, 10, Fraction(1)) == 0


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.9, 1e-9])
@pytest.mark.parametrize(("failures", "n"), [(0, 1000), (1, 1000), (999, 1000), (20_000, 100_000), (5, 10**9)])
def test_upper_bound_inverts_the_tail(failures: int, n: int, alpha: float) -> None:
    mp = context()
    q = upper_bound(failures, n, alpha)
    exact = Fraction(int(q.man), 1) * Fraction(2) ** int(q.exp)
    slack = Fraction(1, 10**16)
    assert lower_tail(failures, n, exact * (1 - slack)) > mp.mpf(alpha)
    assert lower_tail(failures, n, min(exact * (1 + slack), Fraction(1))) < mp.mpf(alpha)


def test_upper_bound_without_failures_has_a_closed_form() -> None:
    mp = context()
    expected = 1 - mp.mpf(0.001) ** (mp.one / 100_000)
    assert abs(upper_bound(0, 100_000, 0.001) / expected - 1) < mp.mpf(10) ** -17
    assert upper_bound(10, 10, 0.001) == 1


@pytest.mark.parametrize("q", [1e-300, 1e-17, 6.9075e-5, 0.1, 0.49, 0.4999999999999999])
def test_normal_quantile_inverts_the_normal_tail(q: float) -> None:
    mp = context()
    x = normal_quantile(mp.mpf(q))
    # d log Phi(-x) / dx is about -max(x, 1), so that 1e-36 here is at least 1e-37 in x.
    assert abs(mp.erfc(x / mp.sqrt(2)) / 2 / mp.mpf(q) - 1) < mp.mpf(10) ** -36


@pytest.mark.parametrize(
    ("law", "norm", "expected"),
    [
        (GAUSSIAN, "l2", "1.2815515655446004"),  # Phi^-1(0.9)
        (GAUSSIAN, "l1", "1.2815515655446004"),
        (GAUSSIAN, "linf", "0.6407757827723002"),  # / sqrt(4)
        (LAPLACE, "l1", "1.6094379124341003"),  # log 5
        (UNIFORM, "l1", "0.8"),
    ],
)
def test_radii_have_their_published_values(law: ExactLaw, norm: str, expected: str) -> None:
    mp = context()
    found = law.radii[norm](mp.one, mp.mpf("0.1"), 4)
    assert abs(found - mp.mpf(expected)) < mp.mpf(10) ** -15


def test_conversion_factors_are_those_of_the_inclusions() -> None:
    mp = context()
    for source, target, expected in (
        ("l2", "l1", 1),
        ("linf", "l2", 1),
        ("l2", "l2", 1),
        ("l1", "l2", mp.mpf(9) ** -0.5),
        ("l2", "linf", mp.mpf(9) ** -0.5),
        ("l1", "linf", mp.mpf(1) / 9),
    ):
        assert abs(conversion_factor(source, target, 9) - expected) < mp.mpf(10) ** -40, (source, target)


def test_the_audit_leaves_the_global_precision_of_mpmath_alone(tmp_path: Path) -> None:
    before = mpmath.mp.dps
    audit_folder(write_run(tmp_path))
    assert mpmath.mp.dps == before
