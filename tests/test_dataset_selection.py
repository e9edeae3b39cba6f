"""Which inputs of a data set a run takes: stride, indices, shards."""

from typing import Any

import pytest

from certify.datasets import (
    parse_shard,
    select_indices,
)
from certify.errors import UsageError

# ---------------------------------------------------------------- selection


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, list(range(10))),
        ({"stride": 4}, [0, 4, 8]),
        ({"stride": 4, "skip": 1}, [1, 5, 9]),
        ({"skip": 7}, [7, 8, 9]),
        ({"stride": 3, "maximum": 2}, [0, 3]),
        ({"maximum": 99}, list(range(10))),
        ({"indices": "7, 0,3-5"}, [0, 3, 4, 5, 7]),
        ({"indices": "0-9:4,8,8,4-4"}, [0, 4, 8]),
        ({"indices": "1-8:2", "stride": 2, "maximum": 2}, [1, 5]),
        ({"shard": (1, 3)}, [1, 4, 7]),
        ({"indices": "2,4,6", "shard": (2, 3)}, [6]),
        ({"indices": "2", "shard": (1, 2)}, []),
    ],
)
def test_select_indices(arguments: dict[str, Any], expected: list[int]) -> None:
    assert select_indices(10, **arguments) == expected


def test_shards_are_a_partition_of_the_selection() -> None:
    for n in (1, 2, 3, 7, 60):
        parts = [select_indices(1000, stride=20, skip=3, maximum=40, shard=(i, n)) for i in range(n)]
        assert sorted(i for part in parts for i in part) == select_indices(1000, stride=20, skip=3, maximum=40)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 0}, "stride must be at least 1, got stride=0"),
        ({"skip": -1}, "skip must be at least 0, got skip=-1"),
        ({"skip": 10}, "skip must be less than the number of inputs, 10, got skip=10"),
        ({"maximum": 0}, "max must be at least 1, got max=0"),
        ({"indices": "1,x"}, "got 'x' in '1,x'"),
        ({"indices": "1,,2"}, "got '' in '1,,2'"),
        ({"indices": ""}, "got '' in ''"),
        ({"indices": "-3"}, "got '-3'"),
        ({"indices": "1-2:3:4"}, "got '1-2:3:4'"),
        ({"indices": "1:3"}, "got '1:3'"),
        ({"indices": "٣"}, "got '٣'"),
        ({"indices": "5-3"}, "must go upwards, got '5-3'"),
        ({"indices": "3-5:0"}, "step of a range of indices must be at least 1, got '3-5:0'"),
        ({"indices": "3,10"}, r"must be in 0\.\.9 \(the data set has 10 inputs\), got index 10"),
        ({"indices": "0-1000000000000"}, "got index 1000000000000"),
        ({"shard": (3, 3)}, r"i must be in 0\.\.2, got shard=3/3"),
        ({"shard": (-1, 3)}, r"i must be in 0\.\.2, got shard=-1/3"),
        ({"shard": (0, 0)}, "number of shards must be at least 1"),
    ],
)
def test_select_indices_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select_indices(10, **arguments)


def test_select_from_nothing() -> None:
    with pytest.raises(UsageError, match="at least one input"):
        select_indices(0)


ARRAY = {"SLURM_ARRAY_TASK_ID": "30", "SLURM_ARRAY_TASK_COUNT": "4"}


@pytest.mark.parametrize(
    ("text", "environ", "expected", "said"),
    [
        ("2/8", {"RANK": "5", "WORLD_SIZE": "6"}, (2, 8), "shard 2/8 (counted from 0)"),
        ("0/1", {}, (0, 1), "shard 0/1"),
        ("auto", {"RANK": "5", "WORLD_SIZE": "6", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (5, 6), "RANK=5"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
         (3, 4), "SLURM_ARRAY_TASK_ID=3 and SLURM_ARRAY_TASK_COUNT=4"),
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_MIN": "27"}, (3, 4), "SLURM_ARRAY_TASK_MIN=27"),
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "10"}, (2, 4), "STEP=10"),
        ("auto", {"RANK": "1", "SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, (2, 4), "SLURM_PROCID=2 and SLURM_NTASKS=4"),
    ],
)  # fmt: skip
def test_parse_shard(text: str, environ: dict[str, str], expected: tuple[int, int], said: str) -> None:
    i, n, explanation = parse_shard(text, environ)
    assert (i, n) == expected
    assert said in explanation


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        ("8/8", {}, r"counted from 0, so that i must be in 0\.\.7, got shard=8/8"),
        ("0/0", {}, "at least 1"),
        ("1", {}, 'shard must be "i/n" .* or "auto", got shard=\'1\''),
        ("-1/8", {}, "got shard='-1/8'"),
        ("auto", {}, "RANK and WORLD_SIZE, or SLURM_ARRAY_TASK_ID .* got none of them; write i/n"),
        ("auto", {"RANK": "1"}, "got only RANK"),
        ("auto", {"RANK": "one", "WORLD_SIZE": "2"}, "RANK must be a whole number .*got RANK='one'"),
        ("auto", {"RANK": "2", "WORLD_SIZE": "2"}, r"0\.\.1, got shard=2/2 from RANK=2 and WORLD_SIZE=2"),
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_MIN": "31"}, "evenly numbered job array"),
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "10"}, "evenly numbered job array"),
        ("auto", ARRAY, r"i must be in 0\.\.3, got shard=30/4"),
    ],
)
def test_parse_shard_refuses(text: str, environ: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_shard(text, environ)
