"""Are boundaries exact? Sizes by two implementations, by enumeration of every path, and by formulas in many digits."""

import dataclasses
import itertools
import json
import math
import threading
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import betabinom, binom

from smoothing.errors import InvalidArgumentError
from smoothing.statistics.beta_mixture import log_beta_mixture, ville_limit
from smoothing.statistics.boundary import Boundary, Side
from smoothing.statistics.boundary_cache import METHODS, BoundaryCacheError, boundary_of
from smoothing.statistics.boundary_check import exact_size, verify_boundary
from smoothing.statistics.crossing import SMALLEST_ALPHA, Steps, crossing_probability
from smoothing.statistics.futility import PATIENCE, futility_limits
from smoothing.statistics.mixture import log_mixture
from smoothing.statistics.operating import operation
from smoothing.statistics.schedule import capped_looks, geometric_looks
from smoothing.statistics.spending import spending_boundary

ALPHA = 0.001
SIDES: tuple[Side, ...] = ("below", "above")


def size_is_within_alpha(boundary: Boundary) -> bool:
    """The check of every shipped boundary: both computations of its error, and what it says itself, within its alpha."""
    rate = boundary.q0 if boundary.side == "below" else 1.0 - boundary.q0
    counts = [c if boundary.side == "below" else n - c for n, c in zip(boundary.looks, boundary.limits, strict=True)]
    steps = Steps(boundary.q0, boundary.alpha, boundary.looks, boundary.side)
    built, verified = crossing_probability(steps, counts), verify_boundary(boundary)
    assert all(count <= max(rate * (n - 1), 0) or count < 0 for count, n in zip(counts, boundary.looks, strict=True))
    return max(built, verified) <= boundary.size <= boundary.alpha


# --- Size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("z", [0.0, 0.5, 2.0, 3.0, 3.75])
def test_the_exact_error_is_within_alpha_and_uses_it(method: str, side: Side, z: float) -> None:
    cap = 100_000 if side == "below" else 10_000
    boundary = boundary_of(method, float(ndtr(-z)), ALPHA, capped_looks(1.05, cap), side)
    assert size_is_within_alpha(boundary)
    # The recorded size is the verified one and the slack; nothing of alpha is lost in the arithmetic.
    assert verify_boundary(boundary) == pytest.approx(boundary.size, abs=2e-9 * ALPHA)
    if side == "below" and cap * boundary.q0 >= 100:
        assert boundary.size >= 0.95 * ALPHA


@pytest.mark.parametrize("alpha", [0.05, 1e-6, 1e-9])
@pytest.mark.parametrize("method", METHODS)
def test_other_levels(method: str, alpha: float) -> None:
    boundary = boundary_of(method, 0.1, alpha, capped_looks(1.1, 5_000), "below")
    assert size_is_within_alpha(boundary)
    assert boundary.size >= 0.95 * alpha


