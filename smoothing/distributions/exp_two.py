"""Exp2 smoothing: spherical noise of density exp(-||z||_2^k) / ||z||_2^j (Yang et al. 2020)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from scipy.special import gammaincc, gammainccinv, gammaincinv, ndtri, wrightomega
from torch import Tensor

from smoothing.distributions.parameters import checked_dimension, moment_ratio, settle_parameter
from smoothing.distributions.sampling import gamma
from smoothing.distributions.spherical import LevelSetLaw
from smoothing.radius.special import log_gamma_ratio, lower_gamma
from smoothing.radius.spherical import Array, Course, SphericalProfile

_SMALLEST_POWER = -600.0
"""Logarithm of r^k below which incomplete gamma functions are their leading terms."""


@dataclass(frozen=True)
class Exp2Profile(SphericalProfile):
    """psi(r) = r^k + j log r; |x|^k has the gamma law of shape (d - j) / k.

    Attributes:
        dimension: d.
        k: Power in the exponent, positive.
        j: Power of the singularity at the origin, in [0, d).
    """

    dimension: int
    k: float
    j: float

    @property
    def _shape(self) -> float:
        return (self.dimension - self.j) / self.k

    def potential(self, r: Array) -> Array:
        """Return r^k + j log r."""
        return r**self.k + (self.j * np.log(r) if self.j else 0.0)

    def inverse_potential(self, value: Array) -> Array:
        """Return the root of r^k + j log r = value, by the Wright omega function."""
        if not self.j:
            return np.asarray(np.maximum(value, 0.0) ** (1 / self.k))
        # With w = k r^k / j: w + log w = k value / j + log(k / j).
        scaled = wrightomega(self.k * value / self.j + math.log(self.k / self.j))
        return np.asarray((self.j / self.k * scaled) ** (1 / self.k))

    def growth(self, r: Array) -> Array:
        """Return k r^k + j."""
        return self.k * r**self.k + self.j

    def elasticity(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return bounds on k h0 / (h0 + j), h0 = k r^k, which rises with r."""
        if not self.j:
            return np.full_like(lower, self.k), np.full_like(lower, self.k)
        return (
            self.k / (1 + self.j / (self.k * lower**self.k)) * (1 - 1e-14),
            self.k / (1 + self.j / (self.k * upper**self.k)) * (1 + 1e-14),
        )

    def cumulative(self, r: Array) -> tuple[Array, Array]:
        """Return both tails of the gamma law."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            g, power = r**self.k, self.k * np.log(r)
            # Where r^k has no float64 any more, the first term of the series is the sum.
            log_below = self._shape * power - math.lgamma(self._shape + 1)
        tiny = power < _SMALLEST_POWER
        below = np.where(tiny, np.exp(np.where(tiny, log_below, 0.0)), lower_gamma(self._shape, g))
        return below, np.where(tiny, -np.expm1(np.where(tiny, log_below, 0.0)), gammaincc(self._shape, g))

    def quantile(self, q: float, *, upper: bool) -> float:
        """Return a quantile of |x|."""
        g = float(gammainccinv(self._shape, q) if upper else gammaincinv(self._shape, q))
        # The first term of the series, for a g that is too small for float64.
        log_first = (math.log(1 - q if upper else q) + math.lgamma(self._shape + 1)) / self._shape
        log_g = log_first if log_first < _SMALLEST_POWER else math.log(max(g, 1e-300))
        return math.exp(min(log_g / self.k, 700.0)) if log_g / self.k > -745.0 else 0.0

    def mode(self) -> float:
        """Return ((d - j)/k)^(1/k)."""
        return math.exp(min(max(math.log(self._shape) / self.k, -700.0), 700.0))

    def mean_slope(self) -> float:
        """Return k E r^(k-1) + j E 1/r, moments of the gamma law; infinite as soon as E 1/r is."""
        # E 1/r = Gamma(b - 1/k) / Gamma(b) is k / (d - 1 - j) times E r^(k-1), b = (d - j) / k.
        d, j, k = self.dimension, self.j, self.k
        if j and d - 1 - j <= 0:
            return math.inf
        share = (d - 1) / (d - 1 - j) if j else 1.0
        return k * math.exp(log_gamma_ratio(self._shape, 1 - 1 / k)) * share * (1 + 1e-12)

    def convex_power(self) -> float | None:
        """Return infinity where r^k is convex and nothing else is there."""
        return math.inf if self.k >= 1 and not self.j else None

    def course(self) -> Course | None:
        """Return how psi' = k r^(k-1) + j / r moves: it only rises for k > 1 and j = 0."""
        if self.k <= 1:
            return Course.FALLS
        return Course.FALLS_THEN_RISES if self.j else None

    def turning_point(self) -> float:
        """Return (j / (k (k - 1)))^(1/k)."""
        return float((self.j / (self.k * (self.k - 1))) ** (1 / self.k))

    def drop(self, r: Array, x: Array) -> tuple[Array, Array]:
        """Return r^k (1 - exp(-k x)) + j x, a sum of positive terms, and its error."""
        value = -(r**self.k) * np.expm1(-self.k * x) + (self.j * x if self.j else 0.0)
        return value, 3e-16 * (10 + self.k) * value

    def log_contraction(self, r: Array, t: Array) -> tuple[Array, Array]:
        """Return the root of r^k (1 - exp(-k delta)) + j delta = t, without cancellation, and its error."""
        g, k, j = r**self.k, self.k, self.j
        with np.errstate(all="ignore"):
            if not j:
                share = t / g
                delta = np.where(share < 1, -np.log1p(-np.minimum(share, 1.0)) / k, np.inf)
                # Close to s = 0 the error of t / g counts 1 / (1 - t / g) times, and s may be 0.
                ratio = 1e-15 * (1 + k * np.abs(np.log(r))) * np.abs(share) / (1 - share)
                moved = np.where(ratio < 1, -np.log1p(-np.minimum(ratio, 1.0)), np.inf) / k
                return delta, np.where(share < 1, 1e-15 * np.abs(delta) + moved, 0.0)
            # g (1 - exp(-k delta)) + j delta = t, by Newton's method from the side where it is monotone.
            rising = np.maximum(t / (k * g + j), (t - g) / j)
            falling = -np.minimum(np.log1p(-t / g) / k, -t / j)
            delta = np.where(t >= 0, rising, falling)
            for _ in range(30):
                decay = np.exp(-k * delta)
                step = (t + g * np.expm1(-k * delta) - j * delta) / (k * g * decay + j)
                delta = delta + step
                if np.all(np.abs(step) <= 1e-14 * np.abs(delta)):
                    break
            slope = k * g * np.exp(-k * delta) + j
            # The last step bounds what Newton's method has left; the rest is rounding of the terms, moved by 1 / slope.
            terms = np.abs(t) + np.abs(g * np.expm1(-k * delta)) * (2 + k * np.abs(np.log(r))) + np.abs(j * delta)
            return delta, 2 * np.abs(step) + 1e-15 * terms / slope


