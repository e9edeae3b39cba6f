"""C(t, e) on the line, d = 1: the event is a union of at most two intervals, whose ends are roots.

With D(x) = psi(|x|) - psi(|x - e|), the set T = {D > t}, t > 0, lies beyond e/2, where D is positive. As D(e - x) = -D(x),
C(t, e) = P(T), and C(-t, e) = 1 - P(T - e). D rises up to x = e; beyond, it moves as psi'(x) - psi'(x - e) does. If psi'
falls, D falls. If psi' turns once, so does D: while x is on one side of the turning point and x - e on the other, the
difference is monotone, and elsewhere its sign is known. Hence

    T = (e - u, e + v), together with (e + c, infinity) if psi' falls and then rises;

if it rises and then falls, T may also lie beyond e: (e + a, e + v).

The ends are found by bisection in log u, log v and log c. What is proved does not rest on that: sets inside and around T are
taken, whose ends are on the proper side by more than the rounding of D, with the profile's `cumulative` for their masses.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from smoothing.radius.spherical import Array, Course, SphericalProfile

SPECIAL_SLACK = 2e-11
"""Relative allowance for the profile's cumulative probabilities."""

_FAR = 690.0
"""Ends are sought between e exp(-_FAR) and e exp(_FAR)."""

_STEPS, _FINE_STEPS, _TURN_STEPS = 32, 57, 40
"""Of bisection: an estimate needs log u to 1e-6 only, the turn of D to less than `_BESIDE`."""

_BESIDE = 1e-6
"""Distance, in log v, from the turning point of D at which the sign of its slope is relied upon."""

_SHORT = 1e-3
"""Share of the turning point of psi' below which a shift is short."""

_MARGINS = 1e-13 * 10.0 ** np.arange(12)


def is_line(profile: SphericalProfile) -> bool:
    """Return whether the intervals of `profile` are known: it has one dimension, and says how psi' moves."""
    return profile.dimension == 1 and profile.course() is not None


def line_bounds(profile: SphericalProfile, t: Array, e: Array) -> tuple[Array, Array, Array, Array]:
    """Return C(t, e) and C(-t, e), each from below, proved, and from above, up to rounding.

    Args:
        profile: A law on the line that says how psi' moves.
        t: Logs of the density ratio, not negative, [n].
        e: Lengths of the shift, positive, in the profile's units, [n].
    """
    inner, outer = _Line(profile, t, e).enclosure()
    low, high = inner.mass(profile, -1.0), outer.mass(profile, 1.0)
    there_low, there_high = 1.0 - outer.mass_there(profile, 1.0), 1.0 - inner.mass_there(profile, -1.0)
    return low, np.maximum(high, low), there_low * (1 - 1e-15), np.maximum(there_high, there_low)


def line_estimate(profile: SphericalProfile, t: Array, e: Array) -> Array:
    """Return C(-t, e) for t >= 0, estimated."""
    return 1.0 - _Line(profile, t, e).estimate().mass_there(profile, 0.0)


@dataclass(frozen=True)
class _Set:
    """(e - u + a, e + v) and (e + c, infinity), with 0 <= u <= e/2, 0 <= a <= v <= c, and u or a equal to 0."""

    e: Array
    u: Array
    a: Array
    v: Array
    c: Array

    def mass(self, profile: SphericalProfile, sign: float) -> Array:
        """Return its probability, rounded down (sign = -1) or up (sign = 1)."""
        below, above = profile.cumulative(self.e - self.u + self.a)
        below_far, above_far = profile.cumulative(self.e + self.v)
        # By the smaller tails: only they have all their digits.
        near = below_far < above
        small, large = np.where(near, below, above_far), np.where(near, below_far, above)
        inner = np.maximum(large * (1 + sign * SPECIAL_SLACK) - small * (1 - sign * SPECIAL_SLACK), 0.0)
        outer = profile.cumulative(self.e + self.c)[1]
        return np.asarray(0.5 * (inner + outer * (1 + sign * SPECIAL_SLACK)) * (1 + sign * 1e-15))

    def mass_there(self, profile: SphericalProfile, sign: float) -> Array:
        """Return its probability after the shift, rounded down (sign = -1), up (sign = 1), or not (sign = 0)."""
        u, a, v = (profile.cumulative(end)[0] for end in (self.u, self.a, self.v))
        more, less = u + v + profile.cumulative(self.c)[1], a
        slack = sign * (SPECIAL_SLACK + 1e-15)
        return np.asarray(np.maximum(0.5 * (more * (1 + slack) - less * (1 - slack)), 0.0))


