"""Uniform noise in a Euclidean ball (Yang et al. 2020, Table 1)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from scipy.special import betaincinv
from torch import Tensor

from smoothing.distributions.parameters import checked_dimension
from smoothing.distributions.spherical import SphericalLaw
from smoothing.threat import Norm


@dataclass(frozen=True)
class UniformBall(SphericalLaw):
    """Uniform noise in the l2 ball of the given radius.

    Two balls of radius b whose centres are e apart overlap in two caps: the share of one of them that the other leaves
    out is P(|z_1| <= e/2) = I_u(1/2, (d + 1)/2), u = (e / 2b)^2. Both densities are equal on the overlap, so that the shift
    changes no probability by more, and some by as much. Certificate at l2, and at l1 the same:

        R = 2 b sqrt(I^-1(1/2, (d + 1)/2; s)),   s = p_A - 1/2, or (p_A - p_B) / 2 for two classes;

    at linf that over sqrt(d). Tight. At p_A = 1 the limit is finite, I^-1(.; 1/2).

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation, ball_radius / sqrt(d + 2).
        ball_radius: Radius of the ball, input units.

    Raises:
        InvalidArgumentError: Unless exactly one of sigma and ball_radius is given, positive and finite.
    """

    ball_radius: float | None = None

    name: ClassVar[str] = "uniform_ball"
    scale_name: ClassVar[str] = "ball_radius"
    method: ClassVar[str] = "closed form, tight: the overlap of two balls"
    reference: ClassVar[str] = "Yang et al. 2020, Table 1"

    def __post_init__(self) -> None:
        self._settle_scale(1.0 / math.sqrt(checked_dimension(self.shape) + 2.0))

    def _radii(self, n: int, generator: torch.Generator, device: torch.device | str | None) -> Float64[Tensor, " n"]:
        assert self.ball_radius is not None
        u = torch.empty(n, device=device or generator.device, dtype=torch.float64).uniform_(generator=generator)
        # (1 - u)^(1/d), u a multiple of 2^-53 in [0, 1): never 0.
        return torch.log1p(-u).div_(self.dimension).exp_().mul_(self.ball_radius)

    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return -log(volume) inside the ball and -inf outside."""
        assert self.ball_radius is not None
        d = self.dimension
        inside = self._rows(noise).norm(dim=1) <= self.ball_radius
        log_volume = d * math.log(self.ball_radius) + d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
        level = torch.full_like(inside, -log_volume, dtype=torch.float64)
        return torch.where(inside, level, -torch.inf)

    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        assert self.ball_radius is not None
        # 1/2 - q is exact for q in [1/4, 1/2], and the result insensitive to q below.
        share = betaincinv(0.5, 0.5 * (self.dimension + 1), 0.5 - q_upper)
        return self._per_norm(2.0 * self.ball_radius * share**0.5, norm)
