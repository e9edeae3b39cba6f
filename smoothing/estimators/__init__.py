"""Policies over votes: how many to ask for, and what they prove. One file each."""

from smoothing.estimators.anytime import AnytimeEstimator
from smoothing.estimators.base import (
    Decision,
    Estimate,
    Estimator,
    ExtensionRefusedError,
    Look,
    Phase,
    State,
    Status,
    replay,
)
from smoothing.estimators.fixed import FixedEstimator
from smoothing.estimators.planned import PlannedEstimator
from smoothing.estimators.sequential import SequentialEstimator
from smoothing.estimators.table import ESTIMATORS
from smoothing.estimators.thresholds import Threshold, thresholds

__all__ = [
    "ESTIMATORS",
    "AnytimeEstimator",
    "Decision",
    "Estimate",
    "Estimator",
    "ExtensionRefusedError",
    "FixedEstimator",
    "Look",
    "Phase",
    "PlannedEstimator",
    "SequentialEstimator",
    "State",
    "Status",
    "Threshold",
    "replay",
    "thresholds",
]