@pytest.mark.parametrize("z", [3.3, 3.4, 3.5, 3.6, 3.75])
def test_few_failures_are_rejected_at_the_last_look_as_by_a_fixed_sample(z: float) -> None:
    q0, cap = float(ndtr(-z)), 100_000
    boundary = spending_boundary(q0, ALPHA, capped_looks(1.05, cap))
    fixed = int(binom.ppf(ALPHA, cap, q0))
    fixed -= int(binom.cdf(fixed, cap, q0) > ALPHA)
    assert size_is_within_alpha(boundary)
    # Room for early looks is what the fixed sample leaves: where that is next to nothing, one failure is their price.
    least = fixed if binom.cdf(fixed, cap, q0) < 0.8 * ALPHA else fixed - 1
    assert least <= boundary.limits[-1] <= fixed
    assert boundary.first_look is not None
    assert boundary.first_look < 0.95 * cap


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("q0", [0.5, 0.3, 0.0625])
def test_every_path_of_a_small_boundary_counted_by_hand(side: Side, q0: float) -> None:
    looks = (3, 5, 8, 11, 12)
    for method in METHODS:
        boundary = boundary_of(method, q0, 0.05, looks, side)
        rejected = Fraction(0)
        q = Fraction(q0)
        for path in itertools.product((0, 1), repeat=looks[-1]):
            counts = [sum(path[:n]) for n in looks]
            below = any(c <= limit for c, limit in zip(counts, boundary.limits, strict=True))
            above = any(c >= limit for c, limit in zip(counts, boundary.limits, strict=True))
            if below if side == "below" else above:
                rejected += q ** sum(path) * (1 - q) ** (looks[-1] - sum(path))
        assert exact_size(boundary) == rejected
        assert float(rejected) <= boundary.size <= 0.05
        assert float(rejected) == pytest.approx(boundary.size, abs=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.integers(1, 40), min_size=1, max_size=6),
    st.lists(st.integers(-1, 12), min_size=6, max_size=6),
    st.floats(0.02, 0.98),
    st.sampled_from(SIDES),
)
def test_three_computations_of_any_boundary_agree(numbers: set[int], raw: list[int], q0: float, side: Side) -> None:
    looks = tuple(sorted(numbers))
    counts = [min(count, n) for count, n in zip(raw, looks, strict=False)]
    limits = tuple(c if side == "below" else (n - c if c >= 0 else n + 1) for c, n in zip(counts, looks, strict=True))
    boundary = Boundary(q0, 1.0 - 1e-12, side, looks, limits, 0.5, "test")
    exact = float(exact_size(boundary))
    assert crossing_probability(Steps(q0, 1e-9, looks, side), counts) == pytest.approx(exact, rel=1e-12, abs=1e-18)
    # Beyond 64 votes the check no longer uses fractions; a last look that rejects nothing takes it there. It may drop a
    # share of 1e-10 of alpha, which is nearly 1 here, and counts it as rejecting.
    longer = dataclasses.replace(boundary, looks=(*looks, 80), limits=(*limits, -1 if side == "below" else 81))
    assert exact * (1 - 1e-12) <= verify_boundary(longer) <= exact * (1 + 1e-12) + 1.01e-10


