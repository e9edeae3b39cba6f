"""Wulff crystals against known bodies, and their bound on Phi(1/2) against the radii of the laws."""

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial import ConvexHull
from scipy.special import gammaln

from certify.errors import UsageError
from certify.report.plots import render
from certify.wulff_plot import Panel, draw_crystals, standard_panels
from smoothing import InvalidArgumentError, SmoothingDistribution
from smoothing.distributions.table import LAWS, make_law
from smoothing.wulff import (
    BallCrystal,
    CubeCrystal,
    SignCrystal,
    WulffCrystal,
    Zonotope,
    ZonotopeCrystal,
    level_set_bound,
    radial_bound,
    uniform_bound,
    unit_ball_vertices,
    wulff_crystal,
)
from smoothing.wulff.crystal import log_ball_volume

GOLDEN = (1 + math.sqrt(5)) / 2


def as_rows(points: np.ndarray) -> set[tuple[float, ...]]:
    return {tuple(float(v) + 0.0 for v in np.round(point, 9) + 0.0) for point in points}


def corners(*numbers: float) -> set[tuple[float, ...]]:
    """All changes of signs of all orders of the numbers."""
    orders = set(itertools.permutations(numbers))
    signs = list(itertools.product((1.0, -1.0), repeat=len(numbers)))
    return {tuple(s * v + 0.0 for s, v in zip(sign, order, strict=True)) for order in orders for sign in signs}


# --- Known crystals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "dimension", "volume"),
    [
        ("l1", 1, 2.0),
        ("l1", 2, 1.0),
        ("l1", 3, 8 / 27),
        ("l1", 10, 0.2**10),
        ("l2", 1, 2.0),
        ("l2", 2, 4 / math.pi),
        ("l2", 3, math.pi / 6),
        ("l2", 4, math.pi**2 / 2 * (4 / (3 * math.pi)) ** 4),
        ("linf", 1, 2.0),
        ("linf", 2, 2.0),
        ("linf", 3, 2.0),
    ],
)
def test_volumes(norm: str, dimension: int, volume: float) -> None:
    assert wulff_crystal(norm, dimension).volume == pytest.approx(volume, rel=1e-13)


def test_the_crystal_of_l1_from_its_vertices_is_a_cube() -> None:
    for dimension in (1, 2, 3):
        crystal = wulff_crystal(unit_ball_vertices("l1", dimension))
        assert isinstance(crystal, ZonotopeCrystal)
        assert crystal.dimension == dimension
        assert as_rows(crystal.zonotope.vertices()) == as_rows(np.array(list(corners(*[1 / dimension] * dimension))))
        assert crystal.volume == pytest.approx(CubeCrystal(dimension).volume, rel=1e-14)
    faces = wulff_crystal(unit_ball_vertices("l1", 3)).zonotope.faces()  # type: ignore[attr-defined]
    assert [len(face) for face in faces] == [4] * 6


def test_the_crystal_of_linf_is_a_diamond_and_a_rhombic_dodecahedron() -> None:
    flat, solid = wulff_crystal("linf", 2), wulff_crystal("linf", 3)
    assert isinstance(flat, ZonotopeCrystal)
    assert isinstance(solid, ZonotopeCrystal)
    assert as_rows(flat.zonotope.vertices()) == corners(1.0, 0.0)
    assert as_rows(solid.zonotope.vertices()) == corners(1.0, 0.0, 0.0) | corners(0.5, 0.5, 0.5)
    faces = solid.zonotope.faces()
    assert [len(face) for face in faces] == [4] * 12
    for face in faces:  # rhombi whose diagonals are as 1 to sqrt(2)
        sides = np.linalg.norm(face - np.roll(face, 1, axis=0), axis=1)
        assert sides == pytest.approx([math.sqrt(3) / 2] * 4)
        diagonals = sorted(float(np.linalg.norm(face[i] - face[i + 2])) for i in (0, 1))
        assert diagonals == pytest.approx([1.0, math.sqrt(2)])


