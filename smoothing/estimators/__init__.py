"""Policies over votes: how many to ask for, and what they prove. One file each."""

from smoothing.estimators.base import Estimate, Estimator, Look, Phase, State, Status
from smoothing.estimators.fixed import FixedEstimator

__all__ = ["Estimate", "Estimator", "FixedEstimator", "Look", "Phase", "State", "Status"]
