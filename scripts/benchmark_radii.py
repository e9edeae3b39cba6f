"""Measure what radii cost: the table of each law, ten thousand look-ups, and the same by scipy.integrate and brentq.

    python scripts/benchmark_radii.py [--quick]

Every ratio is taken in this run. The direct way writes the level-set integral (an expectation over the length of the noise)
as a `scipy.integrate.quad`, finds the threshold by one `brentq` and the radius by another around it; it is timed on a few
radii, and its time for ten thousand is that times the number.
"""

import argparse
import math
import time

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import betainc

from smoothing.distributions.exp_two import Exp2
from smoothing.distributions.pow_two import Pow2
from smoothing.distributions.spherical import LevelSetLaw
from smoothing.radius.level_set import LevelSetCurve, estimate_radius
from smoothing.radius.spherical import SphericalProfile

LOOK_UPS = 10_000

LAWS: tuple[tuple[type[LevelSetLaw], int, dict[str, float]], ...] = (
    (Exp2, 3, {"k": 1.0}),
    (Exp2, 784, {"k": 1.0}),
    (Exp2, 3072, {"k": 1.0}),
    (Exp2, 3072, {"k": 10.0, "j": 100.0}),
    (Exp2, 3072, {"k": 2.0, "j": 3064.0}),
    (Exp2, 3072, {"k": 2.0, "j": 3071.0}),
    (Pow2, 3072, {"k": 2.0, "a": 1544.0}),
    (Exp2, 150528, {"k": 1.0}),
    (Exp2, 150528, {"k": 2.0, "j": 150520.0}),
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

    def chance(t: float, e: float) -> float:
        def integrand(y: float) -> float:
            r = math.exp(y)
            delta = float(profile.log_contraction(np.array(r), t)[0])
            v = 0.5 + r / (4 * e) * math.expm1(-2 * delta) - e / (4 * r)
            return math.exp(log_density(y) - top) * float(betainc((d - 1) / 2, (d - 1) / 2, min(max(v, 0.0), 1.0)))

        return float(quad(integrand, low, high, points=[middle], limit=200)[0]) / total

    def failure(e: float) -> float:
        t = brentq(lambda t: chance(-t, e) - 0.5, 1e-9, 200.0, rtol=1e-9)
        return chance(t, e)

    typical = profile.quantile(0.5, upper=False) / math.sqrt(d)
    return float(brentq(lambda e: failure(e) - w, 0.05 * typical, 5 * typical, rtol=1e-7))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="only the laws of at most 3072 dimensions, one direct radius"
    )
    quick = parser.parse_args().quick
    p = np.linspace(0.501, 1 - 1e-6, LOOK_UPS)
    probes = (0.1,) if quick else (0.3, 0.1, 0.01)
    print("| law | d | nodes | table, s | 10,000 look-ups, s | gap at .6, .9, .99 | direct, s per radius | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for family, dimension, parameters in LAWS:
        if quick and dimension > 3072:
            continue
        law = family((dimension,), sigma=1.0, **parameters)
        start = time.perf_counter()
        curve: LevelSetCurve = law.curve()
        built = time.perf_counter() - start
        start = time.perf_counter()
        law.radius(p, "l2")
        looked_up = time.perf_counter() - start
        gaps = [1 - float(curve.radius(np.array(w))) / estimate_radius(law.profile, curve, w) for w in (0.4, 0.1, 0.01)]
        start = time.perf_counter()
        try:
            for w in probes:
                direct(law.profile, w)
            seconds = (time.perf_counter() - start) / len(probes)
            cost, ratio = f"{seconds:.2f}", f"{seconds * LOOK_UPS / (built + looked_up):,.0f}x"
        except (ValueError, OverflowError):
            cost, ratio = "fails", "-"
        shown = ", ".join(f"{key}={value:g}" for key, value in parameters.items())
        print(
            f"| {law.name} {shown} | {dimension} | {len(curve.e)} | {built:.1f} | {looked_up:.4f} | "
            f"{', '.join(f'{gap:.0e}' for gap in gaps)} | {cost} | {ratio} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