def test_the_crystal_of_an_icosahedron_is_a_rhombic_triacontahedron() -> None:
    panel = standard_panels()[-1]
    flat, solid = panel.crystal(2), panel.crystal(3)
    assert isinstance(flat, ZonotopeCrystal)
    assert isinstance(solid, ZonotopeCrystal)
    assert len(flat.zonotope.vertices()) == 6
    assert len(solid.zonotope.vertices()) == 32
    faces = solid.zonotope.faces()
    assert [len(face) for face in faces] == [4] * 30
    edge = float(np.linalg.norm(faces[0][0] - faces[0][1]))
    assert edge == pytest.approx(1 / 3)  # twice a sixth of a segment from a vertex of norm 1 to its opposite
    assert solid.volume == pytest.approx(4 * math.sqrt(5 + 2 * math.sqrt(5)) * edge**3, rel=1e-13)


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 10])
def test_support_functions_are_means_over_the_vertices(dimension: int) -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(7, dimension))
    for norm in ("l1", "linf"):
        mean = np.abs(x @ unit_ball_vertices(norm, dimension).T).mean(1)
        assert wulff_crystal(norm, dimension).support(x) == pytest.approx(mean, rel=1e-12)
    signs = SignCrystal(dimension).support(x)
    assert signs == pytest.approx(np.abs(x @ unit_ball_vertices("linf", dimension).T).mean(1), rel=1e-12)
    size = np.linalg.norm(x, axis=1)
    assert (signs >= size / math.sqrt(2) * (1 - 1e-12)).all()
    assert (signs <= size * (1 + 1e-12)).all()
    assert wulff_crystal("l2", dimension).support(x[0]) == pytest.approx(BallCrystal(dimension).radius * size[0])


def test_the_radius_of_the_round_crystal_is_the_mean_coordinate_on_the_sphere() -> None:
    assert [BallCrystal(d).radius for d in (1, 2, 3)] == pytest.approx([1, 2 / math.pi, 0.5], rel=1e-14)
    for dimension in (784, 150_528):
        assert BallCrystal(dimension).radius == pytest.approx(math.sqrt(2 / math.pi / (dimension - 0.5)), rel=1e-6)
    sample = np.random.default_rng(4).normal(size=(200_000, 6))
    sample = np.abs(sample[:, 0]) / np.linalg.norm(sample, axis=1)
    # Five standard errors: a false failure has probability 6e-7.
    assert abs(sample.mean() - BallCrystal(6).radius) < 5 * sample.std() / math.sqrt(len(sample))


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("count", [3, 4, 6, 11])
def test_zonotopes_of_random_segments_agree_with_the_hull_of_all_sums(count: int, dimension: int) -> None:
    random = np.random.default_rng(count)
    zonotope = Zonotope(random.normal(size=(count, dimension)))
    sums = np.array(list(itertools.product((1, -1), repeat=count))) @ zonotope.generators
    hull = ConvexHull(sums)
    assert zonotope.volume == pytest.approx(hull.volume, rel=1e-10)
    assert as_rows(zonotope.vertices()) == as_rows(sums[hull.vertices])
    x = random.normal(size=(20, dimension))
    assert zonotope.support(x) == pytest.approx((x @ zonotope.vertices().T).max(1), rel=1e-12)


