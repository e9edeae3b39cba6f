"""The limit of every additive noise: its numbers, its rounding, and that nothing exceeds it, laws or brute force."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from mpmath import mpf
from scipy.optimize import linprog

from smoothing import InvalidArgumentError, Laplace, SmoothingDistribution, UnsupportedNormError
from smoothing.distributions.table import LAWS, make_law
from smoothing.radius.impossibility import radius_upper_bound
from smoothing.threat import Norm

P = (0.5 + 1e-9, 0.51, 0.6, 0.7, 0.8, 0.9, 0.99, 1 - 1e-6, 1 - 1e-9)
PAIRS = ((0.6, 0.1), (0.6, 0.39), (0.9, 0.05), (0.45, 0.2), (0.3, 0.1), (0.3, 0.29), (0.01, 1e-3), (0.5, 0.3))


def some_laws(name: str, dimension: int) -> list[SmoothingDistribution]:
    """Laws of one family for every kind of shape parameters that it takes, as far as the dimension allows them."""
    names = LAWS[name].parameter_names()
    values: dict[str, tuple[float, ...]] = {
        "k": (1.0, 2.0, 10.0),
        "j": (0.0, dimension - 0.5),
        "a": (dimension + 3.0, 3.0, 2.0 * dimension + 50),
        "p": (0.5, 1.0, 4.0),
    }
    shapes = [key for key in values if key in names]
    found = []
    for chosen in itertools.product(*(values[key] for key in shapes)):
        try:
            law = make_law(name, (dimension,), sigma=1.0, **dict(zip(shapes, chosen, strict=True)))
        except InvalidArgumentError:
            continue  # for instance j >= d, or an exponent without a variance
        found.append(law)
    return found


# --- Numbers ----------------------------------------------------------------------------------------------------------


def test_values() -> None:
    p = np.array([0.51, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999])
    expected = np.array([0.034993, 0.3873, 0.89443, 1.5811, 2.2361, 7.0711, 22.361])
    for norm, factor in (("l1", 1.0), ("l2", 1.0), ("linf", 1 / math.sqrt(3072))):
        for sigma in (1.0, 0.25):
            bound = radius_upper_bound(p, norm, sigma=sigma, dimension=3072)
            assert bound == pytest.approx(sigma * factor * expected, rel=3e-5)
    assert radius_upper_bound(0.9, Norm.LINF, sigma=1.0, dimension=1) == pytest.approx(math.sqrt(5))


def test_the_bound_is_rounded_up_and_close() -> None:
    with mpmath.workdps(60):
        for q in (0.4999999999, 0.49, 0.25, 0.2, 1e-3, 1e-9, 1e-17, 1e-100, 1e-300, 5e-324):
            exact = min(1 / mpmath.sqrt(2 * mpf(q)), mpmath.sqrt(1.5) * (1 - 2 * mpf(q)) / mpmath.sqrt(mpf(q)))
            found = radius_upper_bound(0.5, "l2", sigma=0.7, dimension=5, q_upper=q)
            assert mpf(0.7) * exact <= found <= mpf(0.7) * exact * (1 + mpf(10) ** -11), q
        for p, r in (*PAIRS, (0.5 - 1e-12, 0.5 - 2e-12), (1e-9, 1e-12), (0.5, 1e-300)):
            share = mpf(r) / (mpf(p) + mpf(r))
            exact = min(1 / mpmath.sqrt(2 * share), mpmath.sqrt(1.5) * (1 - 2 * share) / mpmath.sqrt(share))
            found = radius_upper_bound(p, "linf", sigma=1.0, dimension=10, rival_upper=r)
            exact /= mpmath.sqrt(10)
            assert exact <= found <= exact * (1 + mpf(10) ** -11), (p, r)


def test_where_nothing_leads_the_bound_is_zero_and_where_all_agree_infinite() -> None:
    for p in (0.0, 0.3, 0.5):
        assert radius_upper_bound(p, "l2", sigma=1.0, dimension=3) == 0.0
        assert radius_upper_bound(p, "l2", sigma=1.0, dimension=3, rival_upper=p) == 0.0
    assert radius_upper_bound(1.0, "l1", sigma=1.0, dimension=3) == math.inf
    assert radius_upper_bound(0.5, "l1", sigma=1.0, dimension=3, rival_upper=0.0) == math.inf
    values = radius_upper_bound(np.linspace(0, 1, 101), "l1", sigma=1.0, dimension=3)
    assert (np.diff(values[50:]) > 0).all()
    assert values.shape == (101,)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"p_lower": math.nan}, InvalidArgumentError, r"p_lower must be in \[0, 1\]"),
        ({"q_upper": -0.1}, InvalidArgumentError, r"q_upper must be in \[0, 1\]"),
        ({"rival_upper": 1.1}, InvalidArgumentError, r"rival_upper must be in \[0, 1\]"),
        ({"sigma": 0.0}, InvalidArgumentError, "sigma must be positive and finite, got sigma=0.0"),
        ({"sigma": math.inf}, InvalidArgumentError, "sigma must be positive and finite"),
        ({"sigma": math.nan}, InvalidArgumentError, "sigma must be positive and finite"),
        ({"dimension": 0}, InvalidArgumentError, "dimension must be at least 1, got dimension=0"),
        ({"norm": "l0"}, UnsupportedNormError, "l1, l2 and linf, got norm=l0"),
        ({"norm": "l7"}, InvalidArgumentError, "norm must be one of"),
    ],
)
def test_bad_arguments(changes: dict[str, object], kind: type[Exception], message: str) -> None:
    arguments = {"p_lower": 0.9, "norm": "l2", "sigma": 1.0, "dimension": 3, **changes}
    with pytest.raises(kind, match=message):
        radius_upper_bound(arguments.pop("p_lower"), arguments.pop("norm"), **arguments)  # type: ignore[call-overload]


# --- Nothing exceeds it -----------------------------------------------------------------------------------------------


COSTLY = {"exp_two", "pow_two"}
"""Laws whose radii are level sets: the first takes seconds, whence one example each."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COSTLY & set(LAWS)))
def test_a_radius_from_level_sets_lies_below(name: str) -> None:
    shapes = {"exp_two": {"k": 1.0}, "pow_two": {"k": 2.0, "a": 1544.0}}[name]
    radii = make_law(name, (3072,), sigma=1.0, **shapes).radius(np.array(P), "l2")
    assert (radii <= radius_upper_bound(np.array(P), "l2", sigma=1.0, dimension=3072)).all()
    assert radii[P.index(0.9)] > 0.5


