"""Smoothing laws, one file per family; `table.py` maps names on the command line to classes."""

from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.gaussian import Gaussian
from smoothing.distributions.laplace import Laplace
from smoothing.distributions.uniform import Uniform

__all__ = ["Gaussian", "Laplace", "SmoothingDistribution", "Uniform"]
