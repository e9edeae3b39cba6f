"""The fixed-sample-size checker for laws with shape parameters, which `run.json` settles."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from certify.audit import fields
from certify.audit.exact import context
from certify.audit.findings import AuditError, Findings
from certify.audit.fixed import FixedChecker
from certify.audit.growth import cube_growth, diamond_growth
from certify.audit.level_sets import exponential_sets, power_sets
from certify.audit.radii import SLACK, Bounds, Enclosure, ExactLaw, Radius, normal_quantile
from certify.audit.radii_shapes import (
    ball_radius,
    bose_radius,
    exponential_radius,
    power_radius,
    quantile_radius,
    sign_radius,
)
from certify.audit.spec import RunSpec

LEVEL_SET_SLACK, SPREAD_SLACK = 5e-3, 3e-2
"""Relative amounts by which radii from level sets may be weaker than the exact ones: tables of proved radii lie between
nodes, and lose most for exp_two with j >= d - 2, whose mass is spread over decades. What is weaker is no wrong proof."""

_ARITHMETIC = "mpmath or, for integrals and sets that have no formula, float64 rounded outwards"

Shapes = Mapping[str, Any]
Rule = Callable[[Shapes, int], bool]


@dataclass(frozen=True, eq=False)
class ShapedLaw:
    """What is proved for a family of laws with shape parameters.

    Attributes:
        name: The law's name in `run.json`.
        parameter: Name of its scale.
        shapes: Names of its other parameters.
        allowed: Whether (shapes, dimension) are in the law's range.
        sigma: (shapes, dimension) -> sigma per scale; None where it is infinite.
        radii: Norm -> (shapes, q, dimension) -> radius at scale 1.
        source: Where the radius is proved.
        slack: Norm -> (shapes, dimension) -> slack; see `ExactLaw`.
        whole_shift: (shapes, dimension) -> whether it is so; see `ExactLaw`.
        pairs: Norm -> (shapes, q, p_B, dimension) -> upper bound at scale 1; see `ExactLaw`.
    """

    name: str
    parameter: str
    shapes: tuple[str, ...]
    allowed: Rule
    sigma: Callable[[Shapes, int], Any]
    radii: Mapping[str, Callable[[Shapes, Any, int], Any]]
    source: str
    slack: Mapping[str, Callable[[Shapes, int], float]] = field(default_factory=dict)
    whole_shift: Rule = lambda shapes, dimension: False
    pairs: Mapping[str, Callable[[Shapes, Any, Any, int], Any]] = field(default_factory=dict)


@lru_cache(maxsize=256)
def settle(law: ShapedLaw, shapes: tuple[float, ...], dimension: int) -> ExactLaw:
    """Return the law with one parameter that a family is for given shape parameters."""
    mp = context()
    values = {name: mp.mpf(value) for name, value in zip(law.shapes, shapes, strict=True)}
    sigma = law.sigma(values, dimension)

    def scaled(radius: Callable[[Shapes, Any, int], Any]) -> Radius:
        def at_scale(scale: Any, q: Any, d: int) -> Any:
            value = radius(values, q, d)
            return Enclosure(scale * value.low, scale * value.high) if isinstance(value, Enclosure) else scale * value

        return lru_cache(maxsize=65536)(at_scale)

    def scaled_pair(most: Callable[[Shapes, Any, Any, int], Any]) -> Callable[[Any, Any, Any, int], Any]:
        return lru_cache(maxsize=65536)(lambda scale, q, rival, d: scale * most(values, q, rival, d))

    return ExactLaw(
        name=law.name,
        parameter=law.parameter,
        sigma=lambda scale: mp.inf if sigma is None else sigma * scale,
        radii={norm: scaled(radius) for norm, radius in law.radii.items()},
        source=law.source,
        slack={norm: slack(values, dimension) for norm, slack in law.slack.items()},
        whole_shift=law.whole_shift(values, dimension),
        pairs={norm: scaled_pair(most) for norm, most in law.pairs.items()},
    )


@dataclass(frozen=True)
class ShapedChecker(FixedChecker):
    """Checks the certificates of the estimator "fixed" under a family of laws with shape parameters.

    Args:
        law: Of no use before the shape parameters are known; names the law in `description`.
        family: What is proved for the family.
    """

    family: ShapedLaw

    def check_law(self, spec: RunSpec, found: Findings) -> None:
        """Check what `run.json` says of the law; see the base class.

        Raises:
            AuditError: As the base class, and if a shape parameter is out of range.
        """
        family = self.family
        parameters = spec.law["parameters"]
        values = [fields.number(parameters.get(name)) for name in family.shapes]
        if set(parameters) != {family.parameter, *family.shapes} or any(value is None for value in values):
            names = ", ".join((family.parameter, *family.shapes))
            raise AuditError(
                f"run.json cannot be audited: {family.name} noise must have the parameters {names}, each a number, got "
                f"{parameters!r}"
            )
        mp = context()
        shapes = {name: mp.mpf(value) for name, value in zip(family.shapes, values, strict=True)}
        if not family.allowed(shapes, spec.dimension):
            raise AuditError(f"run.json cannot be audited: {family.name} noise is not defined for {parameters!r}")
        checker, reduced = self._settled(spec)
        if family.sigma(shapes, spec.dimension) is None:
            # An infinite sigma is recorded as null: what the base class compares is replaced by a finite pair.
            if spec.law.get("sigma") is not None:
                found.add(None, "sigma", spec.law.get("sigma"), "null: infinite", where="run.json")
            scale = parameters[family.parameter]
            checker = FixedChecker(replace(checker.law, sigma=lambda scale: scale))
            reduced = replace(reduced, law={**reduced.law, "sigma": scale})
        checker.check_law(reduced, found)

    def bounds(self, q_upper: float, spec: RunSpec, rival_upper: float | None = None) -> Bounds:
        """Return what a radius has to lie between; see the base class."""
        checker, reduced = self._settled(spec)
        return checker.bounds(q_upper, reduced, rival_upper)

    def _settled(self, spec: RunSpec) -> tuple[FixedChecker, RunSpec]:
        family, parameters = self.family, spec.law["parameters"]
        law = settle(family, tuple(parameters[name] for name in family.shapes), spec.dimension)
        scale = {family.parameter: parameters[family.parameter]}
        return FixedChecker(law), replace(spec, law={**spec.law, "parameters": scale})


def shaped(family: ShapedLaw) -> ShapedChecker:
    """Return the checker of a family."""
    law = ExactLaw(
        family.name, family.parameter, lambda scale: context().nan, {}, family.source, arithmetic=_ARITHMETIC
    )
    return ShapedChecker(law, family)


def _gamma_ratio(x: Any, y: Any) -> Any:
    mp = context()
    return mp.exp(mp.loggamma(x) - mp.loggamma(y))


def _exp_inf_sigma(shapes: Shapes, d: int) -> Any:
    k, j = shapes["k"], shapes["j"]
    return context().sqrt(context().mpf(d + 2) / (3 * d) * _gamma_ratio((d + 2 - j) / k, (d - j) / k))


def _exp_one_sigma(shapes: Shapes, d: int) -> Any:
    k = shapes["k"]
    return context().sqrt(context().mpf(2) / (d * (d + 1)) * _gamma_ratio((d + 2) / k, d / k))


def _enclosure(pair: tuple[float, float]) -> Enclosure:
    mp = context()
    return Enclosure(mp.mpf(pair[0]), mp.mpf(pair[1]))


def _exp_inf_linf(shapes: Shapes, q: Any, d: int) -> Any:
    k, j = shapes["k"], shapes["j"]
    if k > 1 and 0 < j < d - 1:
        # The score falls and then rises: between chords and tangents.
        return _enclosure(cube_growth(d, float(k), float(j)).radius(float(q)))
    return exponential_radius(k, j, q, d)


def _exp_one_linf(shapes: Shapes, q: Any, d: int) -> Any:
    k = shapes["k"]
    if k == 1:
        return sign_radius(q, d)
    if d == 1:
        return exponential_radius(k, context().zero, q, d)
    return _enclosure(diamond_growth(d, float(k)).radius(float(q)))


def _exp_two_l2(shapes: Shapes, q: Any, d: int) -> Any:
    k, j = shapes["k"], shapes["j"]
    if j == 0:
        if k == 2:
            return normal_quantile(q) / context().sqrt(2)
        if d == 1 and k >= 1:  # log-concave: half-lines
            return quantile_radius(k, q)
    return _enclosure(exponential_sets(d, float(k), float(j)).radius(float(q)))


def _pow_two_l2(shapes: Shapes, q: Any, d: int) -> Any:
    return _enclosure(power_sets(d, float(shapes["k"]), float(shapes["a"])).radius(float(q)))


def _spherical(radius: Callable[[Shapes, Any, int], Any]) -> Mapping[str, Callable[[Shapes, Any, int], Any]]:
    """Return the radii at l1 and linf that go with one at l2: balls inside a ball."""

    def linf(shapes: Shapes, q: Any, d: int) -> Any:
        value, root = radius(shapes, q, d), context().sqrt(d)
        return Enclosure(value.low / root, value.high / root) if isinstance(value, Enclosure) else value / root

    return {"l1": radius, "l2": radius, "linf": linf}


def _exp_two_pair(shapes: Shapes, q: Any, rival: Any, d: int) -> Any:
    return context().mpf(exponential_sets(d, float(shapes["k"]), float(shapes["j"])).pair(float(q), float(rival)))


def _pow_two_pair(shapes: Shapes, q: Any, rival: Any, d: int) -> Any:
    return context().mpf(power_sets(d, float(shapes["k"]), float(shapes["a"])).pair(float(q), float(rival)))


def _spherical_pair(most: Callable[[Shapes, Any, Any, int], Any]) -> Mapping[str, Callable[..., Any]]:
    """Return the bounds at l1 and linf that go with one at l2."""
    return {
        "l1": most,
        "l2": most,
        "linf": lambda shapes, q, rival, d: most(shapes, q, rival, d) / context().sqrt(d),
    }


def _averaged(shapes: Shapes, d: int) -> bool:
    """Whether exp_two's radii are those of the differential method: Gaussian noise, and log-concave noise on the line."""
    return bool(shapes["j"] == 0 and (shapes["k"] == 2 or (d == 1 and shapes["k"] >= 1)))