@pytest.mark.parametrize("dimension", [1, 2, 5, 3072])
@pytest.mark.parametrize("name", sorted(set(LAWS) - COSTLY))
def test_every_radius_of_every_law_lies_below(name: str, dimension: int) -> None:
    laws = some_laws(name, dimension)
    assert laws, "no example of this law could be built"
    for law in laws:
        assert law.sigma is not None
        for norm in law.norms:
            limits = {"sigma": law.sigma, "dimension": dimension}
            radii = law.radius(np.array(P), norm)
            assert (radii <= radius_upper_bound(np.array(P), norm, **limits)).all(), (law, norm, radii)  # type: ignore[arg-type]
            for p, rival in PAIRS:
                radius = law.radius(p, norm, rival_upper=rival)
                assert radius <= radius_upper_bound(p, norm, rival_upper=rival, **limits), (law, norm, p, rival)  # type: ignore[arg-type]


def test_the_check_notices_a_radius_above_the_limit() -> None:
    law = Laplace((1,), sigma=1.0)
    assert 3.0 * law.radius(0.51, "l1") > radius_upper_bound(0.51, "l1", sigma=1.0, dimension=1)


def test_uniform_noise_comes_close_at_l1() -> None:
    """So that the bound cannot be lowered by more than 1 % near p = 1/2."""
    law = make_law("uniform", (3072,), sigma=1.0)
    assert law.radius(0.51, "l1") > 0.989 * radius_upper_bound(0.51, "l1", sigma=1.0, dimension=3072)


def neyman_pearson(before: np.ndarray, after: np.ndarray, p: float) -> float:
    """The least probability after the shift of a randomised set that had probability p before."""
    with np.errstate(divide="ignore", invalid="ignore"):
        order = np.argsort(np.where(before > 0, after / before, np.inf))
    share, mass = before[order], after[order]
    taken = np.clip((p - np.concatenate([[0.0], np.cumsum(share)[:-1]])) / np.where(share > 0, share, 1.0), 0.0, 1.0)
    return float((taken * mass * (share > 0)).sum())


