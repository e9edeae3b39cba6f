"""Level sets in one dimension, where they are intervals, and limits at probability one."""

import math

import numpy as np
import pytest
from mpmath import mp, mpf
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import gamma, gammainc, gammaincc

from smoothing import Exp1, ExpInf, Norm
from smoothing.distributions.exp_two import Exp2Profile
from smoothing.distributions.pow_two import Pow2Profile
from smoothing.radius.caps import caps_bounds
from smoothing.radius.curve import LevelSetCurve
from smoothing.radius.level_set import level_set_radius, make_node
from smoothing.radius.line import is_line, line_bounds

LINES = [
    Exp2Profile(1, 0.5, 0.0),
    Exp2Profile(1, 1.0, 0.4),
    Exp2Profile(1, 3.0, 0.5),
    Exp2Profile(1, 20.0, 0.3),
    Exp2Profile(1, 100.0, 0.9),
    Pow2Profile(1, 1.0, 1.1),
    Pow2Profile(1, 2.0, 1.51),
    Pow2Profile(1, 0.5, 6.0),
    Pow2Profile(1, 8.0, 0.5),
]


def log_density(profile: Exp2Profile | Pow2Profile, x: np.ndarray) -> np.ndarray:
    """-psi(|x|), from the definition of the law."""
    with np.errstate(all="ignore"):
        log_r = np.log(np.abs(x))
        if isinstance(profile, Exp2Profile):
            return np.asarray(-np.exp(profile.k * log_r) - (profile.j * log_r if profile.j else 0.0))
        return np.asarray(-profile.a * np.logaddexp(0.0, profile.k * log_r))


def exact_failure(profile: Exp2Profile | Pow2Profile, e: float, t: float) -> float:
    """exp(-t) (int min(q_v, e^t q) - 1/2): Gauss-Legendre in panels that shrink towards 0 and e."""
    offsets = e * np.exp(np.arange(-80.0, 80.0, 0.5))
    near = offsets[offsets < 0.5 * e]
    edges = np.unique(np.concatenate((-offsets, near, [0.5 * e], e - near, e + offsets)))

    # The integrand bends where q_v = e^t q: cut there.
    def excess(x: float) -> float:
        return float((log_density(profile, np.array([x - e])) - log_density(profile, np.array([x])))[0]) - t

    with np.errstate(invalid="ignore"):  # both may be 0
        values = log_density(profile, edges - e) - log_density(profile, edges) - t
    bends = [
        brentq(excess, edges[i], edges[i + 1])
        for i in np.flatnonzero((values[1:] > 0) != (values[:-1] > 0))
        if np.isfinite(values[i : i + 2]).all() and excess(edges[i]) * excess(edges[i + 1]) < 0
    ]
    edges = np.unique(np.concatenate((edges, bends)))
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half = 0.5 * np.diff(edges)[:, None]
    x = 0.5 * (edges[1:] + edges[:-1])[:, None] + half * nodes
    with np.errstate(over="ignore"):
        overlap = np.exp(np.minimum(log_density(profile, x - e), t + log_density(profile, x)))
    y = np.linspace(-200.0, 200.0, 40_001)
    total = 2 * np.exp(y + log_density(profile, np.exp(y))).sum() * (y[1] - y[0])
    return float(math.exp(-t) * (float((overlap * half * weights).sum()) / total - 0.5))


@pytest.mark.parametrize("profile", LINES[:3] + LINES[6:], ids=str)
@pytest.mark.parametrize("share", [0.02, 1.0, 4.0])
def test_nodes_are_the_overlap_and_no_other_threshold_is_better(
    profile: Exp2Profile | Pow2Profile, share: float
) -> None:
    e = share * profile.quantile(0.5, upper=False)
    node = make_node(profile, e)
    if node.w < 1e-12:  # an e beyond all but 1e-12 of the law
        return
    exact = exact_failure(profile, e, node.t)
    assert node.w <= exact + 1e-8
    assert node.w >= exact - 2e-7
    # Weak duality: w is largest at the best threshold.
    for factor in (0.9, 1.1):
        assert exact_failure(profile, e, factor * node.t) <= node.w + 3e-7


@pytest.mark.parametrize("profile", LINES, ids=str)
def test_intervals_agree_with_cells(profile: Exp2Profile | Pow2Profile) -> None:
    assert is_line(profile)
    e = profile.quantile(0.5, upper=False) * np.array([1e-3, 0.1, 1.0, 5.0])
    for t in (np.full(4, 0.05), np.full(4, 1.5)):
        low, high, low_there, high_there = line_bounds(profile, t, e)
        assert np.all((low <= high) & (low_there <= high_there))
        for (below, above), sign in (((low, high), 1.0), ((low_there, high_there), -1.0)):
            cells_below, cells_above = caps_bounds(profile, sign * t, e, np.full(4, 1e-3))
            assert np.all(cells_below <= above + 1e-12)
            # What cells leave out in the far tails is not in their upper bound.
            assert np.all(below <= cells_above + 1e-5)


