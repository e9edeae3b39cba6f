"""Laplace smoothing for l1 perturbations (Teng et al. 2019; Yang et al. 2020); also with l2 and linf radii of its own."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.radius.signs import sign_sum_radius
from smoothing.rounding import down, up
from smoothing.threat import Norm

_CHANGE = 0.34073637925
"""Where the two bounds on Phi at l2 meet, t sqrt(2 log 1/t) = 1/2; any other value would be as valid."""


@dataclass(frozen=True)
class Laplace(SmoothingDistribution):
    """Independent Laplace noise, density prod_i exp(-|z_i| / scale) / (2 scale).

    All certificates are of the differential method, R = int_q^{1/2} dp / Phi(p) for p_A >= 1 - q, and the mean of that for q
    and for r if p_B <= r; Phi(p) is the largest E[S; A] over P(A) = p and unit vectors v, S = sum v_i eps_i / scale with
    independent random signs eps_i (the score of the law along v).

    * l1: v is an axis, Phi(p) = min(p, 1 - p) / scale and R = -scale log(2 q), tight (Teng et al. 2019; Yang et al. 2020,
      Table 1). With r it is -scale/2 (log(2 q) + log(2 r)).
    * l2, whatever the dimension: R = scale (2 (1/2 - max(q, t)) + (sqrt(2 log 1/q) - sqrt(2 log 1/t))_+), with t = .3407...
      the root of t sqrt(2 log 1/t) = 1/2. Proof: for ||v||_2 = 1, u > 0 and P(A) = p, Jensen and the sub-Gaussian bound
      E e^{uS} <= e^{u^2/2} (scale = 1) give u E[S | A] <= log E[e^{uS} | A] <= u^2/2 - log p, so that, with
      u = sqrt(2 log 1/p), E[S; A] <= p sqrt(2 log 1/p). Also E[S; A] <= E|S| / 2 <= 1/2. The smaller of the two bounds
      Phi, on both sides of 1/2 alike; their integrals are the terms of R, and wherever one changes over from one bound to
      the other, the result is a lower bound. Not tight: less than a fifth is lost at p_A = .99.
    * linf: v is a vector of signs, S a binomial, and Phi piecewise linear: R is an exact finite sum
      (`smoothing.radius.signs.sign_sum_radius`), about scale Phi^-1(p_A) / sqrt(d) for large d.

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation, sqrt(2) scale.
        scale: The law's own scale, input units.

    Raises:
        InvalidArgumentError: Unless exactly one of sigma and scale is given, positive and finite.
    """

    scale: float | None = None

    name: ClassVar[str] = "laplace"
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L1, Norm.L2, Norm.LINF})
    scale_name: ClassVar[str] = "scale"
    method: ClassVar[str] = (
        "closed form, tight: -scale log(2 (1 - p_A)) at l1; a sub-Gaussian bound at l2; an exact finite sum at linf"
    )
    reference: ClassVar[str] = "Teng et al. 2019; Yang et al. 2020, Table 1"

    def __post_init__(self) -> None:
        self._settle_scale(math.sqrt(2.0))

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "n *shape"]:
        """Draw by inversion in float64; see the base class.

        A float32 uniform has 24 bits, so that |z| would end at 17 scales, a value that an ImageNet-sized input reaches
        in one of a hundred draws; with 53 bits it ends at 37.
        """
        self._check_draw(n, generator, dtype)
        assert self.scale is not None
        u = torch.empty((n, *self.shape), device=device or generator.device, dtype=torch.float64)
        u.uniform_(generator=generator)
        # Odd multiples of 2^-53 in (-1, 1): symmetric, never 0 (a sign that is 0 is no sign) and never +-1 (infinity).
        u.mul_(2.0).sub_(1.0 - 2.0**-53)
        magnitude = torch.log1p(-u.abs()).mul_(-self.scale)
        return torch.copysign(magnitude, u).to(dtype)

    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return -||z||_1 / scale - d log(2 scale)."""
        assert self.scale is not None
        return -self._rows(noise).abs().sum(1) / self.scale - self.dimension * math.log(2 * self.scale)

    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        assert self.scale is not None
        if norm is Norm.LINF:
            lower, upper = sign_sum_radius(q_upper, self.dimension)
            return np.asarray(0.5 * self.scale * (lower + upper))
        if norm is Norm.L2:
            linear = 1.0 - 2.0 * np.maximum(q_upper, _CHANGE)
            root = np.sqrt(-2.0 * np.log(np.minimum(q_upper, _CHANGE)))
            return np.asarray(self.scale * (linear + (root - math.sqrt(-2.0 * math.log(_CHANGE)))))
        # 2 q is exact, so that the logarithm is accurate for every q: near 1/2 as well as near 0.
        radius: Float64[ndarray, "..."] = -self.scale * np.log(2.0 * q_upper)
        return radius

    def _one_sided_bounds(
        self, q_upper: Float64[ndarray, "..."], norm: Norm
    ) -> tuple[Float64[ndarray, "..."], Float64[ndarray, "..."]]:
        if norm is not Norm.LINF:
            return super()._one_sided_bounds(q_upper, norm)
        assert self.scale is not None
        lower, upper = sign_sum_radius(q_upper, self.dimension)
        return np.asarray(down(self.scale * lower)), np.asarray(up(self.scale * upper))