def test_parallel_and_empty_segments_change_nothing_but_lengths() -> None:
    base = np.array([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
    split = np.concatenate([0.25 * base, -0.75 * base, np.zeros((1, 3))])
    one, two = Zonotope(base), Zonotope(split)
    assert as_rows(one.vertices()) == as_rows(two.vertices())
    assert len(one.vertices()) == 12  # a hexagonal prism: three segments lie in a plane
    assert sorted(len(face) for face in one.faces()) == [4] * 6 + [6] * 2
    assert one.volume == pytest.approx(two.volume) == pytest.approx(ConvexHull(one.vertices()).volume)


# --- Bad arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wulff_crystal("l0", 3), "norm must be l1, l2, linf or the vertices"),
        (lambda: wulff_crystal("l5", 3), "norm must be one of"),
        (lambda: wulff_crystal("l1"), "dimension must be given"),
        (lambda: wulff_crystal("l2", 0), "dimension must be at least 1, got dimension=0"),
        (lambda: BallCrystal(0), "dimension must be at least 1"),
        (lambda: wulff_crystal(np.eye(2), 2), "dimension must be left out"),
        (lambda: wulff_crystal(np.eye(2)), "pairs y, -y"),
        (lambda: wulff_crystal(np.array([[1.0, 0.0], [-1.0, 0.0]])), "span all 2 dimensions"),
        (lambda: wulff_crystal(np.array([[1.0, math.nan], [-1.0, 0.0]])), "vertices must be finite"),
        (lambda: wulff_crystal(np.zeros(3)), "must have the shape"),
        (lambda: wulff_crystal(np.repeat(unit_ball_vertices("l1", 2), 2, axis=0)), "listed once each"),
        (lambda: wulff_crystal(np.concatenate([v := unit_ball_vertices("l1", 2), 0.3 * v])), "4 points that are not"),
        (lambda: unit_ball_vertices("l2", 3), "norm must be l1 or linf"),
        (lambda: unit_ball_vertices("linf", 30), "dimension must be at most 20"),
        (lambda: SignCrystal(12).log_volume, "log_volume_lower"),
        (lambda: Zonotope(np.array([[1.0, 0.0]])), "span all 2 dimensions"),
        (lambda: Zonotope(np.eye(4)).vertices(), "3 dimensions only"),
        (lambda: Zonotope(np.eye(2)).faces(), "3 dimensions only"),
        (lambda: Zonotope(np.random.default_rng(0).normal(size=(60, 8))).volume, "at most 1,000,000 determinants"),
        (lambda: log_ball_volume("l0", 3), "no volume"),
        (lambda: level_set_bound(CubeCrystal(2), 0.0), "level_integral must be positive"),
        (lambda: uniform_bound(CubeCrystal(2), math.inf), "log_volume must be finite"),
        (lambda: radial_bound(CubeCrystal(1), 0.0, 1.0), "dimension must be at least 2"),
        (lambda: radial_bound(CubeCrystal(2), math.nan, 1.0), "log_ball_volume must be finite"),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        call()


# --- The bound on Phi(1/2) --------------------------------------------------------------------------------------------


def test_the_bound_is_rounded_down() -> None:
    assert uniform_bound(CubeCrystal(3), 3 * math.log(2)) == pytest.approx(0.5, rel=1e-9)
    assert uniform_bound(CubeCrystal(3), 3 * math.log(2)) < 0.5
    assert uniform_bound(CubeCrystal(150_528), 150_528 * math.log(2)) < 0.5


def test_the_crystal_has_the_least_speed_among_bodies_of_its_volume() -> None:
    """int ||grad q||_* of the uniform law on a polygon is its perimeter in ||.||_*: computed edge by edge."""
    random = np.random.default_rng(8)
    for norm in ("l1", "l2", "linf"):
        crystal = wulff_crystal(norm, 2)
        shapes = [random.normal(size=(n, 2)) for n in (2, 3, 5, 9, 40)]
        if isinstance(crystal, ZonotopeCrystal):
            shapes.append(crystal.zonotope.generators)
        if norm == "l1":
            shapes.append(np.eye(2))
        speeds = []
        for generators in shapes:
            body = Zonotope(generators)
            edges = np.roll(points := body.vertices(), -1, axis=0) - points
            outward = np.stack([edges[:, 1], -edges[:, 0]], axis=1)  # as long as the edge
            speed = 0.5 * float(crystal.support(outward).sum()) / body.volume
            bound = uniform_bound(crystal, math.log(body.volume))
            assert bound < speed
            speeds.append(bound / speed)
        if norm != "l2":
            assert speeds[-1] == pytest.approx(1.0, rel=1e-9)
        assert max(speeds[:2]) < 0.999


def gamma_ratio(top: float, bottom: float) -> float:
    return math.exp(gammaln(top) - gammaln(bottom))


def of_exponential(law: Any) -> float:
    """E[1 / r] where r^k is Gamma((d - j)/k)."""
    k, rest = getattr(law, "k", 1.0), law.dimension - getattr(law, "j", 0.0)
    return gamma_ratio((rest - 1) / k, rest / k) / law.scale


def of_power(law: Any) -> float:
    """E[1 / r] where r^k is BetaPrime(d/k, a - d/k)."""
    k, d = getattr(law, "k", 1.0), law.dimension
    return gamma_ratio((d - 1) / k, d / k) * gamma_ratio(law.a - (d - 1) / k, law.a - d / k) / law.scale


def gaussian(law: Any) -> float:
    return gamma_ratio((law.dimension - 1) / 2, law.dimension / 2) / math.sqrt(2) / law.sigma


def uniform(law: Any) -> float:
    """E[1 / r] where r^d is uniform: d / (d - 1) over the largest r."""
    return law.dimension / (law.dimension - 1) / law.parameters[law.scale_name]


def powers(d: int) -> list[dict[str, float]]:
    return [{"k": k} for k in (0.5, 1.0, 2.0, 10.0)]


def powers_and_poles(d: int) -> list[dict[str, float]]:
    return [{**shape, "j": j} for shape in powers(d) for j in (0.0, 0.4 * (d - 1), 0.9 * (d - 1))]


# name -> norm of the level sets, E[1 / ||x||] in it, shape parameters to try.
RADIAL: dict[str, tuple[str, Callable[[Any], float], Callable[[int], list[dict[str, float]]]]] = {
    "gaussian": ("l2", gaussian, lambda _: [{}]),
    "laplace": ("l1", of_exponential, lambda _: [{}]),
    "uniform": ("linf", uniform, lambda _: [{}]),
    "uniform_ball": ("l2", uniform, lambda _: [{}]),
    "exp_inf": ("linf", of_exponential, powers_and_poles),
    "exp_two": ("l2", of_exponential, powers_and_poles),
    "exp_one": ("l1", of_exponential, powers),
    "pow_inf": ("linf", of_power, lambda d: [{"a": d + extra} for extra in (3.0, 10.0)]),
    "pow_two": ("l2", of_power, lambda d: [{"k": 2.0, "a": 0.5 * d + extra} for extra in (2.0, 10.0)]),
}

COSTLY = {"exp_two", "pow_two"}  # radii from level sets: seconds each, and not close near p = 1/2

# Level sets that are crystals of the norm, whose laws attain the bound (linf: the diamond is the l1 ball in the plane).
ATTAINED = {("linf", "l1"), ("l2", "l2")}


def slope(law: SmoothingDistribution, norm: str) -> float:
    """dR/dp at p = 1/2, from above: R is convex in p."""
    step = 1e-7
    return law.radius(0.5 + step, norm) / step


@pytest.mark.parametrize("dimension", [2, 3, 5, 784])
@pytest.mark.parametrize("name", sorted(set(RADIAL) & set(LAWS) - COSTLY))
def test_no_law_rises_faster_at_one_half_than_its_level_sets_allow(name: str, dimension: int) -> None:
    body, mean_inverse, examples = RADIAL[name]
    for shapes in examples(dimension):
        law = make_law(name, (dimension,), sigma=0.7, **shapes)
        for norm in law.norms:
            bound = radial_bound(wulff_crystal(norm, dimension), log_ball_volume(body, dimension), mean_inverse(law))
            ratio = bound * slope(law, str(norm))
            assert ratio < 1 + 1e-6, (law, norm)
            if (body, str(norm)) in ATTAINED:
                assert ratio > 1 - 1e-5, (law, norm)
            elif dimension > 2:
                assert ratio < 0.999, (law, norm)


def test_every_spherical_and_cubic_law_is_tried() -> None:
    elsewhere = {"exp_p", "pareto"}  # level sets that are no multiples of one body
    assert set(RADIAL) >= set(LAWS) - elsewhere


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_pictures() -> None:
    figure = draw_crystals()
    assert len(figure.axes) == 8
    picture = render(figure, "png", dpi=60)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 150_000
    with pytest.raises(UsageError, match="at least one norm"):
        draw_crystals([])
    with pytest.raises(UsageError, match="a norm or vertices"):
        draw_crystals([Panel("nothing", ("", ""))])


def test_the_drawn_polygon_is_the_crystal() -> None:
    figure = draw_crystals(standard_panels()[2:3])
    (patch,) = figure.axes[0].patches
    assert as_rows(patch.get_path().vertices) >= corners(1.0, 0.0)  # type: ignore[attr-defined]


def test_the_script_draws_and_prints_the_table(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[1] / "scripts" / "draw_wulff.py"
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path / "deep" / "wulff.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / "deep" / "wulff.png").read_bytes().startswith(b"\x89PNG")
    assert "| the cube | l1 | 3.4641 |" in done.stdout  # 2 sqrt(3): the slope of uniform noise, which attains it
    assert "| the ball | l2 | 2.507" in done.stdout


def test_crystals_are_of_the_kinds_that_are_exported() -> None:
    for norm, kind in (("l1", CubeCrystal), ("l2", BallCrystal), ("linf", SignCrystal)):
        crystal = wulff_crystal(norm, 3072)
        assert isinstance(crystal, kind)
        assert isinstance(crystal, WulffCrystal)
        assert math.isfinite(crystal.log_volume_lower)