@dataclass(frozen=True)
class Exp2(LevelSetLaw):
    """Spherical noise of density proportional to (||z||_2 / scale)^-j exp(-(||z||_2 / scale)^k).

    k = 2, j = 0 is Gaussian noise of sigma = scale / sqrt(2), in closed form. In one dimension, with k >= 1 and j = 0, the
    density is log-concave, half-lines are the worst sets, and R = scale Q^-1(1/k, 2 q)^(1/k) for q = 1 - p_A, with Q the
    upper regularised incomplete gamma function. Otherwise the radius is that of the level-set method; see
    `smoothing.radius.level_set`. At p_A = 1 it is infinite.

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation, scale sqrt(Gamma((d + 2 - j)/k) / (d Gamma((d - j)/k))).
        scale: The law's own scale, input units.
        k: Power in the exponent, positive.
        j: Power of the singularity at the origin, in [0, d).

    Raises:
        InvalidArgumentError: Unless exactly one of sigma and scale is given, positive and finite, and k and j are in range.
    """

    k: float | int | None = None
    j: float | int = 0.0

    name: ClassVar[str] = "exp_two"
    method: ClassVar[str] = (
        "level sets, tight up to rounding for one class: Neyman-Pearson by weak duality; two classes: of the mean, or half "
        "the difference of growths; k = 2, j = 0 in closed form"
    )

    def __post_init__(self) -> None:
        d = checked_dimension(self.shape)
        k = settle_parameter(self, "k", lambda k: k > 0, "positive")
        j = settle_parameter(self, "j", lambda j: 0 <= j < d, f"in [0, d), d = {d}")
        self._settle_scale(moment_ratio(self, 0.5 * (log_gamma_ratio((d - j) / k, 2 / k) - math.log(d))))

    @property
    def _k(self) -> float:
        assert self.k is not None
        return float(self.k)

    @property
    def parameters(self) -> dict[str, float]:
        """The scale, k and j; see the base class."""
        return {"scale": self._scale, "k": self._k, "j": float(self.j)}

    @property
    def profile(self) -> Exp2Profile:
        """The law at scale 1."""
        return Exp2Profile(self.dimension, self._k, float(self.j))

    def _radii(self, n: int, generator: torch.Generator, device: torch.device | str | None) -> Float64[Tensor, " n"]:
        shape = (self.dimension - self.j) / self._k
        return gamma(shape, n, generator, device, 1 / self._k).mul_(self._scale)

    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return -(r / scale)^k - j log(r / scale), r = ||z||_2, less the log of the integral."""
        d, k, j = self.dimension, self._k, self.j
        r = self._rows(noise).norm(dim=1) / self._scale
        log_z = self._log_sphere() + math.lgamma((d - j) / k) - math.log(k)
        result: Tensor = -(r**k) - log_z
        return result - j * r.log() if j else result

    def _closed_form(self, q_upper: Float64[ndarray, "..."]) -> Float64[ndarray, "..."] | None:
        if self._k == 2.0 and not self.j:
            return np.asarray(-self._scale / math.sqrt(2.0) * ndtri(q_upper))
        if self.dimension == 1 and self._k >= 1.0 and not self.j:
            shape = 1 / self._k
            # By the smaller of the two tails; 1 - 2 q is exact near q = 1/2.
            g = np.where(
                q_upper < 0.25,
                gammainccinv(shape, 2 * np.minimum(q_upper, 0.25)),
                gammaincinv(shape, np.minimum(1 - 2 * q_upper, 0.5)),
            )
            # Near 0 the density is flat, and g may be below float64.
            flat = (1 - 2 * q_upper) * math.exp(math.lgamma(1 + shape))
            return np.asarray(self._scale * np.where(g < 1e-17, flat, g**shape))
        return None
