"""Level-set radii at extreme parameters and dimensions, against quadrature that shares nothing with the method."""

import math
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pytest
from mpmath import mpf
from scipy.optimize import brentq
from scipy.special import betainc, gammaincc

from smoothing import Exp1, Exp2, ExpInf, Pow2
from smoothing.distributions.exp_two import Exp2Profile
from smoothing.distributions.pow_two import Pow2Profile
from smoothing.radius import table
from smoothing.radius.curve import NODE_GAP, LevelSetCurve
from smoothing.radius.impossibility import radius_upper_bound
from smoothing.radius.level_set import level_set_radius, make_node
from smoothing.radius.radial import exponential_growth
from smoothing.radius.sign_mixture import signed_exponential_growth
from smoothing.radius.spherical import SphericalProfile


def potential(profile: SphericalProfile) -> Callable[[np.ndarray], np.ndarray]:
    """psi as a function of log r, from the definition of the law."""
    if isinstance(profile, Exp2Profile):
        return lambda y: np.exp(profile.k * y) + profile.j * y
    assert isinstance(profile, Pow2Profile)
    return lambda y: profile.a * np.logaddexp(0.0, profile.k * y)


def panels(profile: SphericalProfile, count: int) -> np.ndarray:
    """Edges in log r between points where its density has fallen by exp(-42), closer where it changes fast."""
    psi, d = potential(profile), profile.dimension
    low, high = -600.0, 600.0
    for _ in range(4):
        grid = np.linspace(low, high, 20_001)
        with np.errstate(over="ignore", invalid="ignore"):
            level = d * grid - psi(grid)
            level = np.where(np.isfinite(level), level, -np.inf)
        inside = np.flatnonzero(level > level.max() - 42)
        first, last = max(inside[0] - 1, 0), min(inside[-1] + 1, len(grid) - 1)
        low, high = grid[first], grid[last]
    grid, level = grid[first : last + 1], np.maximum(level[first : last + 1], level.max() - 50)
    way = np.concatenate(([0.0], np.cumsum(np.diff(grid) / (high - low) + np.abs(np.diff(level)) / 84)))
    return np.asarray(np.interp(np.linspace(0.0, way[-1], count + 1), way, grid))


def exact_failure(profile: SphericalProfile, e: float, guess: float) -> float:
    """The least w that a shift of length e forgives, to about 1e-8 of itself, for d >= 3.

    Gauss-Legendre in log r between points where the density has fallen by exp(-42); s by bisection; the threshold by
    Brent's method, from `guess` outwards.
    """
    psi, d = potential(profile), profile.dimension
    edges = panels(profile, 400)
    points, weights = np.polynomial.legendre.leggauss(10)
    half = 0.5 * np.diff(edges)[:, None]
    y = (0.5 * (edges[1:] + edges[:-1])[:, None] + half * points).ravel()
    log_density = d * y - psi(y)
    mass = np.exp(log_density - log_density.max()) * (half * weights).ravel()
    mass /= mass.sum()

    def chance(t: float) -> float:
        goal = psi(y) - t
        low, high = np.full_like(y, -700.0), np.full_like(y, min(700.0, 690.0 / profile.k))  # type: ignore[attr-defined]
        low, high = (np.where(psi(y) < goal, y, low), high) if t < 0 else (low, np.minimum(high, y))
        for _ in range(60):
            middle = 0.5 * (low + high)
            with np.errstate(over="ignore"):
                below = psi(middle) < goal
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        # (s^2 - r^2) / (4 e r) without cancellation.
        v = 0.5 + np.exp(y) / (4 * e) * np.expm1(2 * (low - y)) - e / (4 * np.exp(y))
        return float(mass @ betainc((d - 1) / 2, (d - 1) / 2, np.clip(v, 0.0, 1.0)))

    low, high = 0.99 * guess, 1.01 * guess
    while chance(-low) > 0.5:
        low *= 0.5
    while chance(-high) < 0.5:
        high *= 2.0
    t = brentq(lambda t: chance(-t) - 0.5, low, high, xtol=1e-9)
    return chance(t) - math.exp(-t) * (0.5 - chance(-t))


