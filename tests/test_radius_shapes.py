"""ExpInf, Exp1, PowInf, Expp and Pareto: radii against 30-digit arithmetic, the published table, and attacks."""

import math
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
from smoothing.radius.differential import GrowthIntegral
from smoothing.radius.radial import exponential_growth, power_growth
from smoothing.radius.sign_mixture import signed_exponential_growth
from smoothing.radius.special import lower_gamma
from smoothing.testing import check_distribution

mpmath.mp.dps = 40
HALF = mpf(1) / 2


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


@cache
def exponential(d: int, k: float, j: float, q: float) -> mpf:
    """ExpInf at linf, scale 1: u = r^k of Gamma(b) law; dp / Phi = density(u) / E[g; g >= g(u)] du, Gauss-Legendre."""
    with mpmath.workdps(18):
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
            for _ in range(60):
                middle = (low + high) / 2
                big = side(b, mpmath.exp(middle)) > p
                low, high = (low, middle) if big == (k <= 1) else (middle, high)
            return (low + high) / 2

        start = quantile(2 * mpf(q))
        width = 1 / mpmath.sqrt(b)
        far = mpmath.log(b) + (40 * width + (6 if b < 30 else 0)) * (1 if k <= 1 else -1) - (0 if k <= 1 else 90 / b)
        nodes = mpmath.linspace(start, far, 9)
        return abs(mpmath.quad(integrand, nodes))


@pytest.mark.parametrize(
    ("d", "k", "j"),
    [(1, 0.5, 0), (2, 0.5, 0), (3, 10, 0), (3, 1, 1.9), (784, 2, 0)],
)
def test_exponential_integral_is_enclosed_and_close(d: int, k: float, j: float) -> None:
    growth = exponential_growth(d, float(k), float(j))
    q = np.array([0.2, 1e-6])
    below, above = growth.bounds(q)
    for value, low, high in zip(q, below, above, strict=True):
        exact = exponential(d, float(k), float(j), float(value))
        assert low <= exact <= high
        assert exact - low <= mpf("1e-6") * exact


@pytest.mark.parametrize(("d", "a"), [(1, 4.0), (3, 3.1), (40, 43.5)])
def test_power_integral_is_enclosed_and_close(d: int, a: float) -> None:
    """With v = 1 / (1 + r) of the Beta(a - d, d) law: R = int density(v) / E[a v; v >= v'] dv."""
    growth = power_growth(d, a)
    q = np.array([0.49, 1e-6])
    below, above = growth.bounds(q)
    with mpmath.workdps(50):
        e = mpf(a) - d

        def survival(extra: int, v: mpf) -> mpf:
            return mpmath.betainc(d, e + extra, 0, 1 - v, regularized=True)

        def integrand(v: mpf) -> mpf:
            return v ** (e - 1) * (1 - v) ** (d - 1) / mpmath.beta(e, d) / (e * survival(1, v))

        for value, low_bound, high_bound in zip(q, below, above, strict=True):
            low, high = mpf(0), mpf(1)
            for _ in range(100):
                middle = (low + high) / 2
                low, high = (middle, high) if survival(0, middle) > 2 * mpf(value) else (low, middle)
            # Substituted by v = exp(-x), which evens out a density that is singular at 0.
            start = -mpmath.log(low)
            exact = mpmath.quad(
                lambda x: integrand(mpmath.exp(-x)) * mpmath.exp(-x),
                [start, *(start + x for x in (1, 4, 12, 30, 70)), *([150, 300, 700] if e < 1 else [])],
            )
            assert low_bound <= exact <= high_bound * (1 + mpf("1e-12"))
            assert exact - low_bound <= mpf("1e-6") * exact


