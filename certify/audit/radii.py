"""The proved radii once more, in mpmath, straight from the published theorems; nothing here shares code with the laws.

All are for a failure probability q = 1 - p_A < 1/2 with the runner-up bounded by q; "scale" is the law's own parameter.
`ExactLaw.radius` makes radii for two classes of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from certify.audit.exact import context
from certify.audit.radii_shapes import sign_radius


class Enclosure(NamedTuple):
    """Two mpmath numbers with the exact radius between them."""

    low: Any
    high: Any


class Bounds(NamedTuple):
    """What a recorded radius has to lie between, mpmath numbers: weaker than `least` or stronger than `most` is wrong."""

    least: Any
    most: Any


Radius = Callable[[Any, Any, int], Any]
"""(scale, q, dimension) -> exact radius or `Enclosure` of it, all but the dimension mpmath numbers."""

SLACK = 1e-6
"""Relative amount by which a recorded radius may be weaker than the exact one, unless the law says more."""


@dataclass(frozen=True, eq=False)
class ExactLaw:
    """What is proved for one law of noise.

    Attributes:
        name: The law's name in `run.json`.
        parameter: Name of its one parameter.
        sigma: Per-coordinate standard deviation as a function of the parameter.
        radii: Norm -> radius; norms that are not here have no proved radius.
        source: Where the radius is proved.
        slack: Norm -> relative amount by which recorded radii may be weaker; `SLACK` for norms that are not here.
        whole_shift: Whether the radii are found for the whole shift at once, so that two classes have that of the mean of
            their failure probabilities, (q + p_B) / 2; the differential method's have the mean of their radii instead.
        pairs: Norm -> (scale, q, p_B, dimension) -> upper bound on any radius for two classes, where `whole_shift` does not
            give the largest one that can be proved.
        arithmetic: What the radii are derived in, for people.
    """

    name: str
    parameter: str
    sigma: Callable[[Any], Any]
    radii: Mapping[str, Radius]
    source: str
    slack: Mapping[str, float] = field(default_factory=dict)
    whole_shift: bool = False
    pairs: Mapping[str, Callable[[Any, Any, Any, int], Any]] = field(default_factory=dict)
    arithmetic: str = "mpmath"

    def radius(
        self, q_upper: float, norm: str, *, scale: float | int, dimension: int, rival_upper: float | None = None
    ) -> Bounds:
        """Return the bounds on a recorded radius at `norm`, which must be in `radii`; (0, 0) where nothing is proved.

        With p = 1 - q_upper and r = min(q_upper, rival_upper), both exact, 0 < r, and nothing is proved unless r < p:

        * The differential method: G(p) is odd about 1/2 and moves by at most 1 per unit of distance, whatever the class,
          so that R = (G(p) - G(r)) / 2 = (R(q) + R(r)) / 2, R(q) standing for -R(p) where q > 1/2.
        * `whole_shift`: no probability changes by more than that of the worst set, of probability (1 + p - r) / 2 before,
          1/2 after: R((q + r) / 2) (overlaps of supports; level sets by the convexity of the Neyman-Pearson curve). Where
          more can be proved, as (G(p) - G(r)) / 2 too, `pairs` says what cannot be.

        Args:
            q_upper: Upper bound on 1 - p_A, in (0, 1].
            norm: Norm of the theorem.
            scale: The law's parameter.
            dimension: Number of coordinates.
            rival_upper: Upper bound on the runner-up's probability; None: all of 1 - p_A.
        """
        mp = context()
        q, scale = mp.mpf(q_upper), mp.mpf(scale)
        r = q if rival_upper is None else min(q, mp.mpf(rival_upper))
        if not r < 1 - q:
            return Bounds(mp.zero, mp.zero)
        slack = mp.mpf(self.slack.get(norm, SLACK))

        def enclosed(failure: Any) -> tuple[Any, Any, Any, Any]:
            """The enclosure, and how far recorded values may lie on either side of it."""
            value = self.radii[norm](scale, failure, dimension) if failure < mp.mpf(1) / 2 else mp.zero
            low, high = value if isinstance(value, Enclosure) else (value, value)
            return low, high, low * (1 - slack), high * (1 + slack)

        if self.whole_shift or r == q:
            _, most, least, _ = enclosed((q + r) / 2)
            if r < q and norm in self.pairs:
                most = max(most, self.pairs[norm](scale, q, r, dimension))
        else:
            _, rival_most, rival_least, _ = enclosed(r)
            low, high, least, most = enclosed(min(q, 1 - q))
            if q > mp.mpf(1) / 2:
                high, least = -low, -most
            least, most = (rival_least + least) / 2, (rival_most + high) / 2
        # The last digits are mpmath's own rounding.
        return Bounds(max(least, mp.zero), most * (1 + mp.mpf(10) ** -35))


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
    whole_shift=True,
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
