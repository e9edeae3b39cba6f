"""The table of denoisers by name: the only place where text becomes a denoiser."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from denoisers.dncnn import DnCNN
from denoisers.memnet import MemNet
from denoisers.unet import UNet
from smoothing.errors import InvalidArgumentError


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Args:
        build: (channels, and the sizes by name) -> the untrained network.
        summary: A few words for people.
        sizes: Name of a size -> its value where nobody names another; the only ones that can be named.
    """

    build: Callable[..., nn.Module]
    summary: str
    sizes: Mapping[str, int]


DENOISERS: dict[str, Architecture] = {
    "dncnn": Architecture(DnCNN, "DnCNN of the paper: depth 17, width 64", {"depth": 17, "width": 64}),
    "dncnn-wide": Architecture(DnCNN, "wide DnCNN of the paper: depth 17, width 128", {"depth": 17, "width": 128}),
    "dncnn-small": Architecture(DnCNN, "DnCNN for a CPU: depth 6, width 32", {"depth": 6, "width": 32}),
    "memnet": Architecture(MemNet, "MemNet of the paper: 3 memory blocks of 6 units, width 64", {"width": 64}),
    "unet": Architecture(UNet, "small U-Net, told sigma: width 32, 2 levels", {"width": 32}),
}


MOST = 2_000
"""Largest depth or width: far beyond any denoiser, and small enough to be looked at before memory is asked for."""


def sizes_of(name: str, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return all sizes of a denoiser, those of the table where no other is named.

    Args:
        name: A key of `DENOISERS`.
        sizes: Sizes by name.

    Raises:
        InvalidArgumentError: If there is no such denoiser, it has no such size (the message lists what there is), or a size
            is no whole number or beyond 2,000.
    """
    if name not in DENOISERS:
        raise InvalidArgumentError(f"denoiser must be one of {', '.join(DENOISERS)}, got denoiser={name!r}")
    known = DENOISERS[name].sizes
    for size, value in (sizes or {}).items():
        if size not in known:
            others = [other for other, row in DENOISERS.items() if size in row.sizes]
            hint = f"; {size} belongs to {', '.join(others)}" if others else ""
            raise InvalidArgumentError(f"the denoiser {name} takes {' and '.join(known)}, got {size}{hint}")
        if not isinstance(value, int) or value > MOST:
            raise InvalidArgumentError(f"{size} must be a whole number of at most {MOST:,}, got {size}={value!r}")
    return {**known, **(sizes or {})}


def build_denoiser(name: str, channels: int, sizes: Mapping[str, int] | None = None) -> nn.Module:
    """Build a denoiser with fresh weights from torch's global random state.

    Args:
        name: A key of `DENOISERS`.
        channels: Channels of the images.
        sizes: Depth or width, by name, where they are not those of the table.

    Raises:
        InvalidArgumentError: If there is no such denoiser, it has no such size, or a size is out of range.
    """
    all_sizes = sizes_of(name, sizes)
    return DENOISERS[name].build(channels, **all_sizes)
