"""The Neyman-Pearson radius of spherical noise from above: by an explicit pair of sets at which any larger radius fails.

Let q be a density that falls with |x|, psi = -log q, v a shift of length e, and C(t, e) = P(psi(|x|) - psi(|x - v|) > t).
The set S = {q_v < e^t q} has probability 1 - C(t, e), and C(-t, e) after the shift. If C(t, e) <= w and C(-t, e) < 1/2, a
class with probability 1 - w that is S loses the vote at x + v, so that no radius of e or more follows from
p_A = 1 - w. Hence an upper bound on the exact radius wants upper bounds on C, for a t of our choice.

Given |x| = r the event is that the cosine of the angle between x and v is at least -y, where

    y = (s^2 - r^2 - e^2) / (2 e r),    psi(s) = psi(r) - t,    log(r / s) = D.

h(r) = r psi'(r) does not fall for the laws here, so that D is monotone in r, and so is s^2 / r^2 - 1 = expm1(-2 D): on a
cell of log r both that and r lie between their values at the ends, which bounds y, and with it the cap, from above. The sum
over cells of mass times the largest cap is the bound; cells are cut where they lose most. The cosine's law is that of
tanh X, X of density proportional to cosh^(1 - d).
"""

import math
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any, NamedTuple

from certify.audit.densities import LogConcave, legendre

ROUNDING = 1e-9
"""Relative allowance for float64, on masses and caps; their tables are good to about 1e-11."""

_CELLS, _USUAL_CELLS, _MOST_CELLS = 400, 20_000, 200_000
_MARGIN, _MOST_MARGIN = 2e-5, 0.1
"""Relative distances above the estimated radius at which a bound is tried first, and last."""

_PAIR_MARGIN = 3e-4
"""The first for two classes, whose recorded radii are further below the exact one than that."""


class Profile(ABC):
    """The density exp(-psi(|x|)) on R^d; u = log(r / mode), mode the most likely r on a logarithmic scale."""

    dimension: int
    mode: float

    @abstractmethod
    def log_density(self, u: Any) -> Any:
        """Return the log-density of u, 0 at u = 0."""

    @abstractmethod
    def slope(self, u: Any) -> Any:
        """Return its derivative, d - h."""

    @abstractmethod
    def contraction(self, u: Any, t: float) -> Any:
        """Return D = log(r / s) with psi(s) = psi(r) - t, infinite where there is no such s."""

    @abstractmethod
    def extremes(self, t: float) -> tuple[float, float]:
        """Return the limits of D at r -> 0 and r -> infinity."""


class ExponentialProfile(Profile):
    """psi = r^k + j log r."""

    def __init__(self, dimension: int, k: float, j: float) -> None:
        self.dimension, self.k, self.j = dimension, k, j
        self.power = (dimension - j) / k
        self.mode = self.power ** (1 / k)

    def log_density(self, u: Any) -> Any:
        """Return (d - j) u - M (e^(ku) - 1), M = (d - j) / k, without cancellation of its leading terms."""
        import numpy as np

        with np.errstate(over="ignore"):
            return self.power * (self.k * u - np.expm1(self.k * u))

    def slope(self, u: Any) -> Any:
        """Return (d - j)(1 - e^(ku))."""
        import numpy as np

        with np.errstate(over="ignore"):
            return -(self.dimension - self.j) * np.expm1(self.k * u)

    def contraction(self, u: Any, t: float) -> Any:
        """Return D with g (1 - e^(-kD)) + j D = t, g = r^k, by Newton's method from the side where it is monotone."""
        import numpy as np

        c = self.j / self.k
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            g = self.power * np.exp(self.k * u)
            if not self.j:
                return np.where(t < g, -np.log1p(-np.minimum(t / g, 1.0)) / self.k, math.inf)
            if t >= 0:  # concave in w = k D, from below
                w = np.maximum(t / (g + c), (t - g) / c)
            else:  # convex in -w, from above
                w = -np.minimum(np.log1p(-t / g), -t / c)
            for _ in range(60):
                step = (t + g * np.expm1(-w) - c * w) / (g * np.exp(-w) + c)
                w = w + step
                if not (np.abs(step) > 1e-15 * np.abs(w)).any():
                    break
        return w / self.k

    def extremes(self, t: float) -> tuple[float, float]:
        """Return t / j at 0, and 0 far out."""
        return (t / self.j if self.j else math.copysign(math.inf, t)), 0.0


