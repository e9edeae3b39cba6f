"""Norms, conversions between them, and rounding: every claim is checked in exact arithmetic."""

import math
from decimal import Decimal
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mpmath import mpf

from smoothing import InvalidArgumentError, Norm, ThreatModel, UnsupportedNormError, convert_radius
from smoothing.rounding import FORMULA_SLACK, complement_down, down, floor_text, up

CONVERTIBLE = (Norm.L1, Norm.L2, Norm.LINF)
finite = st.floats(min_value=0.0, max_value=1e300)
probabilities = st.floats(min_value=0.0, max_value=1.0)


# --- Norms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", list(Norm))
def test_a_norm_is_read_from_itself_and_its_text(norm: Norm) -> None:
    assert Norm.parse(norm) is norm
    assert Norm.parse(norm.value) is norm
    assert str(norm) == norm.value
    assert norm.order == float(norm.value.removeprefix("l"))


@pytest.mark.parametrize("text", ["", "L2", "2", "l3", "inf"])
def test_an_unknown_norm_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"norm must be one of l0, l1, l2, linf, got norm='{text}'"):
        Norm.parse(text)


@pytest.mark.parametrize("radius", [-1e-300, -math.inf, math.nan])
def test_a_threat_model_needs_a_radius(radius: float) -> None:
    assert ThreatModel(Norm.L2, 0.5) == ThreatModel(Norm.L2, 0.5)
    with pytest.raises(InvalidArgumentError, match="radius must be at least 0, got radius="):
        ThreatModel(Norm.L2, radius)


# --- Conversions ------------------------------------------------------------------------------------------------------


def exact_factor(source: Norm, target: Norm, dimension: int) -> mpf:
    """min ||v||_target / ||v||_source over v: the largest factor that holds for every perturbation."""
    with mpmath.workdps(40):
        inverse = {norm: mpf(0) if norm is Norm.LINF else 1 / mpf(norm.order) for norm in CONVERTIBLE}
        return min(mpf(1), mpf(dimension) ** (inverse[target] - inverse[source]))


