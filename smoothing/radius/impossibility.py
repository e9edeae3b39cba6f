"""What no additive noise can do: an upper bound on the radius that any law of a given sigma certifies."""

import math
from typing import Any, overload

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray

from smoothing.errors import InvalidArgumentError, UnsupportedNormError
from smoothing.rounding import complement_down, up
from smoothing.threat import Norm


@overload
def radius_upper_bound(
    p_lower: float,
    norm: Norm | str,
    *,
    sigma: float,
    dimension: int,
    q_upper: float | None = ...,
    rival_upper: float | None = ...,
) -> float: ...
@overload
def radius_upper_bound(
    p_lower: Float[ndarray, "..."],
    norm: Norm | str,
    *,
    sigma: float,
    dimension: int,
    q_upper: Float[ndarray, "..."] | float | None = ...,
    rival_upper: Float[ndarray, "..."] | float | None = ...,
) -> Float64[ndarray, "..."]: ...
def radius_upper_bound(
    p_lower: float | Float[ndarray, "..."],
    norm: Norm | str,
    *,
    sigma: float,
    dimension: int,
    q_upper: Float[ndarray, "..."] | float | None = None,
    rival_upper: Float[ndarray, "..."] | float | None = None,
) -> float | Float64[ndarray, "..."]:
    """Return an upper bound on the radius that any additive noise of this sigma can certify, rounded up.

    With p = P(top class) and q = 1 - p < 1/2, for every noise z on R^d with E ||z||_2^2 = d sigma^2, and every certificate
    that is told p, and perhaps an upper bound r on every other class, but nothing else about the classifier, at l_o:

        R <= sigma min(1, d^(1/o - 1/2)) min{ 1 / sqrt(2 q), sqrt(3/2) (1 - 2 q) / sqrt(q) },

    where, if r is told, q is replaced by r / (p + r). Only the norm and the dimension enter: at linf the bound falls as
    1 / sqrt(d) whatever the law, the dependence that Yang et al. 2020 derive from the cotype of the norm.

    Proof. A certificate holds for every classifier, randomised ones included (for noise without atoms these change
    nothing, by Lyapunov's convexity theorem). *Projection*: for l1 and l2 take the coordinate Y = z_i of the least second
    moment, at most sigma^2, and the shift R e_i; for linf take Y = <s, z> / sqrt(d) for the sign vector s of the least
    E Y^2, which is at most the average over all s, sigma^2, and the shift R s. Both ways Var Y <= sigma^2 and Y moves by D
    or, with the opposite sign, by -D, where R = D min(1, d^(1/o - 1/2)). Let F be the distribution function of Y, and of
    Y + e N(0, 1) in what follows, with e -> 0 at the end: a classifier may add noise of its own, so that nothing is lost
    and F is continuous and increasing.

    *First bound*: the classifier {Y <= F^-1(p)} must keep 1/2 when Y moves by D, so that F^-1(p) - D is not below the
    median, and likewise on the other side: Y lies above the median + D and below the median - D with probability at
    least q each, hence Var Y >= 2 q D^2.

    *Second bound*: let T(a) be the least probability, after the shift by D, of a mixture of half-lines {Y <= y} that has
    probability 1 - a before: convex, T(0) <= 1, T(1) = 0. The certificate says T(q) >= 1/2 and, for the shift by -D,
    T(1/2) >= q. Supporting lines at the two points are, with b = F(y - D) and suitable slopes k >= m > 0,

        (1)  F(y) <= 1/2 + k (b - q),        (2)  F(y) <= p + m (b - 1/2)        for all y.

    The law of W = Y + U, U uniform on [0, D], has the density h / D at y, h = F(y) - F(y - D), and its distribution
    function H(y), the mean of F over [y - D, y], lies between b and F(y). By Cauchy-Schwarz and Hoeffding's formula
    Var W >= 12 Cov(W, H(W))^2 with Cov(W, H(W)) = int H (1 - H) dy / 2, and where h <= rho(H) the latter is at least
    (D / 2) int_0^1 u (1 - u) / rho(u) du. Two cases:

    * k >= 1 >= m. The convex T lies above its chords: T(a) >= 1 - a / (2 q) for a >= q from T(0) <= 1, and
      T(a) >= 2 q (1 - a) for a <= 1/2 from T(1) = 0, so that 1 - a - T(a), which is largest between q and 1/2 as the slopes
      of T there pass -1, is at most t = (1 - 2 q) / (1 + 2 q) (at a = 2 q / (1 + 2 q)). Hence h <= t,
      Var W >= D^2 / (12 t^2).
    * k >= m > 1 (or 1 > k >= m, which is this for -Y). With A = 1/2 - q and B = m - 1, (2) reads h <= A + B (b - 1/2), with
      b <= H, and B <= 2 A because T(1) = 0, so that rho(u) = A (1 + c (2 u - 1)) with 0 < c <= 1. The mean of
      1 / (1 + c s) over s and -s is at least 1, hence Var W >= D^2 / (12 A^2), and A <= t.

    Both ways sigma^2 + D^2 / 12 >= Var Y + D^2 / 12 = Var W >= D^2 / (12 t^2): D <= 2 sqrt(3) sigma t / sqrt(1 - t^2),
    which is the second bound.

    *With r*: let S be any (randomised) set of probability p' = p / (p + r). Answer with probability p + r the class A on S
    and B elsewhere, and otherwise one of many more classes. A has probability p and no other more than r, and A leads B
    after the shift only if S keeps 1/2: a radius for (p, r) is one for p' alone.

    Args:
        p_lower: Lower bound on the top class's probability that the certificate is told, in [0, 1]; scalar or array.
        norm: l1, l2 or linf.
        sigma: sqrt(E ||z||_2^2 / d), the per-coordinate standard deviation, input units.
        dimension: d, at least 1.
        q_upper: Upper bound on 1 - p, for p that float64 cannot resolve; default: 1 - p_lower.
        rival_upper: Upper bound on the runner-up's probability; default: all of 1 - p.

    Returns:
        Upper bound in input units, float64, same shape as the broadcast arguments; 0.0 where the top class has no lead,
        infinity at q = 0.

    Raises:
        UnsupportedNormError: For l0, in which additive noise of finite sigma certifies nothing.
        InvalidArgumentError: If a probability is outside [0, 1] or NaN, or sigma or the dimension is not positive.

    Reference: derived here; Yang et al. 2020, Kumar et al. 2020 and Blum et al. 2020 prove such limits in other forms.

    Example:
        >>> round(radius_upper_bound(0.9, "l2", sigma=1.0, dimension=3072), 4)
        2.2361
    """
    norm = Norm.parse(norm)
    if norm is Norm.L0:
        raise UnsupportedNormError(
            "the impossibility bound is for the norms l1, l2 and linf, got norm=l0: one coordinate moved far enough "
            "defeats every additive noise"
        )
    if not (math.isfinite(sigma) and sigma > 0):
        raise InvalidArgumentError(f"sigma must be positive and finite, got sigma={sigma}")
    if dimension < 1:
        raise InvalidArgumentError(f"dimension must be at least 1, got dimension={dimension}")
    p = _probability("p_lower", p_lower)
    q = 1.0 - p
    if q_upper is not None:
        q = _probability("q_upper", q_upper)
        p = np.maximum(p, complement_down(q))
    rival = q if rival_upper is None else np.minimum(q, _probability("rival_upper", rival_upper))
    p, q, rival = np.broadcast_arrays(p, q, rival)
    # The lead p - r without cancellation: 1 - q has lost digits that 1/2 - q still has.
    lead = np.maximum(p - rival, np.where(q < 0.5, (0.5 - q) + (0.5 - rival), -1.0))
    total = p + rival
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        # The roots are split: the quotient or product with a tiny r would overflow or lose digits to underflow.
        tails = np.sqrt(total) / np.sqrt(2.0 * rival)
        density = math.sqrt(1.5) * lead / (np.sqrt(rival) * np.sqrt(total))
        per_sigma = np.fmin(tails, density)
    shrink = math.sqrt(dimension) if norm is Norm.LINF else 1.0
    bound = np.asarray(np.where(lead > 0.0, up(np.where(lead > 0.0, sigma * per_sigma / shrink, 1.0)), 0.0))
    return float(bound) if bound.ndim == 0 else bound


def _probability(name: str, value: Any) -> Float64[ndarray, "..."]:
    array = np.asarray(value, dtype=np.float64)
    if not bool(np.all((array >= 0.0) & (array <= 1.0))):
        raise InvalidArgumentError(f"{name} must be in [0, 1] and not NaN, got {name}={value}")
    return array
