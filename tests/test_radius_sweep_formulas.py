"""Closed forms and integrals of laws drawn from the whole range of their parameters, against mpmath and other quadrature.

CERTIFY_RADIUS_SWEEP=N takes N draws of each kind instead of a few.
"""

import math
import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import pytest
from mpmath import mpf
from scipy.special import (
    betainc,
    betaincc,
    betainccinv,
    betaincinv,
    betaln,
    gammaincc,
    gammainccinv,
    gammaincinv,
    gammaln,
)
from scipy.special import gammainc as lower_gamma

from smoothing import Exp1, Exp2, ExpInf, Expp, Gaussian, Laplace, Pareto, PowInf, Uniform, UniformBall

SEED = 20_260_102
SWEEP = int(os.environ.get("CERTIFY_RADIUS_SWEEP", "0"))
DIMENSIONS = (1, 2, 3, 784, 3072, 3073, 150_528)


def failures(rng: np.random.Generator) -> list[float]:
    """A probability next to 1/2, one within the range that has a stated gap, and one next to 0; the radius is for 1 - it."""
    return [0.49, float(np.exp(rng.uniform(math.log(1e-6), math.log(0.49)))), float(10.0 ** rng.uniform(-9.0, -6.0))]


def extreme_failures(rng: np.random.Generator) -> list[float]:
    """Nearly 1/2, and nearly 0."""
    return [0.5 - float(10.0 ** rng.uniform(-12.0, -3.0)), float(10.0 ** rng.uniform(-15.0, -9.0))]


def dimension(rng: np.random.Generator) -> int:
    """One of the usual dimensions, or any."""
    return int(rng.choice(DIMENSIONS)) if rng.random() < 0.5 else int(np.exp(rng.uniform(0.0, math.log(150_528.5))))


# --- Closed forms: mpmath, 60 digits ----------------------------------------------------------------------------------


def inverse(f: Any, value: mpf, low: mpf, high: mpf) -> mpf:
    """The x with f(x) = value, by bisection; f rises."""
    for _ in range(90):
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) < value else (low, middle)
    return (low + high) / 2


def closed(name: str, rng: np.random.Generator) -> tuple[Any, str, Callable[[mpf], mpf]]:
    """A drawn law of any scale, a norm, and the exact radius for a failure probability."""
    d, scale = dimension(rng), float(10.0 ** rng.uniform(-3.0, 3.0))
    norm = str(rng.choice(["l1", "l2", "linf"]))
    unit, corner = mpf(scale), mpmath.sqrt(d) if norm == "linf" else mpf(1)
    if name == "gaussian":
        law: Any = Gaussian((d,), sigma=scale)
        if rng.random() < 0.3:
            law, unit = Exp2((d,), scale=scale, k=2.0), unit / mpmath.sqrt(2)
        return law, norm, lambda w: unit * mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * w) / corner
    if name == "laplace":
        kind = rng.integers(3)
        law = (Laplace((d,), scale=scale), Exp1((d,), scale=scale, k=1.0), ExpInf((d,), scale=scale, k=1.0))[kind]
        return law, ("l1", "l1", "linf")[kind], lambda w: -unit * mpmath.log(2 * w)
    if name == "uniform":
        width = {"l1": lambda w: 1 - 2 * w, "linf": lambda w: 2 * (1 - (mpf(1) / 2 + w) ** (mpf(1) / d))}
        width["l2"] = lambda w: mpmath.sqrt(d) * width["linf"](w)
        return Uniform((d,), half_width=scale), norm, lambda w: unit * width[norm](w)
    if name == "uniform_ball":
        ball, shape = UniformBall((d,), ball_radius=1.0), mpf(d + 1) / 2
        whole = mpmath.beta(mpf(1) / 2, shape) / 2

        def overlap(w: mpf) -> mpf:
            x = mpf(ball.radius(1 - float(w), "l2", q_upper=float(w))) / 2
            for _ in range(3):  # Newton's steps for P(|z_1| <= x) = 1/2 - q, z in the unit ball
                ends = mpmath.linspace(0, min(x, 40 / mpmath.sqrt(shape)), 5)
                share = mpmath.quad(lambda c: (1 - c * c) ** (shape - 1), ends) / whole
                x += (mpf(1) / 2 - w - share) * whole / (1 - x * x) ** (shape - 1)
            return unit * 2 * x / corner

        return UniformBall((d,), ball_radius=scale), norm, overlap
    if name == "pareto":
        a = float(np.exp(rng.uniform(math.log(0.05), math.log(1e4))))
        b = mpf(a) / (mpf(a) + 1)
        return (
            Pareto((d,), scale=scale, a=a),
            "l1",
            lambda w: unit * (1 - 2 * w) / mpf(a) * mpmath.hyp2f1(1, b, 1 + b, (1 - 2 * w) ** (1 / b)),
        )
    # Exponential powers: quantiles for p >= 1, int_c^inf dx / (exp(x^p) - 1) below.
    power = float(np.exp(rng.uniform(math.log(0.1), math.log(100.0))))
    s = 1 / mpf(power)

    def powers(w: mpf) -> mpf:
        inner = 1 - 2 * w if power >= 1 else 2 * w
        x = inverse(lambda x: mpmath.gammainc(s, 0, mpmath.exp(x), regularized=True), inner, mpf(-4000), mpf(6))
        if power >= 1:
            return unit * mpmath.exp(s * x)
        points = [x, *[at for at in (-60, -20, -5, -1, 0, 1, 2, 3, 4, 5) if at > x]]
        return unit * s * mpmath.quad(lambda at: mpmath.exp(s * at) / mpmath.expm1(mpmath.exp(at)), points)

    if power >= 1 and rng.random() < 0.3:  # on the line, it is Exp2 as well
        return Exp2((1,), scale=scale, k=power), norm, powers
    return Expp((d,), scale=scale, p=power), "l1", powers