@pytest.mark.parametrize(("d", "k"), [(2, 0.5), (5, 3.0)])
def test_signed_integral_is_enclosed_and_close(d: int, k: float) -> None:
    """Z = W S: R = int density(t) / E[Z; Z >= t] dt from the threshold of q down to 0, and the flat piece where S = 0."""
    growth = signed_exponential_growth(d, k)
    signs = [(2 * b - d, mpmath.binomial(d, b) / mpf(2) ** d) for b in range(d // 2 + 1, d + 1)]
    with mpmath.workdps(25):
        kk, a = mpf(k), mpf(d) / mpf(k)
        mean_w = kk * mpmath.gamma(a + 1 - 1 / kk) / mpmath.gamma(a)
        side = upper if k > 1 else lower

        def u_of(w: mpf) -> mpf:
            return (w / kk) ** (kk / (kk - 1))

        def share(t: mpf) -> mpf:
            return sum(mass * side(a, u_of(t / s)) for s, mass in signs)

        def mean(t: mpf) -> mpf:
            return sum(mass * s * mean_w * side(a + 1 - 1 / kk, u_of(t / s)) for s, mass in signs)

        def density(t: mpf) -> mpf:
            total = mpf(0)
            for s, mass in signs:
                u = u_of(t / s)
                total += mass * mpmath.exp((a - 1) * mpmath.log(u) - u - mpmath.loggamma(a)) * u * kk / abs(kk - 1) / t
            return total

        flat = HALF - sum(mass for _, mass in signs)
        for value in (0.4, 1e-4):
            below, above = growth.bounds(np.array([value]))
            low, high = mpf("1e-9"), mpf("1e9")
            for _ in range(110):
                middle = mpmath.sqrt(low * high)
                low, high = (middle, high) if share(middle) > value else (low, middle)
            floor = mpf("1e-12") if k > 1 else kk * mpf(200) ** (1 - 1 / kk)
            # x = log t
            points = mpmath.linspace(mpmath.log(floor), mpmath.log(low), 12)
            exact = mpmath.quad(lambda x: density(mpmath.exp(x)) * mpmath.exp(x) / mean(mpmath.exp(x)), points)
            exact += flat / mean(mpf("1e-60") if k > 1 else floor)
            if share(floor) < value:
                exact = (HALF - value) / mean(floor)
            assert float(below[0]) <= exact * (1 + mpf("1e-12"))
            assert float(above[0]) >= exact * (1 - mpf("1e-12"))
            assert exact - float(below[0]) <= mpf("1e-6") * exact


def test_signed_integral_in_high_dimension() -> None:
    """By the trapezoidal rule over 30,000 thresholds and all of 349 values of S; the printed digits are those it gives."""
    law = Exp1((3072,), sigma=1.0, k=2)
    assert law.radius(0.99, "linf") == pytest.approx(0.0296827246, rel=3e-7)


@pytest.mark.parametrize("d", [2, 3, 784, 3073, 150528])
@pytest.mark.parametrize(("k", "gap"), [(0.1, 0.0), (1.0, 0.0), (2.0, 0.5), (100.0, 0.999)])
def test_cubical_radius_at_l1_is_exact_up_to_its_corner(d: int, k: float, gap: float) -> None:
    j = gap * (d - 1)
    law = ExpInf((d,), sigma=0.5, k=k, j=j)
    b = (d - mpf(law.j)) / mpf(k)
    slope = mpf(2 * d) / (d - 1) * mpmath.exp(mpmath.loggamma(b) - mpmath.loggamma(b - 1 / mpf(k)))
    for q in (0.49, 0.3, 0.5 / d):
        if q >= 0.5 / d:
            exact = mpf(law.scale) * slope * (HALF - mpf(q))
            assert exact * (1 - mpf("1e-9")) <= law.radius(1 - q, "l1", q_upper=q) <= exact
    moment = mpf(d + 2) / (3 * d) * mpmath.exp(mpmath.loggamma(b + 2 / mpf(k)) - mpmath.loggamma(b))
    assert law.sigma == pytest.approx(float(mpf(law.scale) * mpmath.sqrt(moment)), rel=1e-13)


def test_cubical_radius_at_l1_beyond_its_corner_continues_with_the_one_at_linf() -> None:
    law = ExpInf((2,), sigma=1.0, k=1)
    # Neyman-Pearson sets give 2.13 here (Monte Carlo), the linear formula .980.
    assert law.radius(0.99, "l1") == pytest.approx(2.109, abs=5e-4)
    for d, parameters in ((3, {"k": 0.5}), (5, {"k": 3, "j": 1})):
        cube = ExpInf((d,), scale=1.0, **parameters)
        corner = cube.radius(1 - 0.5 / d, "l1", q_upper=0.5 / d)
        for q in (0.09, 1e-3, 1e-9):
            expected = corner + cube.radius(1 - d * q, "linf", q_upper=d * q)
            assert cube.radius(1 - q, "l1", q_upper=q) == pytest.approx(expected, rel=1e-12)


Q = (0.5 - 1e-9, 0.499, 0.4, 0.2, 0.05, 1e-3, 1e-6, 1e-9, 1e-17, 1e-100)


@pytest.mark.parametrize("a", [0.01, 0.5, 2.0, 2.5, 100.0, 1e6])
def test_pareto_radius_is_never_above_and_close_below_exact_arithmetic(a: float) -> None:
    law = Pareto((150528,), scale=0.3, a=a)
    for q in Q:
        with mpmath.workdps(130):
            w, b = 1 - 2 * mpf(q), mpf(a) / (mpf(a) + 1)
            exact = mpf(law.scale) / mpf(a) * w * mpmath.hyp2f1(1, b, 1 + b, w ** (1 / b))
        claimed = law.radius(1 - q, "l1", q_upper=q)
        assert exact * (1 - mpf("1e-9")) <= claimed <= exact


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9, 0.9999])
def test_radius_of_heavy_exponentials_is_never_above_and_close_below_exact_arithmetic(p: float) -> None:
    law = Expp((784,), scale=0.3, p=p)
    s = 1 / mpf(p)
    for q in Q[1:]:
        a = float(s)
        low, high = mpf("-2000"), mpmath.log(a + 40 * math.sqrt(a) + 60)
        for _ in range(130):
            middle = (low + high) / 2
            low, high = (middle, high) if lower(s, mpmath.exp(middle)) < 2 * mpf(q) else (low, middle)
        points = [low, *[x for x in (-200, -30, -5, 0, 1.5, 3, 4, 5) if x > low], 6]
        exact = mpf(law.scale) / mpf(p) * mpmath.quad(lambda x: mpmath.exp(s * x) / mpmath.expm1(mpmath.exp(x)), points)
        claimed = law.radius(1 - q, "l1", q_upper=q)
        assert exact * (1 - mpf("1e-9")) <= claimed <= exact * (1 + mpf("1e-20"))
    limit = mpf(law.scale) * mpmath.gamma(1 + s) * mpmath.zeta(s)
    assert limit * (1 - mpf("1e-9")) <= law.radius(1.0, "l1") <= limit


