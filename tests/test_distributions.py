"""Every smoothing law: radii against 40-digit arithmetic, and the public suite, which must notice whatever is wrong."""

import bisect
import importlib
import math
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mpf
from scipy.special import betainccinv, ndtr, ndtri

import smoothing.distributions
from smoothing import (
    Exp1,
    Exp2,
    ExpInf,
    Expp,
    Gaussian,
    InvalidArgumentError,
    Laplace,
    Norm,
    Pareto,
    Pow2,
    PowInf,
    SmoothingDistribution,
    Uniform,
    UniformBall,
    UnsupportedNormError,
)
from smoothing.distributions import table
from smoothing.distributions.base import checked_shape
from smoothing.rounding import complement_down
from smoothing.testing import ATTACKED, FALSE_ALARM, check_distribution

mpmath.mp.dps = 40


@cache
def normal_tail_quantile(q: mpf) -> mpf:
    """x >= 0 with P(N(0, 1) > x) = q, for 0 < q <= 1/2, by Newton's method on the logarithm of the tail."""
    return mpmath.findroot(
        lambda x: mpmath.log(mpmath.erfc(x / mpmath.sqrt(2)) / (2 * q)), mpmath.sqrt(-2 * mpmath.log(2 * q))
    )


@cache
def sign_sum_pieces(dimension: int) -> list[tuple[int, mpf, mpf, mpf]]:
    """(s, P(S >= s), Phi there, R there) for the positive values of a sum S of fair signs, outwards from the centre."""
    with mpmath.workdps(60):
        heads = dimension // 2 + 1
        mass = [
            mpmath.exp(
                mpmath.loggamma(dimension + 1) - mpmath.loggamma(heads + 1) - mpmath.loggamma(dimension - heads + 1)
            )
            / mpf(2) ** dimension
        ]
        while heads + len(mass) <= dimension and mass[-1] > mpf("1e-400"):
            last = heads + len(mass) - 1
            mass.append(mass[-1] * (dimension - last) / (last + 1))
        tails, total = [], mpf(0)
        for value in reversed(mass):
            total += value
            tails.append(total)
        tails.reverse()
        radius = mpf(0) if dimension % 2 else mpf(1) / dimension
        pieces = []
        for i, (value, tail) in enumerate(zip(mass, tails, strict=True)):
            b = heads + i
            pieces.append((2 * b - dimension, tail, b * value, radius))
            radius += mpmath.log(mpf(b) / (dimension - b)) / (2 * b - dimension) if b < dimension else 0
        return pieces


def laplace_linf(dimension: int, q: mpf) -> mpf:
    """The exact radius of Laplace noise of scale 1 at linf: an integral of 1 / Phi, Phi piecewise linear."""
    pieces = sign_sum_pieces(dimension)
    if q > pieces[0][1]:
        return (mpf(1) / 2 - q) / pieces[0][2]
    i = bisect.bisect_right(pieces, -q, key=lambda piece: -piece[1]) - 1
    s, _, level, radius = pieces[i]
    below = (pieces[i + 1][1], pieces[i + 1][2]) if i + 1 < len(pieces) else (mpf(0), mpf(0))
    return radius + mpmath.log(level / (below[1] + s * (q - below[0]))) / s


@cache
def laplace_radius(dimension: int, q: mpf, norm: Norm) -> mpf:
    """The radius for scale 1; at l2 the integral of 1 / min(1/2, p sqrt(2 log 1/p)), the change-over being a root."""
    if norm is Norm.L1:
        return -mpmath.log(2 * q)
    if norm is Norm.LINF:
        return laplace_linf(dimension, q)
    change = mpmath.findroot(lambda t: t * mpmath.sqrt(-2 * mpmath.log(t)) - mpf(1) / 2, 0.34)
    if q >= change:
        return 1 - 2 * q
    return 1 - 2 * change + mpmath.sqrt(-2 * mpmath.log(q)) - mpmath.sqrt(-2 * mpmath.log(change))


def uniform_radius(dimension: int, q: mpf, norm: Norm) -> mpf:
    """The radius for half_width 1, from the overlap of two cubes."""
    if norm is Norm.L1:
        return 1 - 2 * q
    corner = 2 * (1 - (mpf(1) / 2 + q) ** (mpf(1) / dimension))
    return corner * mpmath.sqrt(dimension) if norm is Norm.L2 else corner


@dataclass(frozen=True)
class Row:
    """One law: norms with a tight radius, and the one-sided radius at 1 - p = q <= 1/2 in exact arithmetic."""

    family: type[SmoothingDistribution]
    tight: tuple[str, ...]
    exact: Callable[[Any, mpf, Norm], mpf]
    scale: Callable[[mpf], mpf]
    at_one: Callable[[Norm, int], float]  # radius at p = 1, in units of the scale, by norm and dimension
    flow: bool = True  # whether a pair's radius is the mean of both one-sided ones; else it is the one at half its lead


