"""What attacks raise: losses of base classifiers and of smoothed ones, one number a row."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from smoothing.attacks.projected_gradient import Loss
from smoothing.forward import modules_behind

Scores = Callable[[Tensor], Tensor]
"""A base classifier: [batch, *shape] -> scores [batch, classes]."""


def cross_entropy(scores: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return -log softmax(scores)_y of each row, in float32 or better."""
    return F.cross_entropy(wide(scores), y, reduction="none")


def margin(scores: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return the largest other score less that of y: positive exactly where the row is misclassified."""
    scores = wide(scores)
    own = scores.gather(1, y[:, None])
    others = scores.masked_fill(F.one_hot(y, scores.shape[1]).bool(), -torch.inf)
    return others.amax(1) - own[:, 0]


def base_loss(
    model: Scores,
    y: Int64[Tensor, " batch"],
    of: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Loss:
    """Return x -> of(f(x), y), the loss of the base classifier without noise: m = 0 noise samples."""
    return lambda x: of(model(x), y)


def smoothed_loss(
    model: Scores, y: Int64[Tensor, " batch"], noise: Float[Tensor, "m batch *shape"]
) -> Callable[[Tensor], Tensor]:
    """Return x -> -log( (1/m) sum_i softmax(f(x + z_i))_y ), the loss of the soft smoothed classifier.

    The log of the *mean* softmax: its gradient weighs each sample by the probability that it gives to y, which is what
    makes the attack one on the smoothed classifier. (The mean of the logs, which other codes use, is the loss of the base
    classifier under noise.) Computed as a log-sum-exp, so that saturated probabilities keep their gradient.

    Args:
        model: The base classifier.
        y: Labels, [batch].
        noise: m draws for each row, [m, batch, *shape], kept fixed while the input moves.

    Reference: Salman et al. 2019, equation 7.
    """
    return lambda x: -mean_log_probabilities(model, x, noise).gather(1, y[:, None])[:, 0]


def smoothed_margin(
    model: Scores, y: Int64[Tensor, " batch"], noise: Float[Tensor, "m batch *shape"]
) -> Callable[[Tensor], Tensor]:
    """Return x -> max_{c != y} log F_c(x) - log F_y(x), F the mean softmax over the noise: positive where g is wrong."""
    return lambda x: margin(mean_log_probabilities(model, x, noise), y)


def mean_log_probabilities(
    model: Scores, x: Float[Tensor, "batch *shape"], noise: Float[Tensor, "m batch *shape"]
) -> Float[Tensor, "batch classes"]:
    """Return log( (1/m) sum_i softmax(f(x + z_i)) ) for each row, by one forward pass over all m * batch noisy inputs."""
    log_softmax = F.log_softmax(wide(noisy_scores(model, x, noise)), dim=2)
    return torch.logsumexp(log_softmax, dim=0) - math.log(len(noise))


def noisy_scores(
    model: Scores, x: Float[Tensor, "batch *shape"], noise: Float[Tensor, "m batch *shape"]
) -> Float[Tensor, "m batch classes"]:
    """Return f(x + z_i) for the m draws of each row; the sum is not clipped, as in certification."""
    scores = model((x + noise).flatten(0, 1))
    return scores.reshape(*noise.shape[:2], -1)


@contextmanager
def evaluating(model: Scores) -> Iterator[None]:
    """Put every module behind `model` in eval mode, and restore each one's own flag afterwards.

    An attack in train mode would move the statistics of batch norm with every step, and attack another network under
    every draw of dropout.
    """
    roots = modules_behind(model)
    flags = [(module, module.training) for root in roots for module in root.modules()]
    for root in roots:
        if root.training:
            root.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def wide(scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return scores in float32, or in float64 where that is what they are."""
    # Probabilities in half precision saturate; float64 scores stay what they are.
    return scores if scores.dtype == torch.float64 else scores.float()