@pytest.mark.parametrize("p", [1.0, 1.0001, 1.7, 4.0, 100.0, 1e6])
def test_radius_of_light_exponentials_is_a_quantile(p: float) -> None:
    law = Expp((784,), scale=0.3, p=p)
    a = 1 / mpf(p)
    for q in Q:
        claimed = law.radius(1 - q, "l1", q_upper=q)
        # P(|x| > c) at the radius and a little further out encloses 2 q.
        for factor, above in ((1, True), (1 + mpf("1e-9"), False)):
            u = (mpf(claimed) * factor / mpf(law.scale)) ** mpf(p)
            inner = lower(a, u) if u < 30 else 1 - upper(a, u)
            assert (inner <= 1 - 2 * mpf(q)) == above if u < 30 else (upper(a, u) >= 2 * mpf(q)) == above


# --- Behaviour --------------------------------------------------------------------------------------------------------

LAWS = [
    (ExpInf, {"k": 1}),
    (ExpInf, {"k": 2, "j": 0.5}),
    (ExpInf, {"k": 0.5, "j": 1}),
    (Exp1, {"k": 2}),
    (Exp1, {"k": 0.7}),
    (PowInf, {"a": 30}),
    (Expp, {"p": 4}),
    (Expp, {"p": 0.5}),
    (Pareto, {"a": 8}),
]


