"""The level-set method, its curves and their files; the laws that use it."""

import math
import threading
from dataclasses import dataclass
from pathlib import Path

import mpmath
import numpy as np
import pytest
from mpmath import mpf
from scipy.special import ndtr, ndtri

from smoothing.distributions import spherical
from smoothing.distributions.exp_two import Exp2, Exp2Profile
from smoothing.distributions.pow_two import Pow2, Pow2Profile
from smoothing.distributions.spherical import LevelSetLaw, SphericalLaw
from smoothing.distributions.uniform_ball import UniformBall
from smoothing.errors import InvalidArgumentError
from smoothing.radius import table
from smoothing.radius.caps import caps_from_below
from smoothing.radius.curve import LevelSetCurve
from smoothing.radius.level_set import LevelSetRadius, level_set_radius, make_node
from smoothing.radius.spherical import Array, SphericalProfile
from smoothing.testing import check_distribution

P = np.array([0.6, 0.8, 0.9, 0.99])

PRINTED = (
    (UniformBall, {}, (0.2513837, 0.7708197, 1.049034, 1.31795), 1e-6),
    (Exp2, {"k": 1}, (0.2532859, 0.8414401, 1.281324, 2.326292), 1e-3),
    (Exp2, {"k": 10, "j": 100}, (0.2533911, 0.8415981, 1.281143, 2.322881), 1e-3),
    (Pow2, {"k": 2, "a": 1544}, (0.2407139, 0.7996521, 1.217651, 2.210579), 1e-3),
)
"""Radii at l2, d = 3072, sigma = 1, from independent quadrature and Monte Carlo; the last number is the allowed gap."""


@pytest.mark.parametrize(("family", "parameters", "printed", "gap"), PRINTED)
def test_printed_radii_hold(
    family: type[SphericalLaw], parameters: dict[str, float], printed: tuple[float, ...], gap: float
) -> None:
    law = family((3072,), sigma=1.0, **parameters)
    radius = law.radius(P, "l2")
    unit = 10.0 ** (np.floor(np.log10(printed)) - 6)  # of the last printed digit
    assert np.all(radius <= printed + unit)
    assert np.all(radius >= np.array(printed) * (1 - gap) - unit)
    assert np.all(law.radius(P, "l1") == radius)
    assert law.radius(P, "linf") == pytest.approx(radius / math.sqrt(3072), rel=1e-12)


def exact_failure(profile: Exp2Profile | Pow2Profile, e: float) -> mpf:
    """The least w that a shift of length e forgives, by mpmath, for d = 2 and 3: 1 - q(A) with q_v(A) = 1/2."""
    d = profile.dimension

    def cap(v: mpf) -> mpf:
        if v <= 0:
            return mpf(0)
        if v >= 1:
            return mpf(1)
        return v if d == 3 else mpmath.asin(mpmath.sqrt(v)) * 2 / mpmath.pi

    def contraction(r: mpf, t: mpf) -> mpf:
        """r^2 - s^2 over r^2, from the profile's own definition; 1 where there is no s."""
        if isinstance(profile, Pow2Profile):
            s = (1 + r**profile.k) * mpmath.exp(-t / profile.a) - 1
        else:
            assert profile.j == 0
            s = r**profile.k - t
        return mpf(1) if s <= 0 else 1 - s ** (2 / mpf(profile.k)) / r**2

    def weight(r: mpf) -> mpf:
        if isinstance(profile, Pow2Profile):
            return r ** (d - 1) * (1 + r**profile.k) ** -mpf(profile.a)
        return r ** (d - 1) * mpmath.exp(-(r**profile.k))

    # Substituting r = u / (1 - u); cut where the integrand bends.
    points = [mpf(i) / 24 for i in range(25)]

    def integral(f: object) -> mpf:
        def g(u: mpf) -> mpf:
            if u >= 1 or u <= 0:
                return mpf(0)
            r = u / (1 - u)
            return weight(r) * f(r) / (1 - u) ** 2  # type: ignore[operator]

        return mpmath.quad(g, points, maxdegree=5)

    total = integral(lambda r: mpf(1))

    def chance(t: mpf) -> mpf:
        return integral(lambda r: cap(mpf(1) / 2 - r * contraction(r, t) / (4 * e) - e / (4 * r))) / total

    # The exact threshold: C(-t, e) = 1/2, which makes the least w largest. Secant steps from about the root.
    first = mpf(make_node(profile, e).t)
    second = first * (1 + mpf("1e-3"))
    values = chance(-first) - mpf(1) / 2, chance(-second) - mpf(1) / 2
    for _ in range(4):
        if values[1] == values[0]:
            break
        first, second = second, second - values[1] * (second - first) / (values[1] - values[0])
        values = values[1], chance(-second) - mpf(1) / 2
        if abs(values[1]) < mpf("1e-11"):
            break
    assert abs(values[1]) < mpf("1e-9")
    return chance(second) - mpmath.exp(-second) * (mpf(1) / 2 - chance(-second))


