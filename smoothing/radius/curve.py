"""Tables of the level-set method: proved nodes (e, w), and proved radii between them.

*Between the nodes* shifts are composed. beta_{e+f}(p) >= beta_f(beta_e(p)) for the least probability beta_e(p) after a
shift of length e, so that R(w) >= e + R(1/2 - e^t (w(e) - w)), and close to 1/2, R(1/2 - u) >= u / Phi(1/2) with
Phi(1/2) = E psi'(|x|) E|w_1| / 2. For Gaussian noise composing loses nothing.

*Chords* serve where composing loses nearly everything: in a heavy tail, where probabilities hardly move while e doubles. Let
M(e) = int min(q_v, e^t q) >= 1/2 + e^t w(e), with t fixed. If q^(-1/m) is convex for an m > d, then so is, in the point and
the length e together, max(q_v^(-1/m), (e^t q)^(-1/m)), which is min(q_v, e^t q)^(-1/m); and M^(-1/(m - d)) is convex in e by
the inequality of Borell, Brascamp and Lieb. For log-concave q, the limit of large m, log M is concave (Prekopa). Hence M
lies above what the chord of that power says between two lengths for which one t has been used, and the loss falls with the
square of their distance. Where there is no such m, and composing would take too many nodes, chords in log e serve: see
`smoothing.radius.scale_chords`.

Reference: Yang et al. 2020, Section 4 and Appendix (level-set method); Borell 1975, Brascamp and Lieb 1976 for chords; the
rounding and the table are our own.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from smoothing.radius.level_set import LENGTHS, NODE_LOSS, failure_bounds, slope_at_half, thresholds
from smoothing.radius.line import is_line
from smoothing.radius.scale_chords import ScaleScores, scale_share
from smoothing.radius.spherical import Array, SphericalProfile

NODE_GAP = 6e-4
"""Relative loss between neighbouring nodes of a table that its construction aims at."""

COARSE_GAP = 4e-3
"""The same for laws that would need too many nodes: those with a pole at the origin, above all."""

_ROUNDING_SHARE = 1 / 6
"""Share of it that the rounding of a node's w may take, as a loss of its length."""

_BELOW_DIRECT = 1 - 2e-6
"""A single radius is rounded by about 1e-6 of itself: a table, as sound as it is, must not show more than that."""

_LEAST_LOSS = 2e-7
_LEAST_FAILURE = 1e-13
_INNER = (4e-7, 0.4905)
"""Failure probabilities between which `NODE_GAP` is meant; outside, eight times as much will do."""
_LEAST_LEAD = 1.5e-4
_FEW_NODES, _MOST_NODES = 4500, 9000
_MOST_NODES_AT_POLE = 8000
"""The same where probabilities move at an infinite rate: the lengths of interest span dozens of decades."""

_LINE_NODES = 150_000, 250_000
"""The same in one dimension, where a node costs some microseconds."""
_MOST_SCORE = 5.0
"""Largest sum of scores for chords in log e, which cost a second bound per node: with less they save most of the nodes."""

_MOST_SCORE_AT_POLE = 0.6
"""The same where a table starts far closer to p = 1/2, as no line through it is known."""

_LEAST_GOAL_AT_POLE = 2.0
"""Factor there by which cells with chords may be longer than `NODE_GAP` asks for: there nodes cost most."""

_ROUNDS = 12
_BATCH, _LINE_BATCH = 64, 4096


