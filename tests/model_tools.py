"""What several tests of models share."""

import torch
from torch import Tensor, nn

from certify.models import (
    LoadedModel,
)


def batch(shape: tuple[int, ...], n: int = 3) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(5))


def scores(model: LoadedModel | nn.Module, x: Tensor) -> Tensor:
    classifier = model.classifier if isinstance(model, LoadedModel) else model
    with torch.inference_mode():
        return classifier(x)
