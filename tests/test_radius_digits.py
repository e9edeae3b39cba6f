"""Parameters next to their limits: the difference to the limit is what radii hang on, and keeps all of its digits."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from smoothing.distributions.pow_two import Pow2Profile
from smoothing.radius.radial import exponential_growth


@pytest.mark.parametrize(
    ("d", "k", "below"), [(150_528, 10.0, 1e-9), (3072, 100.0, 1e-10), (784, 0.3, 1e-11), (3, 7.0, 1e-14)]
)
def test_the_mean_score_of_cubes_next_to_the_singularity(d: int, k: float, below: float) -> None:
    """A mean too small would be a radius too large."""
    j = d - 1 - below
    growth = exponential_growth(d, k, j)
    with mpmath.workdps(40):
        b, rate = (mpmath.mpf(d) - j) / mpmath.mpf(k), 1 / mpmath.mpf(k)
        exact = (j * mpmath.gamma(b - rate) + k * mpmath.gamma(b + 1 - rate)) / mpmath.gamma(b) / 2
        assert growth.half_mean == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize(("d", "k"), [(150_528, 3.1), (3072, 0.3), (7, 54.0)])
def test_the_tail_of_pow_two_next_to_its_limit(d: int, k: float) -> None:
    a = float(np.nextafter(np.nextafter(d / k, np.inf), np.inf))
    first, second = Pow2Profile(d, k, a)._shapes
    exact = Fraction(a) - d / Fraction(k)
    assert first == d / k
    assert second > 0
    assert abs(Fraction(second) - exact) <= exact / 2**52