@pytest.mark.parametrize(
    "profile",
    [Exp2Profile(2, 1.0, 0.0), Exp2Profile(3, 1.0, 0.0), Exp2Profile(3, 3.0, 0.0), Pow2Profile(3, 2.0, 3.5)],
    ids=str,
)
@pytest.mark.parametrize("relative", [0.3, 2.0])
def test_nodes_are_below_and_close_to_mpmath(profile: Exp2Profile | Pow2Profile, relative: float) -> None:
    e = relative * profile.quantile(0.5, upper=False) / math.sqrt(profile.dimension)
    node = make_node(profile, e)
    with mpmath.workdps(15):
        exact = float(exact_failure(profile, e))
    assert node.w <= exact
    assert exact - node.w <= 3e-4 * min(exact, 0.5 - exact)


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 784, 3073, 150528])
def test_nodes_of_gaussian_noise_never_pass_the_closed_form(dimension: int) -> None:
    profile = Exp2Profile(dimension, 2.0, 0.0)
    for e in (1e-3, 0.02, 0.3, 1.0, 3.0, 5.0):
        w = make_node(profile, e).w
        exact = float(ndtr(-e * math.sqrt(2)))
        assert exact - 2e-4 * min(exact, 0.5 - exact) <= w <= exact


def test_any_threshold_is_sound() -> None:
    """Weak duality: a threshold that is far from the best one makes the bound smaller, never wrong."""
    profile, e = Exp2Profile(3, 2.0, 0.0), 0.7
    exact = float(ndtr(-e * math.sqrt(2)))
    best = make_node(profile, e).t
    found = []
    for factor in (-1.0, 0.0, 0.3, 0.9, 1.0, 1.1, 3.0):
        t = factor * best
        w = caps_from_below(profile, t, e, 1e-6) - math.exp(-t) * (0.5 - caps_from_below(profile, -t, e, 1e-6))
        assert w <= exact
        found.append(w)
    assert max(found) == found[4] > exact - 1e-5
    assert found[0] < exact - 0.01