def test_masses_of_powers_that_float64_does_not_hold() -> None:
    with mp.workdps(40):
        for r in (1e-30, 1e-5):
            shape = mpf(Exp2Profile(1, 100.0, 0.9)._shape)
            exact = mp.gammainc(shape, 0, mpf(r) ** 100, regularized=True)
            below, above = Exp2Profile(1, 100.0, 0.9).cumulative(np.array([r]))
            assert below[0] == pytest.approx(float(exact), rel=1e-12)
            assert above[0] == pytest.approx(float(1 - exact), rel=1e-12)
        profile = Pow2Profile(1, 100.0, 0.0101)
        second, odds = mpf(profile.a) - mpf(profile.dimension) / 100, mpf(1e5) ** 100
        exact = mp.betainc(second, mpf(1) / 100, 0, 1 / (1 + odds), regularized=True)
        below, above = profile.cumulative(np.array([1e5]))
        assert above[0] == pytest.approx(float(exact), rel=1e-9)
        assert below[0] == pytest.approx(float(1 - exact), rel=1e-9)


def test_the_table_of_a_heavy_tail_is_close_below_direct_radii() -> None:
    profile = Pow2Profile(1, 2.0, 1.51)
    curve = LevelSetCurve.build(profile, gap=2e-2)
    inner = (curve.w < 0.49) & (curve.w > 1e-6)
    assert 2e-3 < curve.gaps()[inner].max() <= 2.5e-2
    direct = level_set_radius(profile, 1e-6)
    found = float(curve.radius(np.array([1e-6]))[0])
    assert direct.estimate * (1 - 2.5e-2) <= found <= direct.lower <= direct.estimate


def test_lengths_that_powers_take_out_of_float64_do_not_fail() -> None:
    # The median of |x|^100 is 1e-300 here, and |x| itself 1e15 there.
    for profile in (Exp2Profile(2, 100.0, 1.9), Pow2Profile(1, 2.0, 0.51)):
        node = make_node(profile, profile.quantile(0.5, upper=False))
        assert 0 < node.w < 0.5


@pytest.mark.parametrize(("d", "k", "j"), [(2, 2.0, 0.5), (3, 3.0, 1.0), (3, 1.5, 0.1)])
def test_cubes_with_a_valley_have_their_limit_at_probability_one(d: int, k: float, j: float) -> None:
    """R(0) = int dp / Phi over the sets {score >= c}, which are {r <= r_1} and {r >= r_2}, by r_1 = r_min exp(-s)."""
    b, least = (d - j) / k, (j / (k * (k - 1))) ** (1 / k)
    near, far = gamma(b - 1 / k) / gamma(b), k * gamma(b + 1 - 1 / k) / gamma(b)

    def score(r: float) -> float:
        return float(j / r + k * r ** (k - 1))

    def density(r: float) -> float:
        return float(k / gamma(b) * r ** (d - 1 - j) * math.exp(-(r**k)))

    def slope(r: float) -> float:
        return float(-j / r**2 + k * (k - 1) * r ** (k - 2))

    def integrand(s: float) -> float:
        first = least * math.exp(-s)
        top = least * 10 + 2 * (score(first) / k) ** (1 / (k - 1))
        # Next to the least score both roots are alike.
        second = brentq(lambda r: score(r) - score(first), least, top, xtol=1e-14) if s > 1e-4 else least * math.exp(s)
        u, v = first**k, second**k
        mean = j * near * (gammainc(b - 1 / k, u) + gammaincc(b - 1 / k, v))
        mean += far * (gammainc(b + 1 - 1 / k, u) + gammaincc(b + 1 - 1 / k, v))
        moved = density(first) * first + (density(second) * slope(first) / slope(second) * -first if s > 1e-4 else 0.0)
        return float((moved if s > 1e-4 else 2 * moved) / mean)

    exact = quad(integrand, 0.0, 2.0, epsrel=1e-9, limit=200)[0] + quad(integrand, 2.0, 40.0, epsrel=1e-9, limit=200)[0]
    law = ExpInf((d,), scale=1.0, k=k, j=j)
    lower, upper = law._one_sided_bounds(np.array([0.0]), Norm.LINF)
    assert lower[0] * (1 - 2e-7) <= exact <= upper[0] * (1 + 2e-7)
    assert upper[0] <= lower[0] * (1 + 1e-6)
    assert law.radius(1.0, "linf") == pytest.approx(exact, rel=1e-6)


def test_diamonds_have_their_limit_at_probability_one() -> None:
    for d, k, gap in ((2, 0.5, 1e-6), (10, 0.5, 3e-5)):
        lower, upper = Exp1((d,), scale=1.0, k=k)._one_sided_bounds(np.array([0.0]), Norm.LINF)
        assert lower[0] < upper[0] <= lower[0] * (1 + gap)
