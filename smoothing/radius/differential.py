"""The differential method, with directed rounding: R = int_q^{1/2} dp / Phi(p), for any even law of additive noise.

Let q(z) = exp(-psi(z)) be the density, and Z_v = <v, grad psi(z)> the score along v. If a region V has probability p, a
shift along v changes it at the rate of at most Phi_v(p) = sup {E[Z_v; A] : P(A) = p} per unit of length, and Phi, the
largest Phi_v over unit vectors of the norm, bounds every shift: G(p) = int^p dp / Phi grows by at most 1 per unit, which
is the radius R(q) = int_q^{1/2} dp / Phi(p) for 1 - p_A <= q (Yang et al. 2020, Theorem 1). Phi_v is convex in v, so that
vertices of the unit ball suffice: +-e_i at l1, the sign vectors at linf. Needed: densities that are absolutely continuous
along v with E|Z_v| finite (if that is infinite, so is Phi, and the radius is 0).

**Lower bound.** For every threshold t, and every A of probability p, E[Z; A] <= t p + h(t), h(t) = E(Z - t)_+ (weak duality
of Neyman and Pearson). So Phi lies below each of the lines p -> t p + h(t), and R above the integral of 1 / (a line) over
any division of [q, 1/2], in closed form: sum of log((t x'' + h) / (t x' + h)) / t. Wherever the cuts lie, and however the
thresholds were chosen, this is a bound; only h has to be rounded up, and the sum down.

**Upper bound.** A = {Z >= t} shows that Phi(P(A)) >= E[Z; A]; Phi is concave, hence above the chords of such points, and
1 / (a chord) integrates to a logarithm as well. The two bounds enclose R, and differ by the square of the distance
between thresholds: 5 * 10^4 of them give less than 1e-6. Their relative difference is reported by `relative_gap`.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import ndtr

from smoothing.errors import InvalidArgumentError

EVALUATION_ERROR = 3e-11
"""Default allowance, relative to the parts of h(t), for the special functions (incomplete gamma and beta functions of
`scipy.special`, measured against mpmath: below 5e-12) that the shares and means were computed with."""

_NORMAL = 1e-290
"""Below this, products of a threshold and a share have lost digits to underflow."""


@dataclass(frozen=True)
class GrowthIntegral:
    """Enclosure of R(q) = int_q^{1/2} dp / Phi(p) for a score with known partial expectations.

    What a law of your own has to provide are the three arrays, at thresholds of your choice, by its

    * marginal (independent coordinates of even density f = exp(-psi), at l1, where the score is psi'(x)). If f is
      log-concave, the sets of high score are half-lines: thresholds psi'(x), shares P(z_i >= x), means f(x), at falling
      x > 0. If it is log-convex on x > 0, they are intervals at 0: shares P(0 <= z_i <= x), means f(0) - f(x), at rising x.
      In both cases half_mean = f(0).
    * radial profile (density exp(-psi(||z||)), of any norm whose unit ball the perturbation's norm shares, linf or l1, where
      the score is +-psi'(r)): thresholds t, shares P(psi'(r) >= t) / 2, means E[psi'(r); psi'(r) >= t] / 2 for r = ||z||,
      and half_mean = E|psi'(r)| / 2; `smoothing.radius.radial` has two examples.

    Args:
        thresholds: t_i >= 0, not increasing.
        shares: P(Z >= t_i), in [0, 1/2], not decreasing; computed to a relative `error`.
        means: E[Z; Z >= t_i], positive, not decreasing; computed to a relative `error`.
        half_mean: E|Z| / 2 = Phi(1/2), computed to a relative `error`.
        limit: R(0), or a lower bound on it, if one is known (infinite, say); the lower bound is at least what the first line
            gives.
        error: Relative error of the numbers above, at most 1e-6.

    The score is symmetric: Z and -Z have the same law.

    Raises:
        InvalidArgumentError: If the arrays have different lengths, are empty, not finite or not monotone.

    Example:
        >>> import numpy as np
        >>> from scipy.stats import logistic  # independent logistic noise, psi'(x) = tanh(x / 2)
        >>> x = np.linspace(40, 1e-3, 20_000)
        >>> growth = GrowthIntegral(np.tanh(x / 2), logistic.sf(x), logistic.pdf(x), half_mean=0.25)
        >>> lower, upper = growth.bounds(np.array([0.1]))  # log-concave: the exact radius is logistic.isf(0.1)
        >>> bool(lower[0] <= logistic.isf(0.1) <= upper[0]), round(float(lower[0]), 5)
        (True, 2.19722)
    """

    thresholds: Float64[ndarray, " n"]
    shares: Float64[ndarray, " n"]
    means: Float64[ndarray, " n"]
    half_mean: float
    limit: float | None = None
    error: float = EVALUATION_ERROR
    _lines: tuple[Float64[ndarray, " m"], ...] = field(init=False, repr=False, compare=False)
    _chords: tuple[Float64[ndarray, " k"], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        arrays = (self.thresholds, self.shares, self.means)
        if len({len(array) for array in arrays}) != 1 or not len(self.thresholds):
            raise InvalidArgumentError(
                f"thresholds, shares and means must have one length of at least 1, got {[len(a) for a in arrays]}"
            )
        if not all(bool(np.all(np.isfinite(array)) and np.all(array >= 0)) for array in arrays):
            raise InvalidArgumentError("thresholds, shares and means must be finite and not negative")
        if np.any(np.diff(self.thresholds) > 0) or any(np.any(np.diff(a) < 0) for a in (self.shares, self.means)):
            raise InvalidArgumentError("thresholds must not increase, shares and means must not decrease")
        if not (np.isfinite(self.half_mean) and self.half_mean > 0 and 0 <= self.error <= 1e-6):
            raise InvalidArgumentError(
                f"half_mean must be positive and error in [0, 1e-6], got half_mean={self.half_mean}, error={self.error}"
            )
        object.__setattr__(self, "_lines", self._integrate_lines())
        object.__setattr__(self, "_chords", self._integrate_chords())

    def bounds(self, q: Float64[ndarray, "..."]) -> tuple[Float64[ndarray, "..."], Float64[ndarray, "..."]]:
        """Return bounds on R(q), below and above, for 0 <= q <= 1/2."""
        lower, upper = self._lower(q), self._upper(q)
        if self.limit is not None:
            lower = np.where(q == 0.0, np.maximum(lower, self.limit * (1.0 - self.error)), lower)
        # The last subnormal shares may have no chord: nothing is known from above there.
        return lower, np.maximum(np.where(np.isnan(upper), np.inf, upper), lower)

    def relative_gap(self, q: Float64[ndarray, "..."]) -> Float64[ndarray, "..."]:
        """Return (upper - lower) / lower, a bound on the relative loss of the lower bound; 0 at q = 1/2."""
        lower, upper = self.bounds(q)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(upper == lower, 0.0, (upper - lower) / lower)

    @property
    def _summation_error(self) -> float:
        """Relative error, at worst, of a running sum of n positive terms that are each right to 10 units of rounding."""
        return (len(self.thresholds) + 20) * 2.0**-53

    def estimate(self, q: Float64[ndarray, "..."]) -> Float64[ndarray, "..."]:
        """Return the best estimate of R(q): tangents lose half of what chords gain, to leading order."""
        lower, upper = self.bounds(q)
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(upper), (2.0 * lower + upper) / 3.0, lower)

    def _integrate_lines(self) -> tuple[Float64[ndarray, " m"], ...]:
        """Return slopes, offsets, cuts (from 1/2 down to 0) and the integrals from each cut up to 1/2, rounded down."""
        # The line of slope 0 comes last: Phi <= E|Z| / 2.
        # Numbers that have lost digits to underflow make no line: its offset might be 0 instead of positive.
        normal = self.means > _NORMAL
        slopes = np.append(self.thresholds[normal], 0.0)[::-1]
        shares, means = (
            np.append(v[normal], end)[::-1] for v, end in ((self.shares, 0.5), (self.means, self.half_mean))
        )
        # h = E[Z; Z >= t] - t P(Z >= t) cancels: the allowance is relative to its parts.
        offsets = np.maximum(means - slopes * shares, 0.0) + self.error * (means + slopes * shares)
        fall, rise = np.diff(offsets), -np.diff(slopes)
        with np.errstate(divide="ignore", invalid="ignore"):
            cuts = np.where(rise < 0, fall / np.where(rise < 0, rise, 1.0), shares[1:])
        # Two tangents cross between their points; any division is valid, so that rounding may move the cut.
        cuts = np.concatenate(([0.5], np.clip(cuts, np.minimum(shares[1:], shares[:-1]), shares[:-1])))
        cuts = np.minimum.accumulate(np.clip(cuts, 0.0, 0.5))
        pieces = _over_line(slopes[:-1], offsets[:-1], cuts[1:], cuts[:-1])
        return slopes, offsets, cuts, np.concatenate(([0.0], np.cumsum(pieces)))

    def _lower(self, q: Float64[ndarray, "..."]) -> Float64[ndarray, "..."]:
        slopes, offsets, cuts, totals = self._lines
        # cuts[i] >= q > cuts[i + 1]: line i is in force at q, and starts at cuts[i].
        i = np.clip(np.searchsorted(-cuts, -q, side="left") - 1, 0, len(cuts) - 1)
        total = totals[i] + _over_line(slopes[i], offsets[i], q, np.maximum(cuts[i], q))
        return np.asarray(np.maximum(total * (1.0 - self._summation_error), 0.0))

    def _integrate_chords(self) -> tuple[Float64[ndarray, " k"], ...]:
        """Return points below the graph of Phi (from 1/2 down), and the integrals over their chords up to 1/2."""
        shares = np.concatenate(([0.5], np.minimum(self.shares[::-1] * (1.0 + self.error), 0.5)))
        # Phi increases up to 1/2: to the right of its true place and lowered, a point is below the graph.
        means = np.concatenate(([self.half_mean], self.means[::-1])) * (1.0 - self.error)
        kept = (shares > 0) & (means > _NORMAL)
        shares, means = shares[kept], np.minimum.accumulate(means[kept])
        pieces = _over_chord(shares[1:], means[1:], shares[:-1], means[:-1])
        return shares, means, np.concatenate(([0.0], np.cumsum(pieces)))

    def _upper(self, q: Float64[ndarray, "..."]) -> Float64[ndarray, "..."]:
        shares, means, totals = self._chords
        i = np.clip(np.searchsorted(-shares, -q, side="left") - 1, 0, len(shares) - 1)
        # Left of the last point the chord ends in (0, 0).
        left_share, left_mean = np.append(shares[1:], 0.0)[i], np.append(means[1:], 0.0)[i]
        width = shares[i] - left_share
        fraction = np.where(width > 0, (q - left_share) / np.where(width > 0, width, 1.0), 1.0)
        level = left_mean + np.clip(fraction, 0.0, 1.0) * (means[i] - left_mean)
        total = totals[i] + _over_chord(q, level, shares[i], means[i])
        return np.asarray(total * (1.0 + self._summation_error))


def cell_bounds(
    thresholds: Float64[ndarray, " n"], shares: Float64[ndarray, " n"], means: Float64[ndarray, " n"]
) -> tuple[Float64[ndarray, " m"], Float64[ndarray, " m"]]:
    """Return what each of the n - 1 cells between neighbouring thresholds adds to the lower and to the upper bound.

    Not rounded: a guide to where more thresholds are worth their while.

    Args:
        thresholds: Decreasing.
        shares: P(Z >= t).
        means: E[Z; Z >= t].
    """
    offsets = np.maximum(means - thresholds * shares, 0.0)
    drop = thresholds[:-1] - thresholds[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        cuts = np.where(drop > 0, np.diff(offsets) / np.where(drop > 0, drop, 1.0), shares[:-1])
    cuts = np.clip(cuts, shares[:-1], shares[1:])
    lower = _over_line(thresholds[:-1], offsets[:-1], shares[:-1], cuts)
    lower = lower + _over_line(thresholds[1:], offsets[1:], cuts, shares[1:])
    return lower, _over_chord(shares[:-1], means[:-1], shares[1:], means[1:])


def _over_line(
    slope: Float64[ndarray, "..."],
    offset: Float64[ndarray, "..."],
    left: Float64[ndarray, "..."],
    right: Float64[ndarray, "..."],
) -> Float64[ndarray, "..."]:
    """int_left^right dp / (slope p + offset) = log1p(slope (right - left) / (slope left + offset)) / slope."""
    width = right - left
    level = slope * left + offset
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        growth = slope * width / level
        # log1p(x) / x -> 1 for a slope of 0.
        factor = np.where(growth > 0, np.log1p(growth) / np.where(growth > 0, growth, 1.0), 1.0)
        # A quotient beyond float64: log1p is a log. A level of 0 gives infinity, as it should.
        far = (np.log(slope) + np.log(width) - np.log(level)) / slope
        value = np.where(np.isinf(growth), far, width / level * factor)
        return np.asarray(np.where(width > 0, value, 0.0))


def _over_chord(
    left: Float64[ndarray, "..."],
    left_level: Float64[ndarray, "..."],
    right: Float64[ndarray, "..."],
    right_level: Float64[ndarray, "..."],
) -> Float64[ndarray, "..."]:
    """int_left^right dp / (the chord between two levels) = width / (logarithmic mean of the levels)."""
    width = right - left
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        growth = (right_level - left_level) / left_level
        factor = np.where(growth > 0, np.log1p(growth) / np.where(growth > 0, growth, 1.0), 1.0)
        value = np.where(left_level > 0, width / left_level * factor, np.inf)
        return np.asarray(np.where(width > 0, value, 0.0))


def share_grid(n: int) -> Float64[ndarray, " n"]:
    """Return shares p = P(N(0, 1) > x) for n equidistant x in (0, 37], from 1e-299 to 1/2: a grid that suits any score."""
    return np.asarray(ndtr(-37.0 * (n - np.arange(n)) / n))
