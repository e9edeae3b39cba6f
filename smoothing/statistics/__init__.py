"""Exact statistics of votes, one file per method; everything is rounded towards "less certified"."""

from smoothing.statistics.binomial import (
    check_alpha,
    failure_upper_bound,
    log_binomial_cdf,
    minimum_votes,
    success_lower_bound,
)

__all__ = ["check_alpha", "failure_upper_bound", "log_binomial_cdf", "minimum_votes", "success_lower_bound"]