def of_two_classes(law: Any, exact: Callable[[mpf], mpf], q: float, rival: float) -> mpf:
    """The exact radius that two bounds give: of half the lead, or the mean of two radii."""
    half = (mpf(q) + mpf(rival)) / 2
    if isinstance(law, Uniform | UniformBall):
        return exact(half)
    return (exact(mpf(q)) + exact(mpf(rival))) / 2


@pytest.mark.parametrize("name", ["gaussian", "laplace", "uniform", "uniform_ball", "pareto", "exp_p"])
def test_closed_forms_are_never_above_and_close_below_mpmath(name: str) -> None:
    rng = np.random.default_rng([SEED, len(name)])
    with mpmath.workdps(40):
        for _ in range(SWEEP or 2):
            law, norm, exact = closed(name, rng)
            known = []
            for q in (*failures(rng), *extreme_failures(rng)):
                claimed, truth = law.radius(1 - q, norm, q_upper=q), exact(mpf(q))
                assert claimed <= truth, (law, norm, q)
                assert claimed >= truth * (1 - mpf("1e-9")), (law, norm, q)
                known.append((q, claimed))
            assert all(low[1] <= high[1] for high, low in pairwise(sorted(known)))
            q, rival = known[1][0], known[1][0] * float(rng.uniform(0.01, 0.99))
            claimed, truth = law.radius(1 - q, norm, q_upper=q, rival_upper=rival), of_two_classes(law, exact, q, rival)
            assert truth * (1 - mpf("1e-9")) <= claimed <= truth, (law, norm, q, rival)


# --- Integrals of the differential method: Gauss-Legendre in the logarithm of another variable ------------------------

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(12)


def integral(f: Any, low: float, high: float, scale: float) -> float:
    """int_low^high f by panels no wider than `scale`, wider where far from both ends."""
    steps = scale * 1.25 ** np.arange(400)
    away = np.concatenate(([0.0], np.cumsum(steps)))
    middle = 0.5 * (low + high)
    edges = np.unique(np.concatenate((np.minimum(low + away, middle), np.maximum(high - away, middle))))
    half = 0.5 * np.diff(edges)[:, None]
    x = 0.5 * (edges[1:] + edges[:-1])[:, None] + half * _POINTS
    return float((f(x) * half * _WEIGHTS).sum())


