"""The rank-verification test of `predict`: exact error probabilities by enumeration, never by simulation."""

import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy.stats import binomtest

from smoothing.errors import InvalidArgumentError
from smoothing.statistics import rank
from smoothing.statistics.rank import rank_p_value, rank_test

Rule = Callable[[np.ndarray, float], int | None]


def one_sided(counts: np.ndarray, alpha: float) -> int | None:
    """The test as it must not be: P(Bin >= n_top) instead of twice that. A control."""
    return rank_test(counts, min(2 * alpha, 0.999999))


def without_invalid(counts: np.ndarray, alpha: float) -> int | None:
    """The test as it must not be: invalid votes are dropped. A control."""
    return rank_test(np.append(counts[:-1], 0), alpha)


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for others in _compositions(total - first, parts - 1):
            yield (first, *others)


def error_probability(rule: Rule, n: int, law: tuple[Fraction, ...], alpha: float) -> Fraction:
    """Return the exact probability that `rule` returns a class that is not the one most probable outcome."""
    best = max(law)
    right = law.index(best) if law.count(best) == 1 else None
    error = Fraction(0)
    for counts in _compositions(n, len(law)):
        if any(c and not p for c, p in zip(counts, law, strict=True)):
            continue
        returned = rule(np.array(counts), alpha)
        if returned is not None and returned != right:
            ways = math.factorial(n) // math.prod(math.factorial(c) for c in counts)
            error += ways * math.prod((p**c for c, p in zip(counts, law, strict=True)), start=Fraction(1))
    return error


HALF, THIRD = Fraction(1, 2), Fraction(1, 3)


@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.01])
def test_error_at_a_tie_of_two_is_at_most_alpha_and_one_sided_is_not(alpha: float) -> None:
    law = (HALF, HALF, Fraction(0))
    sizes = range(1, 41)
    errors = [error_probability(rank_test, n, law, alpha) for n in sizes]
    assert max(errors) <= Fraction(alpha)
    # The test is not merely silent: it spends a good part of alpha.
    assert max(errors) > Fraction(alpha) * Fraction(8, 10)
    assert max(error_probability(one_sided, n, law, alpha) for n in sizes) > Fraction(alpha) * Fraction(15, 10)


@pytest.mark.parametrize(
    "law",
    [
        (THIRD, THIRD, THIRD, Fraction(0)),  # a tie of three classes
        (THIRD, THIRD, THIRD),  # a tie of two classes and "invalid"
        (HALF, Fraction(1, 4), Fraction(1, 4), Fraction(0)),  # a winner: only the others are errors
        (Fraction(2, 5), Fraction(2, 5), Fraction(1, 5)),
        (Fraction(49, 100), Fraction(2, 100), Fraction(49, 100)),  # a class and "invalid"
        (Fraction(45, 100), Fraction(5, 100), Fraction(50, 100)),  # "invalid" wins
        (Fraction(26, 100), Fraction(25, 100), Fraction(25, 100), Fraction(24, 100)),
    ],
)
@pytest.mark.parametrize("alpha", [0.3, 0.05])
def test_error_is_at_most_alpha_for_other_laws(law: tuple[Fraction, ...], alpha: float) -> None:
    sizes = (1, 2, 3, 6, 9, 12, 20) if len(law) == 4 else (1, 2, 5, 8, 13, 24, 40)
    assert max(error_probability(rank_test, n, law, alpha) for n in sizes) <= Fraction(alpha)


def test_control_invalid_votes_must_be_a_rival() -> None:
    law = (Fraction(45, 100), Fraction(5, 100), Fraction(50, 100))
    assert error_probability(without_invalid, 40, law, 0.05) > Fraction(1, 2)


@pytest.mark.parametrize(
    ("counts", "alpha", "expected"),
    [
        ((100, 0, 0), 0.001, 0),
        ((0, 100, 0), 0.001, 1),
        ((3, 97, 0), 0.001, 1),
        ((45, 55, 0), 0.001, None),
        ((50, 50, 0), 0.9, None),  # a tie proves nothing at any alpha
        ((0, 0, 0), 0.5, None),  # nor do no votes
        ((0, 0, 100), 0.5, None),  # invalid on top
        ((40, 0, 60), 0.5, None),
        ((60, 0, 40), 0.001, None),  # invalid is the rival
        ((95, 0, 5), 0.001, 0),
        ((9, 0), 0.01, 0),  # a single class against invalid
        ((5, 0, 0), 0.0625, 0),  # p-value equal to alpha, exactly
        ((5, 0, 0), math.nextafter(0.0625, 0), None),
        ((500_000_000, 499_000_000, 0), 1e-9, 0),
    ],
)
def test_decisions(counts: tuple[int, ...], alpha: float, expected: int | None) -> None:
    assert rank_test(np.array(counts, dtype=np.int64), alpha) == expected
    assert rank_test(counts, alpha) == expected


