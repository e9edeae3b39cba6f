"""Drawing integer noise with torch's integer operations: the same bits as `on_host`, on any device.

Nothing here depends on values, so that nothing waits for a GPU: every value gets all of its 64 bits.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from smoothing.integer import philox_torch
from smoothing.integer.grid import values_of
from smoothing.integer.philox import Key
from smoothing.integer.thresholds import IntegerLaw

_VALUES_AT_ONCE = 2**22
"""Values computed at once; intermediate results take some 20 words of 8 bytes for each."""


def drawer(
    law: IntegerLaw, key: Key, levels: Int64[ndarray, " d"], device: torch.device
) -> Callable[[int, int, int], Float[Tensor, "samples d"]]:
    """Return the function (phase, first, last) -> noisy copies of the input with these levels, float32.

    Args:
        law: The integer law of one coordinate.
        key: Of the input.
        levels: Of the input, in row-major order.
        device: Where to draw.
    """
    d = len(levels)
    lowest = int(levels.min()) - law.reach
    # A table for level -> float32, made by IEEE division on the host: torch divides by constants otherwise on a GPU.
    values = _send(torch.from_numpy(values_of(np.arange(lowest, int(levels.max()) + law.reach + 1), law.grid)), device)
    offsets = _send(torch.from_numpy(levels - law.reach - lowest), device)
    # Signed order of words whose top bit is turned over is unsigned order of the words.
    thresholds = _send(torch.from_numpy((law.thresholds ^ np.uint64(1 << 63)).view(np.int64)), device)
    shifts = torch.arange(0, 64, 16, device=device)
    at_once = max(1, _VALUES_AT_ONCE // d)

    def blocks(phase: int, level: int, first: int, last: int, per_sample: int) -> Tensor:
        counters = torch.arange(first * per_sample, last * per_sample, device=device)
        return philox_torch.blocks(key, counters, (0, phase, level))

    def part(phase: int, first: int, last: int) -> Tensor:
        n = last - first
        upper = (blocks(phase, 0, first, last, -(-d // 16)).unsqueeze(-1) >> shifts).reshape(n, -1)[:, :d]
        lower = blocks(phase, 1, first, last, -(-d // 4)).reshape(n, -1)[:, :d]
        words = ((upper ^ 0x8000) << 48) | ((lower >> 16) & (2**48 - 1))
        return values[torch.searchsorted(thresholds, words.contiguous(), right=True) + offsets]

    def draw(phase: int, first: int, last: int) -> Tensor:
        with torch.inference_mode():
            parts = [part(phase, i, min(i + at_once, last)) for i in range(first, last, at_once)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    return draw


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        # From pinned memory the copy joins the queue instead of waiting for it.
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
