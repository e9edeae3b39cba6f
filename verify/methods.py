"""The table of bound propagation methods, in the order of the ladder."""

from verify.alpha_crown import AlphaCrown
from verify.crown import Crown
from verify.crown_ibp import CrownIBP
from verify.interval import Interval
from verify.method import Method
from verify.same_slope import SameSlope

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Interval, CrownIBP, SameSlope, Crown, AlphaCrown)
}
