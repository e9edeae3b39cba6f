"""Expp smoothing for l1 perturbations: independent coordinates of density exp(-|z_i|^p) (Yang et al. 2020)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from scipy.special import bernoulli, gammaincc, gammainccinv, gammaincinv
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.parameters import checked_dimension, moment_ratio, settle_parameter
from smoothing.distributions.sampling import gamma, random_sign
from smoothing.radius.special import log_gamma_ratio
from smoothing.threat import Norm


@dataclass(frozen=True)
class Expp(SmoothingDistribution):
    """Independent coordinates of density proportional to exp(-(|z_i| / scale)^p).

    p = 1 is Laplace noise, p = 2 Gaussian noise of sigma = scale / sqrt(2), and p -> infinity uniform noise. Certificate at
    l1 by the differential method for p_A >= 1 - q, and the mean of that for q and for the bound on the runner-up.
    Coordinates are alike, so that v = +-e_1; |x|^p of x = z_1 has the Gamma(1/p) law (scale = 1). With the
    regularised incomplete gamma functions P and Q and the density f of x:

    * p >= 1: the score p |x|^(p-1) sign(x) grows, half-lines {x >= c} are the worst sets, Phi = f(c), and R is the quantile
      F^-1(1 - q), R^p = Q^-1(1/p, 2 q). Tight: the half-line shifted by R has probability 1/2.
    * p < 1: the score falls on both sides of 0, the worst sets are {0 <= x <= c}, and Phi = f(0) - f(c) with
      P(1/p, c^p) = 2 q: R = int_c^inf dx / (exp(x^p) - 1) = (1/p) int_u^inf t^(1/p - 1) / (e^t - 1) dt, u = c^p. It is
      finite, Gamma(1 + 1/p) zeta(1/p) scale, at p_A = 1. Not tight.

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation, scale sqrt(Gamma(3/p) / Gamma(1/p)).
        scale: The law's own scale, input units.
        p: Exponent, in [0.02, 1e6] (below .02, a scale of 1 means a sigma of 1e100).

    Raises:
        InvalidArgumentError: Unless exactly one of sigma and scale is given, positive and finite, and p is in range.
    """

    scale: float | None = None
    p: float | int | None = None

    name: ClassVar[str] = "exp_p"
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L1})
    scale_name: ClassVar[str] = "scale"
    method: ClassVar[str] = "closed form: the quantile of a coordinate, tight, for p >= 1; a series for p < 1"
    reference: ClassVar[str] = "Yang et al. 2020, Theorem 1 and Table 1"

    def __post_init__(self) -> None:
        checked_dimension(self.shape)
        p = settle_parameter(self, "p", lambda p: 0.02 <= p <= 1e6, "in [0.02, 1e6]")
        self._settle_scale(moment_ratio(self, 0.5 * log_gamma_ratio(1.0 / p, 2.0 / p)))

    @property
    def _values(self) -> tuple[float, float]:
        """The scale and p."""
        assert self.scale is not None
        assert self.p is not None
        return self.scale, self.p

    @property
    def parameters(self) -> dict[str, float]:
        """The scale and p; see the base class."""
        scale, p = self._values
        return {"scale": scale, "p": p}

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "n *shape"]:
        """Draw random signs and (|z_i| / scale)^p of the Gamma(1/p) law; see the base class."""
        self._check_draw(n, generator, dtype)
        scale, p = self._values
        size = gamma(1.0 / p, n * self.dimension, generator, device, 1.0 / p).mul_(scale)
        return size.mul_(random_sign((len(size),), generator, device, torch.float64)).reshape(n, *self.shape).to(dtype)

    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return -sum (|z_i| / scale)^p - d log(2 scale Gamma(1 + 1/p))."""
        scale, p = self._values
        size = self._rows(noise).abs() / scale
        return -(size**p).sum(1) - self.dimension * (math.log(2 * scale) + math.lgamma(1.0 + 1.0 / p))

    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        scale, p = self._values
        return scale * (_quantile(q_upper, p) if p >= 1 else _integral(q_upper, p))


def _quantile(q: Float64[ndarray, "..."], p: float) -> Float64[ndarray, "..."]:
    """Return c with P(x > c) = q, x of density proportional to exp(-|x|^p), p >= 1."""
    a = 1.0 / p
    w = 1.0 - 2.0 * q
    # By the smaller of the two tails. Near 0 the density is flat: c = w Gamma(1 + a), where c^p is below 1e-17 a.
    u = np.where(q < 0.25, gammainccinv(a, 2.0 * q), gammaincinv(a, w))
    flat = w * math.exp(math.lgamma(1.0 + a))
    return np.asarray(np.where(u < 1e-17, flat, u**a))


def _integral(q: Float64[ndarray, "..."], p: float) -> Float64[ndarray, "..."]:
    """Return (1/p) int_u^inf t^(s-1) / (e^t - 1) dt, s = 1/p > 1, with P(s, u) = 2 q.

    From max(u, 1) upwards it is the sum of Gamma(s) n^-s Q(s, n u), where the first Q is 1 - 2 q for u >= 1; from u to 1 it
    is the sum of B_n / n! (1 - u^(s-1+n)) / (s - 1 + n) with the Bernoulli numbers B_n, the first term of which is more than
    half of the sum.
    """
    s = 1.0 / p
    u = np.where(q < 0.25, gammaincinv(s, 2.0 * q), gammainccinv(s, 1.0 - 2.0 * q))
    start = np.maximum(u, 1.0)
    far = np.where(u >= 1.0, 1.0 - 2.0 * q, gammaincc(s, start))
    for n in range(2, 45):
        far = far + float(n) ** -s * gammaincc(s, n * start)
    near = np.zeros_like(start)
    with np.errstate(divide="ignore"):
        log_u = np.log(np.minimum(u, 1.0))
    for n, value in enumerate(bernoulli(24)):
        power = s - 1.0 + n
        near = near + (float(value) / math.factorial(n)) * (-np.expm1(power * log_u) / power)
    # Gamma(s) / p = Gamma(s + 1).
    return np.asarray(math.gamma(s + 1.0) * far + s * near)
