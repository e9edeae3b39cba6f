"""The model as objectives see it."""

import torch
from torch import Tensor, nn


class Scorer:
    """Calls a module on batches, image batches in NHWC memory where that is wanted.

    Args:
        module: From [batch, *shape] to scores [batch, classes].
        channels_last: NHWC memory for batches with four axes.
    """

    def __init__(self, module: nn.Module, channels_last: bool) -> None:
        self.module = module
        self._channels_last = channels_last

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return the scores."""
        if self._channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        scores: Tensor = self.module(x)
        return scores