def cube(d: int, k: float, j: float, q: float) -> float:
    """ExpInf at linf, scale 1, k <= 1 or j = 0: u = r^k of Gamma(b), and the sets {u <= c} (k <= 1) or {u >= c}."""
    b = (d - j) / k
    rising = k * math.exp(gammaln(b + 1 - 1 / k) - gammaln(b))
    falling = j * math.exp(gammaln(b - 1 / k) - gammaln(b)) if j else 0.0
    side = lower_gamma if k <= 1 else gammaincc

    def ratio(x: np.ndarray) -> np.ndarray:
        u = np.exp(x)
        mean = rising * side(b + 1 - 1 / k, u) + (falling * side(b - 1 / k, u) if j else 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.exp(b * x - u - gammaln(b)) / mean
        return np.asarray(np.nan_to_num(value))

    start = math.log(float((gammaincinv if k <= 1 else gammainccinv)(b, 2 * q)))
    # Up to where the density has fallen by exp(-50): along e^x - b x on one side, as exp(b x) on the other.
    width = 1 / math.sqrt(b)
    centre, step = math.log(b), 0.2 * min(width, 1)
    if k <= 1:
        return integral(ratio, start, max(centre + 12 * width + (5 if b < 50 else 0), start + width), step)
    return integral(ratio, min(centre - 12 * width - 50 / b, start - width), start, step)


def power_cube(d: int, a: float, q: float) -> float:
    """PowInf at linf, scale 1: v = 1 / (1 + r) of Beta(a - d, d), and the sets {v >= c}."""
    e = a - d

    def ratio(x: np.ndarray) -> np.ndarray:
        v = np.exp(x)
        log_density = e * x + (d - 1) * np.log1p(-np.minimum(v, 1 - 1e-16)) - betaln(e, d)
        return np.asarray(np.exp(log_density) / (e * betaincc(e + 1, d, v)))

    def near(y: np.ndarray) -> np.ndarray:
        """The same by u = 1 - v, for shells near the origin."""
        u = np.exp(y)
        log_density = d * y + (e - 1) * np.log1p(-u) - betaln(e, d)
        return np.asarray(np.exp(log_density) / (e * betainc(d, e + 1, u)))

    end, width = math.log(float(betainccinv(e, d, 2 * q))), 1 / math.sqrt(e)
    half = math.log(0.5)
    inner = 0.0
    if end > half:
        inner = integral(near, math.log(float(betaincinv(d, e, 2 * q))), half, 0.1 / math.sqrt(a))
        end = half
    return inner + integral(ratio, min(math.log(e / a) - 12 * width, end) - 45 / e, end, 0.1 * min(width, 1))


def integral_draw(name: str, rng: np.random.Generator, q: float) -> tuple[float, float]:
    """A drawn law's radius at scale 1 and its reference."""
    d = int(rng.choice(DIMENSIONS))
    norm = str(rng.choice(["l1", "linf"]))
    if name == "pow_inf":
        a = d + float(10.0 ** rng.uniform(-1.0, 2.5))
        law: Any = PowInf((d,), scale=1.0, a=a)

        def at_linf(share: float) -> float:
            return power_cube(d, a, share)

        slope = 2 * d / (a - d)
    else:
        j, k = 0.0, 1.0
        while k == 1.0 or d / k > 2e4 or (d - j) / k < 1e-2:
            d, k = int(rng.choice(DIMENSIONS)), float(np.exp(rng.uniform(math.log(0.1), math.log(100.0))))
            # Next to its limit d - 1, or anywhere.
            j = 0.0
            if name == "exp_inf" and k <= 1 and d > 1:
                j = float(rng.choice([0.0, rng.uniform(0, d - 1), d - 1 - 10.0 ** rng.uniform(-2, 0)]))
        law = ExpInf((d,), scale=1.0, k=k, j=j) if name == "exp_inf" else Exp1((d,), scale=1.0, k=k)

        def at_linf(share: float) -> float:
            return cube(d, k, j, share)

        if name == "exp_one":
            return law.radius(1 - q, "l1", q_upper=q), at_linf(q)
        b = (d - j) / k
        slope = 2 * d / (d - 1) * math.exp(gammaln(b) - gammaln(b - 1 / k)) if d > 1 else 0.0
    claimed = law.radius(1 - q, norm, q_upper=q)
    if norm == "linf" or d == 1:
        return claimed, at_linf(q)
    return claimed, slope * (0.5 - max(q, 0.5 / d)) + (at_linf(d * q) if q < 0.5 / d else 0.0)


@pytest.mark.parametrize("name", ["exp_inf", "exp_one", "pow_inf"])
def test_integrals_are_never_above_and_close_below_other_quadrature(name: str) -> None:
    rng = np.random.default_rng([SEED, len(name), 1])
    for _ in range(SWEEP or 3):
        for q in failures(rng):
            claimed, exact = integral_draw(name, rng, q)
            # The reference has the rounding of gammaln at 150,528: 1e-10.
            assert claimed <= exact * (1 + 1e-9)
            assert claimed >= exact * (1 - 1e-6)
