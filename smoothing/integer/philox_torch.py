"""Philox4x64-10 in torch's integer arithmetic: the same words on every device.

torch has no unsigned 64-bit arithmetic, so that words are int64 and stand for their residues modulo 2^64: sums, products,
xor and shifts to the left are the same for both, and shifts to the right are followed by a mask.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from smoothing.integer.philox import MULTIPLIERS, Key

_MASK = 0xFFFFFFFF


def signed(word: int) -> int:
    """Return the int64 with the bits of a 64-bit word."""
    return (word & (2**64 - 1)) - (2**64 if word >> 63 & 1 else 0)


def blocks(key: Key, low: Int64[Tensor, " n"], rest: tuple[int, int, int]) -> Int64[Tensor, "n 4"]:
    """Return the four words of each block, for counters (low[i], *rest)."""
    # Both products of a round are computed together: half as many kernels, which is what small requests cost on a GPU.
    even = torch.stack([low, torch.full_like(low, signed(rest[1]))])
    odd = torch.stack([torch.full_like(low, signed(rest[0])), torch.full_like(low, signed(rest[2]))])
    multiplier = _column([signed(m) for m in MULTIPLIERS], low)
    lower = _column([m & _MASK for m in MULTIPLIERS], low)
    upper = _column([m >> 32 for m in MULTIPLIERS], low)
    for k0, k1 in key.schedule():
        high = _high_product(even, lower, upper)
        product = even * multiplier
        keys = _column([signed(k0), signed(k1)], low)
        # The first product's halves go to words 2 and 3, the second's to words 0 and 1.
        even, odd = high.flip(0) ^ odd ^ keys, product.flip(0)
    return torch.stack([even[0], odd[0], even[1], odd[1]], dim=1)


def _column(pair: list[int], like: Tensor) -> Tensor:
    """Return the pair as [2, 1] on the device, by fills: a copy from the host would wait for the queue."""
    return torch.stack([torch.full((1,), value, dtype=torch.int64, device=like.device) for value in pair])


def _high_product(b: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return the upper 64 bits of b * (upper 2^32 + lower); every partial sum is below 2^64."""
    b0, b1 = b & _MASK, (b >> 32) & _MASK
    middle = b0 * upper + ((b0 * lower >> 32) & _MASK)
    cross = b1 * lower + (middle & _MASK)
    return b1 * upper + ((middle >> 32) & _MASK) + ((cross >> 32) & _MASK)
