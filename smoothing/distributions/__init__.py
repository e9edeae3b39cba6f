"""Smoothing laws, one file per family; `table.py` maps names on the command line to classes."""

from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.exp_inf import ExpInf
from smoothing.distributions.exp_one import Exp1
from smoothing.distributions.exp_p import Expp
from smoothing.distributions.gaussian import Gaussian
from smoothing.distributions.laplace import Laplace
from smoothing.distributions.pareto import Pareto
from smoothing.distributions.pow_inf import PowInf
from smoothing.distributions.uniform import Uniform

__all__ = ["Exp1", "ExpInf", "Expp", "Gaussian", "Laplace", "Pareto", "PowInf", "SmoothingDistribution", "Uniform"]