def test_more_invalid_votes_never_help() -> None:
    for top in range(0, 30, 3):
        answers = [rank_test(np.array([top, 4, invalid]), 0.05) for invalid in range(40)]
        assert answers == sorted(answers, key=lambda answer: answer is None)


@pytest.mark.parametrize(("top", "rival"), [(1, 0), (10, 0), (7, 3), (600, 400), (1_001, 999), (1_400, 1_200)])
def test_p_value_agrees_with_scipy_and_is_rounded_up(top: int, rival: int) -> None:
    assert rank_p_value(top, rival) == pytest.approx(binomtest(top, top + rival, 0.5).pvalue, rel=1e-8)
    exact = Fraction(sum(math.comb(top + rival, k) for k in range(rival + 1)), 2 ** (top + rival - 1))
    assert exact <= Fraction(rank_p_value(top, rival)) <= exact * (1 + Fraction(21, 10**10))


def test_both_ways_to_the_p_value_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(top, rival) for top in (1, 2, 9, 40, 333, 1_000) for rival in (0, 1, 7, 320, 999) if rival < top]
    exact = [rank_p_value(*case) for case in cases]
    for (top, rival), p in zip(cases, exact, strict=True):
        ways = Fraction(sum(math.comb(top + rival, k) for k in range(rival + 1)), 2 ** (top + rival - 1))
        assert Fraction(math.nextafter(p, 0)) < ways <= Fraction(p)
    monkeypatch.setattr(rank, "_EXACT_VOTES", 0)
    for case, p in zip(cases, exact, strict=True):
        assert p < rank_p_value(*case) <= min(p * (1 + 2.1e-9), 1.0) or rank_p_value(*case) == p == 1.0


@pytest.mark.parametrize(("top", "rival"), [(501_000, 499_000), (10**6, 999_000), (50_003_000, 49_997_000)])
def test_p_value_of_many_votes_against_exact_arithmetic(top: int, rival: int) -> None:
    n, scale = top + rival, 1 << 200
    total = term = scale
    for k in range(rival):
        term = term * (rival - k) // (n - rival + 1 + k)
        if not term:
            break
        total += term
    with mpmath.workdps(60):
        log_pmf = mpmath.loggamma(n + 1) - mpmath.loggamma(rival + 1) - mpmath.loggamma(top + 1) - n * mpmath.log(2)
        exact = 2 * mpmath.exp(log_pmf) * total / mpmath.mpf(scale)
        assert exact <= rank_p_value(top, rival) <= exact * (1 + mpmath.mpf("2.1e-9"))


def test_p_value_is_never_zero_and_one_unless_ahead() -> None:
    assert rank_p_value(2_000, 0) > 0.0
    assert rank_p_value(10**9, 0) > 0.0
    for top, rival in ((0, 0), (3, 3), (3, 4), (0, 10**6)):
        assert rank_p_value(top, rival) == 1.0


@pytest.mark.parametrize(
    ("counts", "alpha", "message"),
    [
        ((5, 1, 0), 0.0, "alpha must be in (0, 1), got alpha=0.0"),
        ((5, 1, 0), 1.0, "alpha must be in (0, 1), got alpha=1.0"),
        ((5, 1, 0), math.nan, "alpha must be in (0, 1), got alpha=nan"),
        ((5, -1, 0), 0.1, "counts must be at least 0, got -1"),
        ((5,), 0.1, "counts must be one row of at least 2 outcomes (the classes, then invalid), got shape (1,)"),
        (np.ones((2, 3), dtype=np.int64), 0.1, "counts must be one row of at least 2 outcomes"),
    ],
)
def test_bad_arguments(counts: tuple[int, ...], alpha: float, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        rank_test(counts, alpha)


def test_bad_votes() -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape("votes must be at least 0, got top=3 and rival=-1")):
        rank_p_value(3, -1)