@dataclass(frozen=True)
class LevelSetCurve:
    """R(w) >= a proved lower bound on the l2 radius of a profile, for every failure probability w = 1 - p.

    Attributes:
        e: Lengths of the nodes, rising, in the profile's units, [n].
        w: Their failure probabilities, falling, [n]: w(e) from below.
        kappa: Their e^t, rounded down, [n].
        slope: Lower bound on 1 / Phi(1/2).
        above: w(e) from above, up to rounding, [n]; it tells how much of the gap is the rounding of nodes.
        far: Bound on w at the length of the next node with the node's own t, [n]; the last one is not used.
        power: The m - d for which chords are drawn, infinite for a log-concave law; 0 for none.
        spent: What chords in log e give up in the middle of each cell, in w, [n]; empty where they are not drawn.
    """

    e: Array
    w: Array
    kappa: Array
    slope: float
    above: Array = field(default_factory=lambda: np.empty(0))
    far: Array = field(default_factory=lambda: np.empty(0))
    power: float = 0.0
    spent: Array = field(default_factory=lambda: np.empty(0))

    @property
    def _chords(self) -> bool:
        return len(self.e) > 1 and (self.power > 0 or len(self.spent) == len(self.e))

    @classmethod
    def build(cls, profile: SphericalProfile, gap: float = NODE_GAP) -> "LevelSetCurve":
        """Compute the nodes: few at first, then more wherever the loss between neighbours is above what is aimed at.

        Args:
            profile: The law.
            gap: Relative loss between neighbouring nodes to aim at; the radii are proved whatever it is.
        """
        nodes = _Nodes(profile, gap)
        if not len(nodes.e):  # radii beyond what is looked at: the linear bound is left
            return LevelSetCurve(nodes.e, nodes.w, nodes.t, nodes.slope)
        fair, most_nodes = _LINE_NODES if is_line(profile) else (_FEW_NODES, _MOST_NODES)
        if not nodes.slope and not is_line(profile):
            most_nodes = _MOST_NODES_AT_POLE
        goal, room = 1.0, False
        for index in range(_ROUNDS):
            curve = nodes.curve()
            gaps = curve.gaps()
            # Only what lies outside as a whole: a look-up within falls back on the node before, wherever that is.
            outside = (np.concatenate(([0.5], curve.w[:-1])) <= _INNER[0]) | (curve.w >= _INNER[1])
            excess = gaps / np.where(outside, 8.0 * gap, gap)
            if curve._chords:  # the loss of a chord falls with the square
                excess = np.where(excess > 1, np.sqrt(excess), excess)
            if index < 4:  # what is left to do says what can be done
                needed, most = float(np.sum(excess[1:])), max(COARSE_GAP / gap, 1.0)
                costly = needed > fair or curve.slope == 0
                least = 1.0 if curve.slope > 0 or is_line(profile) else _LEAST_GOAL_AT_POLE
                goal = min(max(needed / fair, least), most) if curve.slope > 0 or curve._chords else most
                nodes.rounding = _ROUNDING_SHARE * gap * goal
                if index and costly and not curve._chords and nodes.draw_chords():
                    continue
            for _ in range(400):  # the worst cells first, if there is no room for all
                parts = _parts(excess / goal)
                if room := len(curve.e) + int(np.sum(parts[1:] - 1)) <= most_nodes:
                    break
                goal *= 1.05
            parts[0] = 1
            if index >= 4:  # out there the rounding of w, not the distance of nodes, may be what is lost
                parts[outside] = 1
            coarse = curve._chords & (curve.rounded() > 0.5 * gaps) & (parts > 1)
            parts[coarse] = 1
            coarse &= nodes.sharp == 0
            parts[1:][curve.e[1:] <= curve.e[:-1] * (1 + 1e-7)] = 1
            if not room or not np.any((parts > 1) | coarse):
                break
            nodes.sharpen(coarse, curve.rounded())
            if np.any(parts > 1):
                nodes.split(parts)
        return curve

    def gaps(self) -> Array:
        """Return, for each node, the relative gap to the exact radius just above its w, or in its cell, where that is more.

        Just above its w the table falls back on smaller nodes; a chord loses most in the middle of a cell, where the curve
        through the nodes stands for the exact one. What the node itself has lost by rounding is included.
        """
        if not len(self.e):
            return np.empty(0)
        before = self._radius(np.minimum(np.nextafter(self.w, 1.0), 0.5), depth=4)
        result = np.maximum(1 - before / self.e, 0.0)
        if self._chords and len(self.e) > 4:
            # log e as a function of log (1/2 - w) - log w is nearly straight at both ends.
            odds = PchipInterpolator(np.log(self.e), np.log((0.5 - self.w) / self.w))
            middle = np.sqrt(self.e[1:]) * np.sqrt(self.e[:-1])
            w = 0.5 / (1 + np.exp(odds(np.log(middle))))
            result[1:] = np.maximum(result[1:], 1 - self._radius(w, depth=4) / middle)
        return np.asarray(result + self.rounded())

    def rounded(self) -> Array:
        """Return what each node has lost of its length by the rounding of its w, as far as that is known."""
        if len(self.above) == len(self.e) > 1:
            return np.asarray((self.above - self.w) * self.sensitivity())
        return np.zeros_like(self.e)

    def sensitivity(self) -> Array:
        """Return |d log e / d w| about each node: the larger of those on both sides; there are at least two."""
        rate = np.diff(np.log(self.e)) / -np.diff(self.w)
        return np.asarray(np.maximum(np.append(rate, rate[-1]), np.append(rate[0], rate)))

    def radius(self, w: Array) -> Array:
        """Return the proved radius for probabilities of at least 1 - w; 0 from w = 1/2 on, infinite at w = 0."""
        flat = np.asarray(w, dtype=np.float64).ravel()
        # The support is unbounded: a set of probability 1 keeps it after any shift.
        return np.where(flat > 0, _BELOW_DIRECT * self._radius(flat, depth=4), np.inf).reshape(np.shape(w))

    def _radius(self, w: Array, depth: int) -> Array:
        result = np.maximum(0.5 - w, 0.0) * self.slope * (1 - 1e-15)
        if not len(self.e):
            return result
        # The last node with w(e) >= w.
        index = np.searchsorted(-self.w, -w, side="right") - 1
        some = index >= 0
        at = index[some]
        left = self.kappa[at] * (self.w[at] - w[some]) * (1 - 1e-14)
        # The difference is rounded to the next float64, which may be below what is left.
        rest = np.nextafter(0.5 - np.minimum(left, 0.5), 1.0)
        more = self._radius(rest, depth - 1) if depth > 1 and len(rest) else np.maximum(0.5 - rest, 0) * self.slope
        if self._chords:
            along = self._along_chord if self.power else self._along_scale_chord
            more = np.maximum(more, along(at, w[some]))
        # No further than the next node: what that has lost by rounding must not show as a radius that falls again.
        ceiling = np.append(self.e[1:], np.inf)[at]
        result[some] = np.maximum(result[some], np.minimum(self.e[at] + more, ceiling))
        return result * (1 - 1e-15)

    def _along_chord(self, at: NDArray[np.int64], w: Array) -> Array:
        """Return how far beyond the node `at` the chord to the next one says that `w` is still reached, rounded down."""
        i = np.minimum(at, len(self.e) - 2)
        kappa, start, end = self.kappa[i], self.w[i], self.far[i]
        # For less than what is reached at its end, the end stands. Kappa is e^t from below, and M must reach 1/2 + e^t w.
        w = np.clip(w * (1 + 4e-14), end, start)
        level, last = 0.5 + kappa * start, 0.5 + kappa * np.maximum(end, 0.0)

        def fall(to: Array, there: Array) -> Array:
            """The logarithm of M(e_i) over M there, without cancellation."""
            share = kappa * (start - to) / level
            return np.where(share < 0.5, -np.log1p(-np.minimum(share, 0.5)), np.log(level / there))

        with np.errstate(all="ignore"):
            some, whole = fall(w, 0.5 + kappa * np.maximum(w, 0.0)), fall(end, last)
            if math.isfinite(self.power):
                some, whole = some / self.power, whole / self.power
                share = np.expm1(some) / np.expm1(whole)
            else:
                share = some / whole
            # Up to there, the rounding of kappa and of the powers is well below what is taken off.
            valid = (at == i) & (end >= 0) & (end < start) & (whole < 100.0) & (kappa < 1e300)
            step = (self.e[i + 1] - self.e[i]) * share * (1 - 1e-11)
        return np.where(valid & np.isfinite(step), np.maximum(step, 0.0), 0.0)

    def _along_scale_chord(self, at: NDArray[np.int64], w: Array) -> Array:
        """The same for the chord in log e."""
        i = np.minimum(at, len(self.e) - 2)
        start, end, spent = self.w[i], self.far[i], self.spent[i]
        w = np.clip(w * (1 + 4e-14), end, start)
        valid = (at == i) & (end < start) & np.isfinite(spent)
        with np.errstate(all="ignore"):
            share = scale_share(spent, start, end, w)
            step = self.e[i] * np.expm1(np.log(self.e[i + 1] / self.e[i]) * share) * (1 - 1e-11)
        return np.where(valid & np.isfinite(step), np.maximum(step, 0.0), 0.0)


