"""ExpInf, Exp1, PowInf, Expp and Pareto: radii against 30-digit arithmetic, the published table, and attacks."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mpf
from scipy import stats

from smoothing import Exp1, ExpInf, Expp, InvalidArgumentError, Norm, Pareto, PowInf, SmoothingDistribution
from smoothing.distributions import table
from smoothing.radius.radial import exponential_growth, power_growth
from smoothing.radius.sign_mixture import signed_exponential_growth
from smoothing.testing import check_distribution

mpmath.mp.dps = 40
HALF = mpf(1) / 2
Reference = Callable[[mpf], mpf]


def clamp(value: mpf) -> float:
    return float(value)


# --- The published table ----------------------------------------------------------------------------------------------

PUBLISHED = [
    (Exp1, {"k": 0.5}, "l1", (0.1573203, 0.6429819, 1.125501, 2.712973)),
    (Exp1, {"k": 2}, "l1", (0.1574327, 0.6434466, 1.126346, 2.715367)),
    (Exp1, {"k": 100}, "l1", (0.1529358, 0.5908877, 0.9932208, 2.177351)),
    (Exp1, {"k": 1}, "linf", (0.003232231, 0.01073757, 0.01635041, 0.02968125)),
    (ExpInf, {"k": 1, "j": 0}, "l1", (0.3462411, 1.038723, 1.384964, 1.696581)),
    (ExpInf, {"k": 1, "j": 3062}, "l1", (0.2972603, 0.8917808, 1.189041, 1.456575)),
    (ExpInf, {"k": 1, "j": 3070}, "l1", (0.1414214, 0.4242641, 0.5656855, 0.6929648)),
    (ExpInf, {"k": 2, "j": 0}, "l1", (0.3463256, 1.038977, 1.385303, 1.696996)),
    (ExpInf, {"k": 10, "j": 0}, "l1", (0.3463933, 1.03918, 1.385573, 1.697327)),
    (ExpInf, {"k": 10, "j": 100}, "l1", (0.3463927, 1.039178, 1.385571, 1.697324)),
    (ExpInf, {"k": 0.5, "j": 0}, "linf", (0.0001253797, 0.0005124378, 0.0008969913, 0.00216216)),
    (ExpInf, {"k": 1, "j": 0}, "linf", (0.0001257511, 0.0005163697, 0.0009069882, 0.002204595)),
    (ExpInf, {"k": 2, "j": 0}, "linf", (0.0001254692, 0.0005128082, 0.0008976649, 0.002164068)),
    (ExpInf, {"k": 10, "j": 0}, "linf", (0.0001245802, 0.000502179, 0.0008702564, 0.002048104)),
    (PowInf, {"a": 3075}, "l1", (0.1632196, 0.4896589, 0.6528785, 0.7997761)),
    (PowInf, {"a": 3075}, "linf", (5.473273e-05, 0.0001903443, 0.0002968881, 0.0005530213)),
    (PowInf, {"a": 3082}, "l1", (0.2937953, 0.881386, 1.175181, 1.439597)),
    (PowInf, {"a": 3082}, "linf", (0.00010133, 0.0003759289, 0.0006139355, 0.001261867)),
    (Pareto, {"a": 3}, "l1", (0.07028064, 0.2661401, 0.4489192, 1.03241)),
    (Pareto, {"a": 100}, "l1", (0.1550372, 0.6348344, 1.113598, 2.702095)),
    (Expp, {"p": 0.2}, "l1", (0.0003983796, 0.001199899, 0.001609525, 0.002006174)),
    (Expp, {"p": 0.5}, "l1", (0.03734097, 0.1225147, 0.1780083, 0.2631778)),
    (Expp, {"p": 2}, "l1", (0.2533471, 0.8416212, 1.281552, 2.326348)),
    (Expp, {"p": 4}, "l1", (0.3118844, 0.9529457, 1.335214, 2.016011)),
]


@pytest.mark.parametrize(("family", "parameters", "norm", "published"), PUBLISHED, ids=str)
def test_reference_table_at_dimension_3072(
    family: Any, parameters: dict[str, float], norm: str, published: tuple[float, ...]
) -> None:
    radii = family((3, 32, 32), sigma=1.0, **parameters).radius(np.array([0.6, 0.8, 0.9, 0.99]), norm)
    assert radii == pytest.approx(published, rel=6e-7)


# --- Against high-precision integrals ---------------------------------------------------------------------------------


def lower(a: mpf, u: mpf) -> mpf:
    """P(a, u) by its series; far above u = a it is 1 to more digits than are kept."""
    if u > a + 40 * mpmath.sqrt(a) + 200:
        return mpf(1)
    term = total = mpf(1)
    n = 0
    while term > total * mpf("1e-35") or u > a + n:
        n += 1
        term *= u / (a + n)
        total += term
    return mpmath.exp(a * mpmath.log(u) - u - mpmath.loggamma(a + 1)) * total


def upper(a: mpf, u: mpf) -> mpf:
    """Q(a, u): 1 - P in the bulk, by the continued fraction in the tail."""
    if u < a + 3 * mpmath.sqrt(a) + 3:
        return 1 - lower(a, u)
    b, c = u + 1 - a, mpf("1e300")
    d = 1 / b
    h = d
    for i in range(1, 100_000):
        factor = -i * (i - a)
        b += 2
        d = 1 / (factor * d + b)
        c = b + factor / c
        h *= d * c
        if abs(d * c - 1) < mpf("1e-34"):
            break
    return mpmath.exp(a * mpmath.log(u) - u - mpmath.loggamma(a)) * h


def integral(share: Reference, mean: Reference, total: mpf, ends: tuple[mpf, mpf], q: mpf, *, near: bool) -> mpf:
    """int_q^{1/2} dp / Phi for score +-g, in terms of s = log u: share(u) = P(g >= t), mean(u) = E[g; g >= t].

    p = share / 2 and Phi = mean / 2, so that dp / Phi = d share / mean; share has the density |share'|.
    """
    raise NotImplementedError


@cache
def exponential(d: int, k: float, j: float, q: float) -> mpf:
    """ExpInf at linf, scale 1: u = r^k of Gamma(b) law; dp / Phi = density(u) / E[g; g >= g(u)] du, Gauss-Legendre."""
    with mpmath.workdps(25):
        k, j = mpf(k), mpf(j)
        b = (d - j) / k
        a1, a2 = b - 1 / k, b + 1 - 1 / k
        rising = k * mpmath.exp(mpmath.loggamma(a2) - mpmath.loggamma(b))
        falling = j * mpmath.exp(mpmath.loggamma(a1) - mpmath.loggamma(b)) if j else mpf(0)
        side = lower if k <= 1 else upper

        def mean(u: mpf) -> mpf:
            return rising * side(a2, u) + (falling * side(a1, u) if j else 0)

        def integrand(x: mpf) -> mpf:
            u = mpmath.exp(x)
            return mpmath.exp(b * x - u - mpmath.loggamma(b)) / mean(u)

        def quantile(p: mpf) -> mpf:
            """log u with side(b, u) = p, by bisection, then secant steps."""
            centre, width = mpmath.log(b), 1 / mpmath.sqrt(b)
            low, high = centre - 60 * width - 80 / b, centre + 60 * width + 6
            for _ in range(90):
                middle = (low + high) / 2
                big = side(b, mpmath.exp(middle)) > p
                low, high = (low, middle) if big == (k <= 1) else (middle, high)
            return (low + high) / 2

        start = quantile(2 * mpf(q))
        width = 1 / mpmath.sqrt(b)
        far = mpmath.log(b) + (40 * width + (6 if b < 30 else 0)) * (1 if k <= 1 else -1) - (0 if k <= 1 else 90 / b)
        nodes = mpmath.linspace(start, far, 13)
        return abs(mpmath.quad(integrand, nodes))


@pytest.mark.parametrize(
    ("d", "k", "j"),
    [(1, 0.5, 0), (1, 2, 0), (2, 0.5, 0), (3, 10, 0), (3, 1, 1.9), (5, 0.7, 2), (784, 2, 0), (784, 0.5, 700), (3072, 2, 0)],
)
def test_exponential_integral_is_enclosed_and_close(d: int, k: float, j: float) -> None:
    growth = exponential_growth(d, float(k), float(j))
    q = np.array([0.49, 0.2, 0.01, 1e-6])
    below, above = growth.bounds(q)
    for value, low, high in zip(q, below, above, strict=True):
        exact = exponential(d, float(k), float(j), float(value))
        assert low <= exact <= high
        assert exact - low <= mpf("1e-6") * exact
