"""Pow2 smoothing: spherical noise of density (1 + ||z||_2^k)^-a, with polynomial tails (Yang et al. 2020)."""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from scipy.special import betainc, betaincc, betainccinv, betaincinv, betaln
from torch import Tensor

from smoothing.distributions.parameters import checked_dimension, moment_ratio, require_scale, settle_parameter
from smoothing.distributions.sampling import beta_prime
from smoothing.distributions.spherical import LevelSetLaw
from smoothing.radius.special import log_gamma_ratio
from smoothing.radius.spherical import Array, Course, SphericalProfile

_LARGEST_POWER = 600.0
"""Size of the logarithm of r^k beyond which incomplete beta functions are their leading terms."""


@lru_cache(maxsize=256)
def excess(dimension: int, k: float, a: float) -> float:
    """Return a - d / k to its last digit: next to the limit of a, the rounding of d / k would be a large part of it."""
    return float(Fraction(a) - dimension / Fraction(k))


@dataclass(frozen=True)
class Pow2Profile(SphericalProfile):
    """psi(r) = a log(1 + r^k); |x|^k has the beta prime law of parameters d / k and a - d / k.

    Attributes:
        dimension: d.
        k: Inner power, positive.
        a: Outer power, above d / k.
    """

    dimension: int
    k: float
    a: float

    @property
    def _shapes(self) -> tuple[float, float]:
        return self.dimension / self.k, excess(self.dimension, self.k, self.a)

    def potential(self, r: Array) -> Array:
        """Return a log(1 + r^k)."""
        return np.asarray(self.a * np.logaddexp(0.0, self.k * np.log(r)))

    def inverse_potential(self, value: Array) -> Array:
        """Return (exp(value / a) - 1)^(1/k)."""
        return np.asarray(np.maximum(np.expm1(value / self.a), 0.0) ** (1 / self.k))

    def growth(self, r: Array) -> Array:
        """Return a k r^k / (1 + r^k)."""
        return np.asarray(self.a * self.k / (1.0 + r**-self.k))

    def elasticity(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return bounds on k / (1 + r^k), which falls with r."""
        return self.k / (1 + upper**self.k) * (1 - 1e-13), self.k / (1 + lower**self.k) * (1 + 1e-13)

    def cumulative(self, r: Array) -> tuple[Array, Array]:
        """Return both tails by the regularised incomplete beta function."""
        first, second = self._shapes
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            x, power = r**self.k, self.k * np.log(r)
            share, rest = 1 / (1 + 1 / x), 1 / (1 + x)
        # By whichever of the two arguments is small: only that one is known to its last digit.
        below = np.where(share < 0.5, betainc(first, second, share), betaincc(second, first, rest))
        above = np.where(rest < 0.5, betainc(second, first, rest), betaincc(first, second, share))
        # Where r^k is beyond float64, the smaller tail is the first term of its series.
        log_beta = float(betaln(first, second))
        small, large = power < -_LARGEST_POWER, power > _LARGEST_POWER
        log_below = np.minimum(np.where(small, first * power, 0.0) - math.log(first) - log_beta, 0.0)
        log_above = np.minimum(np.where(large, -second * power, 0.0) - math.log(second) - log_beta, 0.0)
        below = np.where(small, np.exp(log_below), np.where(large, -np.expm1(log_above), below))
        return below, np.where(large, np.exp(log_above), np.where(small, -np.expm1(log_below), above))

    def quantile(self, q: float, *, upper: bool) -> float:
        """Return a quantile of |x|."""
        first, second = self._shapes
        share = float(betainccinv(first, second, q) if upper else betaincinv(first, second, q))
        # Each from its own inverse, so that neither is rounded to 0 where the other is 1.
        rest = float(betaincinv(second, first, q) if upper else betainccinv(second, first, q))
        # The first terms of the series, for tails that float64 does not hold.
        log_beta = float(betaln(first, second))
        if upper and (log_odds := -(math.log(q * second) + log_beta) / second) > _LARGEST_POWER:
            return math.exp(min(log_odds / self.k, 700.0))
        if not upper and (log_odds := (math.log(q * first) + log_beta) / first) < -_LARGEST_POWER:
            return math.exp(max(log_odds / self.k, -740.0))
        if not (share > 0 and rest > 0):
            return 0.0 if share <= 0 else math.exp(700.0)
        return math.exp(min(max((math.log(share) - math.log(rest)) / self.k, -740.0), 700.0))

    def mode(self) -> float:
        """Return the r with a k r^k / (1 + r^k) = d."""
        first, second = self._shapes
        return math.exp(min(max(math.log(first / second) / self.k, -700.0), 700.0))

    def mean_slope(self) -> float:
        """Return a k E[r^(k-1) / (1 + r^k)] = a k B((d - 1)/k + 1, a - (d - 1)/k) / B(d/k, a - d/k)."""
        (first, second), k = self._shapes, self.k
        # B(first + 1 - 1/k, second + 1/k) / B(first, second), whose sums of parameters are a + 1 and a.
        log_ratio = log_gamma_ratio(first, 1 - 1 / k) + log_gamma_ratio(second, 1 / k) - math.log(self.a)
        return self.a * k * math.exp(log_ratio) * (1 + 1e-11)

    def convex_power(self) -> float | None:
        """Return a k for k >= 1, as (1 + r^k)^(1/k), the length of (1, r) in the norm l_k, is convex in r."""
        return self.a * self.k if self.k >= 1 and self.a * self.k > self.dimension * (1 + 1e-12) else None

    def course(self) -> Course:
        """Return how psi' = a k r^(k-1) / (1 + r^k) moves: its slope has the sign of k - 1 - r^k."""
        return Course.FALLS if self.k <= 1 else Course.RISES_THEN_FALLS

    def turning_point(self) -> float:
        """Return (k - 1)^(1/k)."""
        return float((self.k - 1) ** (1 / self.k))

    def drop(self, r: Array, x: Array) -> tuple[Array, Array]:
        """Return a log((1 + r^k) / (1 + r^k exp(-k x))) and its error."""
        power = self.k * np.log(r)
        near = -self.a * np.log1p(np.expm1(-self.k * x) / (1.0 + np.exp(-power)))
        first, second = np.logaddexp(0.0, power), np.logaddexp(0.0, power - self.k * x)
        far = self.k * x > 1
        value = np.where(far, self.a * (first - second), near)
        # The error of the power counts with its share in psi.
        parts = np.where(far, self.a * (first + second) * (1 + np.abs(power)), value * (10 + self.k + np.abs(power)))
        return value, 1e-15 * parts

    def log_contraction(self, r: Array, t: Array) -> tuple[Array, Array]:
        """Return (t / a - log(1 - q)) / k, q = (exp(t/a) - 1) / r^k, and its error; infinite where q is 1 or more.

        s^k = (1 + r^k) exp(-t/a) - 1 = r^k exp(-t/a) (1 - q), where the plain form cancels as soon as exp(-t/a) is below the
        rounding of 1. Where q is close to 1, and s to 0, the error grows up to infinity.
        """
        power, rate = self.k * np.log(r), t / self.a
        with np.errstate(all="ignore"):
            # Logs, as neither factor of q need be a float64.
            size = np.abs(rate)
            log_q = np.where(size > 30, size + np.log1p(-np.exp(-size)), np.log(np.expm1(size))) - power
            # For t < 0, 1 - exp(-|t|/a) instead.
            q = np.exp(np.where(rate < 0, log_q - size, log_q))
            some = np.where(rate < 0, np.log1p(q), np.where(q < 1, -np.log1p(-np.minimum(q, 1.0)), np.inf))
            large = np.isinf(q)  # then 1 + q is q
            delta = rate / self.k + np.where(rate < 0, -np.where(large, log_q - size, some), some) / self.k
            # What rounds log(expm1(size)), which is large for a tiny size, is at most the sum of the two.
            relative = 4e-15 * (3 + np.abs(power) + size + np.minimum(np.abs(log_q), 800.0))
            # Of log(1 - q), by what q may be, and of log(1 + q).
            near = np.where(q < 1, np.where(relative * q < 1 - q, -np.log1p(-relative * q / (1 - q)), np.inf), 0.0)
            moved = np.where(rate < 0, relative * np.where(large, 1.0, q / (1 + q)), near)
            error = 1e-15 * (np.abs(rate) + np.where(np.isfinite(some), some, 0.0)) / self.k + moved / self.k
        return delta, np.where(np.isposinf(delta), 0.0, error)


@dataclass(frozen=True)
class Pow2(LevelSetLaw):
    """Spherical noise of density proportional to (1 + (||z||_2 / scale)^k)^-a.

    The radius is that of the level-set method at every parameter; see `smoothing.radius.level_set`. At p_A = 1 it is
    infinite.

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation; finite, and allowed, for a > (d + 2) / k only.
        scale: The law's own scale, input units.
        k: Inner power, positive.
        a: Outer power, above d / k.

    Raises:
        InvalidArgumentError: Unless exactly one of sigma and scale is given, positive and finite, and k and a are in range.
    """

    k: float | int | None = None
    a: float | int | None = None

    name: ClassVar[str] = "pow_two"
    method: ClassVar[str] = (
        "level sets, tight up to rounding for one class: Neyman-Pearson by weak duality; two classes: of the mean, or half "
        "the difference of growths"
    )

    def __post_init__(self) -> None:
        d = checked_dimension(self.shape)
        k = settle_parameter(self, "k", lambda k: k > 0, "positive")
        a = settle_parameter(self, "a", lambda a: a > d / k, f"above d / k = {d / k:g}")
        first, second, step = d / k, excess(d, k, a), 2 / k
        if second > step:
            moment = log_gamma_ratio(first, step) + log_gamma_ratio(second, -step) - math.log(d)
            self._settle_scale(moment_ratio(self, 0.5 * moment))
        else:
            require_scale(self, f"a > (d + 2) / k = {(d + 2) / k:g}")
            self._settle_scale(1.0)
            object.__setattr__(self, "sigma", None)

    @property
    def _k(self) -> float:
        assert self.k is not None
        return float(self.k)

    @property
    def _a(self) -> float:
        assert self.a is not None
        return float(self.a)

    @property
    def parameters(self) -> dict[str, float]:
        """The scale, k and a; see the base class."""
        return {"scale": self._scale, "k": self._k, "a": self._a}

    @property
    def profile(self) -> Pow2Profile:
        """The law at scale 1."""
        return Pow2Profile(self.dimension, self._k, self._a)

    def _radii(self, n: int, generator: torch.Generator, device: torch.device | str | None) -> Float64[Tensor, " n"]:
        return beta_prime(*self.profile._shapes, n, generator, device, 1 / self._k).mul_(self._scale)

    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return -a log(1 + (r / scale)^k), r = ||z||_2, less the log of the integral."""
        r = self._rows(noise).norm(dim=1) / self._scale
        log_z = self._log_sphere() + float(betaln(*self.profile._shapes)) - math.log(self._k)
        return -self._a * torch.nn.functional.softplus(self._k * r.log(), threshold=700.0) - log_z

    def _closed_form(self, q_upper: Float64[ndarray, "..."]) -> Float64[ndarray, "..."] | None:
        return None