def _exp_two_sigma(shapes: Shapes, d: int) -> Any:
    k, j = shapes["k"], shapes["j"]
    return context().sqrt(_gamma_ratio((d + 2 - j) / k, (d - j) / k) / d)


def _pow_two_sigma(shapes: Shapes, d: int) -> Any:
    mp, k, a = context(), shapes["k"], shapes["a"]
    if not a > (d + 2) / k:
        return None
    return mp.sqrt(_gamma_ratio((d + 2) / k, d / k) * _gamma_ratio(a - (d + 2) / k, a - d / k) / d)


def _exp_two_slack(shapes: Shapes, d: int) -> float:
    if _averaged(shapes, d):
        return SLACK
    return LEVEL_SET_SLACK if shapes["j"] < d - 2 else SPREAD_SLACK


def _exp_inf_l1(shapes: Shapes, q: Any, d: int) -> Any:
    """Linear down to q = 1/(2d), where the mean score is E g / (2d); from there on the radius at linf for d q."""
    mp = context()
    k, j = shapes["k"], shapes["j"]
    if d == 1:
        return exponential_radius(k, j, q, d)
    if j >= d - 1:
        return mp.zero
    corner = mp.one / (2 * d)
    slope = 2 * mp.mpf(d) / (d - 1) * _gamma_ratio((d - j) / k, (d - 1 - j) / k)
    linear = slope * (mp.mpf(1) / 2 - max(q, corner))
    beyond = _exp_inf_linf(shapes, d * q, d) if q < corner else mp.zero
    return Enclosure(linear + beyond.low, linear + beyond.high) if isinstance(beyond, Enclosure) else linear + beyond


