"""Measure what radii cost: the table of each law, ten thousand look-ups, and the same by scipy.integrate and brentq.

    python scripts/benchmark_radii.py [--quick | --extremes]

Every ratio is taken in this run. For a level set, the direct way writes the integral (an expectation over the length of the
noise) as a `scipy.integrate.quad`, finds the threshold by one `brentq` and the radius by another around it; for a
differential integral it is a quad of 1 / Phi(p), with a brentq for the threshold of each p. It is timed on a few radii, and
its time for ten thousand is that times the number. All times are processor seconds, of all threads.

`--extremes` builds the tables of laws at the ends of their parameters instead, and prints the time and the gap of each.
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
from command_line import whole
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import betainc, betaincc, gammainc, gammaincc, gammaln

from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.exp_inf import ExpInf
from smoothing.distributions.exp_one import Exp1
from smoothing.distributions.exp_two import Exp2
from smoothing.distributions.pow_inf import PowInf
from smoothing.distributions.pow_two import Pow2
from smoothing.distributions.spherical import LevelSetLaw
from smoothing.radius.signs import sign_sum
from smoothing.radius.spherical import SphericalProfile
from smoothing.threat import Norm

LOOK_UPS = 10_000

LEVEL_SETS: tuple[tuple[type[LevelSetLaw], int, dict[str, float]], ...] = (
    (Exp2, 1, {"k": 1.0, "j": 0.9}),
    (Pow2, 1, {"k": 2.0, "a": 1.51}),
    (Exp2, 3, {"k": 1.0}),
    (Exp2, 784, {"k": 1.0}),
    (Exp2, 3072, {"k": 1.0}),
    (Exp2, 3072, {"k": 10.0, "j": 100.0}),
    (Exp2, 3072, {"k": 2.0, "j": 3064.0}),
    (Exp2, 3072, {"k": 2.0, "j": 3071.0}),
    (Pow2, 3072, {"k": 2.0, "a": 1544.0}),
    (Exp2, 150528, {"k": 1.0}),
    (Exp2, 150528, {"k": 0.1}),
    (Exp2, 150528, {"k": 2.0, "j": 150520.0}),
    (Pow2, 150528, {"k": 2.0, "a": 75266.0}),
)

EXTREMES: tuple[tuple[type[LevelSetLaw], int, float, float], ...] = (
    # Family, d, k, and j, or a - d / k.
    (Exp2, 1, 0.1, 0.0),
    (Exp2, 1, 1.0, 0.9),
    (Exp2, 1, 100.0, 0.9),
    (Exp2, 2, 100.0, 0.999),
    (Exp2, 2, 28.8, 1.9),
    (Exp2, 3, 100.0, 1.9),
    (Exp2, 784, 0.1, 782.9),
    (Exp2, 784, 0.684, 783.872),
    (Exp2, 3072, 2.0, 3071.0),
    (Exp2, 150_528, 2.0, 150_526.9),
    (Exp2, 150_528, 100.0, 150_526.9),
    (Pow2, 1, 2.0, 0.01),
    (Pow2, 1, 0.1, 0.1),
    (Pow2, 2, 2.0, 0.01),
    (Pow2, 2, 0.1, 0.1),
    (Pow2, 2, 0.5, 0.02),
    (Pow2, 2, 0.1, 20.1),
    (Pow2, 3, 0.3, 0.1),
    (Pow2, 5, 54.0, 0.003),
    (Pow2, 784, 0.1, 20.1),
    (Pow2, 3072, 0.3, 0.4),
    (Pow2, 3073, 0.3, 0.1),
    (Pow2, 150_528, 2.0, 0.5),
    (Pow2, 150_528, 0.5, 0.02),
)

INTEGRALS: tuple[tuple[type[SmoothingDistribution], int, dict[str, float], str], ...] = (
    (ExpInf, 3072, {"k": 2.0}, "linf"),
    (ExpInf, 3072, {"k": 2.0, "j": 500.0}, "linf"),
    (PowInf, 3072, {"a": 3082.0}, "linf"),
    (Exp1, 3072, {"k": 2.0}, "linf"),
    (ExpInf, 150528, {"k": 2.0}, "linf"),
    (Exp1, 150528, {"k": 2.0}, "linf"),
)


def direct(profile: SphericalProfile, w: float) -> float:
    """The radius at failure probability w, by nested quadrature and root finding; nothing is rounded."""
    d = profile.dimension
    middle = math.log(profile.mode())
    low, high = (math.log(profile.quantile(1e-12, upper=upper)) for upper in (False, True))

    def log_density(y: float) -> float:
        return float(d * y - profile.potential(np.array(math.exp(y))))

    top = log_density(middle)
    total = quad(lambda y: math.exp(log_density(y) - top), low, high, points=[middle], limit=200)[0]

    def share(v: float) -> float:
        if d == 1:  # two points
            return 1.0 if v >= 1 else 0.5 if v > 0 else 0.0
        return float(betainc((d - 1) / 2, (d - 1) / 2, min(max(v, 0.0), 1.0)))

    def chance(t: float, e: float) -> float:
        def integrand(y: float) -> float:
            r = math.exp(y)
            delta = float(profile.log_contraction(np.array(r), np.array(t))[0])
            v = 0.5 + r / (4 * e) * math.expm1(-2 * delta) - e / (4 * r)
            return math.exp(log_density(y) - top) * share(v)

        return float(quad(integrand, low, high, points=[middle], limit=200)[0]) / total

    def failure(e: float) -> float:
        t = brentq(lambda t: chance(-t, e) - 0.5, 1e-9, 200.0, rtol=1e-9)
        return chance(t, e)

    typical = profile.quantile(0.5, upper=False) / math.sqrt(d)
    return float(brentq(lambda e: failure(e) - w, 0.05 * typical, 5 * typical, rtol=1e-7))


def growth_of(
    family: type[SmoothingDistribution], d: int, parameters: dict[str, float]
) -> Callable[[float], tuple[float, float]]:
    """P(Z >= t) and E[Z; Z >= t] of the law's score at linf, as plain scalar functions of scipy.special."""
    if family is PowInf:
        a = parameters["a"]

        def power(t: float) -> tuple[float, float]:
            v = t / a
            return 0.5 * float(betaincc(a - d, d, v)), 0.5 * (a - d) * float(betaincc(a - d + 1, d, v))

        return power
    k, j = parameters["k"], parameters.get("j", 0.0)
    b = (d - j) / k
    rising = k * math.exp(gammaln(b + 1 - 1 / k) - gammaln(b))
    falling = j * math.exp(gammaln(b - 1 / k) - gammaln(b)) if j else 0.0

    def shell(t: float) -> tuple[float, float]:
        """The score g(r) = (j + k r^k) / r of one sign, where it is t, on the rising side."""
        low, high = (j / (k * (k - 1))) ** (1 / k) if j else 0.0, (t / k) ** (1 / (k - 1))
        if j and t <= j / low + k * low ** (k - 1):  # below the least score
            return 0.5, 0.5 * (rising + falling)
        r = brentq(lambda r: (j + k * r**k) / r - t, low, high) if j else high
        u = r**k
        outer, mean = float(gammaincc(b, u)), rising * float(gammaincc(b + 1 - 1 / k, u))
        if j:
            inner = brentq(lambda r: (j + k * r**k) / r - t, j / t, low) ** k if j / t < low else 0.0
            outer += float(gammainc(b, inner))
            mean += rising * float(gammainc(b + 1 - 1 / k, inner))
            mean += falling * float(gammaincc(b - 1 / k, u) + gammainc(b - 1 / k, inner))
        return 0.5 * outer, 0.5 * mean

    if family is ExpInf:
        return shell
    signs = sign_sum(d)
    mass = np.ldexp(signs.mass, -200)
    kept = mass > 1e-20
    values, mass = signs.values[kept].astype(np.float64), mass[kept]

    def mixture(t: float) -> tuple[float, float]:
        """Sums over the values of the sum of signs, as arrays of scipy.special; Exp1 has j = 0."""
        u = (t / (k * values)) ** (k / (k - 1))
        tail, mean = (gammaincc if k > 1 else gammainc)(np.array([[b], [b + 1 - 1 / k]]), u)
        return float(mass @ tail), rising * float((values * mass) @ mean)

    return mixture


