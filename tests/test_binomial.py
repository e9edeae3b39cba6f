"""Clopper-Pearson bounds and binomial tails against exact arithmetic: soundness one-sided, tightness apart."""

import math
import random
import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from scipy.special import betainccinv, ndtr, ndtri
from scipy.stats import binom

from smoothing.errors import InvalidArgumentError
from smoothing.rounding import complement_down
from smoothing.statistics import binomial
from smoothing.statistics.binomial import (
    check_alpha,
    failure_upper_bound,
    log_binomial_cdf,
    minimum_votes,
    success_lower_bound,
)
from smoothing.statistics.tail import MAX_VOTES, binomial_tails

GAP = Fraction(1, 10**9)
"""How far above the exact bound a bound may be, relatively; or `ULPS` units in the last place, where that is more."""
ULPS = 6
_BITS = 240


# --- The oracle: no special function of an incomplete kind, only factorials to 60 digits and whole numbers. ---


def exact_tails(f: int, n: int, q: Fraction) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Return P(Bin(n, q) <= f) and P(Bin(n, q) >= f + 1); the smaller is right to 1e-45 relatively, 0 <= f < n.

    P(X = f) is a product of factorials and powers; the other terms follow from the ratios of neighbouring ones, summed
    in fixed point with 240 bits until they vanish.
    """
    if n * q < f:
        upper, lower = exact_tails(n - f - 1, n, 1 - q)
        return lower, upper
    a, b = q.numerator, q.denominator - q.numerator
    total = term = 1 << _BITS
    for k in range(f):
        term = term * ((f - k) * b) // ((n - f + 1 + k) * a)
        if not term:
            break
        total += term
    with mpmath.workdps(60):
        log_pmf = mpmath.loggamma(n + 1) - mpmath.loggamma(f + 1) - mpmath.loggamma(n - f + 1)
        log_pmf += f * mpmath.log(mpmath.mpf(a) / (a + b)) + (n - f) * mpmath.log(mpmath.mpf(b) / (a + b))
        lower = mpmath.exp(log_pmf) * total / mpmath.mpf(1 << _BITS)
        return lower, 1 - lower


def is_sound(f: int, n: int, alpha: float, q: Fraction) -> bool:
    """Is P(Bin(n, q) <= f) <= alpha in exact arithmetic? By the smaller tail, as 60 digits may not reach beyond 1."""
    if q >= 1 or f == n:
        return q >= 1
    lower, upper = exact_tails(f, n, q)
    with mpmath.workdps(60):
        return bool(lower <= alpha) if lower < upper else bool(upper >= 1 - mpmath.mpf(alpha))


def below(q: float) -> Fraction:
    """The probability that must be below the exact bound if `q` is tight."""
    return Fraction(q) - max(Fraction(q) * GAP, ULPS * Fraction(math.ulp(q)))


ALPHAS = (0.5, 0.05, 1e-3, 1e-6, 1e-9)
COUNTS = [
    *[(f, 1) for f in (0, 1)],
    *[(f, 2) for f in (0, 1, 2)],
    *[(f, 10) for f in (0, 1, 5, 9, 10)],
    *[(f, 1_000) for f in (0, 1, 7, 400, 999)],
    *[(f, 100_000) for f in (0, 1, 13, 1_000, 45_000, 99_999, 100_000)],
    *[(f, 10_000_000) for f in (0, 1, 30, 100_000, 9_999_999)],
    *[(f, 10**9) for f in (0, 1, 2, 500, 10**6, 10**9 - 1, 10**9)],
    *[(f, MAX_VOTES) for f in (0, 1, 40, MAX_VOTES - 2)],
]
CASES = [(f, n, alpha) for f, n in COUNTS for alpha in ALPHAS] + [
    # Terms by the hundred thousand: fewer of them. And levels above 1/2, where the other tail is what is small.
    *[(450_000_000, 10**9, alpha) for alpha in (0.5, 1e-9)],
    *[(f, n, alpha) for f, n in ((1, 5), (40, 1_000), (3, 10**9)) for alpha in (0.5000001, 0.9, 0.999999, 1 - 2**-50)],
    *[(f, n, 1e-100) for f, n in ((0, 100), (1, 5), (40, 1_000), (3, 10**9))],
]


@pytest.mark.parametrize(("f", "n", "q"), [(0, 3, 0.2), (2, 7, 0.9), (30, 1_000, 0.031), (80, 100_000, 0.001)])
def test_the_oracle_agrees_with_another_one(f: int, n: int, q: float) -> None:
    with mpmath.workdps(60):
        lower = mpmath.betainc(n - f, f + 1, 0, 1 - mpmath.mpf(q), regularized=True)
        assert abs(exact_tails(f, n, Fraction(q))[0] / lower - 1) < mpmath.mpf(10) ** -45


# --- The bound against exact arithmetic ---


@pytest.mark.parametrize("alpha", sorted({alpha for _, _, alpha in CASES}))
def test_bound_is_sound_and_tight_in_exact_arithmetic(alpha: float) -> None:
    for f, n in [(f, n) for f, n, level in CASES if level == alpha]:
        q = failure_upper_bound(f, n, alpha)
        assert type(q) is float
        assert 0.0 < q <= 1.0
        assert is_sound(f, n, alpha, Fraction(q)), f"{f}/{n} at {alpha}: {q} is below the exact bound"
        if f < n:
            assert not is_sound(f, n, alpha, below(q)), f"{f}/{n} at {alpha}: {q} is not tight"
        else:
            assert q == 1.0


def test_the_grid_is_as_large_as_it_claims() -> None:
    assert len(CASES) >= 150
    assert {n for _, n, _ in CASES} >= {1, 2, 10, 1_000, 100_000, 10_000_000, 10**9, 10**12}


def test_control_the_plain_quantile_is_not_sound() -> None:
    """Positive control: the oracle refuses scipy's own quantile in many cases, so the correction is needed."""
    cases = [(f, n, alpha) for f, n, alpha in CASES if 0 < f < n <= 10**7 and f <= 1_000]
    plain = [float(betainccinv(f + 1.0, float(n - f), alpha)) for f, n, alpha in cases]
    unsound = sum(not is_sound(*case, Fraction(q)) for case, q in zip(cases, plain, strict=True))
    assert unsound >= len(cases) // 10