LAWS = (
    Row(
        Gaussian,
        ("l1", "l2", "linf"),
        lambda law, q, norm: (
            mpf(law.sigma) * normal_tail_quantile(q) / (mpmath.sqrt(law.dimension) if norm is Norm.LINF else 1)
        ),
        lambda sigma: sigma,
        lambda norm, d: math.inf,
    ),
    Row(
        Laplace,
        ("l1",),
        lambda law, q, norm: mpf(law.scale) * laplace_radius(law.dimension, q, norm),
        lambda sigma: sigma / mpmath.sqrt(2),
        lambda norm, d: math.inf,
    ),
    Row(
        Uniform,
        ("l1", "l2", "linf"),
        lambda law, q, norm: mpf(law.half_width) * uniform_radius(law.dimension, q, norm),
        lambda sigma: sigma * mpmath.sqrt(3),
        lambda norm, d: float(uniform_radius(d, mpf(0), norm)),
        flow=False,
    ),
)
# The laws of tests/test_radius_shapes.py and tests/test_radius_level_set.py.
TESTED_ELSEWHERE = {Exp1, ExpInf, Expp, Pareto, PowInf, UniformBall, Exp2, Pow2}
PAIRS = [(row, norm) for row in LAWS for norm in sorted(row.family.norms, key=str)]


def pair_id(value: object) -> str:
    return value.family.name if isinstance(value, Row) else str(value)


def growth(row: Row, law: SmoothingDistribution, p: mpf, norm: Norm) -> mpf:
    """G(p), odd about 1/2."""
    return row.exact(law, 1 - p, norm) if p >= mpf(1) / 2 else -row.exact(law, p, norm)


def test_every_law_is_listed() -> None:
    for module in pkgutil.walk_packages(smoothing.distributions.__path__, "smoothing.distributions."):
        importlib.import_module(module.name)
    found, queue = set(), [SmoothingDistribution]
    while queue:
        family = queue.pop()
        queue += family.__subclasses__()
        if family.__module__.startswith("smoothing.") and not family.__abstractmethods__:
            found.add(family)
    assert found == {row.family for row in LAWS} | TESTED_ELSEWHERE
    assert set(table.LAWS.values()) == found
    assert all(name == family.name for name, family in table.LAWS.items())


# --- Radii ------------------------------------------------------------------------------------------------------------

P_LOWER = (0.5 + 1e-9, 0.51, 0.6, 0.8, 0.9, 0.99, 1 - 1e-6, 1 - 1e-9)
Q_UPPER = (0.4999999, 0.3, 1e-3, 1e-9, 1e-12, 1e-16, 1e-17, 1e-30, 1e-100, 1e-300)


@pytest.mark.parametrize("dimension", [1, 2, 3, 784, 3072, 150528])
@pytest.mark.parametrize(("row", "norm"), PAIRS, ids=pair_id)
def test_one_sided_radius_is_never_above_and_close_below_exact_arithmetic(row: Row, norm: Norm, dimension: int) -> None:
    for sigma in (0.12, 1.0, 7.3):
        law = row.family((dimension,), sigma=sigma)
        claims = [(mpf(1) - mpf(p), law.radius(p, norm)) for p in P_LOWER]
        claims += [(mpf(q), law.radius(complement_down(q), norm, q_upper=q)) for q in Q_UPPER]
        # The caller's p_lower may be nothing but 1.0, or nothing at all.
        claims += [(mpf(q), law.radius(p, norm, q_upper=q)) for q in Q_UPPER for p in (0.5, 1.0)]
        for q, claimed in claims:
            exact = row.exact(law, q, norm)
            assert mpf(claimed) <= exact, (sigma, q)
            assert exact - mpf(claimed) <= exact * mpf("1e-9"), (sigma, q)


@pytest.mark.parametrize("dimension", [1, 3072, 150528])
@pytest.mark.parametrize(("row", "norm"), PAIRS, ids=pair_id)
def test_two_sided_radius_is_never_above_and_close_below_exact_arithmetic(row: Row, norm: Norm, dimension: int) -> None:
    law = row.family((dimension,), sigma=0.5)
    pairs = [
        (0.6, 0.1),
        (0.6, 0.4 - 1e-9),
        (0.9, 0.05),
        (0.99, 1e-12),
        (1 - 1e-9, 1e-300),
        (0.5, 0.3),
        (0.45, 0.3),
        (0.3, 0.1),
        (0.3, 0.3 - 1e-9),
        (0.3, 1e-300),
        (1e-3, 1e-4),
        (1e-6, 1e-9),
        (1e-10, 1e-12),
        (np.nextafter(0.5, 0), 0.25),
        (0.5 + 1e-9, 0.5 - 1.1e-9),
    ]
    for p, rival in pairs:
        top, runner_up = growth(row, law, mpf(p), norm), growth(row, law, mpf(rival), norm)
        exact = (top - runner_up) / 2 if row.flow else row.exact(law, (1 - mpf(p) + mpf(rival)) / 2, norm)
        claimed = mpf(law.radius(p, norm, rival_upper=rival))
        assert claimed <= exact, (p, rival)
        assert exact - claimed <= mpf("1e-9") * exact + mpf("1e-11") * (abs(top) + abs(runner_up)), (p, rival)
        assert claimed > 0
    deep = law.radius(1.0, norm, q_upper=1e-20, rival_upper=1e-22)
    exact = (row.exact(law, mpf(1e-20), norm) + row.exact(law, mpf(1e-22), norm)) / 2
    if not row.flow:
        exact = row.exact(law, (mpf(1e-20) + mpf(1e-22)) / 2, norm)
    assert mpf(0.999999999) * exact <= mpf(deep) <= exact