class PowerProfile(Profile):
    """psi = a log(1 + r^k)."""

    def __init__(self, dimension: int, k: float, a: float) -> None:
        self.dimension, self.k, self.a = dimension, k, a
        self.share = dimension / (a * k)
        self.odds = dimension / (a * k - dimension)
        self.mode = self.odds ** (1 / k)

    def log_density(self, u: Any) -> Any:
        """Return d u - a log((1 + r^k) / (1 + mode^k))."""
        import numpy as np

        with np.errstate(over="ignore"):
            near = self.dimension * u - self.a * np.log1p(self.share * np.expm1(self.k * u))
        far = (self.dimension - self.a * self.k) * u - self.a * math.log(self.share)
        return np.where(self.k * u < 300.0, near, far)

    def slope(self, u: Any) -> Any:
        """Return d - a k r^k / (1 + r^k)."""
        import numpy as np

        with np.errstate(over="ignore"):
            return self.dimension - self.a * self.k / (1 + np.exp(-self.k * u) / self.odds)

    def contraction(self, u: Any, t: float) -> Any:
        """Return -log(1 + (e^(-t/a) - 1)(1 + r^-k)) / k."""
        import numpy as np

        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            moved = math.expm1(-t / self.a) * (1 + np.exp(-self.k * u) / self.odds)
            return np.where(moved > -1, -np.log1p(np.maximum(moved, -1.0)) / self.k, math.inf)

    def extremes(self, t: float) -> tuple[float, float]:
        """Return infinity of the sign of t at 0, and t / (a k) far out."""
        return math.copysign(math.inf, t), t / (self.a * self.k)


@lru_cache(maxsize=16)
def _cosine(dimension: int) -> LogConcave:
    """The law of artanh of the cosine between a fixed and a random direction, d >= 2."""
    import numpy as np

    def log_density(x: Any) -> Any:
        # -(d - 1) log cosh x; the second form does not overflow.
        size = np.abs(x)
        return -(dimension - 1) * np.where(
            size < 1,
            np.log1p(2 * np.sinh(np.minimum(size, 1.0) / 2) ** 2),
            size + np.log1p(np.exp(-2 * size)) - math.log(2),
        )

    return LogConcave(log_density, lambda x: -(dimension - 1) * np.tanh(x))


def cap_share(dimension: int, y: Any) -> Any:
    """Return the probability that the cosine of a random direction is at most y."""
    import numpy as np

    if dimension == 1:
        return np.where(y >= 1, 1.0, np.where(y >= -1, 0.5, 0.0))
    inside = np.abs(y) < 1
    x = np.arctanh(np.where(inside, y, 0.0))
    return np.where(inside, _cosine(dimension).lower(x), np.where(y >= 1, 1.0, 0.0))


class _Cells(NamedTuple):
    """Cells of u with their masses, and what they add: at most, and by the mean of their ends."""

    start: Any
    stop: Any
    most: Any
    about: Any