def test_the_error_is_largest_where_the_hypothesis_ends() -> None:
    looks = capped_looks(1.1, 2_000)
    boundary = spending_boundary(0.1, ALPHA, looks)
    errors = [operation(q, looks, boundary.limits).claimed for q in (0.1, 0.11, 0.13, 0.2, 0.5, 1.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(boundary.size, rel=1e-6)
    mirrored = spending_boundary(0.1, ALPHA, looks, side="above")
    errors = [operation(q, looks, [-1] * len(looks), mirrored.limits).refuted for q in (0.1, 0.09, 0.05, 0.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(mirrored.size, rel=1e-6)


# What the check of the size is for: each of these is a boundary gone wrong in one place.
def _alpha_doubled(boundary: Boundary) -> Boundary:
    wrong = spending_boundary(boundary.q0, 2 * boundary.alpha, boundary.looks)
    return dataclasses.replace(wrong, alpha=boundary.alpha, size=boundary.size)


def _a_look_too_many(boundary: Boundary) -> Boundary:
    more = boundary.looks[-1] + 40
    return dataclasses.replace(
        boundary, looks=(*boundary.looks, more), limits=(*boundary.limits, boundary.limits[-1] + 4)
    )


def _one_failure_more(boundary: Boundary) -> Boundary:
    return dataclasses.replace(boundary, limits=tuple(c + 1 if c >= 0 else c for c in boundary.limits))


@pytest.mark.parametrize("spoil", [_alpha_doubled, _a_look_too_many, _one_failure_more])
def test_the_check_of_the_size_sees_what_it_is_for(spoil: object) -> None:
    boundary = spending_boundary(0.1, ALPHA, capped_looks(1.1, 1_000))
    assert size_is_within_alpha(boundary)
    assert callable(spoil)
    assert not size_is_within_alpha(spoil(boundary))


# --- Mixtures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "count", "n"), [(0.5, 3, 30), (0.1, 0, 50), (0.0013, 2, 9000), (0.9, 60, 80)])
def test_the_mixture_is_the_formula(rate: float, count: int, n: int) -> None:
    with mpmath.workdps(50):
        z0 = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(rate) - 1)
        total = mpmath.mpf(3) * (1 - mpmath.mpf(rate)) ** -n if count == 0 else mpmath.mpf(0)
        for delta in (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 1.6):
            q = mpmath.ncdf(z0 - mpmath.mpf(delta))
            total += (q / rate) ** count * ((1 - q) / (1 - mpmath.mpf(rate))) ** (n - count)
        expected = float(mpmath.log(total / 10))
    assert float(log_mixture(rate, np.array([count]), np.array([n]))[0]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("q0", "count", "n"), [(0.5, 3, 30), (0.1, 30, 500), (0.001, 0, 10_000), (0.3, 900, 5_000)])
def test_the_beta_mixture_is_the_integral(side: Side, q0: float, count: int, n: int) -> None:
    failures = count if side == "below" else n - count
    with mpmath.workdps(60):
        q = mpmath.mpf(q0)
        ends = (0, q) if side == "below" else (q, 1)
        half = mpmath.mpf(1) / 2
        share = mpmath.betainc(failures + half, n - failures + half, *ends) / mpmath.betainc(half, half, *ends)
        expected = float(mpmath.log(share) - failures * mpmath.log(q) - (n - failures) * mpmath.log(1 - q))
    if math.isfinite(expected):
        assert log_beta_mixture(q0, count, n, side) == pytest.approx(expected, rel=1e-12, abs=1e-10)


@pytest.mark.parametrize(("q0", "side"), [(0.5, "below"), (0.1, "above"), (0.00135, "below")])
def test_ville_holds_over_all_looks_of_a_long_run(q0: float, side: Side) -> None:
    looks = capped_looks(1.15, 10_000)
    limits = tuple(ville_limit(q0, ALPHA, n, side) for n in looks)
    assert verify_boundary(Boundary(q0, ALPHA, side, looks, limits, ALPHA, "Ville")) <= ALPHA
    # What is left unspent is what the looks and the cap leave: a few times alpha would be seen.
    more = tuple(ville_limit(q0, 10 * ALPHA, n, side) for n in looks)
    assert verify_boundary(Boundary(q0, ALPHA, side, looks, more, ALPHA, "tenfold")) > ALPHA


# --- Futility and operating characteristics -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gse", "zmix"])
@pytest.mark.parametrize("side", ["below", "above"])
def test_the_smallest_alpha_is_computed_as_well_as_any(method: str, side: Side) -> None:
    # A level of the free mode is a little smaller than alpha.
    for alpha in (SMALLEST_ALPHA, SMALLEST_ALPHA / 2):
        boundary = METHODS[method](0.4, alpha, capped_looks(1.2, 5_000), side=side)
        assert 0.6 * alpha < boundary.size <= alpha
        assert verify_boundary(boundary) == pytest.approx(boundary.size, rel=1e-8)
    with pytest.raises(InvalidArgumentError, match="alpha must be at least 1e-280"):
        METHODS[method](0.4, 1e-300, (20, 40, 80), side=side)


def test_futility_is_the_predictive_probability() -> None:
    boundary = spending_boundary(0.1, ALPHA, capped_looks(1.2, 2_000))
    last = max(boundary.limits)
    for chance in (0.01, 0.2):
        for n, given_up in zip(boundary.looks[:-1], futility_limits(boundary, chance)[:-1], strict=True):
            wanted = chance * (n / 2_000) ** 0.75
            predictive = [
                float(betabinom.cdf(last - f, 2_000 - n, f + 0.5, n - f + 0.5)) for f in (given_up - 1, given_up)
            ]
            if n < PATIENCE:
                assert given_up == min(n, last) + 1
                continue
            assert given_up == n + 1 or predictive[1] < 1.1 * wanted
            assert given_up == 0 or predictive[0] > 0.9 * wanted
    assert set(futility_limits(boundary, 0.0)) <= {last + 1, *(n + 1 for n in boundary.looks)}


@pytest.mark.parametrize("q", [0.0, 0.2, 1.0])
def test_the_operation_counts_every_path(q: float) -> None:
    looks, accept, refute, give_up = (2, 4, 7, 9), (-1, 0, 1, 1), (3, 4, 5, 6), (2, 3, 4, 10)
    votes = claimed = refuted = undecided = 0.0
    for path in itertools.product((0, 1), repeat=9):
        weight = q ** sum(path) * (1 - q) ** (9 - sum(path))
        for n, yes, no, stop in zip(looks, accept, refute, give_up, strict=True):
            f = sum(path[:n])
            if f <= yes or f >= no or f >= stop or n == looks[-1]:
                votes += weight * n
                claimed += weight * (f <= yes)
                refuted += weight * (yes < f and f >= no)
                undecided += weight * (yes < f < no)
                break
    assert operation(q, looks, accept, refute, give_up) == pytest.approx(
        (votes, claimed, refuted, undecided), abs=1e-12
    )


def test_steps_bound_what_lies_outside() -> None:
    steps = Steps(0.01, 1e-3, (5, 4_000), "below")
    low, law, outside = steps.step(1)
    assert law == pytest.approx(binom.pmf(np.arange(low, low + law.size), 3_995, 0.01), rel=1e-9)
    tails = binom.cdf(low - 1, 3_995, 0.01) + binom.sf(low + law.size - 1, 3_995, 0.01)
    assert 0.0 < tails <= outside <= 1e-15


# --- The object and its cache -------------------------------------------------------------------------------------------


def test_a_boundary_survives_json_and_has_a_name() -> None:
    boundary = spending_boundary(0.1, ALPHA, capped_looks(1.3, 500))
    again = Boundary.from_dict(json.loads(json.dumps(boundary.to_dict())))
    assert again == boundary
    assert again.sha256 == boundary.sha256
    assert dataclasses.replace(boundary, q0=math.nextafter(0.1, 1.0)).sha256 != boundary.sha256
    with pytest.raises(InvalidArgumentError, match="boundary"):
        Boundary.from_dict({"q0": "0x1p-1"})


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"q0": 1.0}, "q0 must be"),
        ({"looks": (10, 10)}, "looks must increase"),
        ({"limits": (1,)}, "limits must be one per look"),
        ({"limits": (1, 99)}, "limits must be one per look"),
        ({"size": 0.2}, "size must be"),
    ],
)
def test_a_boundary_says_what_is_wrong_with_it(change: dict[str, object], rule: str) -> None:
    good = {"q0": 0.5, "alpha": 0.1, "side": "below", "looks": (5, 10), "limits": (0, 1), "size": 0.05, "method": "x"}
    with pytest.raises(InvalidArgumentError, match=rule):
        Boundary(**{**good, **change})  # type: ignore[arg-type]


