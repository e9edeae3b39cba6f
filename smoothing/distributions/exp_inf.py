"""ExpInf smoothing: cubical level sets, density exp(-||z||_inf^k) / ||z||_inf^j (Yang et al. 2020)."""

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
from smoothing.distributions.sampling import cube_direction, gamma, scale_rows
from smoothing.radius.limit import cubical_limit
from smoothing.radius.radial import exponential_growth, shells_from_above
from smoothing.radius.special import log_gamma_ratio
from smoothing.rounding import down, up
from smoothing.threat import Norm


@dataclass(frozen=True)
class ExpInf(SmoothingDistribution):
    """Noise of density proportional to (r / scale)^-j exp(-(r / scale)^k), r = ||z||_inf.

    Both radii are of the differential method, R = int_q^{1/2} dp / Phi(p) for p_A >= 1 - q, and the mean of that for q and
    for the bound on the runner-up. With g(r) = (k r^k + j) / r (scale = 1) the score along v is g(r) sign(z_i) v_i, i the
    coordinate of the largest size:

    * linf: v is a vector of signs and the score +-g(r) with a fair sign. For k = 1, j = 0 it is constant, Phi(p) = p and
      R = -scale log(2 q) (tight: half-spaces of that coordinate are worst). Otherwise R is an integral, enclosed by
      `smoothing.radius.radial.exponential_growth`.
    * l1: v is +-e_1, and the score is +-g(r) with probability 1/d and 0 otherwise. For 1/(2d) <= p <= 1/2, Phi(p) is the
      constant c = E g(r) / (2d), and below it is 1/d times the one at linf of d p: R = (1/2 - max(q, 1/(2d))) / c, plus the
      linf radius for the failure probability d q if q < 1/(2d).

    Here E g = (d - 1) Gamma((d-1-j)/k) / Gamma((d-j)/k), or k / Gamma(1/k) for d = 1, j = 0. For j >= d - 1 it is infinite
    (an arbitrarily small shift changes p = 1/2 at an infinite rate), and both radii are 0, unless d = 1 and j = 0. At
    p_A = 1 radii are infinite for k >= 1 and j = 0, and finite otherwise, when the first shells at the origin carry them.
    For k <= 1 the limit is that of the integral, rounded down (relative gap 1e-7 for small d, of the order of 1/d for large
    ones). For k > 1 and j > 0 it is enclosed in logarithms of probabilities (`smoothing.radius.limit.cubical_limit`): the
    proved gap is 5e-8 at d = 2, 3e-7 at d = 40 and up to 3e-3 in hundreds and thousands of dimensions.

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation, scale sqrt((d+2)/(3d) Gamma((d+2-j)/k) / Gamma((d-j)/k)).
        scale: The law's own scale, input units.
        k: Exponent, positive.
        j: Power of the singularity at the origin, in [0, d).

    Raises:
        InvalidArgumentError: Unless exactly one of sigma and scale is given, positive and finite, and k and j are in range.
    """

    scale: float | None = None
    k: float | int | None = None
    j: float | int = 0.0

    name: ClassVar[str] = "exp_inf"
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L1, Norm.LINF})
    scale_name: ClassVar[str] = "scale"
    method: ClassVar[str] = "differential: linear up to p_A = 1 - 1/(2d) at l1, an enclosed integral beyond and at linf"
    reference: ClassVar[str] = "Yang et al. 2020, Theorem 1 and Table 1"

    def __post_init__(self) -> None:
        d = checked_dimension(self.shape)
        k = settle_parameter(self, "k", lambda k: k > 0, "positive")
        j = settle_parameter(self, "j", lambda j: 0 <= j < d, f"in [0, d), d = {d}")
        moment = math.log((d + 2) / (3 * d)) + log_gamma_ratio((d - j) / k, 2 / k)
        self._settle_scale(moment_ratio(self, 0.5 * moment))

    @property
    def _values(self) -> tuple[int, float, float, float]:
        """The dimension, scale, k and j."""
        assert self.scale is not None
        assert self.k is not None
        return self.dimension, self.scale, self.k, self.j

    @property
    def parameters(self) -> dict[str, float]:
        """The scale, k and j; see the base class."""
        _, scale, k, j = self._values
        return {"scale": scale, "k": k, "j": j}

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "n *shape"]:
        """Draw a point on the unit cube's surface and (r / scale)^k of the Gamma((d - j) / k) law; see the base class."""
        self._check_draw(n, generator, dtype)
        d, scale, k, j = self._values
        points = cube_direction(n, self.shape, generator, device, dtype)
        return scale_rows(points, gamma((d - j) / k, n, generator, device, 1.0 / k).mul_(scale)).to(dtype)

    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return -(r / scale)^k - j log(r / scale), less the log of d 2^d scale^d Gamma((d - j) / k) / k."""
        d, scale, k, j = self._values
        r = self._rows(noise).abs().amax(1) / scale
        integral = math.log(d / k) + d * math.log(2 * scale) + math.lgamma((d - j) / k)
        return -(r**k) - (j * r.log() if j else 0.0) - integral

    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        lower, upper = self._one_sided_bounds(q_upper, norm)
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(upper), (2.0 * lower + upper) / 3.0, lower)

    def _one_sided_bounds(
        self, q_upper: Float64[ndarray, "..."], norm: Norm
    ) -> tuple[Float64[ndarray, "..."], Float64[ndarray, "..."]]:
        d, scale, k, j = self._values
        if j >= d - 1 and not (d == 1 and j == 0):
            return np.zeros_like(q_upper), np.zeros_like(q_upper)
        if norm is Norm.LINF or d == 1:
            lower, upper = self._unit_linf(q_upper)
            return np.asarray(down(scale * lower)), np.asarray(up(scale * upper))
        slope = 2.0 * d / (d - 1) * math.exp(log_gamma_ratio((d - 1 - j) / k, 1.0 / k))
        # 2 d q is rounded to the next float64 at most, which moves the integral by less than its allowance.
        inner = np.minimum(d * q_upper, 0.5)
        lower, upper = self._unit_linf(inner)
        linear = slope * (0.5 - np.maximum(q_upper, 0.5 / d))
        return np.asarray(down(scale * (linear + lower))), np.asarray(up(scale * (linear + upper)))

    def _unit_linf(self, q: Float64[ndarray, "..."]) -> tuple[Float64[ndarray, "..."], Float64[ndarray, "..."]]:
        d, _, k, j = self._values
        if k == 1 and j == 0:
            value = -np.log(2.0 * q)
            return np.asarray(down(value)), np.asarray(up(value))
        lower, upper = exponential_growth(d, k, j).bounds(q)
        if j > 0 and np.any(q == 0.0):
            at = q == 0.0
            limit = cubical_limit(d, k, j) if k > 1 else (0.0, shells_from_above(d, k, j))
            lower, upper = (
                np.where(at, np.maximum(lower, limit[0]), lower),
                np.where(at, np.minimum(upper, limit[1]), upper),
            )
        return lower, np.maximum(upper, lower)
