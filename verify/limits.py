"""Which rungs can be cut short, and how they are told."""

import dataclasses
import math

from verify.alpha_crown import AlphaCrown
from verify.lp import LPAll, LPLast
from verify.method import Method
from verify.milp import MILP

SHORTEST = 1e-3
"""Seconds: a limit must be positive."""


def limited(method: Method, seconds: float) -> Method:
    """Return a method that ends by itself after about `seconds` for one call of `bound`, with what it has by then.

    Limits of the method's own are kept where they are shorter. Methods of one pass, and attacks, have no such limit and are
    returned as they are.
    """
    if isinstance(method, LPLast | LPAll):
        limit = max(min(seconds, method.options.total_limit or math.inf), SHORTEST)
        return dataclasses.replace(method, options=dataclasses.replace(method.options, total_limit=limit))
    if isinstance(method, MILP | AlphaCrown):
        return dataclasses.replace(method, time_limit=max(min(seconds, method.time_limit or math.inf), SHORTEST))
    return method