def _pow_inf_l1(shapes: Shapes, q: Any, d: int) -> Any:
    mp = context()
    a = shapes["a"]
    if d == 1:
        return power_radius(a, q, d)
    corner = mp.one / (2 * d)
    beyond = power_radius(a, d * q, d) if q < corner else mp.zero
    return 2 * d / (a - d) * (mp.mpf(1) / 2 - max(q, corner)) + beyond


def _pow_inf_sigma(shapes: Shapes, d: int) -> Any:
    e = shapes["a"] - d
    return context().sqrt((d + 2) * (d + 1) / (3 * (e - 1) * (e - 2))) if e > 2 else None


def _pareto_l1(shapes: Shapes, q: Any, d: int) -> Any:
    mp = context()
    a, w = shapes["a"], 1 - 2 * q
    b = a / (a + 1)
    return w / a * mp.hyp2f1(1, b, 1 + b, w ** (1 + 1 / a))


def _pareto_sigma(shapes: Shapes, d: int) -> Any:
    a = shapes["a"]
    return context().sqrt(2 / ((a - 1) * (a - 2))) if a > 2 else None


def _exp_p_l1(shapes: Shapes, q: Any, d: int) -> Any:
    return quantile_radius(shapes["p"], q) if shapes["p"] >= 1 else bose_radius(shapes["p"], q)


