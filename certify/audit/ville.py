"""The mixture that tests without a cap, once more: by quadrature of its integral instead of special functions.

    M(f, n) = Int (q/q0)^f ((1-q)/(1-q0))^(n-f) w(q) dq / Int w(q) dq,   w(q) = q^(-1/2) (1-q)^(-1/2),

over q < q0, or over q > q0 for the mirrored test. With q = sin^2(t) the weight is constant, w(q) dq = 2 dt, and the
integrand has one peak, no narrower than about n^(-1/2): Gauss-Legendre on panels that are finer than that is exact to
1e-11. By Ville's inequality M >= 1/alpha happens ever with probability alpha at most.
"""

import math
from functools import lru_cache

import numpy as np

_ORDER = 8


@lru_cache(maxsize=2**17)
def log_mixture(q0: float, failures: int, n: int, side: str) -> float:
    """Return log M for the hypothesis 1 - p >= q0 (side "below") or 1 - p <= q0 ("above").

    Args:
        q0: In (0, 1).
        failures: Failures among the votes.
        n: Votes.
        side: Which alternatives are mixed: below or above q0.
    """
    corner = math.asin(math.sqrt(q0))
    start, end = (0.0, corner) if side == "below" else (corner, math.pi / 2)
    panels = 64 + int(4.0 * (end - start) * math.sqrt(n))
    nodes, weights = np.polynomial.legendre.leggauss(_ORDER)
    edges = np.linspace(start, end, panels + 1)
    half = 0.5 * (edges[1] - edges[0])
    t = (0.5 * (edges[1:] + edges[:-1])[:, None] + half * nodes[None, :]).ravel()
    with np.errstate(divide="ignore"):
        log_f = 2.0 * np.log(np.sin(t)) - math.log(q0)
        log_s = 2.0 * np.log(np.cos(t)) - math.log1p(-q0)
    exponent = failures * log_f + (n - failures) * log_s
    top = float(exponent.max())
    total = float((np.exp(exponent - top).reshape(panels, _ORDER) @ weights).sum()) * half
    return top + math.log(total) - math.log(end - start)
