"""Exp1 smoothing: diamond level sets, density exp(-||z||_1^k) (Yang et al. 2020)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.parameters import checked_dimension, moment_ratio, settle_parameter
from smoothing.distributions.sampling import diamond_direction, gamma, scale_rows
from smoothing.radius.limit import signed_limit
from smoothing.radius.radial import exponential_growth
from smoothing.radius.sign_mixture import signed_exponential_growth
from smoothing.radius.signs import sign_sum_radius
from smoothing.radius.special import log_gamma_ratio
from smoothing.rounding import down, up
from smoothing.threat import Norm


@dataclass(frozen=True)
class Exp1(SmoothingDistribution):
    """Noise of density proportional to exp(-(r / scale)^k), r = ||z||_1; k = 1 is Laplace noise.

    Both radii are of the differential method, R = int_q^{1/2} dp / Phi(p) for p_A >= 1 - q, and the mean of that for q and
    for the bound on the runner-up. With W = k r^(k-1) (scale = 1) the score along v is W sum v_i sign(z_i), and the signs
    are fair and independent of each other and of r:

    * l1: v is +-e_1, the score +-W. For k = 1 it is constant, Phi(p) = p and R = -scale log(2 q). Otherwise R is an
      integral, the one of ExpInf(k) at linf: r^k has the Gamma(d / k) law for both
      (`smoothing.radius.radial.exponential_growth`).
    * linf: v is a vector of signs, and the score W S with S a sum of d fair signs
      (`smoothing.radius.sign_mixture.signed_exponential_growth`; an exact sum for k = 1).

    At p_A = 1 radii are infinite for k >= 1, and finite for k < 1: at l1 the limit of the integral, rounded down (relative
    gap 1e-7 for small d, of the order of 1/d for large ones); at linf enclosed in logarithms of probabilities
    (`smoothing.radius.limit.signed_limit`), with a proved gap of 2e-7 at d = 2, 1e-5 at d = 10, 5e-4 at d = 100, 4e-3 at
    d = 3072 and 2e-2 at d = 150,528.

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation, scale sqrt(2 Gamma((d+2)/k) / (d (d+1) Gamma(d/k))).
        scale: The law's own scale, input units.
        k: Exponent, positive.

    Raises:
        InvalidArgumentError: Unless exactly one of sigma and scale is given, positive and finite, and k is positive.
    """

    scale: float | None = None
    k: float | int | None = None

    name: ClassVar[str] = "exp_one"
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L1, Norm.LINF})
    scale_name: ClassVar[str] = "scale"
    method: ClassVar[str] = "differential: an enclosed integral; closed form, tight, for k = 1 at l1"
    reference: ClassVar[str] = "Yang et al. 2020, Theorem 1 and Table 1"

    def __post_init__(self) -> None:
        d = checked_dimension(self.shape)
        k = settle_parameter(self, "k", lambda k: k > 0, "positive")
        moment = math.log(2.0 / (d * (d + 1.0))) + log_gamma_ratio(d / k, 2 / k)
        self._settle_scale(moment_ratio(self, 0.5 * moment))

    @property
    def _values(self) -> tuple[int, float, float]:
        """The dimension, scale and k."""
        assert self.scale is not None
        assert self.k is not None
        return self.dimension, self.scale, self.k

    @property
    def parameters(self) -> dict[str, float]:
        """The scale and k; see the base class."""
        _, scale, k = self._values
        return {"scale": scale, "k": k}

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "n *shape"]:
        """Draw a point on the unit diamond's surface and (r / scale)^k of the Gamma(d / k) law; see the base class."""
        self._check_draw(n, generator, dtype)
        d, scale, k = self._values
        points = diamond_direction(n, self.shape, generator, device, dtype)
        return scale_rows(points, gamma(d / k, n, generator, device, 1.0 / k).mul_(scale)).to(dtype)

    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return -(r / scale)^k, less the log of 2^d scale^d Gamma(d / k) / (k (d - 1)!)."""
        d, scale, k = self._values
        r = self._rows(noise).abs().sum(1) / scale
        return -(r**k) - (d * math.log(2 * scale) + math.lgamma(d / k) - math.log(k) - math.lgamma(d))

    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        lower, upper = self._one_sided_bounds(q_upper, norm)
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(upper), (2.0 * lower + upper) / 3.0, lower)

    def _one_sided_bounds(
        self, q_upper: Float64[ndarray, "..."], norm: Norm
    ) -> tuple[Float64[ndarray, "..."], Float64[ndarray, "..."]]:
        d, scale, k = self._values
        if k == 1:
            if norm is Norm.LINF:
                lower, upper = sign_sum_radius(q_upper, d)
            else:
                lower = upper = -np.log(2.0 * q_upper)
        elif norm is Norm.LINF and d > 1:
            lower, upper = signed_exponential_growth(d, k).bounds(q_upper)
            if k < 1 and np.any(q_upper == 0.0):
                limit = signed_limit(d, k)
                lower, upper = (
                    np.where(q_upper == 0.0, end, side) for end, side in zip(limit, (lower, upper), strict=True)
                )
        else:
            lower, upper = exponential_growth(d, k, 0.0).bounds(q_upper)
        return np.asarray(down(scale * lower)), np.asarray(up(scale * upper))
