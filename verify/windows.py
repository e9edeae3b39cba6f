"""Pooling geometry as a table: which inputs each output looks at, with -1 for what lies in the padding."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


def _output_length(length: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int, ceil: bool) -> int:
    span = length + sum(padding) - dilation * (kernel - 1) - 1
    count = (-(-span // stride) if ceil else span // stride) + 1
    # torch and ONNX alike: with ceil_mode, the last window has to start inside the input or the padding before it.
    if ceil and (count - 1) * stride >= length + padding[0]:
        count -= 1
    return count


def windows(
    shape: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    ceil_mode: bool = False,
) -> tuple[Int[ndarray, "out window"], Int[ndarray, " out"], tuple[int, int, int]]:
    """Return what each output of a 2-D pooling sees.

    Args:
        shape: (channels, height, width) of the input.
        kernel: Window size.
        stride: Step between windows.
        padding: (top, bottom, left, right).
        dilation: Step inside a window.
        ceil_mode: Whether a last window may hang over the (padded) end.

    Returns:
        The flat input index of every window entry, -1 outside the input; the number of entries of each window that
        lie inside the input or its padding (the divisor with `count_include_pad`); and the output's shape.
    """
    channels, height, width = shape
    axes = []
    for length, k, s, p, d in (
        (height, kernel[0], stride[0], padding[:2], dilation[0]),
        (width, kernel[1], stride[1], padding[2:], dilation[1]),
    ):
        count = _output_length(length, k, s, (p[0], p[1]), d, ceil_mode)
        position = np.arange(count)[:, None] * s - p[0] + np.arange(k) * d
        axes.append((position, (position >= 0) & (position < length), position < length + p[1]))
    (rows, row_inside, row_padded), (cols, col_inside, col_padded) = axes
    out = (channels, len(rows), len(cols))
    flat = np.arange(channels)[:, None, None, None, None] * (height * width) + (
        rows[:, None, :, None] * width + cols[None, :, None, :]
    )
    inside = row_inside[:, None, :, None] & col_inside[None, :, None, :]
    index = np.where(inside, flat, -1).reshape(int(np.prod(out)), -1)
    padded = (row_padded[:, None, :, None] & col_padded[None, :, None, :]).sum(axis=(2, 3))
    counts = np.broadcast_to(padded, out).reshape(-1)
    return index, np.array(counts), out


def adaptive_windows(
    shape: tuple[int, int, int], output: tuple[int, int]
) -> tuple[Int[ndarray, "out window"], tuple[int, int, int]]:
    """Return what each output of an adaptive 2-D pooling sees: rows floor(i H / H') up to ceil((i + 1) H / H')."""
    channels, height, width = shape
    axes = []
    for length, count in ((height, output[0]), (width, output[1])):
        start = np.arange(count) * length // count
        stop = -(-(np.arange(1, count + 1) * length) // count)
        position = start[:, None] + np.arange(int((stop - start).max()))
        axes.append((position, position < stop[:, None]))
    (rows, row_inside), (cols, col_inside) = axes
    out = (channels, output[0], output[1])
    flat = np.arange(channels)[:, None, None, None, None] * (height * width) + (
        rows[:, None, :, None] * width + cols[None, :, None, :]
    )
    inside = row_inside[:, None, :, None] & col_inside[None, :, None, :]
    return np.where(inside, flat, -1).reshape(int(np.prod(out)), -1), out


def mean_weights(
    index: Int[ndarray, "out window"], divisor: Int[ndarray, " out"] | None = None
) -> Float[ndarray, "out window"]:
    """Return the weights of an average: 1 / divisor on present entries, the divisor being their number by default."""
    present = index >= 0
    count = present.sum(axis=1) if divisor is None else divisor
    return np.where(present, 1.0 / np.maximum(count, 1)[:, None], 0.0)