def test_two_sided_radius_of_laplace_beats_the_published_formula() -> None:
    """At .6 against .1 and .9 against .05: more than max(log(pA / pB) / 2, -log(1 - pA + pB)) of Teng et al. 2019."""
    law = Laplace((3072,), scale=1.0)
    for p, rival, expected in ((0.6, 0.1, 0.9163), (0.9, 0.05, 1.956)):
        radius = law.radius(p, "l1", rival_upper=rival)
        assert radius == pytest.approx(expected, abs=5e-4)
        assert radius > max(0.5 * math.log(p / rival), -math.log(1 - p + rival))
    assert law.radius(0.45, "l1", rival_upper=0.15) == pytest.approx(0.5 * math.log(3), rel=1e-9)


@pytest.mark.parametrize(
    ("law", "norm", "published"),
    [
        (Gaussian, "l2", (0.2533471, 0.8416212, 1.281552, 2.326348)),
        (Gaussian, "l1", (0.2533471, 0.8416212, 1.281552, 2.326348)),
        (Gaussian, "linf", (0.004570938, 0.0151847, 0.023122, 0.04197242)),
        (Laplace, "l1", (0.1577863, 0.6479154, 1.138044, 2.766218)),
        (Laplace, "l2", (0.1414214, 0.4562534, 0.7050443, 1.333583)),
        (Laplace, "linf", (0.003232231, 0.01073757, 0.01635041, 0.02968125)),
        (Uniform, "l1", (0.3464102, 1.03923, 1.385641, 1.69741)),
        (Uniform, "l2", (0.006584919, 0.02229089, 0.03192395, 0.04207942)),
        (Uniform, "linf", (0.0001188064, 0.0004021766, 0.0005759781, 0.0007592052)),
    ],
)
def test_reference_table_at_dimension_3072(
    law: type[SmoothingDistribution], norm: str, published: tuple[float, ...]
) -> None:
    radii = law((3, 32, 32), sigma=1.0).radius(np.array([0.6, 0.8, 0.9, 0.99]), norm)
    assert radii == pytest.approx(published, rel=1e-6)


@pytest.mark.parametrize(("row", "norm"), PAIRS, ids=pair_id)
def test_certain_top_class_has_the_proved_limit(row: Row, norm: Norm) -> None:
    law = row.family((4,), sigma=0.5)
    limit = row.at_one(norm, 4) * float(row.scale(mpf(0.5)))
    assert law.radius(1.0, norm) == pytest.approx(limit, rel=1e-9)
    assert law.radius(1.0, norm) <= limit
    assert law.radius(1.0, norm, q_upper=0.0, rival_upper=0.0) == law.radius(1.0, norm)


@pytest.mark.parametrize(("row", "norm"), PAIRS, ids=pair_id)
def test_nothing_is_certified_without_a_majority(row: Row, norm: Norm) -> None:
    law = row.family((4,), sigma=0.5)
    for p in (0.0, 1e-300, 0.3, 0.5 - 1e-12, 0.5):
        assert law.radius(p, norm) == 0.0
        assert law.radius(p, norm, rival_upper=p) == 0.0
        assert law.radius(p, norm, q_upper=1 - p) == 0.0
    assert law.radius(0.0, norm, rival_upper=0.0) == 0.0


@pytest.mark.parametrize(("row", "norm"), PAIRS, ids=pair_id)
@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1, math.inf, -1e-300])
def test_bad_probabilities_are_refused(row: Row, norm: Norm, bad: float) -> None:
    law = row.family((4,), sigma=0.5)
    with pytest.raises(InvalidArgumentError, match=r"p_lower must be in \[0, 1\]"):
        law.radius(bad, norm)
    with pytest.raises(InvalidArgumentError, match=r"p_lower must be in \[0, 1\]"):
        law.radius(np.array([0.6, bad]), norm)
    with pytest.raises(InvalidArgumentError, match=r"q_upper must be in \[0, 1\]"):
        law.radius(0.6, norm, q_upper=bad)
    with pytest.raises(InvalidArgumentError, match=r"rival_upper must be in \[0, 1\]"):
        law.radius(0.6, norm, rival_upper=bad)