@pytest.mark.parametrize("dimension", [1, 2, 3, 17, 3072, 150528])
@pytest.mark.parametrize("target", CONVERTIBLE)
@pytest.mark.parametrize("source", CONVERTIBLE)
def test_a_converted_ball_lies_inside_and_touches(source: Norm, target: Norm, dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    for radius in (1e-8, 0.3, 2.0):
        converted = convert_radius(radius, source, target, dimension)
        assert converted == convert_radius(radius, source.value, target.value, dimension)
        axis = np.zeros(dimension)
        axis[rng.integers(dimension)] = -1.0
        corner = rng.choice([-1.0, 1.0], dimension)
        vectors = [axis, corner, *rng.standard_normal((20, dimension)), *rng.standard_cauchy((20, dimension))]
        sizes = []
        for vector in vectors:
            v = vector * (converted / np.linalg.norm(vector, target.order))
            sizes.append(np.linalg.norm(v, source.order))
        # Norms are evaluated in float64: 1e-13 is far above their error, and below what rounding down leaves free.
        assert max(sizes) <= radius * (1 + 1e-13)
        assert max(sizes) >= radius * (1 - 1e-9)  # touched: by an axis or a corner
        assert mpf(converted) <= mpf(radius) * exact_factor(source, target, dimension)


@given(
    st.floats(min_value=0.0, max_value=1e6),
    st.sampled_from(CONVERTIBLE),
    st.sampled_from(CONVERTIBLE),
    st.integers(1, 10**7),
)
def test_a_conversion_never_exceeds_exact_arithmetic(radius: float, source: Norm, target: Norm, dimension: int) -> None:
    exact = mpf(radius) * exact_factor(source, target, dimension)
    converted = convert_radius(radius, source, target, dimension)
    assert mpf(converted) <= exact
    assert exact - mpf(converted) <= mpf("1e-11") * exact + mpf("1e-320")


def test_infinite_radii_stay_infinite() -> None:
    assert convert_radius(math.inf, "l2", "linf", 100) == math.inf
    assert convert_radius(0.0, "l2", "linf", 100) == 0.0


@pytest.mark.parametrize("other", CONVERTIBLE)
def test_l0_is_never_converted(other: Norm) -> None:
    for source, target in ((Norm.L0, other), (other, Norm.L0)):
        with pytest.raises(UnsupportedNormError, match=f"no conversion from {source} to {target}"):
            convert_radius(1.0, source, target, 10)
    assert convert_radius(3.0, "l0", "l0", 10) == 3.0


def test_bad_conversions_are_refused() -> None:
    for radius in (-1.0, math.nan):
        with pytest.raises(InvalidArgumentError, match="radius must be at least 0"):
            convert_radius(radius, "l2", "l1", 10)
    with pytest.raises(InvalidArgumentError, match="dimension must be at least 1, got dimension=0"):
        convert_radius(1.0, "l2", "l1", 0)
    with pytest.raises(InvalidArgumentError, match="norm must be one of"):
        convert_radius(1.0, "l2", "l7", 10)


# --- Rounding ---------------------------------------------------------------------------------------------------------


@given(finite, st.sampled_from([0.0, 1e-15, FORMULA_SLACK, 1e-6]))
@example(5e-324, FORMULA_SLACK)
@example(1.0, 0.0)
def test_down_is_below_and_up_is_above_by_little_more_than_the_slack(value: float, slack: float) -> None:
    low, high = down(value, slack), up(value, slack)
    exact, allowance = Fraction(value), Fraction(value) * Fraction(slack)
    spacing = Fraction(4 * math.ulp(value))
    if value == 0.0:
        assert low == 0.0
    else:
        assert 0 <= Fraction(low) < exact
    assert Fraction(high) > exact
    assert abs(exact - allowance - Fraction(low)) <= spacing
    assert abs(exact + allowance - Fraction(high)) <= spacing


@given(st.lists(finite, min_size=1, max_size=5))
def test_rounding_of_arrays_is_that_of_their_elements(values: list[float]) -> None:
    array = np.array(values)
    for function in (down, up):
        assert function(array).tolist() == [function(value) for value in values]
        assert isinstance(function(values[0]), float)
        assert function(array.reshape(1, -1, 1)).shape == (1, len(values), 1)


def test_rounding_leaves_infinity_alone() -> None:
    assert down(math.inf) == up(math.inf) == math.inf
    assert down(np.array([0.0, math.inf])).tolist() == [0.0, math.inf]


@given(probabilities)
@example(1e-17)
@example(2.0**-53)
@example(2.0**-54)
@example(0.5)
@example(np.nextafter(0.5, 0))
@example(np.nextafter(1.0, 0))
@example(5e-324)
@example(0.1)
def test_complement_is_the_largest_float_at_or_below(q: float) -> None:
    exact = 1 - Fraction(q)
    p = complement_down(q)
    assert 0 <= Fraction(p) <= exact
    assert Fraction(math.nextafter(p, 2.0)) > exact
    assert complement_down(np.array([q, q])).tolist() == [p, p]


@given(st.floats(min_value=0.0, max_value=1.7e308), st.integers(0, 17))
@example(0.9999, 3)
@example(0.1, 1)
@example(1e300, 3)
@example(5e-324, 3)
def test_floor_text_is_never_above_the_value(value: float, digits: int) -> None:
    text = floor_text(value, digits)
    shown = Fraction(Decimal(text))
    assert shown <= Fraction(value) < shown + Fraction(1, 10**digits)
    assert len(text.partition(".")[2]) == digits
    assert "e" not in text.lower()


def test_floor_text_examples() -> None:
    assert floor_text(0.9999, 3) == "0.999"
    assert floor_text(1.0, 3) == "1.000"
    assert floor_text(0.0, 2) == "0.00"
    # The float64 nearest to 0.3 is below 0.3.
    assert floor_text(0.3, 1) == "0.2"
    assert floor_text(math.inf, 3) == "inf"
    assert floor_text(math.nan, 3) == "nan"