@pytest.mark.parametrize(("family", "parameters"), LAWS, ids=str)
def test_law_passes_the_public_suite(family: Any, parameters: dict[str, float]) -> None:
    for shape in ((3,),) if parameters != {"k": 2, "j": 0.5} else ((1, 2), (2, 2)):
        tight = ["l1"] if parameters == {"p": 4} else []
        law = family(shape, sigma=0.5, **parameters)
        report = check_distribution(law, tight=tight, samples=200_000, inflation=0.05)
        assert report.attacks


@pytest.mark.parametrize(("family", "parameters"), LAWS, ids=str)
def test_law_is_rebuilt_exactly_and_certifies_nothing_without_a_majority(
    family: Any, parameters: dict[str, float]
) -> None:
    law = family((2, 3), sigma=0.5, **parameters)
    again = table.rebuild_law(law.describe())
    assert again.identity == law.identity
    assert again.parameters == law.parameters
    for norm in law.norms:
        for p in (0.0, 0.3, 0.5):
            assert law.radius(p, norm) == 0.0
        values = law.radius(np.array([0.51, 0.6, 0.9, 1 - 1e-9]), norm)
        assert (np.diff(values) >= 0).all()
        limit = law.radius(1.0, norm)
        assert limit >= values[-1]
        assert not math.isnan(limit)