EXTREME = [
    Exp2Profile(3, 0.1, 0.0),
    Exp2Profile(3, 100.0, 1.9),
    Exp2Profile(784, 100.0, 782.9),
    Exp2Profile(3072, 2.0, 3070.9),
    Exp2Profile(3072, 100.0, 3070.0),
    Exp2Profile(3073, 0.1, 0.0),
    Exp2Profile(150528, 1.0, 150526.5),
    Exp2Profile(150528, 0.1, 0.0),
    Exp2Profile(150528, 100.0, 0.0),
    Pow2Profile(3, 2.0, 2.51),
    Pow2Profile(784, 2.0, 393.01),
    Pow2Profile(3073, 2.0, 1537.51),
    Pow2Profile(150528, 2.0, 75265.1),
]


@pytest.mark.parametrize("profile", EXTREME, ids=str)
def test_nodes_are_never_above_and_close_below_independent_quadrature(profile: SphericalProfile) -> None:
    typical = profile.quantile(0.5, upper=False) / math.sqrt(profile.dimension)
    for share in (0.1, 1.0):
        e = share * typical
        node = make_node(profile, e)
        exact = exact_failure(profile, e, node.t)
        assert node.w <= exact * (1 + 1e-9)
        assert exact - node.w <= 2e-4 * min(exact, 0.5 - exact)


def line_failure(k: float, e: float) -> float:
    """The least w for exp(-|x|^k) on the line, k < 1: the worst set is an interval (a, b) around the shift."""

    def ratio(x: float) -> float:
        return abs(x) ** k - abs(x - e) ** k

    def interval(t: float) -> tuple[float, float]:
        far = e
        while ratio(far + e) > t:
            far *= 2
        return brentq(lambda x: ratio(x) - t, 0.5 * e, e), brentq(lambda x: ratio(x) - t, e, far + e)

    def tail(x: float) -> float:
        value = 0.5 * float(gammaincc(1 / k, abs(x) ** k))
        return value if x >= 0 else 1 - value

    def excess(t: float) -> float:
        a, b = interval(t)
        return tail(e - b) - tail(e - a) - 0.5

    a, b = interval(brentq(excess, 1e-12, e**k * (1 - 1e-12)))
    return tail(a) - tail(b)


def test_radii_on_the_line_against_intervals() -> None:
    profile = Exp2Profile(1, 0.5, 0.0)
    for w in (0.49, 0.1, 1e-6):
        exact = brentq(lambda e: line_failure(0.5, e) - w, 1e-3, 1e4, xtol=1e-12)  # noqa: B023
        found = level_set_radius(profile, w)
        assert found.lower <= exact * (1 + 1e-9)
        assert found.lower >= exact * (1 - 1e-5)
        assert found.estimate == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    ("profile", "gap"),
    [
        (Exp2Profile(3072, 1.0, 0.0), NODE_GAP),
        (Exp2Profile(784, 2.0, 700.0), NODE_GAP),
        (Pow2Profile(784, 2.0, 393.5), NODE_GAP),
        (Exp2Profile(150528, 1.0, 0.0), NODE_GAP),
        # Fewer nodes than by default: the rate at which probabilities move is infinite, and nodes are what time goes to.
        (Exp2Profile(40, 2.0, 39.0), 3e-2),
    ],
    ids=str,
)
def test_tables_are_close_below_direct_radii(profile: SphericalProfile, gap: float) -> None:
    curve = LevelSetCurve.build(profile, gap)
    inner = (curve.w < 0.49) & (curve.w > 1e-6)
    # More by two fifths where nodes would be too many, and by a sixth for the rounding of nodes.
    assert curve.gaps()[inner].max() <= 1.55 * gap
    gap *= 1.55
    for w in (0.49, 0.2, 1e-6):
        direct = level_set_radius(profile, w)
        found = float(curve.radius(np.array([w]))[0])
        assert direct.estimate * (1 - gap) <= found <= direct.lower <= direct.estimate
    deep = curve.radius(np.concatenate((0.5 - 10.0 ** -np.arange(2.0, 15.0), [0.3], 10.0 ** -np.arange(2.0, 300.0))))
    assert np.all(np.isfinite(deep) & (deep >= 0))
    w = np.linspace(0.4999, 1e-7, 5001)
    assert np.all(np.diff(curve.radius(w)) >= 0)


