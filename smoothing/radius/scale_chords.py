"""Chords in the logarithm of the length, for any law of a `SphericalProfile`: its scale is moved instead of the shift.

A shift of length e^u |v| is, in other units, the shift v of the law F_u of density e^(du) q(e^u x). At every x, with the
growth h(r) = r psi'(r) of the profile, F_u is a smooth function of u:

    dF_u/du = g F_u,    d^2 F_u/du^2 = (g^2 - h') F_u,    g = d - h(e^u |x|),    h' = r dh/dr >= 0.

Let u go from 0 to D, and let L = (1 - s) F_0 + s F_D be the chord at u = s D. By Taylor's formula (with Green's function),
F_u(A) and L(A) differ for a set A, towards a smaller F_u(A), by at most s (1 - s) D^2 / 2 times the integral of (g^2 - h')_+
over A under some F between. The law of g under F_u is the same for every u, and after the shift: for a set of probability m,

    Psi(m) = sup { E[(g^2 - h')_+; B] : P(B) <= m }

is above that integral. Now let A miss the probability w under F_u, w <= w(e) of the node at e; t is its threshold and `far`
the bound for the next length with the same t. Of L, the shifted A holds at least 1/2 + e^t ((1 - s) w(e) + s far - w'), w'
being what A misses of L. Passing from L to F_u costs Psi(1) for the shifted A, and Psi(m) for what A misses. So A keeps
one half if

    w <= (1 - s) w(e) + s far - s (1 - s) D^2 / 2 * (e^-t Psi(1) + Psi(m)).

Here m is what F_u(A^c) cannot pass on the way from 0 to D: it moves by at most sqrt(m E[g^2; A^c]) per unit of u. What is
given up falls with the square of D, in every dimension and for any cusp at the origin; E g^2 = d (k a - d) / (a + 1) for
(1 + r^k)^-a, and k (d - j) for exp(-r^k) r^-j.

Reference: our own; the scores of a scale family are in every textbook of statistics.
"""

import math
from dataclasses import dataclass

import numpy as np

from smoothing.radius.spherical import Array, SphericalProfile

_LEVELS = np.geomspace(1e-16, 0.5, 1500)
"""Probabilities below and above the edges of the cells over which scores are summed."""

_GROWS = 1.25
"""Factor by which the probability of a set may grow over a cell."""

_SPARE = 1 + 1e-6
"""Rounding of probabilities (relative 1e-11, in cells of at least 2 % of the tail beyond) and of sums."""


@dataclass(frozen=True)
class ScaleScores:
    """Psi(m), and the same for g^2 in place of g^2 - h', as concave piecewise linear functions of m from above.

    Attributes:
        curved: Ends m and values Psi(m), [2, n].
        squared: Ends m and values of the same for g^2, [2, n].
    """

    curved: Array
    squared: Array

    @classmethod
    def of(cls, profile: SphericalProfile) -> "ScaleScores | None":
        """Sum over cells of |x|; None where a sum is not finite.

        Args:
            profile: The law.
        """
        with np.errstate(all="ignore"):
            lower = np.array([profile.quantile(float(level), upper=False) for level in _LEVELS])
            upper = np.array([profile.quantile(float(level), upper=True) for level in _LEVELS[::-1]])
            r = np.unique(np.concatenate((lower, upper)))
            r = r[(r > 1e-290) & (r < 1e290)]
            if len(r) < 10:
                return None
            below, above = profile.cumulative(r)
            d, growth = float(profile.dimension), profile.growth(r)
            inside = np.where(below[1:] < 0.5, np.diff(below), -np.diff(above))
            mass = np.concatenate(([below[0]], np.maximum(inside, 0.0))) + 1e-20
            score = d - growth
            square = np.maximum(score[1:], score[:-1]) ** 2
            square = np.maximum(square, np.minimum(score[1:], score[:-1]) ** 2)
            # h is not negative, so that |g| <= max(d, |g| at the cell's end) in the first cell.
            first = max(d, abs(float(score[0]))) ** 2
            least, _ = profile.elasticity(r[:-1], r[1:])
            curved = np.maximum(square * (1 + 1e-9) - growth[:-1] * least * (1 - 1e-9), 0.0)
            last = _tail(profile, r, above, score)
        squares = np.concatenate(([first], square * (1 + 1e-9)))
        curves = np.concatenate(([first], curved))
        if not all(np.all(np.isfinite(part)) for part in (squares, curves, mass, last)):
            return None
        return ScaleScores(_largest(mass, curves, last), _largest(mass, squares, last))

    @property
    def total(self) -> float:
        """Psi(1): the smaller it is, the longer a chord may be."""
        return float(self.curved[1, -1])

    def losses(self, e: Array, w: Array, kappa: Array) -> Array:
        """Return, for each cell between neighbouring lengths, what is to be taken from w in its middle; infinite: no chord.

        Args:
            e: Lengths of the nodes, rising, [n].
            w: Their failure probabilities, [n].
            kappa: Their e^t, or less, [n].

        Returns:
            [n], of which the last stands for no cell and is infinite.
        """
        width = np.append(np.log(e[1:] / e[:-1]) * (1 + 1e-9) + 1e-15, np.inf)
        grown = _GROWS * w
        with np.errstate(over="ignore", invalid="ignore"):
            moves = width * np.sqrt(grown * np.interp(grown, *self.squared))
            half = self.total / kappa + np.interp(grown, *self.curved)
            loss = 0.125 * width**2 * half * (1 + 1e-9)
        return np.where((moves <= (_GROWS - 1) * w) & np.isfinite(loss), loss, np.inf)


def _tail(profile: SphericalProfile, r: Array, above: Array, score: Array) -> float:
    """Return an upper bound on E[g^2; |x| > r] at the last r.

    log |x| has a log-concave density f with f' = g f: beyond U, the integral of g^2 - h' is |g| f there, that of |g| is f;
    and f is no larger than its mean over an interval before, where it falls already. h' is at most its elasticity times h.
    """
    falls = np.flatnonzero(score < 0)
    if len(falls) < 2:
        return math.inf
    before = max(int(falls[0]), len(r) - 40)
    density = (above[before] - above[-1]) / math.log(r[-1] / r[before])
    _, most = profile.elasticity(r[-1:], np.array([np.inf]))
    return float(abs(score[-1]) * density + most[0] * (profile.dimension * above[-1] + density)) * (1 + 1e-6)


def _largest(mass: Array, value: Array, beyond: float) -> Array:
    """Return the concave function of m: the most that sets of probability m hold of a function, cell by cell, and `beyond`.

    Beyond the last cell no value is known, only the whole: it counts for every m.
    """
    order = np.argsort(-value, kind="stable")
    mass, value = mass[order], value[order]
    ends = np.concatenate(([0.0], np.cumsum(mass)))
    sums = beyond + np.concatenate(([0.0], np.cumsum(mass * value)))
    return np.stack((ends, sums * _SPARE))


def scale_share(loss: Array, start: Array, end: Array, w: Array) -> Array:
    """Return the s up to which (1 - s) start + s end - 4 s (1 - s) loss >= w, in units of the cell's log length.

    Args:
        loss: What the middle of the cell gives up, [n].
        start: w(e) at the node, [n].
        end: The bound at the next one with the same threshold, below `start`, [n].
        w: Failure probabilities between `end` and `start`, [n].
    """
    # The smaller root of (fall + 4 loss) s - 4 loss s^2 = start - w.
    need, slope = np.maximum(start - w, 0.0), (start - end) + 4 * loss
    return np.asarray(2 * need / (slope + np.sqrt(np.maximum(slope**2 - 16 * loss * need, 0.0))))
