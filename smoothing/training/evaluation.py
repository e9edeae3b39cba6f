"""Accuracy of a base classifier, clean or under noise: an estimate to watch a training by, not a certificate."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.forward import Forward, ForwardSettings
from smoothing.training.batches import as_inputs, check_examples
from smoothing.training.objective import add_noise
from smoothing.training.randomness import seeded_generator


def accuracy(
    model: nn.Module,
    images: Float[Tensor, " n *shape"] | UInt8[Tensor, " n *shape"],
    labels: Int[Tensor, " labels"],
    law: SmoothingDistribution | None = None,
    *,
    copies: int = 1,
    seed: int = 0,
    batch_size: int = 512,
    precision: str = "fp32",
    channels_last: bool = False,
    device: torch.device | str | None = None,
) -> float:
    """Return the share of inputs whose label the model returns, in eval mode.

    Args:
        model: From [batch, *shape] to scores [batch, classes]; a row with a NaN or infinite score counts as wrong.
        images: [n, *shape], uint8 (0..255) or floating (input units).
        labels: [n], class numbers.
        law: Noise that is added; None for clean inputs.
        copies: Noisy copies of each input.
        seed: Seed of the noise, which is never the training's noise; equal calls see equal noise.
        batch_size: Rows of a forward pass.
        precision: "fp32", "bf16" or "fp16".
        channels_last: NHWC memory for image batches.
        device: Where to run; default: where the model is.

    Raises:
        InvalidArgumentError: If an argument is out of range.
    """
    shape = tuple(images.shape[1:]) if law is None else law.shape
    check_examples(images, labels, shape)
    if copies < 1:
        raise InvalidArgumentError(f"copies must be at least 1, got copies={copies}")
    forward = Forward(model, ForwardSettings(batch_size, precision, channels_last), device)
    generator = seeded_generator(forward.device, seed, "evaluation")
    right = torch.zeros((), dtype=torch.int64, device=forward.device)
    with forward.evaluating(), torch.inference_mode():
        for _ in range(copies if law is not None else 1):
            for first in range(0, len(images), batch_size):
                x = as_inputs(images[first : first + batch_size], forward.device)
                y = labels[first : first + batch_size].to(forward.device)
                if law is not None:
                    x = add_noise(x, law, generator)
                if channels_last and x.dim() == 4:
                    x = x.contiguous(memory_format=torch.channels_last)
                scores = forward(x)
                right += ((scores.argmax(1) == y) & scores.isfinite().all(1)).sum()
    return int(right) / (len(images) * (copies if law is not None else 1))
