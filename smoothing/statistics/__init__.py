"""Exact statistics of votes, one file per method; everything is rounded towards "less certified"."""

from smoothing.statistics.binomial import (
    check_alpha,
    failure_upper_bound,
    log_binomial_cdf,
    minimum_votes,
    success_lower_bound,
)
from smoothing.statistics.boundary import Boundary
from smoothing.statistics.boundary_check import verify_boundary
from smoothing.statistics.rank import rank_p_value, rank_test
from smoothing.statistics.tail import MAX_VOTES

__all__ = [
    "MAX_VOTES",
    "Boundary",
    "check_alpha",
    "failure_upper_bound",
    "log_binomial_cdf",
    "minimum_votes",
    "rank_p_value",
    "rank_test",
    "success_lower_bound",
    "verify_boundary",
]
