"""Which inputs of a data set to take, and which share of them this process takes."""

import re
from collections.abc import Mapping, Sequence

from certify.errors import UsageError

PART = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?", re.ASCII)


class EmptyShardError(UsageError):
    """A shard that gets no input of a selection with fewer inputs than shards: it is done, and nothing is wrong."""


def select_indices(
    length: int,
    *,
    stride: int = 1,
    skip: int = 0,
    maximum: int | None = None,
    indices: str | None = None,
    shard: tuple[int, int] = (0, 1),
) -> list[int]:
    """Return the chosen indices, ascending, without repetition.

    In this order: `indices` (or all), leave out the first `skip`, take every `stride`-th, keep the first `maximum`, and
    of what is left every n-th beginning with the i-th for shard (i, n).

    Args:
        length: Size of the data set, at least 1.
        stride: 1 takes all; 20 takes the 0th, 20th, 40th, ...
        skip: How many to leave out at the beginning.
        maximum: The largest number to take; None for no limit.
        indices: Text like "0,5,10-20,100-200:10": single indices, ranges with both ends included, ranges with a step.
        shard: (i, n) with i in 0..n-1. The n shards are disjoint, together they are the whole selection, and differ in
            size by one at most; a shard of a selection with fewer than n inputs may be empty.

    Raises:
        UsageError: If a number is out of range, the text cannot be read, an index is outside the data set, or nothing
            is left before the sharding.
    """
    if length < 1:
        raise UsageError(f"a data set must hold at least one input, got length={length}")
    if stride < 1:
        raise UsageError(f"stride must be at least 1, got stride={stride}")
    if skip < 0:
        raise UsageError(f"skip must be at least 0, got skip={skip}")
    if maximum is not None and maximum < 1:
        raise UsageError(f"max must be at least 1, got max={maximum}")
    i, n = shard
    _check_shard(i, n, f"{i}/{n}")
    base = range(length) if indices is None else _parse_indices(indices, length)
    if skip >= len(base):
        raise UsageError(f"skip must be less than the number of inputs, {len(base)}, got skip={skip}")
    return list(base[skip::stride][:maximum][i::n])


def _parse_indices(text: str, length: int) -> list[int]:
    chosen: set[int] = set()
    for part in text.split(","):
        match = PART.fullmatch(part.strip())
        if match is None:
            raise UsageError(
                f'indices must be numbers and ranges like "0,5,10-20,100-200:10" (both ends included), got {part!r} in '
                f"{text!r}"
            )
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        step = 1 if match[3] is None else int(match[3])
        if last < first:
            raise UsageError(f"a range of indices must go upwards, got {part.strip()!r}")
        if step < 1:
            raise UsageError(f"the step of a range of indices must be at least 1, got {part.strip()!r}")
        if last >= length:  # before the range is spelled out, which might not fit into memory
            raise UsageError(f"indices must be in 0..{length - 1} (the data set has {length} inputs), got index {last}")
        chosen.update(range(first, last + 1, step))
    return sorted(chosen)


def parse_shard(text: str, environ: Mapping[str, str]) -> tuple[int, int, str]:
    """Return (i, n, explanation) for "i/n", or for "auto" from the variables of a launcher.

    i counts from 0, as RANK does: of 8 shards the first is 0/8 and the last 7/8. "auto" takes the first complete set of
    RANK and WORLD_SIZE (torchrun); SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, counted from SLURM_ARRAY_TASK_MIN in
    steps of SLURM_ARRAY_TASK_STEP (job arrays); SLURM_PROCID and SLURM_NTASKS (srun).

    Args:
        text: "i/n" or "auto".
        environ: The environment, usually `os.environ`.

    Returns:
        i in 0..n-1, n, and one line that says what was taken from where.

    Raises:
        UsageError: If the text or a variable cannot be read, i is not in 0..n-1, or "auto" finds nothing.
    """
    if text == "auto":
        return _shard_from_environment(environ)
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip(), re.ASCII)
    if match is None:
        raise UsageError(f'shard must be "i/n" with i counted from 0 (like 0/8 ... 7/8), or "auto", got shard={text!r}')
    i, n = int(match[1]), int(match[2])
    _check_shard(i, n, text)
    return i, n, f"shard {i}/{n} (counted from 0)"


def take_shard(selected: Sequence[int], shard: tuple[int, int] | None) -> Sequence[int]:
    """Return the inputs of a selection that shard (i, n) takes; all of them without one.

    Raises:
        EmptyShardError: If others take them all.
    """
    if shard is None:
        return selected
    i, n = shard
    taken = selected[i::n]
    if not taken:
        raise EmptyShardError(
            f"shard {i}/{n} has nothing to do: the number of inputs in the selection is {len(selected)}, and certify merge "
            "does not wait for this shard"
        )
    return taken


def _shard_from_environment(environ: Mapping[str, str]) -> tuple[int, int, str]:
    pairs = [
        ("RANK", "WORLD_SIZE"),
        ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
        ("SLURM_PROCID", "SLURM_NTASKS"),
    ]
    for index_name, count_name in pairs:
        if index_name not in environ or count_name not in environ:
            continue
        i, n = _number(index_name, environ), _number(count_name, environ)
        taken = f"{index_name}={i} and {count_name}={n}"
        if index_name == "SLURM_ARRAY_TASK_ID":
            i, taken = _array_position(i, taken, environ)
        _check_shard(i, n, f"{i}/{n} from {taken}")
        return i, n, f"shard {i}/{n} (counted from 0), from {taken}"
    half = [name for pair in pairs for name in pair if name in environ]
    raise UsageError(
        "shard=auto needs "
        + ", or ".join(f"{index_name} and {count_name}" for index_name, count_name in pairs)
        + f" in the environment, got {'only ' + ', '.join(half) if half else 'none of them'}; write i/n instead"
    )


def _array_position(task: int, taken: str, environ: Mapping[str, str]) -> tuple[int, str]:
    """Return the position of a task within its job array, whose numbers may begin anywhere and go in steps."""
    first = _number("SLURM_ARRAY_TASK_MIN", environ, 0)
    step = _number("SLURM_ARRAY_TASK_STEP", environ, 1)
    if step < 1 or task < first or (task - first) % step:
        raise UsageError(
            f"shard=auto needs an evenly numbered job array, got SLURM_ARRAY_TASK_ID={task} with "
            f"SLURM_ARRAY_TASK_MIN={first} and SLURM_ARRAY_TASK_STEP={step}; write i/n instead"
        )
    if first != 0 or step != 1:
        taken += f", SLURM_ARRAY_TASK_MIN={first}, SLURM_ARRAY_TASK_STEP={step}"
    return (task - first) // step, taken


def _number(name: str, environ: Mapping[str, str], default: int | None = None) -> int:
    if default is not None and name not in environ:
        return default
    text = environ[name]
    if re.fullmatch(r"\d+", text, re.ASCII) is None:
        raise UsageError(f"{name} must be a whole number for shard=auto, got {name}={text!r}")
    return int(text)


def _check_shard(i: int, n: int, text: str) -> None:
    if n < 1:
        raise UsageError(f"the number of shards must be at least 1, got shard={text}")
    if not 0 <= i < n:
        raise UsageError(f"shard i/n is counted from 0, so that i must be in 0..{n - 1}, got shard={text}")
