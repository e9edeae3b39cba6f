"""The proved radii once more, in mpmath, straight from the published theorems; nothing here shares code with the laws.

All are for a failure probability q = 1 - p_A < 1/2 with the runner-up bounded by q; "scale" is the law's own parameter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from certify.audit.exact import context
from certify.audit.radii_shapes import sign_radius

Radius = Callable[[Any, Any, int], Any]
"""(scale, q, dimension) -> exact radius, all but the dimension mpmath numbers."""


@dataclass(frozen=True, eq=False)
class ExactLaw:
    """What is proved for one law of noise.

    Attributes:
        name: The law's name in `run.json`.
        parameter: Name of its one parameter.
        sigma: Per-coordinate standard deviation as a function of the parameter.
        radii: Norm -> radius; norms that are not here have no proved radius.
        source: Where the radius is proved.
    """

    name: str
    parameter: str
    sigma: Callable[[Any], Any]
    radii: Mapping[str, Radius]
    source: str


def normal_quantile(q: Any) -> Any:
    """Return -Phi^-1(q) for 0 < q < 1/2, to `DIGITS` digits however small q is.

    erfinv(1 - 2 q) would lose the digits of a small q, so Newton's method solves log Phi(-x) = log q instead. The left
    side is concave and decreasing, and the start is above the root, since Phi(-x) <= exp(-x^2 / 2) / 2: every
    step comes closer, from one side.
    """
    mp = context()
    target = mp.log(q)
    x = mp.sqrt(-2 * mp.log(2 * q))
    for _ in range(200):
        tail = mp.erfc(x / mp.sqrt(2)) / 2
        density = mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)
        step = (mp.log(tail) - target) * tail / density
        x += step
        if abs(step) <= mp.mpf(10) ** -42 * (1 + x):
            return x
    raise ArithmeticError(f"no convergence of the normal quantile at q={mp.nstr(q, 20)}")


def _gaussian_l2(sigma: Any, q: Any, dimension: int) -> Any:
    return sigma * normal_quantile(q)


def _gaussian_linf(sigma: Any, q: Any, dimension: int) -> Any:
    return sigma * normal_quantile(q) / context().sqrt(dimension)


def _laplace_l2(scale: Any, q: Any, dimension: int) -> Any:
    """Int_q^{1/2} dp / min(1/2, p sqrt(2 log 1/p)): the scores are sub-Gaussian, and E|S| <= 1."""
    mp = context()
    change = mp.findroot(lambda t: t * mp.sqrt(-2 * mp.log(t)) - mp.mpf(1) / 2, mp.mpf("0.3407"))
    flat = 1 - 2 * max(q, change)
    return scale * (flat + mp.sqrt(-2 * mp.log(min(q, change))) - mp.sqrt(-2 * mp.log(change)))


def _uniform_linf(half_width: Any, q: Any, dimension: int) -> Any:
    """Two cubes that differ by R in every coordinate overlap in (1 - R / (2 half_width))^d = 1/2 + q."""
    mp = context()
    return -2 * half_width * mp.expm1(mp.log(mp.mpf(1) / 2 + q) / dimension)


def _uniform_l2(half_width: Any, q: Any, dimension: int) -> Any:
    return context().sqrt(dimension) * _uniform_linf(half_width, q, dimension)


GAUSSIAN = ExactLaw(
    name="gaussian",
    parameter="sigma",
    sigma=lambda sigma: sigma,
    radii={"l2": _gaussian_l2, "l1": _gaussian_l2, "linf": _gaussian_linf},
    source="Cohen, Rosenfeld, Kolter 2019, Theorem 1",
)

LAPLACE = ExactLaw(
    name="laplace",
    parameter="scale",
    sigma=lambda scale: context().sqrt(2) * scale,
    radii={
        "l1": lambda scale, q, dimension: -scale * context().log(2 * q),
        "l2": _laplace_l2,
        "linf": lambda scale, q, dimension: scale * sign_radius(q, dimension),
    },
    source="Teng et al. 2019; Yang et al. 2020, Theorem 1",
)

UNIFORM = ExactLaw(
    name="uniform",
    parameter="half_width",
    sigma=lambda half_width: half_width / context().sqrt(3),
    radii={
        "l1": lambda half_width, q, dimension: half_width * (1 - 2 * q),
        "l2": _uniform_l2,
        "linf": _uniform_linf,
    },
    source="Lee et al. 2019; Yang et al. 2020, Table 1",
)

_ORDERS = {"l1": 1, "l2": 2, "linf": None}


def conversion_factor(source: str, target: str, dimension: int) -> Any:
    """Return c such that every v with ||v||_target <= c r has ||v||_source <= r.

    For orders a (source) and b (target): 1 if b <= a, else d^(1/b - 1/a), by Hölder's inequality.

    Raises:
        KeyError: If a norm is neither l1, l2 nor linf.
    """
    mp = context()
    inverse_a, inverse_b = (
        mp.zero if order is None else 1 / mp.mpf(order) for order in (_ORDERS[source], _ORDERS[target])
    )
    return mp.one if inverse_b >= inverse_a else mp.mpf(dimension) ** (inverse_b - inverse_a)