def direct_integral(family: type[SmoothingDistribution], d: int, parameters: dict[str, float], q: float) -> float:
    """R(q) = int_q^{1/2} dp / Phi(p) by quad, with Phi(p) by a brentq for the threshold; nothing is rounded."""
    growth = growth_of(family, d, parameters)
    top = parameters["a"] if family is PowInf else 1.0
    if family is not PowInf:
        while growth(top)[0] > q:
            top *= 1.05
    bottom = top
    while growth(bottom)[0] < 0.499 and bottom > 1e-9 * top:
        bottom *= 0.8

    def inverse(p: float) -> float:
        t = brentq(lambda t: growth(t)[0] - p, bottom, top, rtol=1e-10)
        return 1.0 / growth(t)[1]

    # An even number of signs may cancel: shares end below 1/2.
    return float(quad(inverse, q, min(0.499, growth(bottom)[0]), epsrel=1e-7, limit=100)[0])


def row(
    law: SmoothingDistribution,
    norm: str,
    build: Callable[[], object],
    gap: Callable[[], float],
    compute: Callable[[float], float],
    probes: tuple[float, ...],
) -> None:
    """Print a table row: seconds for the table, for the look-ups, and for one radius by the direct way."""
    start = time.process_time()
    build()
    built = time.process_time() - start
    p = np.linspace(0.501, 1 - 1e-6, LOOK_UPS)
    start = time.process_time()
    law.radius(p, norm)
    looked_up = time.process_time() - start
    start = time.process_time()
    try:
        for q in probes:
            compute(q)
        seconds = (time.process_time() - start) / len(probes)
        cost, ratio = f"{seconds:.3g}", f"{seconds * LOOK_UPS / (built + looked_up):,.0f}x"
    except (ValueError, OverflowError):
        cost, ratio = "fails", "-"
    parameters = ", ".join(f"{key}={value:g}" for key, value in law.parameters.items() if key != law.scale_name)
    print(
        f"| {law.name} {parameters}, {norm} | {law.dimension} | {built:.1f} | {looked_up:.4f} | "
        f"{gap():.0e} | {cost} | {ratio} |",
        flush=True,
    )


