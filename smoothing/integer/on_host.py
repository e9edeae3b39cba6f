"""Drawing integer noise on the CPU, with numpy: 16 bits for most values, 64 for those that need them."""

import numpy as np
from jaxtyping import Int16, Int64, UInt64
from numpy import ndarray

from smoothing.integer import philox
from smoothing.integer.philox import Key
from smoothing.integer.thresholds import AMBIGUOUS, IntegerLaw

_PIECE = 2**15
"""Values looked up at once: their indices, 8 bytes each, stay in the second-level cache."""

_FEW, _SINGLE = 50_000, 35
"""What single blocks cost, in words of a stream: the calls, and each block. Both ways lead to the same words."""


def draw_steps(
    law: IntegerLaw, key: Key, phase: int, first: int, last: int, dimension: int
) -> Int16[ndarray, "samples dimension"]:
    """Return the noise of samples [first, last) in steps; see `smoothing.integer.source` for the rule.

    Args:
        law: The integer law of one coordinate.
        key: Of the input.
        phase: Number of the phase.
        first: First sample.
        last: The sample after the last.
        dimension: d, coordinates per sample.
    """
    samples, per_sample = last - first, -(-dimension // 16)
    # The last block of a sample may be used in part only; its other values are drawn and left out.
    noise = np.empty(samples * per_sample * 16, dtype=np.int16)
    index = np.empty(min(_PIECE, len(noise)), dtype=np.intp)
    open_positions, open_bits = [], []
    for start in range(0, len(noise), _PIECE):
        piece = noise[start : start + _PIECE]
        bits = philox.stream(key, (first * per_sample + start // 16, 0, phase, 0), len(piece) // 4)
        bits = bits.astype("<u8", copy=False).view("<u2")
        index[: len(piece)] = bits
        # Every 16-bit index is inside the guide: "clip" spares the check.
        law.guide.take(index[: len(piece)], out=piece, mode="clip")
        found = np.flatnonzero(piece == AMBIGUOUS)
        open_positions.append(found + start)
        open_bits.append(bits[found])
    positions, upper = np.concatenate(open_positions), np.concatenate(open_bits)
    sample, coordinate = np.divmod(positions, per_sample * 16)
    inside = coordinate < dimension
    if inside.any():
        positions, sample, coordinate = positions[inside], sample[inside], coordinate[inside]
        lower = _lower_words(key, phase, first, last, dimension, sample, coordinate) >> np.uint64(16)
        noise[positions] = law.decide((upper[inside].astype(np.uint64) << np.uint64(48)) | lower)
    return noise.reshape(samples, per_sample * 16)[:, :dimension]


def _lower_words(
    key: Key,
    phase: int,
    first: int,
    last: int,
    dimension: int,
    sample: Int64[ndarray, " open"],
    coordinate: Int64[ndarray, " open"],
) -> UInt64[ndarray, " open"]:
    """Return the words of level 1 of these values; samples are counted from `first`."""
    per_sample = -(-dimension // 4)
    words = (last - first) * per_sample * 4
    if words < _FEW + _SINGLE * len(sample):
        every = philox.stream(key, (first * per_sample, 0, phase, 1), words)
        return np.asarray(every[sample * (per_sample * 4) + coordinate])
    counter = (first + sample) * per_sample + coordinate // 4
    blocks = philox.blocks(key, counter.astype(np.uint64), (0, phase, 1))
    return np.asarray(blocks[coordinate % 4, np.arange(len(coordinate))])
