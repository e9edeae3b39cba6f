"""Smoothing laws, one file per family; `table.py` maps names on the command line to classes."""

from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.exp_inf import ExpInf
from smoothing.distributions.exp_one import Exp1
from smoothing.distributions.exp_p import Expp
from smoothing.distributions.exp_two import Exp2
from smoothing.distributions.gaussian import Gaussian
from smoothing.distributions.laplace import Laplace
from smoothing.distributions.pareto import Pareto
from smoothing.distributions.pow_inf import PowInf
from smoothing.distributions.pow_two import Pow2
from smoothing.distributions.uniform import Uniform
from smoothing.distributions.uniform_ball import UniformBall

__all__ = [
    "Exp1",
    "Exp2",
    "ExpInf",
    "Expp",
    "Gaussian",
    "Laplace",
    "Pareto",
    "Pow2",
    "PowInf",
    "SmoothingDistribution",
    "Uniform",
    "UniformBall",
]