_YANG = "Yang et al. 2020, Theorem 1 and Table 1"
_LEVEL_SETS = "the level-set method of Yang et al. 2020, bounded above by explicit sets"

EXP_INF = ShapedLaw(
    name="exp_inf",
    parameter="scale",
    shapes=("k", "j"),
    allowed=lambda shapes, d: shapes["k"] > 0 and 0 <= shapes["j"] < d,
    sigma=_exp_inf_sigma,
    radii={"l1": _exp_inf_l1, "linf": _exp_inf_linf},
    source=_YANG,
)

EXP_ONE = ShapedLaw(
    name="exp_one",
    parameter="scale",
    shapes=("k",),
    allowed=lambda shapes, d: shapes["k"] > 0,
    sigma=_exp_one_sigma,
    radii={
        "l1": lambda shapes, q, d: exponential_radius(shapes["k"], context().zero, q, d),
        "linf": _exp_one_linf,
    },
    source=_YANG,
)

EXP_TWO = ShapedLaw(
    name="exp_two",
    parameter="scale",
    shapes=("k", "j"),
    allowed=lambda shapes, d: shapes["k"] > 0 and 0 <= shapes["j"] < d,
    sigma=_exp_two_sigma,
    radii=_spherical(_exp_two_l2),
    source=_LEVEL_SETS,
    slack=dict.fromkeys(("l1", "l2", "linf"), _exp_two_slack),
    whole_shift=lambda shapes, d: not _averaged(shapes, d),
    pairs=_spherical_pair(_exp_two_pair),
)

EXP_P = ShapedLaw(
    name="exp_p",
    parameter="scale",
    shapes=("p",),
    allowed=lambda shapes, d: 0.02 <= shapes["p"] <= 1e6,
    sigma=lambda shapes, d: context().sqrt(_gamma_ratio(3 / shapes["p"], 1 / shapes["p"])),
    radii={"l1": _exp_p_l1},
    source=_YANG,
)

PARETO = ShapedLaw(
    name="pareto",
    parameter="scale",
    shapes=("a",),
    allowed=lambda shapes, d: 1e-3 <= shapes["a"] <= 1e12,
    sigma=_pareto_sigma,
    radii={"l1": _pareto_l1},
    source=_YANG,
)

POW_INF = ShapedLaw(
    name="pow_inf",
    parameter="scale",
    shapes=("a",),
    allowed=lambda shapes, d: shapes["a"] > d,
    sigma=_pow_inf_sigma,
    radii={"l1": _pow_inf_l1, "linf": lambda shapes, q, d: power_radius(shapes["a"], q, d)},
    source=_YANG,
)

POW_TWO = ShapedLaw(
    name="pow_two",
    parameter="scale",
    shapes=("k", "a"),
    allowed=lambda shapes, d: shapes["k"] > 0 and shapes["a"] > d / shapes["k"],
    sigma=_pow_two_sigma,
    radii=_spherical(_pow_two_l2),
    source=_LEVEL_SETS,
    slack=dict.fromkeys(("l1", "l2", "linf"), lambda shapes, d: LEVEL_SET_SLACK),
    whole_shift=lambda shapes, d: True,
    pairs=_spherical_pair(_pow_two_pair),
)

UNIFORM_BALL = ShapedLaw(
    name="uniform_ball",
    parameter="ball_radius",
    shapes=(),
    allowed=lambda shapes, d: True,
    sigma=lambda shapes, d: 1 / context().sqrt(d + 2),
    radii={
        "l1": lambda shapes, q, d: ball_radius(q, d),
        "l2": lambda shapes, q, d: ball_radius(q, d),
        "linf": lambda shapes, q, d: ball_radius(q, d) / context().sqrt(d),
    },
    source=_YANG,
    whole_shift=lambda shapes, d: True,
)
