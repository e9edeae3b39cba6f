"""Inputs on a grid: multiples k / grid of one step, as all image data are (k / 255).

The certified input is the real vector k / grid; what the classifier is shown is, for every k, the float32 nearest to it.
That is one fixed map from integers to float32, a part of the base classifier, and it is the same on every device.
"""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from numpy import ndarray
from torch import Tensor

from smoothing.errors import InvalidArgumentError

LARGEST_LEVEL = 2**15 - 1
"""Levels and noise are added in int16."""


def check_grid(grid: int) -> None:
    """Raise `InvalidArgumentError` unless `grid`, the number of steps per unit, is an integer in [1, 65536]."""
    if isinstance(grid, bool) or not isinstance(grid, int | np.integer) or not 1 <= grid <= 2**16:
        raise InvalidArgumentError(
            "grid must be the number of steps per unit, an integer in [1, 65536] (255 for 8-bit images, whose pixels are "
            f"k / 255), got grid={grid!r}"
        )


def values_of(levels: Int64[ndarray, "..."], grid: int) -> Float32[ndarray, "..."]:
    """Return the float32 nearest to level / grid: both are exact in float32, and IEEE division rounds correctly.

    Args:
        levels: Integers below 2^24 in size.
        grid: Steps per unit.
    """
    return np.asarray(levels.astype(np.float32) / np.float32(grid))


def on_grid(x: Float[Tensor, "..."], grid: int = 255) -> bool:
    """Return whether every coordinate is the float32 nearest to some k / grid, with |k| <= 32,767."""
    check_grid(grid)
    nearest, exact = _nearest(x, grid)
    return bool(np.all(exact & (np.abs(nearest) <= LARGEST_LEVEL)))


def grid_levels(x: Float[Tensor, "..."], grid: int = 255, name: str = "the input") -> Int64[ndarray, "..."]:
    """Return the integers k of an input of values k / grid.

    Args:
        x: Floating-point tensor on any device; best on the host.
        grid: Steps per unit.
        name: What to call it in messages.

    Raises:
        InvalidArgumentError: If a coordinate is not the float32 nearest to a multiple of the step, or is too large.

    Example:
        >>> grid_levels(torch.tensor([0.0, 1.0, 3 / 255]), 255).tolist()
        [0, 255, 3]
    """
    check_grid(grid)
    nearest, exact = _nearest(x, grid)
    if not exact.all():
        values = x.detach().to(device="cpu", dtype=torch.float64).numpy().ravel()
        first = int(np.flatnonzero(~exact.ravel())[0])
        raise InvalidArgumentError(
            f"integer noise needs inputs on the grid k/{grid} (each coordinate the float32 nearest to k/{grid}); {name} has "
            f"{int((~exact).sum()):,} coordinates off it, the first being {float(values[first])!r}: use another grid, "
            "move it there with smoothing.integer.snap (which is then the input that is certified), or use floating-point "
            "noise"
        )
    if np.any(np.abs(nearest) > LARGEST_LEVEL):
        raise InvalidArgumentError(
            f"levels must be at most {LARGEST_LEVEL} in size, got values up to {np.abs(nearest).max() / grid:.6g} on the "
            f"grid k/{grid}: scale the inputs or use a coarser grid"
        )
    return nearest


def snap(x: Float[Tensor, "..."], grid: int = 255) -> Float[Tensor, "..."]:
    """Return the nearest input on the grid, float32: another input than `x`, for whoever wants to certify that one.

    Raises:
        InvalidArgumentError: If a value is not finite or too large for the grid.
    """
    check_grid(grid)
    nearest, _ = _nearest(x, grid)
    if np.any(np.abs(nearest) > LARGEST_LEVEL):
        raise InvalidArgumentError(
            f"values must be finite and at most {LARGEST_LEVEL}/{grid} in size to be moved to the grid k/{grid}"
        )
    return torch.from_numpy(values_of(nearest, grid)).to(x.device)


def _nearest(x: Tensor, grid: int) -> tuple[Int64[ndarray, "..."], ndarray]:
    """Return the nearest levels, and where the value is exactly the float32 of its level."""
    values = x.detach().to(device="cpu", dtype=torch.float64).numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        # Beyond the levels allowed the exact number does not matter, but must stay an integer that float32 can hold.
        rounded = np.nan_to_num(np.rint(values * grid), nan=2.0**23, posinf=2.0**23, neginf=-(2.0**23))
    nearest = np.clip(rounded, -(2.0**23), 2.0**23).astype(np.int64)
    return nearest, np.asarray(values_of(nearest, grid).astype(np.float64) == values)