class _Line:
    """The sets T of pairs (t, e).

    Every end is written as e exp(z).
    """

    def __init__(self, profile: SphericalProfile, t: Array, e: Array) -> None:
        self.profile, self.e = profile, np.asarray(e, dtype=np.float64)
        self.t = np.maximum(t, 1e-300)
        self.course = profile.course()
        self.ends = np.full_like(self.e, _FAR)
        self.turn = -self.ends if self.course is Course.FALLS else self._turn()

    def estimate(self) -> _Set:
        """Return T without regard to rounding."""
        u, a, v, c = self._roots(_STEPS)
        if self.course is Course.RISES_THEN_FALLS:
            missing = u < 2.0 - _FAR
            u, a = np.where(missing, -np.inf, u), np.where(missing, a, -np.inf)
        return self._set(u, a, v, c)

    def enclosure(self) -> tuple[_Set, _Set]:
        """Return a set inside T and one around it."""
        u, a, v, c = self._roots(_FINE_STEPS)
        left, right = self._beside()
        nowhere, everywhere = np.full_like(self.e, -np.inf), np.full_like(self.e, np.inf)
        # D rises from e/2 to e: beyond a u where it is below t, it stays below.
        u_in = self._settle(u, -1.0, self._near, above=True, otherwise=nowhere)
        u_out = self._settle(u, 1.0, self._near, above=False, otherwise=everywhere)
        v_in = self._settle(v, -1.0, self._beyond, above=True, otherwise=nowhere)
        v_out = self._settle(v, 1.0, self._beyond, above=False, otherwise=everywhere)
        a_in = a_out = nowhere
        c_in = c_out = everywhere
        if self.course is Course.RISES_THEN_FALLS:
            # Between two points where D is above t it is so; before one where it rises, and after one where it falls, it is
            # below t if it is so there.
            a_in = self._settle(a, 1.0, self._beyond, above=True, otherwise=everywhere)
            a_out = self._settle(np.minimum(a, left), -1.0, self._beyond, above=False, otherwise=nowhere)
            v_out = self._settle(np.maximum(v, right), 1.0, self._beyond, above=False, otherwise=everywhere)
            a_in = np.where(np.isfinite(u_in), nowhere, np.minimum(a_in, v_in))
            u_out = np.where(np.isfinite(a_out), nowhere, u_out)
        elif self.course is Course.FALLS_THEN_RISES:
            # Where D falls it was above t before, and where it rises it stays above; between two points below t it is below.
            v_in = self._settle(np.minimum(v, left), -1.0, self._beyond, above=True, otherwise=nowhere)
            c_in = self._settle(np.maximum(c, right), 1.0, self._beyond, above=True, otherwise=everywhere)
            c_out = self._settle(c, -1.0, self._beyond, above=False, otherwise=nowhere)
            # D is the integral of psi' over a length e.
            no_hole = self.t < self.e * self._least_slope() * (1 - 1e-12)
            v_in, c_in = np.where(no_hole, everywhere, v_in), np.where(no_hole, everywhere, c_in)
            whole = ~(v_out < c_out)
            v_out, c_out = np.where(whole, everywhere, v_out), np.where(whole, everywhere, c_out)
        return self._set(u_in, a_in, v_in, c_in), self._set(u_out, a_out, v_out, c_out)

    def _set(self, u: Array, a: Array, v: Array, c: Array) -> _Set:
        return _Set(self.e, np.minimum(self._place(u), 0.5 * self.e), *(self._place(at) for at in (a, v, c)))

    def _place(self, z: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray(self.e * np.exp(z))

    def _near(self, z: Array) -> tuple[Array, Array]:
        """Return D(e - u), u = e exp(z) <= e/2, and a bound on its error."""
        u = np.minimum(self._place(z), 0.5 * self.e)
        with np.errstate(divide="ignore"):
            distance = np.log((self.e - u) / u)
        value, error = self._drop(self.e - u, distance)
        # The distance is known to an absolute error; h does not fall.
        with np.errstate(over="ignore", invalid="ignore"):
            near = np.where(np.isfinite(distance), 4e-16 * (1 + distance) * self.profile.growth(self.e), 0.0)
        return value, error + near

    def _beyond(self, z: Array) -> tuple[Array, Array]:
        """Return D(e + v), v = e exp(z), and a bound on its error."""
        v = self._place(z)
        with np.errstate(divide="ignore", over="ignore"):
            distance = np.log1p(self.e / v)
        return self._drop(self.e + v, distance)

    def _drop(self, r: Array, distance: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            value, error = self.profile.drop(r, distance)
        known = ~np.isnan(value)
        return np.where(known, value, 0.0), np.where(known & ~np.isnan(error), error, np.inf)

    def _rise(self, z: Array) -> Array:
        """Return psi'(e + v) - psi'(v), relative to the larger: positive where D rises."""
        v = np.maximum(self._place(z), 1e-300)
        with np.errstate(all="ignore"):
            here, there = (self.profile.growth(r) / r for r in (self.e + v, v))
            relative = (here - there) / np.maximum(here, there)
        return np.where(np.isnan(relative), 0.0, relative)

    def _least_slope(self) -> float:
        r = np.array([self.profile.turning_point()])
        return float((self.profile.growth(r) / r)[0])

    def _beside(self) -> tuple[Array, Array]:
        """Return z on both sides of the turn of D: up to one, and from the other on, it moves as the course says."""
        if self.course is Course.FALLS:
            return self.turn, self.turn
        first = 1.0 if self.course is Course.RISES_THEN_FALLS else -1.0
        left, right = self.turn - _BESIDE, self.turn + _BESIDE
        # By the turning point m of psi', where the slopes at x and x - e are too close: x <= m, and x - e >= m.
        m = self.profile.turning_point()
        with np.errstate(divide="ignore"):
            surely_left = np.log(np.maximum(m * (1 - 1e-12) - self.e, 0.0) / self.e)
            surely_right = np.log(m * (1 + 1e-12) / self.e)
        clear = self.e > _SHORT * m
        return (
            np.where(clear & (first * self._rise(left) > 1e-12), left, surely_left),
            np.where(clear & (first * self._rise(right) < -1e-12), right, surely_right),
        )

    def _turn(self) -> Array:
        """Return z where D turns, nearly."""
        first = 1.0 if self.course is Course.RISES_THEN_FALLS else -1.0
        low, high = -self.ends, self.ends
        for _ in range(_TURN_STEPS):
            middle = 0.5 * (low + high)
            before = first * self._rise(middle) > 0
            low, high = np.where(before, middle, low), np.where(before, high, middle)
        # For a short shift the two slopes are too close to be compared; the turn is in the middle of the shift over m.
        m = self.profile.turning_point()
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            near = np.log(np.maximum(m / self.e - 0.5, 1.0))
        return np.where(self.e > _SHORT * m, 0.5 * (low + high), near)

    def _roots(self, steps: int) -> tuple[Array, Array, Array, Array]:
        """Return the z of u, a, v and c where D = t, nearly; an end of the search where there is none.

        Where T has no such part, a is minus infinity and c infinity.
        """
        infinite = np.full_like(self.e, np.inf)
        u = self._bisect(self._near, -self.ends, np.full_like(self.e, -np.log(2.0)), False, steps)
        if self.course is Course.FALLS_THEN_RISES:
            v = self._bisect(self._beyond, -self.ends, self.turn, False, steps)
            return u, -infinite, v, self._bisect(self._beyond, self.turn, self.ends, True, steps)
        if self.course is Course.FALLS:
            return u, -infinite, self._bisect(self._beyond, -self.ends, self.ends, False, steps), infinite
        a = self._bisect(self._beyond, -self.ends, self.turn, True, steps)
        return u, a, self._bisect(self._beyond, self.turn, self.ends, False, steps), infinite

    def _bisect(
        self, difference: Callable[[Array], tuple[Array, Array]], low: Array, high: Array, rising: bool, steps: int
    ) -> Array:
        for _ in range(steps):
            middle = 0.5 * (low + high)
            before = (difference(middle)[0] < self.t) == rising
            low, high = np.where(before, middle, low), np.where(before, high, middle)
        return 0.5 * (low + high)

    def _settle(
        self,
        root: Array,
        direction: float,
        difference: Callable[[Array], tuple[Array, Array]],
        *,
        above: bool,
        otherwise: Array,
    ) -> Array:
        """Return a point from `root` on in `direction` at which D is proved to be above, or below, t; or `otherwise`."""
        result, open_ = otherwise.copy(), np.ones(len(root), dtype=bool)
        for margin in _MARGINS:
            z = root + direction * margin * (1 + np.abs(root))
            value, error = difference(z)
            with np.errstate(invalid="ignore"):  # an infinite value of unknown error proves nothing
                apart = value - error > self.t if above else value + error < self.t
            proved = open_ & apart
            result, open_ = np.where(proved, z, result), open_ & ~proved
            if not open_.any():
                break
        return result
