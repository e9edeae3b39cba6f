"""Randomized smoothing: laws of noise, proved radii, the Monte Carlo engine, smoothed classifiers and their training."""

from smoothing.certificate import Certificate
from smoothing.distributions import (
    Exp1,
    Exp2,
    ExpInf,
    Expp,
    Gaussian,
    Laplace,
    Pareto,
    Pow2,
    PowInf,
    SmoothingDistribution,
    Uniform,
    UniformBall,
)
from smoothing.errors import ClassifierError, InvalidArgumentError, SmoothingError, UnsupportedNormError
from smoothing.estimators import Estimate, Estimator, FixedEstimator, Phase, Status
from smoothing.forward import ForwardSettings
from smoothing.smoothed import SmoothedClassifier
from smoothing.threat import Norm, ThreatModel, convert_radius
from smoothing.votes import BatchingEngine, Classifier, VoteRequest, VoteSource

__all__ = [
    "BatchingEngine",
    "Certificate",
    "Classifier",
    "ClassifierError",
    "Estimate",
    "Estimator",
    "Exp1",
    "Exp2",
    "ExpInf",
    "Expp",
    "FixedEstimator",
    "ForwardSettings",
    "Gaussian",
    "InvalidArgumentError",
    "Laplace",
    "Norm",
    "Pareto",
    "Phase",
    "Pow2",
    "PowInf",
    "SmoothedClassifier",
    "SmoothingDistribution",
    "SmoothingError",
    "Status",
    "ThreatModel",
    "Uniform",
    "UniformBall",
    "UnsupportedNormError",
    "VoteRequest",
    "VoteSource",
    "convert_radius",
]
