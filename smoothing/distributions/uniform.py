"""Uniform (cube) smoothing, the best known law for l1 perturbations (Yang et al. 2020); also with l2 and linf radii."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.rounding import down
from smoothing.threat import Norm


@dataclass(frozen=True)
class Uniform(SmoothingDistribution):
    """Independent uniform noise on [-half_width, half_width] in every coordinate.

    Let u_i = |v_i| / (2 half_width). Two cubes whose centres differ by v overlap in a share O(v) = prod_i (1 - u_i), and
    both densities are equal there, so that no probability changes by more than 1 - O(v), and some probabilities change by
    exactly that, up and down. Hence g(x) keeps its class if and only if 1 - O(v) <= s = (p_A - p_B) / 2, with
    s = p_A - 1/2 if nothing but p_A is known. What remains is the largest 1 - O(v) over each ball:

    * l1: O(v) >= 1 - sum u_i, with equality for a single coordinate: R = 2 half_width s
      (Lee et al. 2019; Yang et al. 2020, Table 1).
    * linf: O(v) >= (1 - max u_i)^d, with equality at the corners: R = 2 half_width (1 - (1 - s)^(1/d))
      (Yang et al. 2020, Table 1).
    * l2: R = sqrt(d) times the linf radius. Proof: with y_i = u_i^2, -log O = sum f(y_i), f(y) = -log(1 - sqrt(y)), which is
      concave for sqrt(y) <= 1/2. For s <= 1/2 the claimed R is at most half_width (at d = 1 it is 2 half_width s, and
      beyond sqrt(d) (1 - 2^(-1/d)) <= log(2) / sqrt(d) < 1/2), so that all u_i <= ||v||_2 / (2 half_width) <= 1/2 inside
      the ball, and by concavity sum f(y_i) is largest when all y_i are equal, which is attained.

    All three are tight, for pairs (p_A, p_B) as well.

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation, half_width / sqrt(3).
        half_width: Half the edge of the cube, input units.

    Raises:
        InvalidArgumentError: Unless exactly one of sigma and half_width is given, positive and finite.
    """

    half_width: float | None = None

    name: ClassVar[str] = "uniform"
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L1, Norm.L2, Norm.LINF})
    scale_name: ClassVar[str] = "half_width"
    method: ClassVar[str] = "closed form, tight: half_width (p_A - p_B) at l1; the overlap of two cubes at l2 and linf"
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
        self._check_draw(n, generator, dtype)
        assert self.half_width is not None
        u = torch.empty((n, *self.shape), device=device or generator.device, dtype=torch.float32)
        u.uniform_(generator=generator)
        width = 2.0 * self.half_width
        return u.to(dtype).mul_(width).add_(width * 2.0**-25 - self.half_width)

    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return -d log(2 half_width) inside the cube and -inf outside."""
        assert self.half_width is not None
        inside = self._rows(noise).abs().amax(1) <= self.half_width
        level = torch.full_like(inside, -self.dimension * math.log(2 * self.half_width), dtype=torch.float64)
        return torch.where(inside, level, -torch.inf)

    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        return self._radius_of_half_lead(0.5 - q_upper, norm)

    def _two_sided_radius(
        self,
        p: Float64[ndarray, "..."],
        q: Float64[ndarray, "..."],
        rival: Float64[ndarray, "..."],
        norm: Norm,
    ) -> Float64[ndarray, "..."]:
        # Not the mean of one-sided radii: these are for the whole shift at once, and convex in the lead.
        lead = np.where(q < 0.5, (0.5 - q) + (0.5 - rival), p - rival)
        return np.asarray(down(self._radius_of_half_lead(0.5 * np.maximum(lead, 0.0), norm)))

    def _radius_of_half_lead(self, half_lead: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        """Return the radius for s = (p_A - p_B) / 2 in [0, 1/2]."""
        assert self.half_width is not None
        if norm is Norm.L1:
            return 2.0 * self.half_width * half_lead
        d = self.dimension
        # 1 - (1 - s)^(1/d) itself would lose log10(d) digits.
        radius: Float64[ndarray, "..."] = -2.0 * self.half_width * np.expm1(np.log1p(-half_lead) / d)
        return math.sqrt(d) * radius if norm is Norm.L2 else radius
