"""Attacks on base classifiers, on smoothed classifiers, and on any other loss of an input."""

from smoothing.attacks.ddn import Judge, NearestResult, ddn, positive
from smoothing.attacks.geometry import Box, exact_length
from smoothing.attacks.losses import (
    base_loss,
    cross_entropy,
    evaluating,
    margin,
    mean_log_probabilities,
    noisy_scores,
    smoothed_loss,
    smoothed_margin,
)
from smoothing.attacks.projected_gradient import AttackResult, Loss, ascend, input_gradient, pgd

__all__ = [
    "AttackResult",
    "Box",
    "Judge",
    "Loss",
    "NearestResult",
    "ascend",
    "base_loss",
    "cross_entropy",
    "ddn",
    "evaluating",
    "exact_length",
    "input_gradient",
    "margin",
    "mean_log_probabilities",
    "noisy_scores",
    "pgd",
    "positive",
    "smoothed_loss",
    "smoothed_margin",
]