def test_radii_of_laws_beyond_scipys_gammainc() -> None:
    """d / k = 1.5 million: nearly Gaussian along any line, so that the radius is within 1 % of the Gaussian one."""
    law = Exp2((150_528,), sigma=1.0, k=0.1)
    p = np.array([0.51, 0.9, 1 - 1e-6])
    radius = law.radius(p, "l2")
    assert np.all(radius <= radius_upper_bound(p, "l2", sigma=1.0, dimension=150_528))
    assert radius[1] == pytest.approx(1.2815, rel=0.01)


def test_direct_radii_of_laws() -> None:
    law = Exp2((3072,), sigma=0.5, k=1)
    for norm, factor in (("l2", 1.0), ("l1", 1.0), ("linf", 1 / math.sqrt(3072))):
        found = law.direct_radius(0.1, norm)
        assert law.radius(0.9, norm, q_upper=0.1) <= found.lower <= found.estimate
        assert found.estimate == pytest.approx(0.640662 * factor, rel=1e-6)
        assert found.gap < 1e-5
    gaussian = Exp2((3072,), sigma=0.5, k=2).direct_radius(0.1, "l2")
    assert gaussian.lower < gaussian.estimate == pytest.approx(0.6407757827723, rel=1e-12)
    assert Pow2((5,), sigma=0.5, k=2, a=8).direct_radius(0.5, "l2").lower == 0.0


@pytest.mark.parametrize(("d", "k", "j"), [(1, 0.5, 0.0), (3, 0.5, 1.0), (5, 1.0, 2.0), (40, 0.5, 0.0)])
def test_finite_limits_at_probability_one(d: int, k: float, j: float) -> None:
    """R(0) = int f / M over all of r, by mpmath, u = r^k = exp(x)."""
    with mpmath.workdps(20):
        b = (mpf(d) - j) / k
        near, far = b - 1 / mpf(k), b + 1 - 1 / mpf(k)
        rising = k * mpmath.gamma(far) / mpmath.gamma(b)
        falling = j * mpmath.gamma(near) / mpmath.gamma(b) if j else mpf(0)

        def integrand(x: mpf) -> mpf:
            u = mpmath.exp(x)
            mean = rising * mpmath.gammainc(far, 0, u, regularized=True)
            mean += falling * mpmath.gammainc(near, 0, u, regularized=True) if j else 0
            return mpmath.exp(b * x - u) / mpmath.gamma(b) / mean

        start = -60 * k / (1 if j else 1 - k)
        exact = mpmath.quad(integrand, mpmath.linspace(start, mpmath.log(b + 120), 16))
    limit = float(exponential_growth(d, k, j).bounds(np.array([0.0]))[0][0])
    assert limit <= exact
    assert exact - limit <= mpf("1e-6") * exact
    cube = ExpInf((d,), scale=1.0, k=k, j=j)
    assert cube.radius(1.0, "linf") == pytest.approx(limit, rel=1e-9)
    assert cube.radius(1.0, "linf") >= cube.radius(1.0, "linf", q_upper=1e-290)
    if not j:
        assert Exp1((d,), scale=1.0, k=k).radius(1.0, "l1") == pytest.approx(limit, rel=1e-9)


def test_growth_integrals_are_kept_on_disk(tmp_path: Path) -> None:
    table.use_folder(tmp_path)
    try:
        for build, arguments in ((exponential_growth, (7, 1.25, 0.5)), (signed_exponential_growth, (3, 0.625))):
            first = build(*arguments)
            (path,) = (path for path in tmp_path.iterdir() if path.stat().st_size)
            build.cache_clear()
            again = build(*arguments)
            assert again is not first
            q = np.array([0.5, 0.3, 1e-3, 1e-20, 0.0])
            for one, other in zip(first.bounds(q), again.bounds(q), strict=True):
                assert np.array_equal(one, other)
            assert len(list(tmp_path.iterdir())) == 1
            path.write_bytes(b"damaged")
            build.cache_clear()
            assert np.array_equal(build(*arguments).bounds(q)[0], first.bounds(q)[0])
            assert path.read_bytes() != b"damaged"
            path.unlink()
    finally:
        table.use_folder(None)
        exponential_growth.cache_clear()
        signed_exponential_growth.cache_clear()
