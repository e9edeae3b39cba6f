"""Integrals of the differential method for every law and norm that has one, against quadrature in extended precision.

The reference is in `shells_reference`. CERTIFY_RADIUS_SWEEP=N takes N draws of each kind instead of one.
"""

import math
import os
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from shells_reference import Long, at_linf, exponential, power_law, signed

from smoothing import Exp1, ExpInf, Laplace, PowInf

SEED = 20_260_103
SWEEP = int(os.environ.get("CERTIFY_RADIUS_SWEEP", "0"))
DIMENSIONS = (1, 2, 3, 784, 3072, 3073, 150_528)

REFERENCE_ERROR = 2e-12
"""Relative error of the reference, at most: half of that is the rounding of d log r at d = 150,528."""


def at_l1(d: int, linear: Any, inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """R of a law of cubes at l1: `linear` per probability, up to the corner at 1 - 1/(2d), and beyond that `inner`."""

    def radius(q: Any) -> Any:
        corner = Long(1) / (2 * d)
        if q >= corner:
            return linear * (Long(0.5) - q)
        return linear * (Long(0.5) - corner) + inner(d * q)

    return radius


def of_signs(d: int) -> Callable[[Any], Any]:
    """R of Laplace noise at linf: the score is a sum of d fair signs, Phi is piecewise linear."""
    with mpmath.workdps(30):
        heads = [mpmath.binomial(d, b) / mpmath.mpf(2) ** d for b in range(d, (d - 1) // 2, -1)]
        shares, means, share, mean = [mpmath.mpf(0)], [mpmath.mpf(0)], mpmath.mpf(0), mpmath.mpf(0)
        for index, m in enumerate(heads):
            slope = 2 * (d - index) - d
            share, mean = share + m, mean + slope * m
            shares.append(share), means.append(mean)

    def radius(q: Any) -> Any:
        with mpmath.workdps(30):
            at, total = mpmath.mpf(float(q)), mpmath.mpf(0)
            for left, right, low, high in zip(shares[:-1], shares[1:], means[:-1], means[1:], strict=True):
                first, last = max(left, at), min(right, mpmath.mpf("0.5"))
                if last <= first:
                    continue
                slope = (high - low) / (right - left)
                start, end = low + slope * (first - left), low + slope * (last - left)
                total += (last - first) / start if slope < 1e-25 else mpmath.log(end / start) / slope
            return Long(mpmath.nstr(total, 25))

    return radius


def sub_gaussian(q: Any) -> Any:
    """R of Laplace noise at l2: the integral of dp / min(1/2, p sqrt(2 log 1/p))."""
    with mpmath.workdps(25):
        change = mpmath.findroot(lambda t: t * mpmath.sqrt(2 * mpmath.log(1 / t)) - mpmath.mpf(1) / 2, (0.33, 0.35))
        at = mpmath.mpf(float(q))
        total = 2 * (mpmath.mpf(1) / 2 - max(at, change))
        if at < change:
            total += mpmath.quad(lambda x: 1 / mpmath.sqrt(-2 * x), [mpmath.log(at), mpmath.log(change)])
        return Long(mpmath.nstr(total, 20))


# --- The sweep --------------------------------------------------------------------------------------------------------


def dimension(rng: np.random.Generator, largest: int = 150_528) -> int:
    """One of the usual dimensions, or any."""
    if rng.random() < 0.5:
        return int(rng.choice([d for d in DIMENSIONS if d <= largest]))
    return int(np.exp(rng.uniform(0.0, math.log(largest + 0.5))))


def draw(name: str, rng: np.random.Generator) -> tuple[Any, Callable[[Any], Any]]:
    """A law, its scale anywhere from 1e-3 to 1e3 times what d makes of it, and R at scale 1."""
    law, norm = name.split()
    scale = float(10.0 ** rng.uniform(-3.0, 3.0))
    if law == "laplace":
        d = dimension(rng, 150_528 if norm == "l2" else 800)
        return Laplace((d,), scale=scale), sub_gaussian if norm == "l2" else of_signs(d)
    if law == "pow_inf":
        d = dimension(rng, 150_528 if SWEEP else 800)  # the law's own integral takes seconds in many dimensions
        a = d + float(10.0 ** rng.uniform(-2.0, 2.5))
        inner = power_law(d, a).radius
        cube = PowInf((d,), scale=scale, a=a)
        if norm == "linf" or d == 1:
            return cube, lambda q: inner(q, True)
        return cube, at_l1(d, 2 * Long(d) / (Long(a) - d), lambda q: inner(q, True))
    if law == "exp_one":
        d = dimension(rng, 150_528 if norm == "l1" else 60)
        k = float(np.exp(rng.uniform(math.log(0.1), math.log(100.0))))
        return Exp1((d,), scale=scale, k=k), at_linf(d, k, 0.0) if norm == "l1" or d == 1 else signed(d, k)
    d = dimension(rng)
    k = 1.0 if rng.random() < 0.1 else float(np.exp(rng.uniform(math.log(0.1), math.log(100.0))))
    j = 0.0
    if d > 1:  # nowhere, anywhere, or next to its limit
        near = d - 1 - 10.0 ** rng.uniform(-2, 0)
        j = float(max((0.0, rng.uniform(0, d - 1), near)[rng.integers(3)], 0.0))
    cube = ExpInf((d,), scale=scale, k=k, j=j)
    inner = at_linf(d, k, j)
    if norm == "linf" or d == 1:
        return cube, inner
    shells = exponential(d, k, j)
    return cube, at_l1(d, 2 * Long(d) / shells.parts[1].sum(), inner)


def failures(rng: np.random.Generator) -> list[float]:
    """Next to 1/2, anywhere in between, and next to 0."""
    return [
        0.5 - float(10.0 ** rng.uniform(-12.0, -2.0)),
        float(np.exp(rng.uniform(math.log(1e-6), math.log(0.49)))),
        float(10.0 ** rng.uniform(-12.0, -6.0)),
    ]


PAIRS = [
    *("laplace l2", "laplace linf", "exp_one l1", "exp_one linf"),
    *("exp_inf l1", "exp_inf linf", "pow_inf l1", "pow_inf linf"),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_integrals_are_never_above_and_close_below_extended_precision(pair: str) -> None:
    """One-sided and two-sided, and monotone; the runner-up's bound is anywhere below 1 - p."""
    rng = np.random.default_rng([SEED, PAIRS.index(pair)])
    for _ in range(SWEEP or 1):
        law, exact = draw(pair, rng)
        norm, scale = pair.split()[1], Long(law.scale)
        q = failures(rng)
        known = [scale * exact(Long(at)) for at in q]
        claimed = law.radius(np.array([1 - at for at in q]), norm, q_upper=np.array(q))
        for at, value, truth in zip(q, claimed, known, strict=True):
            # Sets on both sides are found by their share, of which 1 - 2 q has to be told apart from 1.
            assert value <= truth * (1 + REFERENCE_ERROR + Long(1e-17) / (Long(0.5) - at)), (law, at)
            # The first line, of slope 0, is in force next to 1/2.
            assert value >= truth * (1 - Long(1e-6 if at < 0.49 else 1e-4)), (law, at)
        assert np.all(np.diff(claimed) >= 0)
        # Two classes: the mean of both one-sided radii.
        both = law.radius(1 - q[0], norm, q_upper=q[0], rival_upper=q[1])
        mean = (known[0] + known[1]) / 2
        assert mean * (1 - Long(2e-6)) <= both <= mean * (1 + REFERENCE_ERROR + Long(1e-17) / (Long(0.5) - q[0])), law


@pytest.mark.parametrize(("d", "k"), [(1, 0.5), (3, 2.0), (40, 1.0), (3072, 0.3)])
def test_the_reference_is_right(d: int, k: float) -> None:
    shells = exponential(d, k, 0.0)
    b = mpmath.mpf(d) / k
    for share in (0.2, 1e-9):
        y = shells.quantile(Long(share), True)
        with mpmath.workdps(25):
            u = mpmath.exp(mpmath.mpf(np.format_float_positional(y, 21)) * k)
            below = mpmath.quad(
                lambda t, u=u: mpmath.exp(b * (t + mpmath.log(u)) - u * mpmath.exp(t) - mpmath.loggamma(b)),
                mpmath.linspace(-(60 / b + 12 / mpmath.sqrt(b)), 0, 12),
            )
        assert float(below) == pytest.approx(share, rel=1e-12)
