"""Uniform (cube) smoothing, the best known law for l1 perturbations (Yang et al. 2020)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.threat import Norm


@dataclass(frozen=True)
class Uniform(SmoothingDistribution):
    """Independent uniform noise on [-half_width, half_width] in every coordinate.

    Certificate at l1, with p_A >= 1 - q and p_B <= r: R = half_width (1 - q - r), which is half_width (1 - 2 q) for r = q
    (tight; Lee et al. 2019; Yang et al. 2020, Table 1). Two cubes whose centres differ by v overlap in a share
    prod_i (1 - |v_i| / (2 half_width)) >= 1 - ||v||_1 / (2 half_width), so no probability changes by more than
    ||v||_1 / (2 half_width), whatever it was.

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation, half_width / sqrt(3).
        half_width: Half the edge of the cube, input units.

    Raises:
        InvalidArgumentError: Unless exactly one of sigma and half_width is given, positive and finite.
    """

    half_width: float | None = None

    name: ClassVar[str] = "uniform"
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L1})
    scale_name: ClassVar[str] = "half_width"
    method: ClassVar[str] = "closed form, tight: half_width (p_A - p_B)"
    reference: ClassVar[str] = "Lee et al. 2019; Yang et al. 2020, Table 1"

    def __post_init__(self) -> None:
        self._settle_scale(1.0 / math.sqrt(3.0))

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "n *shape"]:
        """Draw multiples of 2^-24 of the width, shifted by half a step so that the grid is symmetric; see the base."""
        assert self.half_width is not None
        u = torch.empty((n, *self.shape), device=device or generator.device, dtype=torch.float32)
        u.uniform_(generator=generator)
        width = 2.0 * self.half_width
        return u.to(dtype).mul_(width).add_(width * 2.0**-25 - self.half_width)

    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return -d log(2 half_width) inside the cube and -inf outside."""
        assert self.half_width is not None
        inside = noise.flatten(1).double().abs().amax(1) <= self.half_width
        level = torch.full_like(inside, -self.dimension * math.log(2 * self.half_width), dtype=torch.float64)
        return torch.where(inside, level, -torch.inf)

    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        assert self.half_width is not None
        radius: Float64[ndarray, "..."] = self.half_width * (1.0 - 2.0 * q_upper)
        return radius
