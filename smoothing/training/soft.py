"""Scores of several noisy copies, and what objectives compute from them: means, divergences, entropies.

All in float32 and log space, from scores [m, batch, classes] that may be bfloat16: the mean softmax of a confident network
rounds to 1 in plain arithmetic, and its logarithm has then no gradient.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from smoothing.attacks.losses import noisy_scores, wide
from smoothing.training.objective import Model

__all__ = ["correct_rows", "divergence", "entropy", "log_mean", "noisy_log_softmax", "own"]


def noisy_log_softmax(
    model: Model, x: Float[Tensor, "batch *shape"], noise: Float[Tensor, "m batch *shape"]
) -> Float[Tensor, "m batch classes"]:
    """Return log F(x + z_i) for the m draws of each row, by one forward pass."""
    return F.log_softmax(wide(noisy_scores(model, x, noise)), dim=2)


def log_mean(log_softmax: Float[Tensor, "m batch classes"]) -> Float[Tensor, "batch classes"]:
    """Return log( (1/m) sum_i F_i )."""
    return torch.logsumexp(log_softmax, dim=0) - math.log(len(log_softmax))


def own(log_probabilities: Float[Tensor, "... classes"], y: Int64[Tensor, " batch"]) -> Float[Tensor, "..."]:
    """Return the entry of each row's label; rows are the last but one axis."""
    index = y.reshape(*[1] * (log_probabilities.dim() - 2), -1, 1).expand(*log_probabilities.shape[:-1], 1)
    return log_probabilities.gather(-1, index)[..., 0]


def divergence(
    log_target: Float[Tensor, "... classes"], log_probabilities: Float[Tensor, "... classes"]
) -> Float[Tensor, "..."]:
    """Return KL(target || probabilities) = sum_c t_c (log t_c - log p_c) over the last axis."""
    return (log_target.exp() * (log_target - log_probabilities)).sum(-1)


def entropy(log_probabilities: Float[Tensor, "... classes"]) -> Float[Tensor, "..."]:
    """Return -sum_c p_c log p_c over the last axis."""
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def correct_rows(log_probabilities: Float[Tensor, "... classes"], y: Int64[Tensor, " batch"]) -> Bool[Tensor, "..."]:
    """Return where the label has the largest probability, without gradient."""
    return log_probabilities.detach().argmax(-1) == y