@pytest.mark.parametrize("row", LAWS, ids=pair_id)
def test_unproved_norms_are_refused_with_the_list_of_proved_ones(row: Row) -> None:
    law = row.family((4,), sigma=0.5)
    for norm in set(Norm) - law.norms:
        with pytest.raises(
            UnsupportedNormError, match="proved norms: " + ", ".join(sorted(n.value for n in law.norms))
        ):
            law.radius(0.9, norm)
    with pytest.raises(InvalidArgumentError, match="norm must be one of l0, l1, l2, linf"):
        law.radius(0.9, "l3")


# --- Construction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", LAWS, ids=pair_id)
def test_sigma_and_own_scale_agree(row: Row) -> None:
    by_sigma = row.family((2, 3), sigma=0.5)
    scale = getattr(by_sigma, row.family.scale_name)
    assert scale == pytest.approx(float(row.scale(mpf(0.5))), rel=1e-14)
    by_scale = row.family((2, 3), **{row.family.scale_name: scale})
    assert by_scale.sigma == pytest.approx(0.5, rel=1e-14)
    assert by_scale.identity == by_sigma.identity
    assert by_sigma.dimension == 6
    assert table.rebuild_law(by_sigma.describe()).identity == by_sigma.identity
    assert table.make_law(row.family.name, (2, 3), sigma=0.5) == by_sigma


@pytest.mark.parametrize("row", LAWS, ids=pair_id)
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_bad_scales_are_refused(row: Row, value: float) -> None:
    for key in {"sigma", row.family.scale_name}:
        with pytest.raises(InvalidArgumentError, match=f"{key} must be positive and finite, got {key}="):
            row.family((2,), **{key: value})


@pytest.mark.parametrize("row", LAWS, ids=pair_id)
def test_scale_must_be_given_exactly_once(row: Row) -> None:
    with pytest.raises(InvalidArgumentError, match=r"needs sigma|exactly one of sigma and"):
        row.family((2,))
    if row.family.scale_name != "sigma":
        with pytest.raises(InvalidArgumentError, match="exactly one of sigma and"):
            row.family((2,), sigma=1.0, **{row.family.scale_name: 1.0})


@pytest.mark.parametrize("row", LAWS, ids=pair_id)
@pytest.mark.parametrize("shape", [(), (0,), (3, -1)])
def test_bad_shapes_are_refused(row: Row, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="shape must name at least one axis, each of size 1 or more"):
        row.family(shape, sigma=1.0)


@pytest.mark.parametrize(
    "shape",
    [3, "3", ("3",), (2.5,), (True,), (None,), {3}, [[3]], np.array(3), np.array([1.5]), np.array([[1, 2]]), None],
    ids=str,
)
def test_shapes_that_are_no_integers_are_refused(shape: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="shape must be a sequence of integers"):
        checked_shape(shape)


@pytest.mark.parametrize("shape", [[3, 2], torch.Size([3, 2]), np.array([3, 2]), (np.int64(3), np.uint8(2))], ids=str)
def test_shapes_are_any_sequence_of_integers(shape: Any) -> None:
    found = checked_shape(shape)
    assert found == (3, 2)
    assert [type(size) for size in found] == [int, int]


