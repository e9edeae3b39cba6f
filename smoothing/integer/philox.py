"""Philox4x64-10, the counter-based generator of Salmon et al. 2011, on the CPU: numpy's own, and any single block.

A block is a function of a 128-bit key and a 256-bit counter and gives four 64-bit words. `stream` is numpy's generator, set
to a counter; `blocks` is the same function written out for arrays of counters, for words that are wanted here and there.

Reference: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.3; known answers from
the Random123 library.
"""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt64
from numpy import ndarray

MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
ROUNDS = 10
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def _column(pair: Sequence[int]) -> UInt64[ndarray, "2 1"]:
    return np.array(pair, dtype=np.uint64).reshape(2, 1)


_WHOLE = _column(MULTIPLIERS)
_LOWER, _UPPER = _WHOLE & _MASK, _WHOLE >> _HALF


class Key(NamedTuple):
    """A 128-bit key as two words."""

    low: int
    high: int

    def schedule(self) -> list[tuple[int, int]]:
        """Return the two words of each round's key."""
        return [((self.low + r * WEYL[0]) % 2**64, (self.high + r * WEYL[1]) % 2**64) for r in range(ROUNDS)]


class _Generator(threading.local):
    """numpy's generator, one per thread: setting its state costs a tenth of making one."""

    def __init__(self) -> None:
        self.generator = np.random.Philox(key=0)
        self.fresh: dict[str, Any] = dict(self.generator.state)


_LOCAL = _Generator()


def stream(key: Key, counter: tuple[int, int, int, int], words: int) -> UInt64[ndarray, " words"]:
    """Return the words of consecutive blocks, beginning with the block of `counter` (lowest word first)."""
    position = sum(word << (64 * i) for i, word in enumerate(counter))
    # numpy steps its counter before it computes a block.
    before = (position - 1) % 2**256
    numbers = {
        "counter": np.array([before >> (64 * i) & (2**64 - 1) for i in range(4)], dtype=np.uint64),
        "key": np.array(key, dtype=np.uint64),
    }
    # Four words of the buffer are used up: the next one begins a block.
    state: Any = {**_LOCAL.fresh, "state": numbers, "buffer_pos": 4}
    _LOCAL.generator.state = state
    return _LOCAL.generator.random_raw(words)


def blocks(key: Key, low: UInt64[ndarray, " n"], rest: tuple[int, int, int]) -> UInt64[ndarray, "4 n"]:
    """Return the four words of each block, for counters (low[i], *rest).

    Products of 64-bit words are put together from 32-bit halves, in place: numpy has no wider integers. Both products of a
    round are computed together, [2, n]: few values at a time cost as much as the calls.
    """
    n = len(low)
    even, odd, s, t, u, high = (np.empty((2, n), dtype=np.uint64) for _ in range(6))
    even[0], even[1], odd[0], odd[1] = low, rest[1], rest[0], rest[2]
    for round_key in key.schedule():
        # No sum below overflows: (2^32 - 1)^2 + 2 (2^32 - 1) = 2^64 - 1.
        np.bitwise_and(even, _MASK, out=s)
        np.right_shift(even, _HALF, out=t)
        np.multiply(s, _UPPER, out=u)
        np.multiply(s, _LOWER, out=s)
        np.right_shift(s, _HALF, out=s)
        np.add(u, s, out=u)
        np.multiply(t, _UPPER, out=high)
        np.multiply(t, _LOWER, out=t)
        np.bitwise_and(u, _MASK, out=s)
        np.add(t, s, out=t)
        np.right_shift(u, _HALF, out=u)
        np.right_shift(t, _HALF, out=t)
        np.add(high, u, out=high)
        np.add(high, t, out=high)
        np.multiply(even, _WHOLE, out=even)
        # The first product's halves go to words 2 and 3, the second's to words 0 and 1.
        np.bitwise_xor(high[::-1], odd, out=odd)
        np.bitwise_xor(odd, _column(round_key), out=odd)
        even, odd = odd, even[::-1]
    return np.stack([even[0], odd[0], even[1], odd[1]])
