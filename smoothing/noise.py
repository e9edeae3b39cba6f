"""Which noise belongs to which sample: a function of (seed, law, input key, phase, sample index) and nothing else.

Version `torch-block-v1`: the samples of one (input, phase) are cut into blocks of 128. A block is drawn as a whole, by
torch's generator seeded for exactly that block, and a request for samples [start, stop) takes slices of blocks. The batch
size, the order of the inputs and the number of workers therefore cannot change any sample. torch's own streams differ
between device kinds and may differ between releases, so that both belong to a run's identity.

A seed is 64 bits, but torch's CPU generator uses the lower 32 alone, too few to draw millions of them at random: among
10^7 blocks thousands would coincide. Within an input no two blocks may coincide, since a repeated sample is a wrong
proof; so the lower 32 bits are *counted*, not drawn: base + 2^28 phase + block modulo 2^32, where only the base is random.
Different inputs may share a block, where the lower 32 bits of their bases happen to be close: with 10,000 inputs of 100,000
samples each, some dozens do. Every certificate is valid all the same, since it speaks of the noise of one input; but the
errors of such two are not independent, so that statements about many inputs rest on sums of alpha, not on independence.
"""

import hashlib

import torch

from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import InvalidArgumentError
from smoothing.estimators.base import Phase

NOISE_VERSION = "torch-block-v1"
"""Name of the rule in this file; a released rule never changes, a new one gets a new name."""

BLOCK = 128
"""Samples drawn by one seeding of the generator."""

_PHASES = {Phase.SELECT: 0, Phase.ESTIMATE: 1, Phase.PREDICT: 2, Phase.PILOT: 3, Phase.ATTACK: 4}
_BLOCKS_PER_PHASE = 2**28


def check_seed(seed: int) -> None:
    """Raise `InvalidArgumentError` unless `seed` is an integer in [0, 2^63)."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InvalidArgumentError(f"seed must be an integer in [0, 2**63), got seed={seed!r}")


def input_base(seed: int, law: SmoothingDistribution, index: int) -> int:
    """Return the 64-bit base of all noise of one input."""
    text = f"{NOISE_VERSION}|{seed}|{law.identity}|{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def block_seed(base: int, phase: Phase, block: int) -> int:
    """Return the seed of one block: different for every (phase, block) of an input, also in its lower 32 bits.

    Raises:
        InvalidArgumentError: If the block is beyond the 2^28 of a phase (3.4e10 samples).
    """
    if not 0 <= block < _BLOCKS_PER_PHASE:
        raise InvalidArgumentError(f"a phase holds {_BLOCKS_PER_PHASE * BLOCK} samples at most, got block {block}")
    low = (base + _PHASES[phase] * _BLOCKS_PER_PHASE + block) % 2**32
    return (base >> 32 << 32) | low


def draw_block(
    generator: torch.Generator, law: SmoothingDistribution, x: torch.Tensor, base: int, phase: Phase, block: int
) -> torch.Tensor:
    """Return the noisy copies [BLOCK, *shape] of input `x` that make up one block."""
    generator.manual_seed(block_seed(base, phase, block))
    return law.perturb(x, BLOCK, generator=generator)
