"""The sum of d random signs: its law, and the exact growth function of Laplace noise at linf."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

_SCALE_BITS = 200
"""Probabilities are kept times 2^200, so that their products do not underflow before q itself does."""


@dataclass(frozen=True)
class SignSum:
    """S = the sum of `dimension` independent random signs, at its positive values s_0 < s_1 < ... (in steps of two).

    The values end where P(S = s) is about 1e-350, far below the smallest float64. All arrays are computed by products and
    sums of positive numbers outwards from the centre; n of them have a relative error below `error` = (4 n + 20) 2^-53.

    Attributes:
        values: s_i; s_0 is 1 or 2.
        mass: 2^200 P(S = s_i).
        tail: 2^200 P(S >= s_i).
        inner: 1/2 - P(S >= s_i), the mass between the median and s_i; accurate near the centre, where the tail is not.
        error: Bound on the relative errors.
    """

    dimension: int
    values: Int64[ndarray, " n"]
    mass: Float64[ndarray, " n"]
    tail: Float64[ndarray, " n"]
    inner: Float64[ndarray, " n"]
    error: float


@lru_cache(maxsize=32)
def sign_sum(dimension: int) -> SignSum:
    """Return the law of the sum of `dimension` random signs."""
    d = dimension
    # P(S >= s) <= exp(-s^2 / (2 d)) (Hoeffding), and 350 log(10) = 806.
    last = min(d, math.ceil(math.sqrt(2 * 806 * d)) + 2)
    values = np.arange(2 - d % 2, last + 1, 2, dtype=np.int64)
    heads = (d + values) // 2
    # P(S = s) / P(S = s - 2) = (number of tails + 1) / number of heads.
    ratios = (d - heads + 1) / heads
    central = _central_mass(d)
    if d % 2:
        ratios[0] = 1.0
    mass = np.ldexp(central, _SCALE_BITS) * np.cumprod(ratios)
    kept = mass >= 1e-290
    values, mass = values[kept], mass[kept]
    tail = np.cumsum(mass[::-1])[::-1].copy()
    before = np.concatenate(([0.0 if d % 2 else 0.5 * central], np.ldexp(mass[:-1], -_SCALE_BITS)))
    error = (4 * len(values) + 20) * 2.0**-53
    return SignSum(d, values, mass, tail, np.cumsum(before), error)


def _central_mass(d: int) -> float:
    """P(S = 0) for even d, P(S = 1) for odd d: the central binomial coefficient C(2m, m) / 4^m, m = ceil(d / 2)."""
    m = (d + 1) // 2
    # = prod (1 - 1 / (2 i)); for odd d, C(2m - 1, m) / 2^(2m - 1) is the same number. fsum is exact, so that the error
    # is that of the logarithms, a few 1e-16 of their sum of at most log(pi m) / 2.
    return math.exp(math.fsum(np.log1p(-0.5 / np.arange(1, m + 1))))


def sign_sum_radius(
    q: Float64[ndarray, "..."], dimension: int
) -> tuple[Float64[ndarray, "..."], Float64[ndarray, "..."]]:
    """Return bounds, below and above, on R(q) = int_q^{1/2} dp / Phi(p), Phi(p) = sup {E[S; A] : P(A) = p}.

    Phi is piecewise linear. With b heads of d, s = 2 b - d, it is b C(d, b) / 2^d at p_s = P(S >= s), and has slope s
    between p_s and p_(s+2), since sum_{j >= b} (2 j - d) C(d, j) = b C(d, b). A whole piece contributes
    log(Phi(p_s) / Phi(p_(s+2))) / s = log((d + s) / (d - s)) / s, in which no probability is left; the centre of an even d,
    where S = 0 and the slope is 0, contributes 1 / d. Only the piece that q is in needs the law itself:
    -log(1 - s (p_s - q) / Phi(p_s)) / s.

    Phi is concave, so that a line of its own piece, used beyond it by rounding, lies above it: the lower bound stays one.

    Args:
        q: In [0, 1/2].
        dimension: d, at least 1.
    """
    law = sign_sum(dimension)
    d, error = dimension, law.error
    s = law.values.astype(np.float64)
    # 1/2 - p_s, and R at p_s, over the positive values s.
    pieces = np.log((d + s[:-1]) / (d - s[:-1])) / s[:-1]
    whole = np.concatenate(([0.0 if d % 2 else 1.0 / d], pieces)).cumsum()
    # Phi(p_s) = (d + s) / 2 P(S = s), times 2^200 as all that follows.
    top = 0.5 * (d + s) * law.mass
    scaled = np.ldexp(q, _SCALE_BITS)
    index = np.searchsorted(-law.tail, -scaled, side="right") - 1
    index = np.where(q > 0.25, np.searchsorted(law.inner, 0.5 - q, side="right") - 1, index)
    central = index < 0  # an even d, and q in the piece of slope 0
    i = np.maximum(index, 0)
    depth_inner = np.ldexp((0.5 - q) - law.inner[i], _SCALE_BITS)
    depth = np.where(q > 0.25, depth_inner, law.tail[i] - scaled)
    slack = error * np.where(q > 0.25, np.ldexp(law.inner[i], _SCALE_BITS), law.tail[i])
    top_next, tail_next = (np.append(array[1:], 0.0)[i] for array in (top, law.tail))
    bounds = []
    for sign in (-1.0, 1.0):
        # Phi(q) from the upper end of its piece, and from the lower one: each is accurate near its end. At s = d the
        # lower end is 0, and Phi(q) = d q.
        share = s[i] * np.maximum(depth + sign * slack, 0.0) / (top[i] * (1.0 - sign * error))
        level = top_next * (1.0 - sign * error) + s[i] * (scaled - tail_next * (1.0 + sign * error))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            from_above = -np.log1p(-np.clip(share, 0.0, 1.0)) / s[i]
            from_below = _log_ratio(top[i] * (1.0 + sign * error), level, nothing=np.inf if sign > 0 else 0.0) / s[i]
            flat = np.ldexp(0.5 - q, _SCALE_BITS) / (top[0] * (1.0 - sign * error))
        inside = np.minimum(from_above, from_below) if sign > 0 else np.maximum(from_above, from_below)
        total = np.where(central, flat, whole[i] + np.maximum(inside, 0.0))
        bounds.append(np.maximum(total * (1.0 + sign * (error + 1e-15)), 0.0))
    lower, upper = bounds
    return np.where(q == 0.0, np.inf, lower), np.where(q == 0.0, np.inf, upper)


def _log_ratio(
    above: Float64[ndarray, "..."], below: Float64[ndarray, "..."], *, nothing: float
) -> Float64[ndarray, "..."]:
    """Return log(above / below) for above > 0; `nothing` where `below` is not positive, and so says nothing."""
    ratio = above / below
    # The quotient ends at 1.8e308, its logarithm does not; a difference of logarithms is inaccurate for small ratios only.
    logarithm = np.where(np.isfinite(ratio), np.log(ratio), np.log(above) - np.log(below))
    return np.where(below > 0.0, logarithm, nothing)