class LevelSets:
    """C(t, e) of one profile: estimates, and upper bounds.

    Args:
        profile: The law.
    """

    def __init__(self, profile: Profile) -> None:
        import numpy as np

        self.profile = profile
        self.law = LogConcave(profile.log_density, profile.slope)
        edges = self.law.levels(_CELLS)
        self._edges = edges[:-1], edges[1:]
        nodes, weights = legendre(8)
        width = np.diff(edges)[:, None]
        self._points = (edges[:-1, None] + width * nodes).ravel()
        self._weights = (
            np.exp(profile.log_density(self._points)).reshape(-1, 8) * weights * width
        ).ravel() / self.law.total
        self._known: dict[float, tuple[float, float]] = {}
        self._pairs: dict[tuple[float, float], float] = {}
        # Estimates in one dimension are sums over steps: finer roots than they are would be sought in vain.
        self._fine = 1e-7 if profile.dimension == 1 else 1e-12

    def cap(self, u: Any, t: float, e: float) -> Any:
        """Return the probability of the event given u."""
        import numpy as np

        r = self.profile.mode * np.exp(u)
        with np.errstate(over="ignore", invalid="ignore"):
            y = (r / (2 * e)) * np.expm1(-2 * self.profile.contraction(u, t)) - e / (2 * r)
        return cap_share(self.profile.dimension, np.where(np.isnan(y), -math.inf if t > 0 else math.inf, y))

    def estimate(self, t: float, e: float, tolerance: float = 1e-8) -> float:
        """Return C(t, e) by quadrature; in one dimension as a sum over steps, to about `tolerance`."""
        if self.profile.dimension == 1:  # caps jump
            return self._adaptive(t, e, tolerance)[1]
        return float(self._weights @ self.cap(self._points, t, e))

    def bound(self, t: float, e: float, tolerance: float) -> float:
        """Return an upper bound on C(t, e), above it by about `tolerance` or less."""
        return self._adaptive(t, e, tolerance)[0]

    def _adaptive(self, t: float, e: float, tolerance: float) -> tuple[float, float]:
        import numpy as np

        cells = self._cells(*self._edges, t, e)
        most, about, count, done = 0.0, 0.0, len(cells.start), 0
        for _ in range(60):
            excess = cells.most - cells.about
            # What each may lose, if all that are there or to come lose alike.
            allowed = tolerance / max(2 * count, 2000)
            wide = excess > allowed
            most, about = most + float(cells.most[~wide].sum()), about + float(cells.about[~wide].sum())
            done += int((~wide).sum())
            if not wide.any():
                break
            if done + int(wide.sum()) > _MOST_CELLS:
                most, about = most + float(cells.most[wide].sum()), about + float(cells.about[wide].sum())
                break
            # A cell's excess falls with the square of the number of its parts.
            parts = np.clip(np.ceil(np.sqrt(excess[wide] / allowed)), 2, 16).astype(np.int64)
            start, width = (
                np.repeat(cells.start[wide], parts),
                np.repeat((cells.stop - cells.start)[wide] / parts, parts),
            )
            place = np.arange(len(start)) - np.repeat(np.cumsum(parts) - parts, parts)
            cells = self._cells(start + place * width, start + (place + 1) * width, t, e)
            count = done + len(cells.start)
        return most * (1 + ROUNDING) + self._outside(t, e), about

    def _cells(self, start: Any, stop: Any, t: float, e: float) -> _Cells:
        import numpy as np

        profile, d = self.profile, self.profile.dimension
        # Rounding of the edges must not leave gaps: the masses are of slightly longer cells by the allowance.
        mass = self.law.masses(start, stop)
        r0, r1 = profile.mode * np.exp(start), profile.mode * np.exp(stop)
        with np.errstate(over="ignore", invalid="ignore"):
            left, right = (np.expm1(-2 * profile.contraction(u, t)) for u in (start, stop))
            # For t > 0 the factor is negative and rises, for t < 0 positive and falls.
            moved = (r0 * right if t > 0 else r1 * left) / (2 * e)
            y = moved * (1 - math.copysign(1e-12, t)) - e / (2 * r1) * (1 - 1e-12)
            first, second = r0 * left / (2 * e) - e / (2 * r0), r1 * right / (2 * e) - e / (2 * r1)
        y = np.where(np.isnan(y), math.inf, y)
        ends = [cap_share(d, np.where(np.isnan(v), -math.inf if t > 0 else math.inf, v)) for v in (first, second)]
        about = 0.5 * (ends[0] + ends[1])
        most = np.maximum(cap_share(d, y), about)
        return _Cells(start, stop, mass * most, mass * about)

    def _outside(self, t: float, e: float) -> float:
        """Return an upper bound on the part of C beyond the ends of the table."""
        import numpy as np

        law, mode = self.law, self.profile.mode
        first, last = self.profile.extremes(t)
        r0, r1 = mode * math.exp(law.left), mode * math.exp(law.right)
        with np.errstate(over="ignore", invalid="ignore"):
            # Below r0: at t > 0, expm1(-2 D) is at most that at r0, and negative; at t < 0, at most that at 0.
            low = (0.0 if t > 0 else r0 * float(np.expm1(-2 * first)) / (2 * e)) - e / (2 * r0)
            high = r1 * float(np.expm1(-2 * last)) / (2 * e) if t > 0 else math.inf
        low = min(low, 1.0) if not math.isnan(low) else 1.0
        below = float(cap_share(self.profile.dimension, np.array([low]))[0])
        above = float(cap_share(self.profile.dimension, np.array([high]))[0])
        return (law.beyond_left * below + law.beyond_right * above) / law.total * (1 + 1e-6)

    def threshold(self, e: float, start: float) -> float:
        """Return t > 0 with C(-t, e) = 1/2, by quadrature; `start` is a guess."""
        from scipy.optimize import brentq

        low = high = max(start, 1e-300)
        factor = 1.05
        while self.estimate(-high, e) < 0.5:
            low, high, factor = high, factor * high, min(factor**2, 4.0)
        while self.estimate(-low, e) > 0.5 and low > 1e-290:
            low, high, factor = low / factor, low, min(factor**2, 4.0)
        return float(brentq(lambda t: self.estimate(-t, e) - 0.5, low, high, xtol=self._fine * high, rtol=self._fine))

    def failure(self, e: float, start: float) -> tuple[float, float]:
        """Return the w whose radius is about e, and t."""
        t = self.threshold(e, start)
        return self.estimate(t, e), t

    def radius(self, w: float) -> tuple[float, float]:
        """Return an estimate of the radius for the failure probability w, 0 < w < 1/2, and an upper bound on it.

        Raises:
            ArithmeticError: If no bound is found within a few percent of the estimate.
        """
        if w not in self._known:
            self._known[w] = self._enclose(w)
        return self._known[w]

    def pair(self, w: float, rival: float) -> float:
        """Return an upper bound on the radius for two classes, p_A >= 1 - w and p_B <= rival, rival < w and rival < 1 - w.

        The top class may be the set S_a = {q_v < e^a q} of probability 1 - C(a, e) >= 1 - w, the runner-up the complement of
        such a set S_b, with C(b, e) <= rival: the two do not meet, as rival < w. At x + v they have C(-a, e) and
        1 - C(-b, e): if the sum of C(-a, e) and C(-b, e) is below 1, the runner-up leads there.

        Raises:
            ArithmeticError: If no bound is found within a few percent of the estimate.
        """
        if (w, rival) not in self._pairs:
            self._pairs[w, rival] = self._enclose_pair(w, rival)
        return self._pairs[w, rival]

    def _enclose_pair(self, w: float, rival: float) -> float:
        from scipy.optimize import brentq

        size = {w: 1e-3, rival: 1e-3}
        # Steps of one dimension take long, and nothing here has to be exact but the bounds at the end.
        fine = 1e-3 * min(rival, 1.0 - w, 1e-2)
        digits = 1e-5 if self.profile.dimension == 1 else self._fine

        def threshold(failure: float, e: float) -> float:
            """Return t with C(t, e) = failure, which falls as t grows, by quadrature."""
            reach = size[failure]
            while self.estimate(reach, e, fine) > failure or self.estimate(-reach, e, fine) < failure:
                reach *= 4
                if reach > 1e12:
                    raise ArithmeticError("no threshold of a level set was found")
            while reach > 1e-12 and self.estimate(reach / 4, e, fine) < failure < self.estimate(-reach / 4, e, fine):
                reach /= 4
            size[failure] = reach
            root = brentq(
                lambda t: self.estimate(t, e, fine) - failure, -reach, reach, xtol=digits * reach, rtol=digits
            )
            return float(root)

        def lead(e: float) -> float:
            return sum(self.estimate(-threshold(failure, e), e, fine) for failure in (w, rival)) - 1.0

        low = high = self.profile.mode / math.sqrt(self.profile.dimension) * max(0.5 - 0.5 * (w + rival), 1e-6)
        while lead(high) > 0:
            low, high = high, high * 1.7
        while lead(low) < 0:
            low, high = low / 1.7, low
        e = math.exp(float(brentq(lambda x: lead(math.exp(x)), math.log(low), math.log(high), xtol=1e-5)))
        margin = _PAIR_MARGIN
        while margin < _MOST_MARGIN:
            high = e * (1 + margin)
            spare = -lead(high) / 8
            after = 0.0
            for failure in (w, rival):
                # A little above where C is exact; what that adds to C(-t, e) is e^t times as much.
                less = min(spare * math.exp(-min(threshold(failure, high), 600.0)), 0.1 * failure)
                if spare <= 0:
                    after = math.inf
                    break
                size[failure - less] = size[failure]
                t = threshold(failure - less, high)
                if self.bound(t, high, 0.5 * less) > failure:
                    after = math.inf
                    break
                after += self.bound(-t, high, spare)
            if after < 1.0:
                return high
            margin *= 3
        raise ArithmeticError("an upper bound on a level-set radius for two classes did not converge")

    def _enclose(self, w: float) -> tuple[float, float]:
        e, t = self._solve(w)
        margin = _MARGIN
        while margin < _MOST_MARGIN:
            high = e * (1 + margin)
            pair = self._spare(w, high, t)
            if pair is not None:
                middle, first, second = pair
                cells = max(self._cells_wanted(middle, high, first), self._cells_wanted(-middle, high, second))
                if cells > 2 * _USUAL_CELLS and margin == _MARGIN:  # a wider margin wants fewer, in proportion
                    margin *= min(cells / _USUAL_CELLS, 300.0)
                    continue
                if self.bound(middle, high, first) < w and self.bound(-middle, high, second) < 0.5:
                    return e, high
            margin *= 3
        raise ArithmeticError("an upper bound on a level-set radius did not converge")

    def _cells_wanted(self, t: float, e: float, tolerance: float) -> float:
        """Return about the number of cells for a tolerance: parts in proportion to the root of the excess are best."""
        import numpy as np

        cells = self._cells(*self._edges, t, e)
        return float(np.sqrt(np.maximum(cells.most - cells.about, 0.0)).sum() ** 2 / tolerance)

    def _spare(self, w: float, e: float, guess: float) -> tuple[float, float, float] | None:
        """Return a t and half of what C(t, e) and C(-t, e) are below w and 1/2, by estimates; None if they are not."""
        from scipy.optimize import brentq

        # Between the thresholds at which one and the other probability would be exact.
        top = self.threshold(e, guess)
        spare = w - self.estimate(top, e)
        if spare <= 0:
            return None
        low = top
        while self.estimate(low, e) < w:
            low = top - 2 * (top - low) if low < top else top * (1 - 1e-5)
            if low <= 0:
                low = 0.0
                break
        bottom = float(brentq(lambda t: self.estimate(t, e) - w, low, top, rtol=1e-9)) if low > 0 else 0.0
        t = 0.5 * (bottom + top)
        first, second = w - self.estimate(t, e), 0.5 - self.estimate(-t, e)
        return (t, 0.5 * first, 0.5 * second) if min(first, second) > 0 else None

    def _solve(self, w: float) -> tuple[float, float]:
        """Return the estimated radius and its threshold."""
        from scipy.optimize import brentq

        known: dict[float, tuple[float, float]] = {}

        def excess(log_e: float) -> float:
            e = math.exp(log_e)
            near = min(known.values(), key=lambda pair: abs(pair[0] - log_e), default=(log_e, 1.0))
            # For short shifts, t goes with the square of their length.
            failure, t = self.failure(e, near[1] * math.exp(2 * (log_e - near[0])))
            known[log_e] = (log_e, t)
            # Smooth, and not flat, at both ends: near w = 1/2 and near w = 0.
            if w < 0.25:
                return math.log(max(failure, 1e-300) / w)
            return math.log((0.5 - w) / max(0.5 - failure, 1e-300))

        low = high = math.log(self.profile.mode / math.sqrt(self.profile.dimension) * max(0.5 - w, 1e-6))
        while excess(high) > 0:
            low, high = high, high + 0.7
        while excess(low) < 0:
            low, high = low - 0.7, low
        root = float(brentq(excess, low, high, xtol=10 * self._fine, rtol=1e-14))
        e = math.exp(root)
        return e, self.threshold(e, known[min(known, key=lambda x: abs(x - root))][1])


@lru_cache(maxsize=16)
def exponential_sets(dimension: int, k: float, j: float) -> LevelSets:
    """Return the level sets of exp(-r^k) / r^j."""
    return LevelSets(ExponentialProfile(dimension, k, j))


@lru_cache(maxsize=16)
def power_sets(dimension: int, k: float, a: float) -> LevelSets:
    """Return the level sets of (1 + r^k)^-a."""
    return LevelSets(PowerProfile(dimension, k, a))