def test_what_types_would_forbid_is_refused_where_they_are_not_checked() -> None:
    """In these tests a wrong type does not get as far as the message that users see."""
    script = (
        "import numpy as np, torch\n"
        "from smoothing import Gaussian, InvalidArgumentError, UniformBall, Pareto\n"
        "law = Gaussian(np.array([3, 2]), sigma=0.5)\n"
        "assert law == Gaussian((3, 2), sigma=0.5)\n"
        "assert UniformBall(torch.Size([3, 2]), sigma=1).shape == Pareto([3, 2], sigma=1, a=3).shape == (3, 2)\n"
        "assert law.radius(torch.tensor(0.75, requires_grad=True), 'l2') == law.radius(0.75, 'l2')\n"
        "assert law.radius(torch.tensor([0.75], dtype=torch.bfloat16), 'l2') == law.radius(0.75, 'l2')\n"
        "wrong = [lambda c=c, s=s: c(s, sigma=1.0) for c in (Gaussian, UniformBall) for s in (3, ('3',), (2.5,), (True,))]\n"
        "wrong += [lambda s=s: Pareto(s, sigma=1.0, a=3) for s in (3, ('3',), (2.5,), (True,))]\n"
        "wrong += [lambda p=p: law.radius(p, 'l2') for p in (True, '0.9', None, [0.9, 'x'], torch.tensor([True]))]\n"
        "wrong += [lambda p=p: law.radius(0.9, 'l2', q_upper=p) for p in (True, '0.1')]\n"
        "wrong += [lambda: Gaussian((3,), sigma=10**400)]\n"
        "for call in wrong:\n"
        "    try:\n"
        "        print('accepted', call())\n"
        "    except InvalidArgumentError as error:\n"
        "        assert ' must be ' in str(error) and ', got ' in str(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


EVERY: tuple[SmoothingDistribution, ...] = (
    *(family((3,), sigma=0.5) for family in (Gaussian, Laplace, Uniform, UniformBall)),
    *(family((3,), sigma=0.5, k=2.0) for family in (Exp1, Exp2, ExpInf)),
    Expp((3,), sigma=0.5, p=1.5),
    Pareto((3,), sigma=0.5, a=3.0),
    Pow2((3,), sigma=0.5, k=2.0, a=5.0),
    PowInf((3,), sigma=0.5, a=6.0),
)


def test_every_law_is_asked_for_what_it_refuses() -> None:
    assert {type(law) for law in EVERY} == set(table.LAWS.values())


@pytest.mark.parametrize("law", EVERY, ids=lambda law: law.name)
def test_noise_of_another_shape_or_kind_has_no_density(law: Any, untyped: None) -> None:
    """It would be the density of another law, and look like that of this one."""
    assert law.log_density(torch.zeros(2, 3)).shape == (2,)
    assert law.log_density(torch.zeros(0, 3)).shape == (0,)
    for noise in (torch.zeros(2, 4), torch.zeros(3), torch.zeros(2, 1), torch.zeros(2, 3, 1), torch.zeros(())):
        with pytest.raises(InvalidArgumentError, match=r"noise must have shape \(batch, 3\), got \("):
            law.log_density(noise)
    for wrong, kind in (
        (np.zeros((2, 3)), "ndarray"),
        ([[0.0] * 3], "list"),
        (torch.zeros(2, 3).long(), "torch.int64"),
    ):
        with pytest.raises(InvalidArgumentError, match=f"noise must be a floating-point torch.Tensor, got .*{kind}"):
            law.log_density(wrong)


@pytest.mark.parametrize("law", EVERY, ids=lambda law: law.name)
def test_what_cannot_be_drawn_is_refused(law: Any, untyped: None) -> None:
    generator = torch.Generator()
    assert law.sample(np.int64(2), generator=generator).shape == (2, 3)
    assert law.sample(0, generator=generator).shape == (0, 3)
    for n in (-1, 2.0, True, "2", None):
        with pytest.raises(InvalidArgumentError, match="n must be an integer of at least 0, got n="):
            law.sample(n, generator=generator)
    for dtype in (torch.int32, torch.bool, torch.complex64, "float32"):
        with pytest.raises(InvalidArgumentError, match="dtype must be a floating-point dtype of torch, got dtype="):
            law.sample(2, generator=generator, dtype=dtype)
    with pytest.raises(InvalidArgumentError, match=r"generator must be a torch.Generator, got Generator"):
        law.sample(2, generator=np.random.default_rng(0))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8])
def test_scales_are_numbers_of_any_width(kind: Any, untyped: None) -> None:
    """Bounds that a narrow number cannot hold are not bounds of it."""
    value = kind(1)
    law: Any = Gaussian((3,), sigma=value)
    assert law == Gaussian((3,), sigma=1.0)
    assert type(law.sigma) is float


@pytest.mark.parametrize("row", LAWS, ids=pair_id)
@pytest.mark.parametrize("value", [1e308, 1.1e150, 9e-151, 5e-324])
def test_scales_at_the_ends_of_float64_are_refused(row: Row, value: float) -> None:
    for key in {"sigma", row.family.scale_name}:
        with pytest.raises(InvalidArgumentError) as refused:
            row.family((3,), **{key: value})
        assert f"{key} must be in [1e-150, 1e+150]" in str(refused.value)
        assert f"got {key}={value};" in str(refused.value)


@pytest.mark.parametrize("row", LAWS, ids=pair_id)
@pytest.mark.parametrize("value", [1e-150, 1e150])
def test_radii_are_proportional_to_the_scale_up_to_its_bounds(row: Row, value: float) -> None:
    p = np.array([0.5, 0.6, 0.9, 0.999])
    for key in {"sigma", row.family.scale_name}:
        for norm in sorted(row.family.norms, key=str):
            radii = row.family((3,), **{key: value}).radius(p, norm)
            np.testing.assert_allclose(radii / value, row.family((3,), **{key: 1.0}).radius(p, norm), rtol=1e-9)


def test_probabilities_must_fit_together() -> None:
    law = Gaussian((2,), sigma=0.5)
    for others in ({"q_upper": np.full(3, 0.1)}, {"rival_upper": np.full(3, 0.1)}):
        with pytest.raises(InvalidArgumentError, match=r"broadcast against each other, got .*2.*3"):
            law.radius(np.full(2, 0.9), "l2", **others)