def test_the_cache_keeps_boundaries_and_trusts_no_damaged_file(tmp_path: Path) -> None:
    arguments = (0.1, ALPHA, capped_looks(1.2, 800), "below")
    boundary_of.cache_clear()
    fresh = boundary_of("gse", *arguments)
    assert boundary_of("gse", *arguments, tmp_path / "new") == fresh
    [file] = (tmp_path / "new").iterdir()
    whole = file.read_text()
    limits = json.loads(whole)
    limits["boundary"]["limits"][-1] += 1
    for damage in (json.dumps(limits), whole[: len(whole) // 2], "", "[]"):
        file.write_text(damage)
        boundary_of.cache_clear()
        assert boundary_of("gse", *arguments, tmp_path / "new") == fresh
        assert file.read_text() == whole
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    with pytest.raises(BoundaryCacheError, match="choose another folder"):
        boundary_of("gse", *arguments, blocked)
    with pytest.raises(InvalidArgumentError, match="method must be one of"):
        boundary_of("none", *arguments)


def test_the_cache_bears_many_writers(tmp_path: Path) -> None:
    arguments = (0.2, ALPHA, capped_looks(1.3, 300), "below")
    found: list[Boundary] = []

    def work() -> None:
        # Past the memory of this process, as another process would be.
        found.append(boundary_of.__wrapped__("gse", *arguments, tmp_path))

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert set(found) == {spending_boundary(*arguments[:3])}
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_schedules() -> None:
    looks = capped_looks(1.05, 100_000)
    assert looks[-1] == 100_000
    assert all(b == a + 1 or b <= math.ceil(1.05 * a) for a, b in itertools.pairwise(looks))
    # A larger cap continues the same schedule: everything but the last look is shared.
    assert capped_looks(1.05, 200_000)[: len(looks) - 1] == looks[:-1]
    with pytest.raises(InvalidArgumentError, match="ratio must be in"):
        next(geometric_looks(1.0))
