"""Every rung by its name, from the cheapest bound to the exact one, and the attack from the other side."""

from verify.attack import Attack
from verify.lp import LPAll, LPLast
from verify.method import Method
from verify.methods import METHODS
from verify.milp import MILP

LADDER: dict[str, type[Method]] = {**METHODS, **{method.name: method for method in (LPLast, LPAll, MILP, Attack)}}
"""Name to class; where text enters the program. `METHODS` are those that run batched on any device."""