@dataclass(frozen=True)
class OwnGaussian(SphericalProfile):
    """What a user writes: psi and its inverse, and no more than has to be."""

    dimension: int

    def potential(self, r: Array) -> Array:
        return np.asarray(r * r)

    def inverse_potential(self, value: Array) -> Array:
        return np.asarray(np.sqrt(np.maximum(value, 0.0)))

    def growth(self, r: Array) -> Array:
        return np.asarray(2 * r * r)

    def elasticity(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return np.full_like(lower, 2.0), np.full_like(upper, 2.0)

    def cumulative(self, r: Array) -> tuple[Array, Array]:
        return Exp2Profile(self.dimension, 2.0, 0.0).cumulative(r)

    def quantile(self, q: float, *, upper: bool) -> float:
        return Exp2Profile(self.dimension, 2.0, 0.0).quantile(q, upper=upper)

    def mode(self) -> float:
        return math.sqrt(self.dimension / 2)


def test_a_law_of_the_users_own() -> None:
    profile = OwnGaussian(20)
    for w in (0.3, 0.01):
        exact = -float(ndtri(w)) / math.sqrt(2)
        found = level_set_radius(profile, w)
        assert exact * (1 - 1e-3) <= found.lower <= exact
        assert found.estimate == pytest.approx(exact, rel=1e-4)
        assert found.gap == 1 - found.lower / found.estimate < 1e-3
    assert level_set_radius(profile, 0.5).lower == 0.0
    assert level_set_radius(profile, 0.0).lower == math.inf


@pytest.fixture(scope="module")
def gaussian_curve() -> LevelSetCurve:
    return LevelSetCurve.build(Exp2Profile(784, 2.0, 0.0))


def test_a_curve_is_sound_monotone_and_close(gaussian_curve: LevelSetCurve) -> None:
    w = np.concatenate((np.linspace(0.49, 1e-3, 3001), np.geomspace(1e-3, 1e-6, 500)))
    exact = -ndtri(w) / math.sqrt(2)
    radius = gaussian_curve.radius(w)
    assert np.all(radius <= exact)
    assert np.all(radius >= exact * (1 - 1e-3))
    assert np.all(np.diff(radius) >= 0)
    for end in (0.5 - 10.0 ** -np.arange(3.0, 14.0), 10.0 ** -np.arange(7.0, 300.0, 7.0)):
        found, limit = gaussian_curve.radius(end), -ndtri(end) / math.sqrt(2)
        assert np.all((found > 0) & (found <= limit))
    assert np.all(
        gaussian_curve.radius(0.5 - 10.0 ** -np.arange(3.0, 10.0))
        >= 0.999 * 0.5 * math.sqrt(math.pi) * 2 * (10.0 ** -np.arange(3.0, 10.0))
    )
    assert gaussian_curve.radius(np.array([0.5, 0.7, 1.0])).tolist() == [0.0, 0.0, 0.0]
    assert gaussian_curve.radius(np.array([0.0])).tolist() == [math.inf]


def test_curves_of_all_scales_and_ways_agree(gaussian_curve: LevelSetCurve) -> None:
    """The law scales; the curve agrees with the direct radius, and is not above the estimate."""
    law, other = Exp2((3,), scale=2.0, k=1.0), Exp2((3,), scale=1.0, k=1.0)
    assert law.radius(P, "l2") == pytest.approx(2 * other.radius(P, "l2"), rel=1e-13)
    direct = level_set_radius(other.profile, 1 - 0.9)
    assert other.radius(0.9, "l2") <= direct.estimate * (1 + 1e-5)
    assert other.radius(0.9, "l2") >= direct.lower * (1 - 1e-3)
    # 3 % above the differential method's radius, (d - 1) artanh(...) = 1.099 at sigma = 1.
    assert Exp2((3,), sigma=1.0, k=1.0).radius(0.9, "l2") == pytest.approx(1.136, rel=1e-3)


@pytest.mark.parametrize(
    "law",
    [
        UniformBall((3,), sigma=0.5),
        UniformBall((1,), sigma=0.5),
        Exp2((3,), sigma=0.5, k=1.0),
    ],
    ids=str,
)
def test_laws_pass_the_suite(law: SphericalLaw) -> None:
    check_distribution(law, tight=["l2"], convex=isinstance(law, UniformBall), samples=300_000, inflation=0.05)


def test_a_heavy_tail_in_the_plane_passes_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    law = Pow2((2,), sigma=0.5, k=2.0, a=4.0)
    # A table of fewer nodes, each as proved as those of the usual one.
    curve = LevelSetCurve.build(law.profile, gap=5e-3)
    monkeypatch.setattr(spherical, "curve_of", lambda profile: curve)
    check_distribution(law, tight=["l2"], convex=False, samples=300_000, inflation=0.05)


def test_closed_forms_of_exp_two() -> None:
    gaussian = Exp2((3, 4), sigma=0.5, k=2)
    assert gaussian.scale == pytest.approx(0.5 * math.sqrt(2), rel=1e-14)
    assert gaussian.radius(0.9, "l2") == pytest.approx(0.5 * 1.2815515655446004, rel=1e-11)
    laplace = Exp2((1,), scale=1.0, k=1)
    assert laplace.radius(P, "l1") == pytest.approx(-np.log(2 * (1 - P)), rel=1e-11)


@pytest.mark.parametrize("dimension", [1, 2, 3, 784, 3072, 3073, 150528])
def test_uniform_ball_against_mpmath(dimension: int) -> None:
    law = UniformBall((dimension,), ball_radius=1.0)
    with mpmath.workdps(30):
        for q in (0.5 - 1e-9, 0.49, 0.25, 0.1, 1e-6, 1e-9, 0.0):
            claimed = law.radius(1 - q, "l2", q_upper=q)
            share = mpmath.betainc(0.5, mpf(dimension + 1) / 2, 0, (mpf(claimed) / 2) ** 2, regularized=True)
            above = mpmath.betainc(
                0.5, mpf(dimension + 1) / 2, 0, (mpf(claimed) * (1 + mpf("1e-9")) / 2) ** 2, regularized=True
            )
            assert share <= mpf(1) / 2 - mpf(q) <= above


def test_direct_radii_refuse_what_is_no_probability() -> None:
    for law in (Exp2((3,), sigma=1.0, k=1), Exp2((3,), sigma=1.0, k=2), Pow2((3,), sigma=1.0, k=2, a=4)):
        for bad in (math.nan, -0.1, 1.1, 2.0):
            with pytest.raises(InvalidArgumentError, match="q_upper must be in"):
                law.direct_radius(bad, "l2")
        assert [law.direct_radius(q, "linf") for q in (0.5, 0.7, 1.0)] == [LevelSetRadius(0.0, 0.0)] * 3
        assert law.direct_radius(0.0, "l2").lower == math.inf
    with pytest.raises(InvalidArgumentError, match="d / k above 2,000,000"):
        Exp2((150_528,), sigma=1.0, k=0.05).direct_radius(0.1, "l2")


def test_two_classes() -> None:
    law = UniformBall((5,), sigma=1.0)
    assert law.radius(0.6, "l2", rival_upper=0.2) == pytest.approx(law.radius(0.7, "l2"), rel=1e-11)
    assert law.radius(0.3, "l2", rival_upper=0.1) == pytest.approx(law.radius(0.6, "l2"), rel=1e-11)
    assert law.radius(0.3, "l2", rival_upper=0.3) == 0.0
    assert law.radius(0.6, "l2", rival_upper=0.4) == law.radius(0.6, "l2")


@pytest.mark.parametrize(
    ("family", "parameters", "message"),
    [
        (Exp2, {}, "exp_two needs k, positive, got none"),
        (Exp2, {"k": 0.0}, "k must be positive, got k=0.0"),
        (Exp2, {"k": math.nan}, "k must be positive, got k=nan"),
        (Exp2, {"k": 1, "j": 6}, r"j must be in \[0, d\), d = 6, got j=6"),
        (Exp2, {"k": 1, "j": -1}, r"j must be in \[0, d\), d = 6, got j=-1"),
        (Exp2, {"k": 1e-4}, "sigma / scale between"),
        (Pow2, {"k": 2}, "pow_two needs a, above d / k = 3, got none"),
        (Pow2, {"k": 2, "a": 3.0}, "a must be above d / k = 3"),
        (Pow2, {"k": 2, "a": 4.0}, r"finite sigma only for a > \(d \+ 2\) / k = 4"),
        (Pow2, {"a": 4.0}, "pow_two needs k, positive, got none"),
    ],
)
def test_bad_parameters(family: type[SphericalLaw], parameters: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        family((2, 3), sigma=0.5, **parameters)


def test_parameters_rebuild_the_law() -> None:
    for law in (
        Exp2((2, 3), sigma=0.37, k=1.3, j=2),
        Pow2((2, 3), sigma=0.37, k=1.3, a=9),
        UniformBall((4,), sigma=0.1),
    ):
        assert type(law)(law.shape, **law.parameters).identity == law.identity
    assert Exp2((4,), sigma=0.5, k=1).identity != Exp2((4,), scale=Exp2((4,), sigma=0.5, k=1).scale, k=1, j=1).identity


def test_pow_two_of_infinite_variance_has_no_sigma() -> None:
    assert Pow2((2, 3), scale=0.5, k=2, a=3.5).sigma is None


# --- Files ------------------------------------------------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch) -> list[SphericalProfile]:
    built: list[SphericalProfile] = []

    def build(profile: SphericalProfile) -> LevelSetCurve:
        built.append(profile)
        return LevelSetCurve(np.array([0.1]), np.array([0.4]), np.array([1.5]), 1.0)

    monkeypatch.setattr(LevelSetCurve, "build", build)
    return built


def test_curves_are_computed_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = counted(monkeypatch)
    profile = Exp2Profile(3, 1.0, 0.0)
    first = table.load_or_build(profile, tmp_path)
    again = table.load_or_build(profile, tmp_path)
    assert built == [profile]
    assert np.array_equal(first.e, again.e)
    assert first.slope == again.slope
    table.load_or_build(Exp2Profile(3, 1.0 + 1e-15, 0.0), tmp_path)
    table.load_or_build(Exp2Profile(4, 1.0, 0.0), tmp_path)
    assert len(built) == 3
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(table.np, "__version__", "0")
    table.load_or_build(profile, tmp_path)
    assert len(built) == 4


@pytest.mark.parametrize("damage", [b"", b"not an archive", "half", "flip"])
def test_damaged_files_are_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | str) -> None:
    built = counted(monkeypatch)
    profile = Exp2Profile(3, 1.0, 0.0)
    table.load_or_build(profile, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        with np.load(path) as data:
            honest = {name: data[name] for name in ("e", "w", "kappa", "above", "far", "scalars")}
        digest = table._digest(honest)
        monkeypatch.setattr(table, "_digest", lambda arrays: digest)
        table._write(path, table.table_header(profile), {**honest, "e": np.array([0.2])})
        monkeypatch.undo()
        built = counted(monkeypatch)
        built.append(profile)
    else:
        assert isinstance(damage, bytes)
        path.write_bytes(damage)
    assert table.load_or_build(profile, tmp_path).e.tolist() == [0.1]
    assert len(built) == 2
    assert table.load_or_build(profile, tmp_path).e.tolist() == [0.1]
    assert len(built) == 2


def test_writers_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch)
    profile = Exp2Profile(3, 1.0, 0.0)
    found: list[LevelSetCurve] = []
    threads = [threading.Thread(target=lambda: found.append(table.load_or_build(profile, tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [curve.e.tolist() for curve in found] == [[0.1]] * 8
    assert len(list(tmp_path.iterdir())) == 1  # no temporary file is left


def test_folders_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(table.TableError, match="cannot create the cache folder"):
        table.use_folder(blocked / "inside")
    with pytest.raises(table.TableError, match=r"cannot write the table .*; choose another folder"):
        table.load_or_build(Exp2Profile(3, 1.0, 0.0), tmp_path / "absent")


def test_laws_use_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = counted(monkeypatch)
    table.use_folder(tmp_path / "deep" / "cache")
    try:
        law = Exp2((6,), sigma=1.0, k=1.0625)
        assert law.radius(0.7, "l2") > 0
        assert len(built) == len(list((tmp_path / "deep" / "cache").iterdir())) == 1
    finally:
        table.use_folder(None)
        table.curve_of.cache_clear()


@pytest.mark.parametrize(
    "law", [Exp2((150_528,), sigma=1.0, k=0.07), Pow2((150_528,), sigma=1.0, k=0.05, a=4e6)], ids=str
)
def test_parameters_beyond_the_special_functions_are_refused(law: LevelSetLaw) -> None:
    with pytest.raises(InvalidArgumentError, match="no radius is proved"):
        law.radius(0.9, "l2")