def level_set_row(
    family: type[LevelSetLaw], dimension: int, parameters: dict[str, float], probes: tuple[float, ...]
) -> None:
    law = family((dimension,), sigma=1.0, **parameters)

    def gap() -> float:
        curve = law.curve()
        return float(curve.gaps()[(curve.w < 0.49) & (curve.w > 1e-6)].max())

    row(law, "l2", law.curve, gap, lambda q: direct(law.profile, q), probes)


def extreme_row(family: type[LevelSetLaw], d: int, k: float, last: float) -> None:
    """Print a row of the table of extreme parameters: seconds on the clock and of all threads, nodes and gap."""
    law = family((d,), scale=1.0, k=k, j=last) if family is Exp2 else family((d,), scale=1.0, k=k, a=d / k + last)
    text = f"k={k:g}, " + (f"j={last:g}" if family is Exp2 else f"a=d/k+{last:g}")
    clock, start = time.perf_counter(), time.process_time()
    curve = law.curve()
    clock, seconds = time.perf_counter() - clock, time.process_time() - start
    gap = curve.gaps()[(curve.w < 0.49) & (curve.w > 1e-6)].max()
    print(f"| {law.name} {text} | {d} | {clock:.1f} | {seconds:.1f} | {len(curve.e):,} | {gap:.0e} |", flush=True)


def integral_row(
    family: type[SmoothingDistribution], d: int, parameters: dict[str, float], norm: str, probes: tuple[float, ...]
) -> None:
    law = family((d,), sigma=1.0, **parameters)

    def gap() -> float:
        lower, upper = law._one_sided_bounds(np.geomspace(0.49, 1e-6, 1000), Norm.parse(norm))
        return float(np.max(upper / lower - 1))

    row(law, norm, lambda: law.radius(0.9, norm), gap, lambda q: direct_integral(family, d, parameters, q), probes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one direct radius per law instead of three")
    parser.add_argument("--largest", type=whole(1), default=150_528, help="leave out laws of more dimensions (150528)")
    parser.add_argument("--extremes", action="store_true", help="tables of extreme parameters, without the direct way")
    arguments = parser.parse_args()
    if arguments.extremes:
        print("| law | d | clock, s | processor, s | nodes | largest gap, .51 to 1-1e-6 |")
        print("| --- | --- | --- | --- | --- | --- |")
        for extreme in EXTREMES:
            if extreme[1] <= arguments.largest:
                extreme_row(*extreme)
        return
    probes = (0.1,) if arguments.quick else (0.3, 0.1, 0.01)
    print(
        "| law, norm | d | table, s | 10,000 look-ups, s | largest gap, .51 to 1-1e-6 | direct, s per radius | ratio |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for family, dimension, parameters in LEVEL_SETS:
        if dimension <= arguments.largest:
            level_set_row(family, dimension, parameters, probes)
    for other, dimension, parameters, norm in INTEGRALS:
        if dimension <= arguments.largest:
            # The sums over signs take the direct way longest.
            integral_row(other, dimension, parameters, norm, (0.1,) if other is Exp1 else probes)


if __name__ == "__main__":
    main()