@pytest.mark.parametrize(("n", "cap"), [(4, 3.199), (5, 3.811), (6, 4.347), (7, 4.828), (8, 5.268), (9, 5.676)])
def test_largest_radius_by_votes(n: int, cap: float) -> None:
    """sigma = 1: Phi^-1(alpha^(1/n)) at alpha = 0.001."""
    assert -ndtri(failure_upper_bound(0, 10**n, 0.001)) == pytest.approx(cap, abs=5e-4)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (7, 10), (10, 10), (99_000, 100_000), (55, 100), (1, 1)])
@pytest.mark.parametrize("alpha", [0.1, 0.001, 1e-6])
def test_lower_bound_agrees_with_statsmodels(k: int, n: int, alpha: float) -> None:
    from statsmodels.stats.proportion import proportion_confint

    ours, theirs = success_lower_bound(k, n, alpha), proportion_confint(k, n, 2 * alpha, "beta")[0]
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-11)


# --- Coverage by enumeration ---


def exact_cdf(k: int, n: int, q: Fraction) -> Fraction:
    """P(Bin(n, q) <= k) as a ratio of whole numbers."""
    a, b = q.numerator, q.denominator - q.numerator
    total, power = 0, 1
    for j in range(k + 1):
        total = total * b + math.comb(n, j) * power
        power *= a
    return Fraction(total * b ** (n - k), q.denominator**n)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 30, 100])
@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.001])
def test_error_probability_over_all_truths_exactly(n: int, alpha: float) -> None:
    """sup over q of P(bound(X) < q) is reached just above some bound(k), where it is P(Bin(n, bound(k)) <= k)."""
    bounds = failure_upper_bound(np.arange(n + 1), n, alpha)
    assert (np.diff(bounds) > 0).all()
    worst = max(exact_cdf(k, n, Fraction(float(bounds[k]))) for k in range(n))
    assert Fraction(alpha) * (1 - Fraction(1, 10**8)) < worst <= Fraction(alpha)


