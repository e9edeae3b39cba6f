"""PowInf smoothing: cubical level sets and power-law tails, density (1 + ||z||_inf)^-a (Yang et al. 2020)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.parameters import checked_dimension, require_scale, settle_parameter
from smoothing.distributions.sampling import beta_prime, cube_direction, scale_rows
from smoothing.radius.radial import power_growth
from smoothing.rounding import down, up
from smoothing.threat import Norm


@dataclass(frozen=True)
class PowInf(SmoothingDistribution):
    """Noise of density proportional to (1 + r / scale)^-a, r = ||z||_inf.

    Both radii are of the differential method, as those of `ExpInf` with the score g(r) = a / (1 + r) (scale = 1):

    * linf: an integral, enclosed by `smoothing.radius.radial.power_growth`.
    * l1: E g = a - d, hence R = 2 d scale (1/2 - max(q, 1/(2d))) / (a - d) for p_A >= 1 - q, plus the linf radius for the
      failure probability d q if q < 1/(2d).

    Radii are infinite at p_A = 1.

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation, scale sqrt((d+1)(d+2) / (3 (a-d-1)(a-d-2))); only for a > d + 2, and
            None (infinite) otherwise.
        scale: The law's own scale, input units.
        a: Exponent, above d.

    Raises:
        InvalidArgumentError: Unless exactly one of sigma and scale is given, positive and finite, and a is above d.
    """

    scale: float | None = None
    a: float | int | None = None

    name: ClassVar[str] = "pow_inf"
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L1, Norm.LINF})
    scale_name: ClassVar[str] = "scale"
    method: ClassVar[str] = "differential: linear up to p_A = 1 - 1/(2d) at l1, an enclosed integral beyond and at linf"
    reference: ClassVar[str] = "Yang et al. 2020, Theorem 1 and Table 1"

    def __post_init__(self) -> None:
        d = checked_dimension(self.shape)
        a = settle_parameter(self, "a", lambda a: a > d, f"above d = {d}")
        excess = a - d
        if excess > 2:
            self._settle_scale(math.sqrt((d + 1) * (d + 2) / (3 * (excess - 1) * (excess - 2))))
        else:
            require_scale(self, f"a > d + 2 = {d + 2}")
            self._settle_scale(1.0)
            object.__setattr__(self, "sigma", None)

    @property
    def _values(self) -> tuple[int, float, float]:
        """The dimension, scale and a."""
        assert self.scale is not None
        assert self.a is not None
        return self.dimension, self.scale, self.a

    @property
    def parameters(self) -> dict[str, float]:
        """The scale and a; see the base class."""
        _, scale, a = self._values
        return {"scale": scale, "a": a}

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "n *shape"]:
        """Draw a point on the unit cube's surface and r / scale of the beta prime law (d, a - d); see the base class."""
        self._check_draw(n, generator, dtype)
        d, scale, a = self._values
        points = cube_direction(n, self.shape, generator, device, dtype)
        return scale_rows(points, beta_prime(float(d), a - d, n, generator, device).mul_(scale)).to(dtype)

    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return -a log(1 + r / scale), less the log of d 2^d scale^d B(d, a - d)."""
        d, scale, a = self._values
        r = self._rows(noise).abs().amax(1) / scale
        log_beta = math.lgamma(d) + math.lgamma(a - d) - math.lgamma(a)
        return -a * torch.log1p(r) - (math.log(d) + d * math.log(2 * scale) + log_beta)

    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        lower, upper = self._one_sided_bounds(q_upper, norm)
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(upper), (2.0 * lower + upper) / 3.0, lower)

    def _one_sided_bounds(
        self, q_upper: Float64[ndarray, "..."], norm: Norm
    ) -> tuple[Float64[ndarray, "..."], Float64[ndarray, "..."]]:
        d, scale, a = self._values
        if norm is Norm.LINF or d == 1:
            lower, upper = power_growth(d, a).bounds(q_upper)
            return np.asarray(down(scale * lower)), np.asarray(up(scale * upper))
        # Nothing of the integral is needed before q < 1/(2d): do not build it.
        inner = np.minimum(d * q_upper, 0.5)
        zero = np.zeros_like(q_upper)
        lower, upper = power_growth(d, a).bounds(inner) if np.any(inner < 0.5) else (zero, zero)
        linear = 2.0 * d / (a - d) * (0.5 - np.maximum(q_upper, 0.5 / d))
        return np.asarray(down(scale * (linear + lower))), np.asarray(up(scale * (linear + upper)))
