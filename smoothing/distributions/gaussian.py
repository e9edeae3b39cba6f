"""Gaussian smoothing, the law of Cohen et al. 2019."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from scipy.special import ndtri
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.threat import Norm


@dataclass(frozen=True)
class Gaussian(SmoothingDistribution):
    """Isotropic Gaussian noise, z ~ N(0, sigma^2 I).

    Certificates, with p_A >= 1 - q and p_B <= r:

    * l2: R = sigma/2 (Phi^-1(1 - q) - Phi^-1(r)), which is sigma Phi^-1(1 - q) for r = q; tight
      (Cohen, Rosenfeld, Kolter 2019, Theorem 1).
    * l1: the same number. ||v||_2 <= ||v||_1, with equality along the axes, so it is proved and tight
      (Yang et al. 2020, Table 1).
    * linf: divided by sqrt(d), since ||v||_2 <= sqrt(d) ||v||_inf with equality at the corners; tight.

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation, input units.

    Raises:
        InvalidArgumentError: If sigma is missing, not positive or not finite.
    """

    sigma: float | None = None

    name: ClassVar[str] = "gaussian"
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L1, Norm.L2, Norm.LINF})
    scale_name: ClassVar[str] = "sigma"
    method: ClassVar[str] = "closed form, tight: sigma/2 (Phi^-1(p_A) - Phi^-1(p_B)); divided by sqrt(d) at linf"
    reference: ClassVar[str] = "Cohen, Rosenfeld, Kolter 2019, Theorem 1"

    def __post_init__(self) -> None:
        self._settle_scale(1.0)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "n *shape"]:
        """Draw from the generator's own normal sampler; see the base class."""
        self._check_draw(n, generator, dtype)
        assert self.sigma is not None
        noise = torch.empty((n, *self.shape), device=device or generator.device, dtype=dtype)
        return noise.normal_(0.0, self.sigma, generator=generator)

    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return -||z||^2 / (2 sigma^2) - d log(sigma sqrt(2 pi))."""
        assert self.sigma is not None
        z = self._rows(noise) / self.sigma
        return -0.5 * (z * z).sum(1) - self.dimension * (math.log(self.sigma) + 0.5 * math.log(2 * math.pi))

    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        assert self.sigma is not None
        # -Phi^-1(q) rather than Phi^-1(1 - q): exact to the last digits however small q is.
        radius: Float64[ndarray, "..."] = -self.sigma * ndtri(q_upper)
        return radius / math.sqrt(self.dimension) if norm is Norm.LINF else radius