@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.001, 1e-9])
def test_error_probability_for_every_n_up_to_200(alpha: float) -> None:
    truths = np.random.default_rng(7).uniform(0.0, 1.0, 20)
    n = np.arange(1, 201)[:, None]
    k = np.arange(201)[None, :]
    bounds = failure_upper_bound(np.minimum(k, n), n, alpha)
    # Float64 oracle: right to about 1e-13; the exact comparison is made above.
    assert (binom.cdf(k, n, bounds)[k < n] <= alpha * (1 + 1e-12)).all()
    for q in truths:
        missed = np.where((bounds < q) & (k <= n), binom.pmf(k, n, q), 0.0).sum(axis=1)
        assert (missed <= alpha * (1 + 1e-12)).all()


# --- Scalars, arrays, dtypes ---


def _random_cases(count: int, seed: int) -> tuple[ndarray, ndarray, ndarray]:
    rng = np.random.default_rng(seed)
    n = np.floor(10.0 ** rng.uniform(0, 9, count)).astype(np.int64)
    share = np.where(rng.random(count) < 0.5, rng.random(count), 10.0 ** rng.uniform(-9, 0, count))
    f = np.floor(share * (n + 1)).astype(np.int64).clip(0, n)
    return f, n, 10.0 ** rng.uniform(-9, -0.001, count)


def test_scalar_and_array_agree_in_every_bit() -> None:
    f, n, alpha = _random_cases(1_040, seed=1)
    whole = failure_upper_bound(f, n, alpha)
    lower = success_lower_bound(n - f, n, alpha)
    logs = log_binomial_cdf(f, n, alpha)
    for i in range(0, f.size, 8):
        case = int(f[i]), int(n[i]), float(alpha[i])
        assert failure_upper_bound(*case) == whole[i]
        assert success_lower_bound(case[1] - case[0], *case[1:]) == lower[i]
        assert log_binomial_cdf(*case) == logs[i]
    # Any part, layout or order of the array gives the same bits too.
    np.testing.assert_array_equal(failure_upper_bound(f[::-3], n[::-3], alpha[::-3]), whole[::-3])
    square = [np.asfortranarray(a.reshape(20, 52)) for a in (f, n, alpha)]
    np.testing.assert_array_equal(failure_upper_bound(*square), whole.reshape(20, 52))


def test_arguments_broadcast() -> None:
    f, alpha = np.arange(4)[:, None], np.array([0.05, 0.001])
    table = failure_upper_bound(f, 10, alpha)
    assert table.shape == (4, 2)
    assert table.dtype == np.float64
    assert table[3, 1] == failure_upper_bound(3, 10, 0.001)
    assert failure_upper_bound(np.array([], dtype=np.int64), 10, 0.05).shape == (0,)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint32, np.int64, np.uint64])
def test_small_integer_types_do_not_overflow(dtype: type) -> None:
    assert failure_upper_bound(dtype(5), dtype(100), 0.001) == failure_upper_bound(5, 100, 0.001)
    assert success_lower_bound(dtype(5), dtype(100), 0.001) == success_lower_bound(5, 100, 0.001)
    if np.iinfo(dtype).max >= 10**9:
        big = np.array([10**9], dtype=dtype)
        assert success_lower_bound(big, big, 1e-9)[0] == success_lower_bound(10**9, 10**9, 1e-9)


