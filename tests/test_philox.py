"""Philox4x64-10: known answers of the Random123 library, and three implementations against each other."""

import numpy as np
import pytest
import torch

from smoothing.integer import philox, philox_torch
from smoothing.integer.philox import MULTIPLIERS, WEYL, Key

KNOWN = [  # Random123, tests/kat_vectors, lines "philox4x64 10": counter, key, words
    ([0] * 4, [0] * 2, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    ([2**64 - 1] * 4, [2**64 - 1] * 2, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
    (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        [0x452821E638D01377, 0xBE5466CF34E90C6C],
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
]


def by_hand(key: Key, counter: list[int]) -> list[int]:
    """The definition, in Python's integers."""
    x0, x1, x2, x3 = counter
    for r in range(10):
        k0, k1 = ((k + r * w) % 2**64 for k, w in zip(key, WEYL, strict=True))
        p, q = MULTIPLIERS[0] * x0, MULTIPLIERS[1] * x2
        x0, x1, x2, x3 = (q >> 64) ^ x1 ^ k0, q % 2**64, (p >> 64) ^ x3 ^ k1, p % 2**64
    return [x0, x1, x2, x3]


def in_torch(key: Key, low: list[int], rest: tuple[int, int, int]) -> list[list[int]]:
    words = philox_torch.blocks(key, torch.tensor([philox_torch.signed(c) for c in low]), rest)
    return [[word % 2**64 for word in row] for row in words.tolist()]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter: list[int], key: list[int], words: str) -> None:
    expected = [int(word, 16) for word in words.split()]
    name, rest = Key(*key), (counter[1], counter[2], counter[3])
    assert by_hand(name, counter) == expected
    assert philox.stream(name, (counter[0], *rest), 4).tolist() == expected
    assert philox.blocks(name, np.array([counter[0]], dtype=np.uint64), rest)[:, 0].tolist() == expected
    assert in_torch(name, [counter[0]], rest) == [expected]


def test_all_implementations_agree_on_random_counters() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        key = Key(*(int(v) for v in random.integers(0, 2**64, 2, dtype=np.uint64)))
        low = random.integers(0, 2**64, 50, dtype=np.uint64)
        rest = tuple(int(v) for v in random.integers(0, 2**64, 3, dtype=np.uint64))
        assert len(rest) == 3
        expected = [by_hand(key, [int(c), *rest]) for c in low]
        assert philox.blocks(key, low, rest).T.tolist() == expected
        assert in_torch(key, low.tolist(), rest) == expected
        assert philox.stream(key, (int(low[0]), *rest), 4).tolist() == expected[0]


def test_a_stream_is_consecutive_blocks_wherever_it_begins() -> None:
    key = Key(5, 6)
    whole = philox.stream(key, (0, 0, 3, 1), 4000)
    for first, words in ((0, 4), (1, 7), (17, 1), (998, 8)):
        assert np.array_equal(philox.stream(key, (first, 0, 3, 1), words), whole[4 * first : 4 * first + words])
    assert np.array_equal(whole.reshape(-1, 4).T, philox.blocks(key, np.arange(1000, dtype=np.uint64), (0, 3, 1)))
    # The carry from the lowest word of the counter.
    carried = philox.stream(key, (2**64 - 1, 0, 3, 1), 8)
    assert carried[4:].tolist() == by_hand(key, [0, 1, 3, 1])


def test_no_blocks_at_all() -> None:
    assert philox.blocks(Key(1, 2), np.empty(0, dtype=np.uint64), (0, 0, 0)).shape == (4, 0)