def test_unknown_laws_and_parameters_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"noise must be one of .*gaussian, laplace, .*uniform"):
        table.make_law("cauchy", (2,), sigma=1.0)
    with pytest.raises(InvalidArgumentError, match="half_width"):
        table.make_law("laplace", (2,), half_width=1.0)


def test_laws_that_differ_have_different_identities() -> None:
    laws = [
        family(shape, sigma=sigma)
        for family in (Gaussian, Laplace, Uniform)
        for shape in ((4,), (2, 2), (4, 1))
        for sigma in (0.5, 0.5000000000000001, 1.0)
    ]
    assert len({law.identity for law in laws}) == len(laws)


# --- Samplers ---------------------------------------------------------------------------------------------------------


def test_laplace_tail_is_not_cut_where_float32_uniforms_end() -> None:
    """With 24 bits |z| would end at -log(2^-24) = 16.64; of 4e7 draws, 2.4 are expected beyond (the seed is fixed)."""
    law = Laplace((1_000_000,), scale=1.0)
    generator = torch.Generator().manual_seed(5)
    largest = max(float(law.sample(1, generator=generator).abs().max()) for _ in range(40))
    assert largest > 16.7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_uniform_and_laplace_never_draw_what_is_no_noise(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    uniform = Uniform((1000,), half_width=1.0).sample(1000, generator=generator, dtype=dtype)
    assert float(uniform.abs().max()) <= 1.0
    laplace = Laplace((1000,), scale=1.0).sample(1000, generator=generator, dtype=dtype)
    assert bool(torch.isfinite(laplace).all())
    assert bool((laplace != 0).all())
    assert uniform.dtype == laplace.dtype == dtype


# --- The public suite -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("row", LAWS, ids=pair_id)
def test_law_passes_the_public_suite(row: Row, shape: tuple[int, ...]) -> None:
    many = math.prod(shape) <= 3
    report = check_distribution(
        row.family(shape, sigma=0.5),
        tight=row.tight,
        samples=1_000_000 if many else 300_000,
        inflation=0.02 if many else 0.04,
    )
    assert len(report.attacks) == len(row.family.norms) * (1 if shape == (1,) else 3) * len(ATTACKED)
    for norm in row.tight:
        gaps = [attack.gap for attack in report.attacks if str(attack.norm) == norm and attack.p == ATTACKED[-1]]
        assert min(abs(gap) for gap in gaps) < 0.003
    assert report.variance_ratio == pytest.approx(1.0, abs=0.01)
    if many:
        assert report.mass == pytest.approx(1.0, abs=0.05)


def test_report_shows_where_a_radius_is_tight_and_where_not() -> None:
    """Gaussian noise in two dimensions: l1 is tight along the axes only, linf at the corners only, l2 everywhere."""
    report = check_distribution(Gaussian((2,), sigma=1.0), tight=["l2"], samples=250_000, inflation=0.05, seed=3)
    gap = {(str(a.norm), a.direction): a.gap for a in report.attacks if a.p == ATTACKED[-1]}
    for tight in (("l1", "axis"), ("linf", "corner"), ("l2", "axis"), ("l2", "corner"), ("l2", "random")):
        assert abs(gap[tight]) < 0.004
    p = NormalDist()
    # A shift of norm R moves by R / sqrt(2) only: the loss is p - Phi(Phi^-1(p) / sqrt(2)).
    expected = ATTACKED[-1] - p.cdf(p.inv_cdf(ATTACKED[-1]) / math.sqrt(2))
    assert gap["l1", "corner"] == pytest.approx(expected, abs=0.004)
    assert gap["linf", "axis"] == pytest.approx(expected, abs=0.004)


def test_report_is_a_function_of_the_seed() -> None:
    first, again, other = (
        check_distribution(Laplace((2,), sigma=1.0), samples=20_000, seed=seed) for seed in (5, 5, 6)
    )
    assert first == again != other


@pytest.mark.parametrize("row", LAWS, ids=pair_id)
def test_power_of_the_attack_is_above_99_percent(row: Row) -> None:
    """How often is a tight radius that is 2 % too large found out? Simulated from the law of the counts alone.

    The worst set is a half-line {z < t}. The suite puts t where a margin less than half of n shifted samples lie below
    it: an order statistic, of Beta law. Of n fresh samples, those below t - r are the shifted ones that the set holds,
    and those below t are the ones that it holds at the origin.
    """
    n, p, inflation, repetitions = 1_200_000, ATTACKED[-1], 1.02, 40_000
    cdf, quantile, radius = {
        Gaussian: (ndtr, ndtri, ndtri),
        Laplace: (
            lambda x: np.where(x < 0, 0.5 * np.exp(-np.abs(x)), 1 - 0.5 * np.exp(-np.abs(x))),
            lambda u: np.where(u < 0.5, np.log(2 * u), -np.log(2 * (1 - u))),
            lambda p: -np.log(2 * (1 - p)),
        ),
        Uniform: (lambda x: np.clip((x + 1) / 2, 0, 1), lambda u: 2 * u - 1, lambda p: 2 * p - 1),
    }[row.family]
    level = FALSE_ALARM / 2 / (len(row.family.norms) * 3 * 8)
    margin = (-ndtri(level) + 5.2) * 0.5 / math.sqrt(n)
    shift = inflation * radius(p)
    rng = np.random.default_rng(11)
    wanted = round((0.5 - margin) * n)
    moved = rng.beta(wanted, n - wanted + 1, size=repetitions)
    origin = cdf(quantile(moved) + shift)
    there = rng.binomial(n, moved)
    here = there + rng.binomial(n - there, (origin - moved) / (1 - moved))
    below_half = betainccinv(there + 1, n - there, level) < 0.5
    claimed = inflation * radius(1 - betainccinv(n - here + 1, here, level))
    power = np.mean(below_half & (claimed >= shift))
    assert power > 0.99 + 4 * math.sqrt(0.01 * 0.99 / repetitions)


class _WideSampler(Gaussian):
    """Draws with 1 % too much sigma."""

    def sample(self, n: int, **options: Any) -> torch.Tensor:
        return super().sample(n, **options) * 1.01


class _Shifted(Gaussian):
    def sample(self, n: int, **options: Any) -> torch.Tensor:
        return super().sample(n, **options) + 0.01


class _WrongFamily(Gaussian):
    """Draws Gaussian noise, but speaks about Laplace noise of the same variance."""

    def log_density(self, noise: torch.Tensor) -> torch.Tensor:
        return Laplace(self.shape, sigma=self.sigma).log_density(noise)


class _Dependent(Gaussian):
    """Every coordinate is right, but all are the same."""

    def sample(self, n: int, **options: Any) -> torch.Tensor:
        return super().sample(n, **options)[:, :1].repeat(1, self.dimension)


class _Unnormalised(Gaussian):
    def log_density(self, noise: torch.Tensor) -> torch.Tensor:
        return super().log_density(noise) + 0.1


class _Uneven(Gaussian):
    def log_density(self, noise: torch.Tensor) -> torch.Tensor:
        return super().log_density(noise) + 1e-3 * noise.double().flatten(1).sum(1)


class _SinglePrecisionDensity(Gaussian):
    def log_density(self, noise: torch.Tensor) -> torch.Tensor:
        return super().log_density(noise).float()


class _SmallSupport(Uniform):
    def log_density(self, noise: torch.Tensor) -> torch.Tensor:
        return super().log_density(noise * 1.01)


class _GlobalGenerator(Gaussian):
    def sample(self, n: int, *, generator: torch.Generator, **options: Any) -> torch.Tensor:
        torch.rand(1)
        return super().sample(n, generator=generator, **options)


class _Forgetful(Gaussian):
    """Ignores the generator."""

    def sample(self, n: int, *, generator: torch.Generator, **options: Any) -> torch.Tensor:
        own = torch.Generator()
        own.seed()
        return super().sample(n, generator=own, **options)


class _InPlace(Gaussian):
    def perturb(self, x: torch.Tensor, n: int, *, generator: torch.Generator) -> torch.Tensor:
        noisy = super().perturb(x, n, generator=generator)
        x.zero_()
        return noisy


class _RadiusTwoPercentTooLarge(Gaussian):
    def _one_sided_radius(self, q_upper: Any, norm: Norm) -> Any:
        return 1.02 * super()._one_sided_radius(q_upper, norm)


class _LaplaceTwoPercentTooLarge(Laplace):
    def _one_sided_radius(self, q_upper: Any, norm: Norm) -> Any:
        return 1.02 * super()._one_sided_radius(q_upper, norm)


class _UniformTwoPercentTooLarge(Uniform):
    """Only where q < .1: near p = 1/2 uniform noise is so close to the best of all laws that 2 % exceed them."""

    def _radius_of_half_lead(self, half_lead: Any, norm: Norm) -> Any:
        return super()._radius_of_half_lead(half_lead, norm) * (1 + 0.31 * np.maximum(half_lead - 0.4, 0.0))


class _HalfRadius(Gaussian):
    def _one_sided_radius(self, q_upper: Any, norm: Norm) -> Any:
        return 0.5 * super()._one_sided_radius(q_upper, norm)


class _NanAtOne(Laplace):
    def _one_sided_radius(self, q_upper: Any, norm: Norm) -> Any:
        with np.errstate(all="ignore"):
            return super()._one_sided_radius(q_upper, norm) + 0.0 * np.log(q_upper)


class _Concave(Gaussian):
    def _one_sided_radius(self, q_upper: Any, norm: Norm) -> Any:
        return 0.1 * np.sqrt(0.5 - q_upper)


class _Falling(Gaussian):
    def _one_sided_radius(self, q_upper: Any, norm: Norm) -> Any:
        return 0.1 * np.sin(9 * (0.5 - q_upper))


class _DoesNotScale(Gaussian):
    def _one_sided_radius(self, q_upper: Any, norm: Norm) -> Any:
        return super()._one_sided_radius(q_upper, norm) / self.sigma


class _UnprovedNorm(Laplace):
    """The l1 radius, claimed at l2: right along the axes, wrong at the corners."""

    def _one_sided_bounds(self, q_upper: Any, norm: Norm) -> Any:
        return super()._one_sided_bounds(q_upper, Norm.L1)


class _AboveEveryLaw(Laplace):
    def _one_sided_radius(self, q_upper: Any, norm: Norm) -> Any:
        return 3 * self.scale * (1 - 2 * q_upper)


class _GenerousToPairs(Gaussian):
    """The one-sided radius is right; a rival's bound buys half as much again as it should."""

    def radius(self, p_lower: Any, norm: Norm | str, *, q_upper: Any = None, rival_upper: Any = None) -> Any:
        alone = super().radius(p_lower, norm, q_upper=q_upper)
        if rival_upper is None:
            return alone
        both = super().radius(p_lower, norm, q_upper=q_upper, rival_upper=rival_upper)
        with np.errstate(invalid="ignore"):
            more = (both > alone) & np.isfinite(both)
            return np.where(more, 1.5 * both - 0.5 * alone, both)[()]


class _IgnoresQ(Gaussian):
    def radius(self, p_lower: Any, norm: Norm | str, *, q_upper: Any = None, rival_upper: Any = None) -> Any:
        q_upper = None if q_upper is None else np.minimum(np.asarray(q_upper) * 1.5, 1.0)
        return super().radius(p_lower, norm, q_upper=q_upper, rival_upper=rival_upper)


class _AcceptsAnyNorm(Laplace):
    def require_norm(self, norm: Norm | str) -> Norm:
        return Norm.parse(norm)


class _OneIdentity(Gaussian):
    @property
    def identity(self) -> str:
        return "gaussian"


@pytest.mark.parametrize(
    ("family", "dimension", "tight", "message"),
    [
        (_WideSampler, 2, (), "variance must be sigma"),
        (_Shifted, 2, (), "symmetric about 0"),
        (_WrongFamily, 1, (), "must fit"),
        (_WrongFamily, 3, (), "must fit"),
        (_Dependent, 2, (), "must fit along rays"),
        (_Unnormalised, 1, (), "normalised"),
        (_Unnormalised, 2, (), "normalised"),
        (_Uneven, 2, (), "even"),
        (_SinglePrecisionDensity, 2, (), "float64"),
        (_SmallSupport, 2, (), "where log_density is finite"),
        (_GlobalGenerator, 2, (), "global generator"),
        (_Forgetful, 2, (), "function of the generator's state"),
        (_InPlace, 2, (), "must not change its input"),
        (_RadiusTwoPercentTooLarge, 1, (), "radius of gaussian in l1 is too large"),
        (_RadiusTwoPercentTooLarge, 3, (), "radius of gaussian in l1 is too large"),
        (_LaplaceTwoPercentTooLarge, 1, (), "radius of laplace in l1 is too large"),
        (_UniformTwoPercentTooLarge, 1, (), "radius of uniform in l1 is too large"),
        (_HalfRadius, 1, ("l2",), "not shown to be tight"),
        (_NanAtOne, 1, (), "never be NaN"),
        (_Concave, 1, (), "convex"),
        (_Falling, 1, (), "must not fall with p"),
        (_DoesNotScale, 1, (), "must scale with the law"),
        (_UnprovedNorm, 2, (), "radius of laplace in l2 is too large"),
        (_AboveEveryLaw, 1, (), "any law can have"),
        (_GenerousToPairs, 1, (), "too large with rival_upper"),
        (_IgnoresQ, 1, (), "q_upper = 1 - p"),
        (_AcceptsAnyNorm, 1, (), "UnsupportedNormError"),
        (_OneIdentity, 1, (), "different identities"),
    ],
)
def test_suite_rejects_a_broken_law(
    family: type[SmoothingDistribution], dimension: int, tight: tuple[str, ...], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check_distribution(family((dimension,), sigma=0.5), tight=tight)


def test_suite_refuses_bad_arguments() -> None:
    law = Laplace((2,), sigma=0.5)
    with pytest.raises(InvalidArgumentError, match="samples must be at least 1000"):
        check_distribution(law, samples=10)
    with pytest.raises(InvalidArgumentError, match="inflation must be positive"):
        check_distribution(law, inflation=0.0)
    with pytest.raises(UnsupportedNormError):
        check_distribution(law, tight=["l0"])