def certified_steps(law: np.ndarray, p: float) -> int:
    """The largest shift, in steps of the grid and to both sides, after which every set of probability p keeps 1/2."""
    for step in range(1, len(law)):
        here, there = np.pad(law, (0, step)), np.pad(law, (step, 0))
        if min(neyman_pearson(here, there, p), neyman_pearson(there, here, p)) < 0.5 - 1e-12:
            return step - 1
    return len(law) - 1


def grid_laws() -> dict[str, np.ndarray]:
    """One-dimensional laws on a fine grid, even and skewed ones."""
    x = np.arange(600.0)
    random = np.random.default_rng(20261125)
    laws = {
        "uniform": np.ones(400),
        "exponential, one-sided": np.exp(-x / 60),
        "geometric, one-sided": np.where(x % 40 == 0, 0.8 ** (x / 40), 0.0),
        "triangle, one-sided": 600 - x,
        "gaussian": np.exp(-0.5 * ((x - 300) / 70) ** 2),
        "laplace": np.exp(-np.abs(x - 300) / 50),
        "two lumps and a floor": 1.0 + 20.0 * ((x < 40) | (x > 560)),
        "skewed steps": np.where(x < 100, 5.0, np.where(x < 300, 2.0, 1.0)),
    }
    for i in range(12):
        laws[f"random {i}"] = np.convolve(random.gamma(0.3, size=60), np.hanning(41)).clip(1e-9)
    return {name: law / law.sum() for name, law in laws.items()}


@pytest.mark.parametrize("p", [0.52, 0.6, 0.7, 0.75, 0.8, 0.9, 0.97])
def test_brute_force_certificates_lie_below(p: float) -> None:
    """Exact Neyman-Pearson certificates of even and of skewed laws; for skewed ones the total variation may exceed t."""
    closest = 0.0
    for name, law in grid_laws().items():
        x = np.arange(len(law))
        sigma = math.sqrt(float(law @ x**2) - float(law @ x) ** 2)
        shift = certified_steps(law, p)
        bound = radius_upper_bound(p, "l2", sigma=sigma, dimension=1)
        assert shift <= bound, name
        closest = max(closest, (shift + 1) / bound)
    assert closest > 0.45  # the tests could not be passed by a bound that is merely huge


def least_second_moment(shift: int, p: float, support: int) -> float:
    """The least second moment of a law on a grid of which all half-lines keep what a certificate at p asks for.

    A linear program over the law, for the supporting lines (1) and (2) of the proof with slopes k and m, and the least
    over a grid of slopes. The moment is about the middle of the grid, where a law of little variance can be moved to.
    """
    q = 1 - p
    best = math.inf
    x = np.arange(support) - (support - 1) / 2
    below = np.tril(np.ones((support, support)))
    F = np.concatenate([below, np.ones((shift, support))])
    b = np.concatenate([np.zeros((shift, support)), below])
    for k, m in itertools.product(np.geomspace(1 / (2 * p), 1 / (2 * q), 7), np.geomspace(2 * q, 2 * p, 7)):
        if k < m:
            continue
        rows = np.concatenate([F - k * b, F - m * b])
        limits = np.concatenate([np.full(len(F), 0.5 - k * q), np.full(len(F), p - m / 2)])
        found = linprog(x**2, A_ub=rows, b_ub=limits, A_eq=np.ones((1, support)), b_eq=[1.0])
        if found.status == 0:
            best = min(best, float(found.fun))
    return best


@pytest.mark.parametrize("p", [0.6, 0.7])
def test_no_law_on_a_grid_has_less_variance_than_the_proof_allows(p: float) -> None:
    shift = 4
    least = least_second_moment(shift, p, 61)
    assert math.isfinite(least)
    assert shift <= radius_upper_bound(p, "l2", sigma=math.sqrt(least), dimension=1)
    assert shift >= 0.5 * radius_upper_bound(p, "l2", sigma=math.sqrt(least), dimension=1)