def _parts(excess: Array) -> NDArray[np.int64]:
    """Return into how many parts to divide cells that lose so many times what is aimed at; a few, as it may fall faster."""
    parts = np.ceil(np.minimum(excess, 1e3))
    return np.where(parts > 30, 12, np.where(parts > 2, 3, parts)).astype(np.int64)


_PER_NODE = ("e", "w", "t", "above", "far", "reached", "sharp")


class _Nodes:
    """The nodes of a table that is being built, all proved."""

    def __init__(self, profile: SphericalProfile, gap: float) -> None:
        self.profile, self.slope = profile, slope_at_half(profile)
        convex = profile.convex_power()
        self.power = 0.0 if convex is None else convex - profile.dimension
        self.scores: ScaleScores | None = None
        self.rounding = _ROUNDING_SHARE * gap
        self.e, self.w, self.t = _first_nodes(profile, self.slope)
        self.above, self.far, self.reached, self.sharp = np.empty(0), np.empty(0), np.empty(0), np.empty(0)
        if not len(self.e):
            return
        # Where w hardly moves with e it has to be closer than at first.
        self.w, self.above = failure_bounds(profile, self.e, self.t, self._losses(self.e))
        self._keep(_frontier(self.w))
        self.far, self.reached, self.sharp = (np.zeros_like(self.e) for _ in range(3))

    def curve(self) -> LevelSetCurve:
        """Return the table of the nodes so far."""
        self._keep(_frontier(self.w))
        if self.power or self.scores:
            stale = np.flatnonzero(self.reached[:-1] != self.e[1:])
            following = self.e[stale + 1]
            self.far[stale], _ = failure_bounds(self.profile, following, self.t[stale], self._losses(following))
            self.reached[stale] = following
        kappa = np.exp(np.minimum(self.t, 700.0)) * (1 - 1e-14)
        far = self.far.copy() if self.power or self.scores else np.empty(0)
        spent = self.scores.losses(self.e, self.w, kappa) if self.scores else np.empty(0)
        return LevelSetCurve(self.e, self.w, kappa, self.slope, self.above, far, self.power, spent)

    def draw_chords(self) -> bool:
        """Draw chords in log e from now on if they pay, and return whether they do."""
        if self.scores is None and not self.power:
            scores = ScaleScores.of(self.profile)
            most = _MOST_SCORE if self.slope or is_line(self.profile) else _MOST_SCORE_AT_POLE
            self.scores = scores if scores is not None and scores.total < most else None
            return self.scores is not None
        return False

    def sharpen(self, some: NDArray[np.bool_], lost: Array) -> None:
        """Compute the bounds of some nodes again, whose rounding has taken the share `lost` of their lengths."""
        at = np.flatnonzero(some)
        if len(at):
            losses = (self.above[at] - self.w[at]) / np.minimum(self.w[at], 0.5 - self.w[at])
            losses = np.maximum(0.5 * losses * self.rounding / lost[at], _LEAST_LOSS)
            for name in ("w", "above", "reached"):  # a curve that was made holds the old arrays
                setattr(self, name, getattr(self, name).copy())
            self.w[at], self.above[at] = failure_bounds(self.profile, self.e[at], self.t[at], losses)
            self.reached[at], self.sharp[at] = 0.0, 1.0

    def split(self, parts: NDArray[np.int64]) -> None:
        """Divide the cell that ends in each node into that many parts; the first node ends none."""
        new = np.concatenate(
            [np.geomspace(a, b, n + 1)[1:-1] for a, b, n in zip(self.e[:-1], self.e[1:], parts[1:], strict=True)]
        )
        guess = np.exp(np.interp(np.log(new), np.log(self.e), np.log(np.maximum(self.t, 1e-300))))
        t = _thresholds(self.profile, new, guess)
        w, above = failure_bounds(self.profile, new, t, self._losses(new))
        nothing = np.zeros_like(new)
        order = np.argsort(np.concatenate((self.e, new)), kind="stable")
        known = {"e": new, "w": w, "t": t, "above": above}
        for name in _PER_NODE:
            setattr(self, name, np.concatenate((getattr(self, name), known.get(name, nothing)))[order])

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        for name in _PER_NODE:
            array = getattr(self, name)
            if len(array):
                setattr(self, name, array[kept])

    def _losses(self, e: Array) -> Array:
        """Return the relative losses of w to aim at for the lengths `e`, from how w moves between the nodes so far."""
        if len(self.e) < 2:
            return np.full_like(e, NODE_LOSS)
        w = np.clip(self.w, 1e-300, 0.5)
        steps, moved = np.diff(np.log(self.e)), np.abs(np.diff(w))
        middle = 0.5 * (w[1:] + w[:-1])
        # d log w / d log e, or that of 1/2 - w.
        speed = moved / (steps * np.maximum(np.minimum(middle, 0.5 - middle), 1e-300))
        cell = np.clip(np.searchsorted(self.e, e, side="left") - 1, 0, len(speed) - 1)
        least = np.minimum(speed[cell], speed[np.minimum(cell + 1, len(speed) - 1)])
        return np.asarray(np.clip(self.rounding * least, _LEAST_LOSS, NODE_LOSS))


