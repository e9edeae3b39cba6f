"""How each activation is replaced by linear bounds: one file per activation, and the table that finds it."""

from collections.abc import Callable

from verify.graph import Activation, LeakyReLU, MaxPool, Sigmoid, Tanh
from verify.relaxation.base import Relaxation
from verify.relaxation.leaky_relu import LeakyReLURelaxation
from verify.relaxation.max_pool import MaxPoolRelaxation
from verify.relaxation.s_shaped import SigmoidRelaxation, TanhRelaxation

RELAXATIONS: dict[type, Callable[[Activation], Relaxation]] = {
    LeakyReLU: LeakyReLURelaxation,
    Sigmoid: SigmoidRelaxation,
    Tanh: TanhRelaxation,
    MaxPool: MaxPoolRelaxation,
}


def relaxation_of(op: Activation) -> Relaxation:
    """Return the relaxation of an activation."""
    return RELAXATIONS[type(op)](op)


__all__ = ["RELAXATIONS", "Relaxation", "relaxation_of"]