@pytest.mark.parametrize("alpha", [5e-324, 1e-300, 1e-9, 0.5, math.nextafter(0.5, 1), 1 - 1e-9, math.nextafter(1, 0)])
def test_extreme_levels_give_a_bound_without_a_warning(alpha: float) -> None:
    for n in (1, 2, 10, 10**9, MAX_VOTES):
        for f in sorted({0, 1, n // 2, n - 1, n}):
            q = failure_upper_bound(f, n, alpha)
            assert 0.0 < q <= 1.0
            assert log_binomial_cdf(f, n, q) <= math.log(alpha) or f == n


# --- A start that is wrong ---


@pytest.mark.parametrize(
    "start",
    [
        lambda q: np.full_like(q, np.nan),
        np.zeros_like,
        np.ones_like,
        lambda q: np.full_like(q, 0.3),
        lambda q: q * (1 - 1e-3),
        lambda q: np.minimum(q * (1 + 1e-3), 1.0),
        lambda q: q * 1e-9,
        lambda q: 1.0 - (1.0 - q) * 1e-6,
    ],
    ids=["nan", "zero", "one", "constant", "low", "high", "tiny", "near one"],
)
def test_a_wrong_start_cannot_spoil_the_bound(
    start: Callable[[ndarray], ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries have returned NaN and wrong quantiles (scipy issues 12794, 21303); here they only cost time."""
    f, n, alpha = (a[:120] for a in _random_cases(400, seed=2))
    right = failure_upper_bound(f, n, alpha)
    original = binomial._start
    monkeypatch.setattr(binomial, "_start", lambda *args: start(original(*args)))
    other = failure_upper_bound(f, n, alpha)
    assert (log_binomial_cdf(f, n, other)[f < n] <= np.log(alpha)[f < n] - 0.9e-12).all()
    np.testing.assert_allclose(other, right, rtol=2e-11, atol=0)


# --- The tail itself ---


def _tail_cases(count: int, max_exponent: float, seed: int) -> list[tuple[int, int, float]]:
    rng = random.Random(seed)
    cases = []
    while len(cases) < count:
        n = int(10 ** rng.uniform(0, max_exponent))
        f = rng.choice([0, rng.randrange(min(n, 50)), n - 1 - rng.randrange(min(n, 50)), rng.randrange(n)])
        # Near the median, out to 8 standard deviations, far out, and anywhere.
        centre = (f + 0.7) / (n + 0.4)
        q = centre + rng.choice([0, 0.3, -0.3, 1, -1, rng.uniform(-8, 8), 30]) * math.sqrt(centre * (1 - centre) / n)
        q = rng.choice([q, q, q, q, rng.random(), 10 ** rng.uniform(-15, 0), 1 - 10 ** rng.uniform(-15, 0)])
        if 0 < q < 1:
            cases.append((f, n, q))
    return cases


@pytest.mark.parametrize(("count", "max_exponent"), [(600, 3), (600, 6), (60, 9), (5, 11)])
def test_tails_against_exact_arithmetic(count: int, max_exponent: float) -> None:
    """|error of the log| <= 1e-13 + 1e-14 |log|; measured on 30,000 cases: less than a third of that."""
    cases = _tail_cases(count, max_exponent, seed=3)
    f, n, q = (np.array(column) for column in zip(*cases, strict=True))
    tails = binomial_tails(f.astype(np.float64), n.astype(np.float64), q)
    cdf = log_binomial_cdf(f, n, q)
    np.testing.assert_array_equal(cdf, tails.log_lower)
    for i, (count_, total, probability) in enumerate(cases):
        exact = exact_tails(count_, total, Fraction(probability))
        with mpmath.workdps(60):
            small, log = min((exact[0], tails.log_lower[i]), (exact[1], tails.log_upper[i]), key=lambda pair: pair[0])
            error = abs(mpmath.mpf(float(log)) - mpmath.log(small))
            assert error <= 1e-13 + 1e-14 * abs(log), (count_, total, probability)
            # The other tail is 1 minus this one.
            large = max(tails.log_lower[i], tails.log_upper[i])
            assert abs(mpmath.exp(mpmath.mpf(float(large))) - (1 - small)) <= 1e-12


def test_probability_to_ten_digits_at_a_billion() -> None:
    for f, q in [(3, 1e-8), (10**6, 1.005e-3), (500_000_000, 0.5000001), (999_999_999, 1 - 1e-9)]:
        exact, _ = exact_tails(f, 10**9, Fraction(q))
        assert math.exp(log_binomial_cdf(f, 10**9, q)) == pytest.approx(float(exact), rel=1e-10)


@pytest.mark.parametrize(("f", "n", "q"), [(0, 5, 0.3), (3, 5, 0.2), (17, 1_000, 0.03), (990, 1_000, 0.97)])
def test_slope_is_the_derivative(f: int, n: int, q: float) -> None:
    slope = math.exp(binomial_tails(np.array([float(f)]), np.array([float(n)]), np.array([q])).log_slope[0])
    expected = (n - f) * math.comb(n, f) * q**f * (1 - q) ** (n - f - 1)
    assert slope == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("f", "n", "q", "expected"),
    [(3, 3, 0.7, 0.0), (1, 3, 0.0, 0.0), (1, 3, 1.0, -math.inf), (3, 3, 1.0, 0.0), (2, 9, 5e-324, 0.0)],
)
def test_cdf_at_the_ends(f: int, n: int, q: float, expected: float) -> None:
    assert log_binomial_cdf(f, n, q) == expected


# --- Properties ---

levels = st.floats(1e-9, 0.999)
totals = st.integers(1, 10**9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(totals, st.floats(0, 1), levels)
def test_monotone_in_failures(n: int, share: float, alpha: float) -> None:
    f = min(int(share * n), n - 1)
    fewer, more = failure_upper_bound(np.array([f, f + 1]), n, alpha)
    assert fewer < more or more == 1.0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(totals, st.floats(0, 1), levels)
def test_monotone_in_votes(n: int, share: float, alpha: float) -> None:
    f = int(share * n)
    fewer, more = failure_upper_bound(f, np.array([n, n + 1]), alpha)
    assert more < fewer or fewer == 1.0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(totals, st.floats(0, 1), levels, st.floats(1.001, 10))
def test_monotone_in_alpha(n: int, share: float, alpha: float, factor: float) -> None:
    f = min(int(share * n), n - 1)
    strict, loose = failure_upper_bound(f, n, np.array([alpha / factor, alpha]))
    assert loose < strict or strict == 1.0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(totals, st.floats(0, 1), levels)
def test_bound_is_above_the_observed_share_and_complements(n: int, share: float, alpha: float) -> None:
    f = int(share * n)
    q = failure_upper_bound(f, n, alpha)
    if alpha <= 0.5:
        # The median of Bin(n, f/n) is f itself, so that P(Bin(n, f/n) <= f) >= 1/2.
        assert Fraction(q) >= Fraction(f, n)
    p = success_lower_bound(n - f, n, alpha)
    assert p == complement_down(q)
    assert Fraction(p) <= 1 - Fraction(q)


# --- Planning ---


@pytest.mark.parametrize(("r", "votes"), [(0.0, 10), (1.0, 40), (2.0, 301), (3.0, 5_114)])
def test_votes_needed_for_a_radius(r: float, votes: int) -> None:
    """sigma = 1, alpha = 0.001: the floor on the number of votes that certify radius r."""
    assert minimum_votes(float(ndtr(-r)), 0.001) == votes


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(-8, -0.001).map(lambda x: 10.0**x), levels)
def test_minimum_votes_is_the_smallest(q_upper: float, alpha: float) -> None:
    n = minimum_votes(q_upper, alpha)
    assert failure_upper_bound(0, n, alpha) <= q_upper
    assert n == 1 or failure_upper_bound(0, n - 1, alpha) > q_upper


def test_minimum_votes_keeps_the_boundary() -> None:
    for n in (1, 7, 100_000, 10**9):
        assert minimum_votes(failure_upper_bound(0, n, 0.001), 0.001) == n
    assert minimum_votes(1.0, 0.001) == 1


# --- The complement ---


@cache
def _largest_below(exact: Fraction) -> float:
    nearest = float(exact)
    return nearest if Fraction(nearest) <= exact else math.nextafter(nearest, -math.inf)


def test_complement_is_the_largest_float_below() -> None:
    rng = np.random.default_rng(5)
    q = np.concatenate([rng.random(500), 10.0 ** rng.uniform(-320, 0, 500), [0.0, 0.5, 1.0, 5e-324, 2**-53, 2**-54]])
    p = complement_down(q)
    assert p.shape == q.shape
    for one, bound in zip(q.tolist(), p.tolist(), strict=True):
        assert bound == _largest_below(1 - Fraction(one))
        assert complement_down(one) == bound
    # Control: the plain difference is above the exact one for a good part of these.
    assert sum(Fraction(1.0 - one) > 1 - Fraction(one) for one in q.tolist()) > 100


def test_complement_ends() -> None:
    assert complement_down(0.0) == 1.0
    assert complement_down(1.0) == 0.0
    assert complement_down(1e-300) < 1.0
    assert type(complement_down(0.25)) is float


# --- Bad input ---


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0, -0.1, math.nan, math.inf, True, "0.1", None, 1j, [[0.1], [0.1, 0.2]]])
def test_alpha_outside_its_range(alpha: object) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape("alpha must be in (0, 1), got alpha=")):
        check_alpha(alpha)
    with pytest.raises(InvalidArgumentError, match=re.escape("alpha must be in (0, 1), got alpha=")):
        failure_upper_bound(1, 10, alpha)


def test_alpha_messages_name_the_value() -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape("alpha must be in (0, 1), got alpha=2.0")):
        check_alpha(2.0)
    with pytest.raises(InvalidArgumentError, match=re.escape("alpha must be in (0, 1), got alpha=nan")):
        failure_upper_bound(1, 10, np.array([0.1, np.nan]))
    with pytest.raises(InvalidArgumentError, match="alpha must be one number"):
        check_alpha(np.array([0.1, 0.2]))
    check_alpha(0.5)
    check_alpha(np.float32(0.5))


@pytest.mark.parametrize(
    ("failures", "n", "message"),
    [
        (0, 0, f"n must be in [1, {MAX_VOTES}], got n=0"),
        (0, -3, f"n must be in [1, {MAX_VOTES}], got n=-3"),
        (0, MAX_VOTES + 1, f"n must be in [1, {MAX_VOTES}], got n={MAX_VOTES + 1}"),
        (-1, 10, "failures must be in [0, n], got failures=-1 with n=10"),
        (11, 10, "failures must be in [0, n], got failures=11 with n=10"),
        (np.array([1, 9]), np.array([5, 8]), "failures must be in [0, n], got failures=9 with n=8"),
        (1.0, 10, "failures must be a 64-bit integer, or an array of them, got failures=1.0"),
        (1, 10.0, "n must be a 64-bit integer, or an array of them, got n=10.0"),
        (True, 10, "failures must be a 64-bit integer, or an array of them, got failures=True"),
        ("1", 10, "failures must be a 64-bit integer, or an array of them, got failures='1'"),
        (1, None, "n must be a 64-bit integer, or an array of them, got n=None"),
        (1, 10**30, "n must be a 64-bit integer, or an array of them, got n=1"),
        (np.zeros(2, dtype=np.int64), np.full(3, 5), "shapes must broadcast against each other, got (2,), (3,)"),
    ],
)
@pytest.mark.parametrize("function", [failure_upper_bound, log_binomial_cdf])
def test_counts_outside_their_range(function: Callable[..., object], failures: object, n: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        function(failures, n, 0.1)


def test_other_bad_arguments() -> None:
    with pytest.raises(
        InvalidArgumentError, match=re.escape("successes must be in [0, n], got successes=11 with n=10")
    ):
        success_lower_bound(11, 10, 0.1)
    with pytest.raises(InvalidArgumentError, match=re.escape("q must be in [0, 1], got q=1.5")):
        log_binomial_cdf(1, 10, 1.5)
    with pytest.raises(InvalidArgumentError, match=re.escape("q_upper must be in (0, 1], got q_upper=0.0")):
        minimum_votes(0.0, 0.1)
    with pytest.raises(InvalidArgumentError, match=r"n must be at most \d+, but .* needs about 6\.91e"):
        minimum_votes(1e-15, 0.001)
    with pytest.raises(InvalidArgumentError, match=re.escape("alpha must be in (0, 1), got alpha=1.0")):
        minimum_votes(0.1, 1.0)
