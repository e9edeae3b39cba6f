"""Is f a function of its own input? A vote must not depend on which other samples happen to share its batch.

Batch normalisation in training mode, quantisation with statistics of the batch, dropout that is still active: with any of
these "f(x + z)" is not defined, votes are not independent, and a resumed run differs from an undisturbed one. No proof
starts from there, so this is tried before the first vote.
"""

import torch
from torch import Tensor

from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import ClassifierError
from smoothing.forward import Forward

_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
"""Differences of scores, relative to the largest of a row, that a kernel may cause by the place of a row in its batch."""

_FEW = 0.02
"""Share of rows whose label may change: near-ties of a classifier that returns labels only."""


def check_rows_are_independent(forward: Forward, law: SmoothingDistribution, x: Tensor) -> None:
    """Run one batch twice, the second time in another order and with half of the rows replaced, and compare.

    Rows that are in both batches must get the same scores (up to the last bits), or the same labels (up to few rows).
    The noise is that of no sample: its generator has a seed of its own.

    Args:
        forward: The classifier at its batch shape and precision.
        law: Law of the noise.
        x: One input, [*shape].

    Raises:
        ClassifierError: If a row's result depends on the other rows, or differs from call to call.
    """
    size = forward.settings.batch_size
    generator = torch.Generator(device=forward.device).manual_seed(1)
    first, second = forward.new_batch(law.shape), forward.new_batch(law.shape)
    x = x.to(device=forward.device, dtype=torch.float32)
    kept = max(1, size // 2)
    with forward.evaluating(), torch.inference_mode():
        first.copy_(law.perturb(x, size, generator=generator))
        # Other rows of another scale, so that statistics of the batch differ clearly.
        second.copy_(law.perturb(x, size, generator=generator) * 3.0)
        second[size - kept :] = first[:kept].flip(0)
        one, two = forward(first), forward(second)
        readable = isinstance(one, Tensor) and isinstance(two, Tensor) and one.shape == two.shape
        if not readable or one.shape[:1] != (size,) or one.dim() != (2 if one.is_floating_point() else 1):
            return  # the engine says what is wrong with such an output
        a, b = one[:kept], two[size - kept :].flip(0)
        if one.is_floating_point():
            a, b = a.double(), b.double()
            scale = a.abs().amax(1, keepdim=True) + b.abs().amax(1, keepdim=True)
            limit = _TOLERANCE[forward.settings.precision]
            # NaN in both is equal: such a row is "invalid" whatever its neighbours are.
            equal = torch.isclose(a / scale, b / scale, rtol=0.0, atol=limit, equal_nan=True).all(1)
        else:
            equal = a == b
        different = int((~equal).sum())
    allowed = 0 if one.is_floating_point() else int(_FEW * kept)
    if different > allowed:
        raise ClassifierError(
            f"the classifier's output for an input must depend on that input alone, but {different} of {kept} rows changed "
            "when the rest of the batch did (batch norm or dropout in training mode, statistics of the batch, randomness?). "
            "Votes of such a classifier prove nothing; put every module in eval mode"
        )
