"""Laplace smoothing for l1 perturbations (Teng et al. 2019; Yang et al. 2020)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.threat import Norm


@dataclass(frozen=True)
class Laplace(SmoothingDistribution):
    """Independent Laplace noise, density prod_i exp(-|z_i| / scale) / (2 scale).

    Certificate at l1, with p_A >= 1 - q and p_B <= r: R = -scale/2 (log(2 q) + log(2 r)) for r <= 1/2 and q <= 1/2, which
    is -scale log(2 q) for r = q (tight; Teng et al. 2019, Yang et al. 2020, Table 1). In the differential method
    Phi(p) = min(p, 1 - p) / scale, hence G(p) = -scale log(2 (1 - p)) for p >= 1/2 and scale log(2 p) below.

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation, sqrt(2) scale.
        scale: The law's own scale, input units.

    Raises:
        InvalidArgumentError: Unless exactly one of sigma and scale is given, positive and finite.
    """

    scale: float | None = None

    name: ClassVar[str] = "laplace"
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L1})
    scale_name: ClassVar[str] = "scale"
    method: ClassVar[str] = "closed form, tight: -scale log(2 (1 - p_A)); two-sided by the differential method"
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
        return -noise.flatten(1).double().abs().sum(1) / self.scale - self.dimension * math.log(2 * self.scale)

    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        assert self.scale is not None
        # 2 q is exact, so that the logarithm is accurate for every q: near 1/2 as well as near 0.
        radius: Float64[ndarray, "..."] = -self.scale * np.log(2.0 * q_upper)
        return radius