@pytest.mark.parametrize(
    ("family", "parameters", "message"),
    [
        (ExpInf, {}, "needs k, positive"),
        (ExpInf, {"k": 0}, "k must be positive, got k=0"),
        (ExpInf, {"k": math.nan}, "k must be positive"),
        (ExpInf, {"k": 1, "j": 4}, r"j must be in \[0, d\), d = 4, got j=4"),
        (ExpInf, {"k": 1, "j": -1}, "j must be in"),
        (Exp1, {"k": -1}, "k must be positive"),
        (Exp1, {"k": True}, "k must be a number"),
        (PowInf, {"a": 4}, "a must be above d = 4, got a=4"),
        (PowInf, {"a": 5}, "finite sigma only for a > d . 2 = 6"),
        (Expp, {"p": 0.001}, "p must be in"),
        (Pareto, {"a": 2}, "finite sigma only for a > 2"),
        (Pareto, {"a": 0}, "a must be in"),
    ],
)
def test_bad_shape_parameters_are_refused(family: Any, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        family((4,), sigma=1.0, **parameters)


def test_law_of_infinite_variance_has_no_sigma() -> None:
    for law in (Pareto((4,), scale=0.5, a=1.5), PowInf((4,), scale=0.5, a=4.5)):
        assert law.sigma is None
        assert law.radius(0.9, "l1") > 0
        assert type(law)(law.shape, **law.parameters) == law


def test_pole_that_is_too_strong_certifies_nothing() -> None:
    law = ExpInf((4,), sigma=0.5, k=1, j=3)
    assert law.radius(0.99, "l1") == law.radius(1.0, "linf") == 0.0


@pytest.mark.parametrize("d", [2, 784, 150528])
def test_samplers_have_the_right_radius(d: int) -> None:
    generator = torch.Generator().manual_seed(d)
    n = 2000 if d < 1000 else 100
    cases: list[tuple[SmoothingDistribution, float, Any]] = [
        (ExpInf((d,), scale=1.0, k=3, j=1), math.inf, lambda r: stats.gamma((d - 1) / 3).cdf(r**3)),
        (Exp1((d,), scale=1.0, k=0.5), 1, lambda r: stats.gamma(d / 0.5).cdf(r**0.5)),
        (PowInf((d,), scale=1.0, a=d + 3), math.inf, stats.betaprime(d, 3).cdf),
    ]
    for law, order, cdf in cases:
        z = law.sample(n, generator=generator, dtype=torch.float64).flatten(1)
        radius = torch.linalg.vector_norm(z, ord=order, dim=1).numpy()
        assert stats.kstest(radius, cdf).pvalue > 1e-7
        share = float((z > 0).double().mean())
        assert abs(share - 0.5) < 5.2 * 0.5 / math.sqrt(n * d)


def test_norms() -> None:
    assert ExpInf.norms == Exp1.norms == PowInf.norms == {Norm.L1, Norm.LINF}
    assert Expp.norms == Pareto.norms == {Norm.L1}


# --- A law of the user's own ------------------------------------------------------------------------------------------


def test_growth_integral_from_a_log_concave_marginal() -> None:
    """Logistic noise: R is the quantile."""
    x = np.linspace(40, 1e-3, 20_000)
    growth = GrowthIntegral(np.tanh(x / 2), stats.logistic.sf(x), stats.logistic.pdf(x), half_mean=0.25)
    q = np.array([0.5, 0.5 - 1e-9, 0.49, 0.3, 0.1, 1e-3, 1e-9])
    below, above = growth.bounds(q)
    exact = np.log1p((1 - 2 * q) / q)
    assert (below <= exact).all()
    assert (above >= exact).all()
    assert (growth.relative_gap(q) < 1e-6).all()
    assert growth.estimate(q) == pytest.approx(exact, rel=1e-7)


def test_growth_integral_from_a_log_convex_marginal() -> None:
    a = 3.0
    x = np.geomspace(1e-6, 1e9, 30_000)
    share, mean = -0.5 * np.expm1(-a * np.log1p(x)), -0.5 * a * np.expm1(-(1 + a) * np.log1p(x))
    growth = GrowthIntegral((1 + a) / (1 + x), share, mean, half_mean=0.5 * a)
    law = Pareto((5,), scale=1.0, a=a)
    for q in (0.4, 0.1, 1e-3):
        low, high = (float(bound[0]) for bound in growth.bounds(np.array([q])))
        assert low <= law.radius(1 - q, "l1", q_upper=q) * (1 + 1e-11) <= high * (1 + 1e-11)
        assert high / low - 1 < 1e-6


def test_growth_integral_stays_a_bound_with_few_thresholds() -> None:
    for n in (1, 2, 5, 20):
        x = np.linspace(6, 0.1, n)
        growth = GrowthIntegral(np.tanh(x / 2), stats.logistic.sf(x), stats.logistic.pdf(x), half_mean=0.25)
        q = np.concatenate(([0.0, 1e-300], np.linspace(1e-6, 0.5, 200)))
        below, above = growth.bounds(q)
        with np.errstate(divide="ignore", over="ignore"):
            exact = np.log((1 - q) / q)
        assert (below <= exact + 1e-15).all()
        assert (above >= exact - 1e-15).all()
        assert (np.diff(below) <= 0).all()


def test_growth_integral_refuses_what_is_no_score() -> None:
    good = np.array([2.0, 1.0]), np.array([0.1, 0.3]), np.array([0.3, 0.5])
    for bad, message in (
        ((good[0][::-1], *good[1:]), "must not increase"),
        ((good[0], np.array([0.1, np.nan]), good[2]), "must be finite"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            GrowthIntegral(*bad, half_mean=0.5)
    with pytest.raises(InvalidArgumentError, match="half_mean must be positive"):
        GrowthIntegral(*good, half_mean=0.0)


@pytest.mark.parametrize("a", [50_001.0, 1_505_280.0])
def test_lower_gamma_is_accurate_where_scipys_is_not(a: float) -> None:
    """References by summing the series in 40 digits: terms u^n / ((a+1) ... (a+n))."""
    for deviations in (3.5, 6.0, 25.0):
        u = a - deviations * math.sqrt(a)
        value = float(lower_gamma(a, np.array(u)))
        term = total = mpf(1)
        n = 0
        while term > total * mpf("1e-20"):
            n += 1
            term *= mpf(u) / (a + n)
            total += term
        exact = mpmath.exp(a * mpmath.log(mpf(u)) - u - mpmath.loggamma(mpf(a) + 1)) * total
        assert abs(value / exact - 1) < mpf("1e-11")
