"""The plan of the planned estimator, once more: which n follows from a pilot, so that nothing else can have chosen it.

After f failures of m the failure rate has the law Beta(f + 1/2, m - f + 1/2); expectations over it are taken at the 32
Gauss-Legendre nodes of its quantiles. R(n) is the positive part of -Phi^-1 of the Clopper-Pearson bound at the expected
count. The plan is the first of 400 geometrically spaced n from 16 to n_max for which E R(n) >= (1 - precision) E R(n_max);
0 where R(n_max) > 0 has a probability below 1/100.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.stats import beta, norm

_NODES, _POINTS, _FIRST, _HOPELESS = 32, 400, 16, 0.01
_CLOSE = 1e-9
"""Relative rounding of the expectations: where it decides, either n is right."""


@lru_cache(maxsize=2**14)
def planned_lengths(failures: int, pilot: int, n_max: int, precision: float, alpha: float) -> Sequence[int]:
    """Return the lengths that follow from a pilot: one, but for rounding.

    Args:
        failures: Votes of the pilot for anything but the class.
        pilot: Votes of the pilot.
        n_max: Largest length.
        precision: Share of the radius that may be lost.
        alpha: Level of the bound.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    rates, weights = beta.ppf(0.5 * (nodes + 1.0), failures + 0.5, pilot - failures + 0.5), 0.5 * weights

    def radii(n: float) -> np.ndarray:
        counts = n * rates
        return np.maximum(norm.isf(beta.isf(alpha, counts + 1.0, n - counts)), 0.0)

    best = radii(float(n_max))
    hope = float(weights[best > 0.0].sum())
    if hope < _HOPELESS * (1.0 - _CLOSE):
        return (0,)
    target = (1.0 - precision) * float(weights @ best)
    grid = np.unique(np.rint(np.geomspace(min(_FIRST, n_max), n_max, _POINTS)))
    found = [0] if hope < _HOPELESS * (1.0 + _CLOSE) else []
    for n in grid:
        mean = float(weights @ radii(float(n)))
        if mean >= target * (1.0 - _CLOSE):
            found.append(int(n))
        if mean >= target * (1.0 + _CLOSE):
            break
    return tuple(found or [n_max])