def _thresholds(profile: SphericalProfile, e: Array, guess: Array) -> Array:
    size = _LINE_BATCH if is_line(profile) else _BATCH
    parts = [thresholds(profile, e[i : i + size], guess[i : i + size]) for i in range(0, len(e), size)]
    return np.concatenate(parts)


def _first_nodes(profile: SphericalProfile, slope: float) -> tuple[Array, Array, Array]:
    """Return e, w and t of nodes far apart, from where the linear bound is good enough to where w is negligible."""

    def nodes(e: Array, guess: float) -> tuple[Array, Array]:
        t = _thresholds(profile, e, np.full_like(e, guess))
        return failure_bounds(profile, e, t, np.full_like(e, NODE_LOSS))[0], t

    typical = min(max(profile.quantile(0.5, upper=False) / math.sqrt(profile.dimension), 1e-200), 1e200)
    found: list[tuple[Array, Array, Array]] = []
    many = 8 if is_line(profile) else 1  # there a node costs next to nothing beside a call
    for outwards, step, size in ((True, 1.35, 8), (False, 0.5, 4 * many)):
        stride, guess = step, 1.0
        start = typical if outwards else typical * step
        for _ in range(200):
            e: Array = start * np.array([stride**index for index in range(size)])
            e = e[(e > LENGTHS[0]) & (e < LENGTHS[1])]
            if not len(e):
                break
            w, t = nodes(e, guess)
            found.append((e, w, t))
            start, guess = float(e[-1]) * stride, max(float(t[-1]), 1e-8)
            linear = (0.5 - w[-1]) * slope / e[-1]
            if w[-1] < _LEAST_FAILURE if outwards else (0.5 - w[-1] < _LEAST_LEAD or 1 - linear < 0.3 * NODE_GAP):
                break
            # A law whose probabilities hardly move from one shift to the next is followed in longer strides.
            if not outwards and (0.5 - w[-1]) > 0.9 * (0.5 - w[0]):
                stride *= stride
    e, w, t = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(e)
    e, w, t = e[order], w[order], t[order]
    if not np.any(w > 0.1 * _LEAST_FAILURE):
        return np.empty(0), np.empty(0), np.empty(0)
    for _ in range(40):  # a steep density: the last w that is not negligible may be far from negligible
        last = int(np.flatnonzero(w > 0.1 * _LEAST_FAILURE)[-1])
        if w[last] < 0.5 * _INNER[0] or last + 1 == len(e) or e[last + 1] < e[last] * (1 + 1e-6):
            break
        new = np.geomspace(e[last], e[last + 1], 6)[1:-1]
        more_w, more_t = nodes(new, max(float(t[last]), 1e-8))
        e, w, t = (np.insert(old, last + 1, more) for old, more in ((e, new), (w, more_w), (t, more_t)))
    kept = (w > 0.1 * _LEAST_FAILURE) & (w < 0.5)
    kept &= np.append(e[1:] > e[:-1] * (1 + 1e-6), True)  # strides from both sides may meet
    return e[kept], w[kept], t[kept]


def _frontier(w: Array) -> NDArray[np.bool_]:
    """Return which nodes matter: those whose w no longer shift has too."""
    later = np.append(np.maximum.accumulate(w[::-1])[::-1][1:], -np.inf)
    return np.asarray((w > later) & (w > 0) & (w < 0.5))
