"""A test that is valid at every number of votes, without a cap: a truncated Beta mixture, by Ville's inequality.

    M(f, n) = Int_0^q0 (q/q0)^f ((1-q)/(1-q0))^(n-f) w(q) dq,   w the law Beta(1/2, 1/2) restricted to q < q0.

For every alternative q < q0 the likelihood ratio is a supermartingale where 1 - p >= q0: its mean after one more vote,
(1-p) q/q0 + p (1-q)/(1-q0), is 1 at 1 - p = q0 and falls as 1 - p grows. So M is one too, and M >= 1/alpha happens ever,
over all n, with probability alpha at most. Restricting the prior to the alternatives is what makes it sharp: the usual
mixture over all q wastes the weight above q0.

Reference: Ville 1939; Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon 2021; truncation: this project.
"""

import math

import numpy as np
from scipy.special import betainc, betaincc

from smoothing.statistics.boundary import Side
from smoothing.statistics.tail import log_binomial_pmf

_LOG_SLACK = 1e-9
"""Taken off log M: a thousand times the error of its evaluation."""
_SERIES = 16.0


def ville_limit(q0: float, alpha: float, n: int, side: Side = "below") -> int:
    """Return the largest (side "below") or smallest ("above") number of failures of n that rejects; -1 or n + 1 if none.

    Args:
        q0: Failure probability of the hypothesis, in (0, 1).
        alpha: Level, in (0, 1).
        n: Votes.
        side: See `Boundary`.

    Example:
        >>> ville_limit(0.5, 0.001, 11), ville_limit(0.5, 0.001, 12), ville_limit(0.5, 0.001, 100)
        (-1, 0, 29)
    """
    target = math.log(1.0 / alpha) + _LOG_SLACK
    rate = q0 if side == "below" else 1.0 - q0
    low, high = -1, max(int(rate * (n - 1)), 0) + 1
    # low rejects (or is -1), high does not; M falls with the count while the count is below its mean.
    while high - low > 1:
        middle = (low + high) // 2
        if log_beta_mixture(q0, middle, n, side) >= target:
            low = middle
        else:
            high = middle
    if side == "below":
        return low
    return n - low if low >= 0 else n + 1


def log_beta_mixture(q0: float, count: int, n: int, side: Side = "below") -> float:
    """Return log M for `count` failures (side "below") or successes ("above") of n, to about 1e-12.

    In the form log pmf(Bin(n, rate), count)^-1 + log of ratios of gamma functions, none of which is large:
    B(f+1/2, n-f+1/2) / (q0^f (1-q0)^(n-f)) = G(f) G(n-f) / pmf(f), with G(x) = Gamma(x+1/2) / Gamma(x+1).
    """
    x = np.array([float(count)])
    # The probability of the count does not depend on which of the two is called a failure.
    failures = x if side == "below" else n - x
    log_pmf = float(log_binomial_pmf(failures, n, q0)[0])
    # The share of the posterior, and of the prior, on the alternatives.
    below = betainc if side == "below" else betaincc
    posterior = float(below(failures[0] + 0.5, n - failures[0] + 0.5, q0))
    prior = math.pi * float(below(0.5, 0.5, q0))
    if posterior <= 0.0:
        return -math.inf
    return math.log(posterior) - math.log(prior) + _log_gamma_ratio(count) + _log_gamma_ratio(n - count) - log_pmf


def _log_gamma_ratio(x: int) -> float:
    """Return log(Gamma(x + 1/2) / Gamma(x + 1)); for large x by the difference of Stirling's series."""
    if x < _SERIES:
        return math.log(math.gamma(x + 0.5) / math.gamma(x + 1.0))
    y = 1.0 / (x * x)
    return -0.5 * math.log(x) - (1.0 / 8.0 - y * (1.0 / 192.0 - y * (1.0 / 640.0 - y * 17.0 / 14336.0))) / x
