"""What all laws of spherical noise share: the sampler, and one l2 radius from which those at l1 and linf follow."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.sampling import scale_rows, sphere_direction
from smoothing.errors import InvalidArgumentError
from smoothing.radius.curve import LevelSetCurve
from smoothing.radius.level_set import LevelSetRadius, level_set_radius
from smoothing.radius.spherical import SphericalProfile
from smoothing.radius.spherical_growth import spherical_growth
from smoothing.radius.table import curve_of
from smoothing.rounding import FORMULA_SLACK, down, up
from smoothing.threat import Norm

LARGEST_SHAPE = 2_000_000
"""Largest d / k of a level set: the incomplete gamma and beta functions were checked against mpmath up to there."""


single_radius = lru_cache(maxsize=4096)(level_set_radius)
"""Radii of single values: remembered, as a table does not pay for a few."""


@dataclass(frozen=True)
class SphericalLaw(SmoothingDistribution):
    """A law whose density falls with ||z||_2 and depends on nothing else.

    The loss of probability under a shift v depends on ||v||_2 only, and grows with it. The l2 ball of radius R therefore
    holds the largest l1 ball, of radius R (along an axis), and the largest linf ball, of radius R / sqrt(d) (along a
    corner): those radii are as tight as the one at l2.

    *Two classes.* Let beta(p) be the least probability, after the shift, of a set of probability p. It is convex, so that
    beta(p_A) + beta(1 - p_B) >= 2 beta((p_A + 1 - p_B) / 2), which is at least 1 within the one-sided radius for
    (1 + p_A - p_B) / 2; and the runner-up reaches at most 1 - beta(1 - p_B). That one-sided radius holds for the pair. Where
    the differential method is tight it is the smaller of the two that are proved: see `LevelSetLaw`.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L1, Norm.L2, Norm.LINF})

    @abstractmethod
    def _radii(self, n: int, generator: torch.Generator, device: torch.device | str | None) -> Float64[Tensor, " n"]:
        """Draw `n` independent values of ||z||_2, float64, in input units."""

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "n *shape"]:
        """Draw a uniform direction and an independent length in float64; see the base class."""
        self._check_draw(n, generator, dtype)
        points = sphere_direction(n, self.shape, generator, device, dtype)
        return scale_rows(points, self._radii(n, generator, device)).to(dtype)

    def _two_sided_radius(
        self,
        p: Float64[ndarray, "..."],
        q: Float64[ndarray, "..."],
        rival: Float64[ndarray, "..."],
        norm: Norm,
    ) -> Float64[ndarray, "..."]:
        # rival = q is the one-sided case, where the mean is exact; otherwise it is rounded up, and no further than q, which
        # keeps the radius from being smaller than the one-sided one.
        failure = np.where(rival == q, q, np.minimum(np.nextafter(0.5 * (q + rival), 1.0), q))
        # Where q has lost the digits of a small p: 1/2 - (p - rival) / 2.
        failure = np.where(q > 0.5, np.nextafter(0.5 - 0.5 * np.nextafter(p - rival, 0.0), 1.0), failure)
        failure = np.where((q > 0.5) & (rival >= p), 0.5, failure)
        lower, _ = self._one_sided_bounds(np.clip(failure, 0.0, 0.5), norm)
        return lower

    def _per_norm(self, radius: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        """Return the radius at `norm` that a radius at l2 gives."""
        return radius / math.sqrt(self.dimension) if norm is Norm.LINF else radius


@dataclass(frozen=True)
class LevelSetLaw(SphericalLaw):
    """A spherical law whose radii come from the level-set method, apart from closed forms for some parameters.

    The first radius of a law builds the curve of its profile, in seconds; it is kept, for all scales, while the process
    lives, and on disk by `smoothing.radius.table`. `direct_radius` is for a single value, without a table.

    The relative gap to the exact radius is below 1e-3 for p_A from 0.51 to 1 - 1e-6, at any exponent of the tail above 0.05
    (below, radii leave float64, and the gap grows once they do); it is at most about 1e-2 where the pole of the density at
    the origin makes probabilities move at a (nearly) infinite rate: Exp2 with j >= d - 2. Between nodes the table composes
    shifts, or follows chords, where convexity gives them or, for cusps, poles and heavy tails, scaling
    (`smoothing.radius.scale_chords`). `LevelSetCurve.gaps` states the gap of every table; `direct_radius` has almost none.

    Closer to 1/2 it tends to that of the linear bound (1/2 - q) / Phi(1/2), which is 0 for a finite Phi(1/2) (for j >= d -
    1, where that is infinite, the radius is 0 from some p_A near 1/2 on); from p_A = 1 - 1e-13 on the radius no longer
    grows by more than what composing shifts gives.

    *Two classes* get the larger of two radii: that of the level sets for (1 + p_A - p_B) / 2, see the base class, and
    (G(p_A) - G(p_B)) / 2 with the growth function G of the differential method (`smoothing.radius.spherical_growth`). One is
    better in heavy tails and next to p_A = 1 - p_B, the other where the probabilities are far from that. (Averaging radii of
    level sets would be better than either, and is not proved.)
    """

    scale: float | None = None

    scale_name: ClassVar[str] = "scale"
    reference: ClassVar[str] = "Yang et al. 2020, level-set method; weak duality for the rounding"

    @property
    @abstractmethod
    def profile(self) -> SphericalProfile:
        """The law at scale 1."""

    @abstractmethod
    def _closed_form(self, q_upper: Float64[ndarray, "..."]) -> Float64[ndarray, "..."] | None:
        """Return the exact l2 radius where there is a formula for these parameters."""

    @property
    def _scale(self) -> float:
        assert self.scale is not None
        return self.scale

    def _log_sphere(self) -> float:
        """Return the log of the surface of the sphere of radius `scale`, times scale: Int f(r/scale) r^(d-1) dr is left."""
        d = self.dimension
        return d * math.log(self._scale) + math.log(2.0) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)

    def curve(self) -> LevelSetCurve:
        """Return the proved radii of the profile, at scale 1; built on first use.

        Raises:
            InvalidArgumentError: If d / k is beyond what the special functions have been checked for.
        """
        self._require_known_functions()
        return curve_of(self.profile)

    def _require_known_functions(self) -> None:
        k = float(getattr(self, "k", 1.0) or 1.0)
        if self.dimension / k > LARGEST_SHAPE:
            raise InvalidArgumentError(
                f"no radius is proved for {self.name} noise with d / k above {LARGEST_SHAPE:,}, where the incomplete gamma "
                f"and beta functions are not accurate enough; got d={self.dimension}, k={k}"
            )

    def _one_sided_radius(self, q_upper: Float64[ndarray, "..."], norm: Norm) -> Float64[ndarray, "..."]:
        """Return the best estimate of the radius: not a bound."""
        exact = self._closed_form(q_upper)
        if exact is None:
            values = [single_radius(self.profile, float(w)).estimate for w in np.ravel(q_upper)]
            exact = self._scale * np.reshape(values, np.shape(q_upper))
        return self._per_norm(exact, norm)

    def _two_sided_radius(
        self,
        p: Float64[ndarray, "..."],
        q: Float64[ndarray, "..."],
        rival: Float64[ndarray, "..."],
        norm: Norm,
    ) -> Float64[ndarray, "..."]:
        whole = super()._two_sided_radius(p, q, rival, norm)
        if not np.any(rival < q):
            return whole
        if self._closed_form(np.array([0.25])) is not None:  # of laws whose radii are those of the differential method
            apart = SmoothingDistribution._two_sided_radius(self, p, q, rival, norm)
        else:
            apart = self._averaged(p, q, rival, norm)
        # A region of probability 0 keeps it under every shift, and another one keeps some: the density is positive.
        apart = np.where((rival == 0.0) & (p > 0.0), np.inf, apart)
        return np.where(rival < q, np.fmax(whole, apart), whole)

    def _averaged(
        self,
        p: Float64[ndarray, "..."],
        q: Float64[ndarray, "..."],
        rival: Float64[ndarray, "..."],
        norm: Norm,
    ) -> Float64[ndarray, "..."]:
        """Return (G(p_A) - G(p_B)) / 2 of the differential method from below; 0 where that proves nothing."""
        self._require_known_functions()
        growth = spherical_growth(self.profile)
        if growth is None:
            return np.zeros_like(q)
        # All are integrals over the same lines: of a difference, only their rounding has to be taken off.
        beyond, left, right = (growth.bounds(np.minimum(x, 0.5))[0] for x in (rival, q, p))
        mean = 0.5 * (beyond + np.where(q < 0.5, left, -up(right, 1e-11)))
        return np.asarray(down(self._per_norm(self._scale * mean, norm), 1e-13))

    def direct_radius(self, q_upper: float, norm: Norm | str) -> LevelSetRadius:
        """Return one radius without the law's table, and its estimate, in input units; remembered while the process lives.

        Some seconds of work, where a table takes 1 to 60; `radius` always uses the table, so that it gives one and the
        same value whatever was asked before, which is never above this one.

        Args:
            q_upper: Upper bound on 1 - p_A, in [0, 1].
            norm: l1, l2 or linf.

        Raises:
            UnsupportedNormError: If no radius is proved for `norm`.
            InvalidArgumentError: If q_upper is outside [0, 1] or NaN, or d / k is beyond what was checked, as for `curve`.
        """
        norm = self.require_norm(norm)
        if not 0.0 <= q_upper <= 1.0:
            raise InvalidArgumentError(f"q_upper must be in [0, 1] and not NaN, got q_upper={q_upper}")
        if q_upper >= 0.5:
            return LevelSetRadius(0.0, 0.0)
        exact = self._closed_form(np.array([q_upper]))
        if exact is not None:
            value = float(self._per_norm(exact, norm)[0])
            return LevelSetRadius(down(value), value)
        self._require_known_functions()
        found = single_radius(self.profile, q_upper)
        lower, estimate = self._per_norm(self._scale * np.array([found.lower, found.estimate]), norm)
        return LevelSetRadius(down(float(lower), 1e-14), float(estimate))

    def _one_sided_bounds(
        self, q_upper: Float64[ndarray, "..."], norm: Norm
    ) -> tuple[Float64[ndarray, "..."], Float64[ndarray, "..."]]:
        # The upper bound is used by the differential method only, whose two-sided form this law overrides.
        exact = self._closed_form(q_upper)
        slack = FORMULA_SLACK if exact is not None else 1e-14
        lower = exact if exact is not None else self._scale * self.curve().radius(q_upper)
        upper = up(self._per_norm(exact, norm), slack) if exact is not None else np.full_like(q_upper, np.inf)
        return np.asarray(down(self._per_norm(lower, norm), slack)), np.asarray(upper)
