"""Radii of laws drawn from the whole range of their parameters, against quadrature that shares nothing with the method.

A few level-set laws by default; CERTIFY_RADIUS_SWEEP=N checks the N first draws of the seed instead (some of their tables
take a minute), and prints the gap of each with `pytest -s`.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import jaxtyping
import mpmath
import numpy as np
import pytest
from mpmath import mpf
from spherical_reference import Density, Reference

from smoothing import Exp2, Pow2
from smoothing.distributions.spherical import LevelSetLaw

SEED = 20_260_101
DIMENSIONS = (1, 2, 3, 5, 10, 784, 3072, 150_528)
CHEAP = 5
"""Laws of the default selection, those with quick tables: see `cheap`."""


@pytest.fixture(scope="module", autouse=True)
def without_runtime_checks() -> Iterator[None]:
    """Shapes are not what is tested here, and checking them takes a third of the time."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


# --- The reference ----------------------------------------------------------------------------------------------------


def mpmath_chance(density: Density, e: float, t: float) -> mpf:
    """The same probability for d = 2 and 3, from the inverse of psi: integrals over log r by `mpmath.quad`."""
    k, j = mpf(density.k), mpf(density.j)

    def psi(r: mpf) -> mpf:
        return mpf(density.a) * mpmath.log(1 + r**k) if density.a else r**k + j * mpmath.log(r)

    def inverse(value: mpf) -> mpf:
        if density.a:
            return max(mpmath.expm1(value / density.a), mpf(0)) ** (1 / k)
        if not j:
            return max(value, mpf(0)) ** (1 / k)
        return (j / k * mpmath.lambertw(k / j * mpmath.exp(k * value / j)).real) ** (1 / k)

    def cosine(y: mpf) -> mpf:
        """|x - v| is shorter than psi^-1(psi(r) - t) where the cosine is above this."""
        r = mpmath.exp(y)
        return (r**2 + mpf(e) ** 2 - inverse(psi(r) - t) ** 2) / (2 * r * e)

    def share(y: mpf) -> mpf:
        c = max(mpf(-1), min(mpf(1), cosine(y)))
        return mpmath.acos(c) / mpmath.pi if density.d == 2 else (1 - c) / 2

    def law(y: mpf) -> mpf:
        return mpmath.exp(density.d * y - psi(mpmath.exp(y)))

    points = [mpf(y) for y in np.linspace(-18, 18 if density.a else math.log(50) / density.k, 40)]
    cuts: list[mpf] = []
    for level in (-1, 1):
        inside = [cosine(y) > level for y in points]
        for i in [i for i in range(len(inside) - 1) if inside[i] != inside[i + 1]]:
            low, high = points[i], points[i + 1]
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (middle, high) if (cosine(middle) > level) == inside[i] else (low, middle)
            cuts.append(low)
    points = sorted((*points, *cuts))
    return mpmath.quad(lambda y: law(y) * share(y), points, maxdegree=4) / mpmath.quad(law, points, maxdegree=4)


@pytest.mark.parametrize(
    ("density", "e", "t"),
    [
        (Density(2, 1.0, j=0.5), 0.7, 0.3),
        (Density(3, 3.0, j=1.2), 0.5, -0.4),
        (Density(2, 2.0, a=2.2), 1.1, -0.3),
        (Density(3, 1.5, a=4.0), 0.8, 1.0),
    ],
    ids=str,
)
def test_the_reference_is_right(density: Density, e: float, t: float) -> None:
    with mpmath.workdps(16):
        exact = mpmath_chance(density, e, t)
    assert Reference(density, e).chance(t) == pytest.approx(float(exact), rel=1e-9)


# --- The sweep --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """A law at scale 1, a failure probability, and the relative gap that is allowed there."""

    density: Density
    w: float
    gap: float

    @property
    def law(self) -> LevelSetLaw:
        it = self.density
        return (
            Pow2((it.d,), scale=1.0, k=it.k, a=it.a) if it.a is not None else Exp2((it.d,), scale=1.0, k=it.k, j=it.j)
        )


def draws(dimensions: tuple[int, ...], count: int) -> list[Draw]:
    """Laws of the whole range of parameters that have a proved radius, those next to their limits more often."""
    rng = np.random.default_rng(SEED)
    found: list[Draw] = []
    while len(found) < count:
        d, k = int(rng.choice(dimensions)), float(np.exp(rng.uniform(math.log(0.1), math.log(100.0))))
        w = float(rng.choice([0.49, 1e-6, np.exp(rng.uniform(math.log(1e-6), math.log(0.49)))]))
        near, kind, power = 10.0 ** rng.uniform(-3.0, 0.0), rng.integers(3), rng.random() < 0.5
        if d / k > 1.9e6:
            continue
        gap = 1e-3
        if power:
            # a k - d is above 2 where there is a variance, and above 0 anyway.
            excess = (2 + near, 2 + 100 * near, 0.1 + near)[kind]
            density = Density(d, k, a=(d + excess) / k)
        else:
            j = float((0.0, rng.uniform(0.0, d), max(d - 1.0, 0.9) - near)[kind])
            density, gap = Density(d, k, j=max(j, 0.0)), 1e-2 if j >= d - 2 else 1e-3
            if (d - j) / k < 1e-3:  # a tenth of the mass below 1e-300
                continue
        found.append(Draw(density, w, gap))
    return found


def check(draw: Draw) -> float:
    """Return the relative gap of the law's radius, after checking that it is not above the exact one."""
    radius = draw.law.radius(1 - draw.w, "l2", q_upper=draw.w)
    assert radius > 0
    known = Reference(draw.density, radius).failure()
    error = 1e-8 * min(known, 0.5 - known)
    # What w is too small by, at the radius, is what the radius is too small by, times the speed at which w falls.
    assert known >= draw.w - error
    longer = radius * (1 + draw.gap)
    beyond = Reference(draw.density, longer).failure()
    assert beyond <= draw.w + 1e-8 * min(beyond, 0.5 - beyond), f"the gap is above {draw.gap}"
    return draw.gap * (known - draw.w) / max(known - beyond, 1e-300)


def cheap(draw: Draw) -> bool:
    """Whether the table of a law takes a few seconds: not next to its pole or limit, nor in heavy tails."""
    it = draw.density
    if it.k > 10 or (it.a is not None and it.a * it.k - it.d < 0.5):
        return False
    return it.d == 1 or (
        (it.k >= 1 if it.d <= 10 else it.k >= 0.3) and it.j < it.d - 5 + 5 * (it.a is not None or it.j == 0)
    )


SWEEP = int(os.environ.get("CERTIFY_RADIUS_SWEEP", "0"))
SELECTION = draws(DIMENSIONS, SWEEP) if SWEEP else [draw for draw in draws(DIMENSIONS, 100) if cheap(draw)][:CHEAP]


@pytest.mark.parametrize("draw", SELECTION, ids=str)
def test_radii_are_never_above_and_close_below_quadrature(draw: Draw) -> None:
    print(f"gap {check(draw):.1e} of {draw.gap:.0e}")
