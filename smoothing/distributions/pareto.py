"""Pareto (two-sided Lomax) smoothing for l1 perturbations (Yang et al. 2020)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from scipy.special import psi
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.parameters import checked_dimension, require_scale, settle_parameter
from smoothing.distributions.sampling import laplace
from smoothing.threat import Norm


@dataclass(frozen=True)
class Pareto(SmoothingDistribution):
    """Independent coordinates of density a / (2 scale) (1 + |z_i| / scale)^(-1 - a).

    Certificate at l1 by the differential method, R = int_q^{1/2} dp / Phi(p) for p_A >= 1 - q, and the mean of that for q
    and for the bound on the runner-up. Coordinates are alike, so that v = +-e_1, and the score (1 + a) / (1 + |x|) times the
    sign of x = z_1 (scale = 1) is largest next to 0: the worst sets are {0 <= x <= c}, Phi(p) = f(0) - f(c) with the density
    f and p = (1 - (1 + c)^-a) / 2. With y = (1 + c)^-1, R = int_0^{w^(1/a)} y^(a-1) / (1 - y^(1+a)) dy, hence with
    w = 1 - 2 q and b = a / (a + 1)

        R = scale w / a 2F1(1, b; 1 + b; w^(1/b)),

    infinite at p_A = 1. Not tight: the law is far from log-concave (Neyman-Pearson sets give 1.9 times as much at
    p_A = .99, a = 3).

    Args:
        shape: Event shape.
        sigma: Per-coordinate standard deviation, scale sqrt(2 / ((a - 1)(a - 2))); only for a > 2, and None (infinite)
            otherwise.
        scale: The law's own scale, input units.
        a: Exponent of the tails, in [1e-3, 1e12].

    Raises:
        InvalidArgumentError: Unless exactly one of sigma and scale is given, positive and finite, and a is in range.
    """

    scale: float | None = None
    a: float | int | None = None

    name: ClassVar[str] = "pareto"
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L1})
    scale_name: ClassVar[str] = "scale"
    method: ClassVar[str] = "closed form (hypergeometric) of the differential method"
    reference: ClassVar[str] = "Yang et al. 2020, Theorem 1 and Table 1"

    def __post_init__(self) -> None:
        checked_dimension(self.shape)
        a = settle_parameter(self, "a", lambda a: 1e-3 <= a <= 1e12, "in [1e-3, 1e12]")
        if a > 2:
            self._settle_scale(math.sqrt(2.0 / ((a - 1.0) * (a - 2.0))))
        else:
            require_scale(self, "a > 2")
            self._settle_scale(1.0)
            object.__setattr__(self, "sigma", None)

    @property
    def _values(self) -> tuple[float, float]:
        """The scale and a."""
        assert self.scale is not None
        assert self.a is not None
        return self.scale, self.a

    @property
    def parameters(self) -> dict[str, float]:
        """The scale and a; see the base class."""
        scale, a = self._values
        return {"scale": scale, "a": a}

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "n *shape"]:
        """Draw by inversion in float64: log(1 + |z| / scale) is exponential of rate a; see the base class."""
        self._check_draw(n, generator, dtype)
        scale, a = self._values
        signed = laplace((n, *self.shape), generator, device)
        return torch.copysign(torch.expm1(signed.abs() / a).mul_(scale), signed).to(dtype)

    def log_density(self, noise: Float[Tensor, "n *shape"]) -> Float64[Tensor, " n"]:
        """Return -(1 + a) sum log(1 + |z_i| / scale) + d log(a / (2 scale))."""
        scale, a = self._values
        size = self._rows(noise).abs() / scale
        return -(1.0 + a) * torch.log1p(size).sum(1) + self.dimension * math.log(a / (2.0 * scale))

    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        scale, a = self._values
        with np.errstate(divide="ignore"):
            log_argument = (1.0 + 1.0 / a) * np.log1p(-2.0 * q_upper)
        return np.asarray(scale / a * (1.0 - 2.0 * q_upper) * _hypergeometric(a / (a + 1.0), log_argument))


def _hypergeometric(b: float, log_argument: Float64[ndarray, "..."]) -> Float64[ndarray, "..."]:
    """Return 2F1(1, b; 1 + b; z) for 0 < b < 1 and z = exp(log_argument) in [0, 1], to a few 1e-16; infinity at z = 1.

    For z <= 1/2 it is b sum z^n / (n + b), and beyond, with y = 1 - z (DLMF 15.8.10),
    b sum (b)_n / n! (psi(n + 1) - psi(n + b) - log y) y^n. All terms of both are positive; 60 of them leave 1e-18.
    """
    z, y = np.exp(log_argument), -np.expm1(log_argument)
    near, far = np.minimum(z, 0.5), np.minimum(y, 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_far = np.log(far)
        series, expansion = np.zeros_like(z), np.zeros_like(z)
        coefficient = 1.0
        for n in range(60):
            series = series + near**n / (n + b)
            expansion = expansion + coefficient * (float(psi(n + 1.0) - psi(n + b)) - log_far) * far**n
            coefficient *= (n + b) / (n + 1.0)
    return np.asarray(b * np.where(z <= 0.5, series, np.where(y > 0, expansion, np.inf)))
