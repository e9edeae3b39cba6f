"""Log-concave densities on the line, tabulated in float64; no special function is trusted here.

Masses are Gauss-Legendre sums, tails Hermite's cubics of the logarithm, so that both tails keep their relative accuracy,
about 1e-11.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

DEPTH = 62.0
"""Tables end where the density has fallen to exp(-DEPTH) of its peak; what is beyond is bounded."""

_PANELS = 6000
_EXTREME = 600.0
"""Or where |u| reaches this: exp(u) has to stay a float64."""


@cache
def legendre(count: int) -> tuple[Any, Any]:
    """Return nodes and weights on [0, 1]."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(count)
    return 0.5 + 0.5 * nodes, 0.5 * weights


class LogConcave:
    """A density exp(log_density(u)) / Z with its peak at u = 0, where `log_density` is 0.

    Args:
        log_density: Concave; takes and returns arrays of float64.
        slope: Its derivative.
    """

    def __init__(self, log_density: Callable[[Any], Any], slope: Callable[[Any], Any]) -> None:
        import numpy as np

        self.log_density, self.slope = log_density, slope
        self.left, self.right = (self._level(np.array([DEPTH]), side)[0] for side in (-1.0, 1.0))
        u = self.levels(_PANELS)
        panels = self._integrals(u[:-1], u[1:])
        # Beyond the ends a concave log-density lies below its tangents.
        self.beyond_left = float(np.exp(log_density(u[:1]))[0] / max(abs(float(slope(u[:1])[0])), 1e-300))
        self.beyond_right = float(np.exp(log_density(u[-1:]))[0] / max(abs(float(slope(u[-1:])[0])), 1e-300))
        self.total = float(panels.sum()) + self.beyond_left + self.beyond_right
        below = np.concatenate(([0.0], np.cumsum(panels))) + self.beyond_left
        above = np.concatenate((np.cumsum(panels[::-1])[::-1], [0.0])) + self.beyond_right
        density = np.exp(log_density(u))
        self.nodes = u
        with np.errstate(divide="ignore"):
            self._below = np.log(below / self.total), density / below
            self._above = np.log(above / self.total), -density / above

    def levels(self, panels: int) -> Any:
        """Return panels + 1 points between the ends, evenly spaced in the signed root of -log_density."""
        import numpy as np

        v = np.linspace(-1.0, 1.0, panels + 1) * DEPTH**0.5
        left, right = self._level(v[v < 0] ** 2, -1.0), self._level(v[v > 0] ** 2, 1.0)
        middle = [np.zeros(1)] if bool((v == 0).any()) else []
        return np.unique(np.concatenate((left, *middle, right)))

    def _level(self, depth: Any, side: float) -> Any:
        """Return |u| <= _EXTREME on one side of 0 with log_density(u) = -depth, by bisection."""
        import numpy as np

        far = np.full_like(depth, 1e-6)
        for _ in range(60):
            short = (self.log_density(side * far) > -depth) & (far < _EXTREME)
            if not short.any():
                break
            far = np.where(short, np.minimum(2 * far, _EXTREME), far)
        near = np.zeros_like(depth)
        for _ in range(60):
            middle = 0.5 * (near + far)
            inside = self.log_density(side * middle) > -depth
            near, far = np.where(inside, middle, near), np.where(inside, far, middle)
        return side * near

    def _integrals(self, start: Any, stop: Any, count: int = 8) -> Any:
        import numpy as np

        nodes, weights = legendre(count)
        u = start[:, None] + (stop - start)[:, None] * nodes
        return np.exp(self.log_density(u)) @ weights * (stop - start)

    def masses(self, start: Any, stop: Any) -> Any:
        """Return the probabilities of narrow cells [start, stop]."""
        return self._integrals(start, stop, 5) / self.total

    def lower(self, u: Any) -> Any:
        """Return P(U <= u)."""
        return self._tail(u, self._below, self._above)

    def upper(self, u: Any) -> Any:
        """Return P(U > u)."""
        return self._tail(u, self._above, self._below)

    def _tail(self, u: Any, wanted: tuple[Any, Any], other: tuple[Any, Any]) -> Any:
        import numpy as np

        u = np.asarray(u, dtype=np.float64)
        own = np.exp(self._hermite(u, wanted))
        # By the other tail where that is the small one.
        return np.where(own > 0.5, -np.expm1(self._hermite(u, other)), own)

    def _hermite(self, u: Any, table: tuple[Any, Any]) -> Any:
        """Return the log of a tail, capped at 0; linear beyond the ends, where a log-concave tail lies below it."""
        import numpy as np

        x, (value, slope) = self.nodes, table
        at = np.clip(np.searchsorted(x, u) - 1, 0, len(x) - 2)
        width = x[at + 1] - x[at]
        s = np.clip((u - x[at]) / width, 0.0, 1.0)
        cubic = (
            value[at] * (1 + 2 * s) * (1 - s) ** 2
            + value[at + 1] * s**2 * (3 - 2 * s)
            + width * s * (1 - s) * (slope[at] * (1 - s) - slope[at + 1] * s)
        )
        beyond = np.where(u < x[0], slope[0] * (u - x[0]), np.where(u > x[-1], slope[-1] * (u - x[-1]), 0.0))
        with np.errstate(invalid="ignore"):
            return np.minimum(cubic + beyond, 0.0)

    def quantile(self, share: Any, *, above: bool = False) -> Any:
        """Return u with P(U <= u), or P(U > u), nearly equal to `share`."""
        import numpy as np

        table = self._above[0] if above else self._below[0]
        order = slice(None, None, -1) if above else slice(None)
        return np.interp(np.log(share), table[order], self.nodes[order])
