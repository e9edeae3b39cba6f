"""The table of denoisers by name: the only place where text becomes a denoiser."""

from collections.abc import Callable
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
        build: Number of channels -> the untrained network.
        summary: A few words for people.
    """

    build: Callable[[int], nn.Module]
    summary: str


DENOISERS: dict[str, Architecture] = {
    "dncnn": Architecture(DnCNN, "DnCNN of the paper: depth 17, width 64"),
    "dncnn-wide": Architecture(lambda channels: DnCNN(channels, width=128), "DnCNN, depth 17, width 128"),
    "dncnn-small": Architecture(
        lambda channels: DnCNN(channels, depth=6, width=32), "DnCNN for a CPU: depth 6, width 32"
    ),
    "memnet": Architecture(MemNet, "MemNet of the paper: 3 memory blocks of 6 units, width 64"),
    "unet": Architecture(UNet, "small U-Net, told sigma: width 32, 2 levels"),
}


def build_denoiser(name: str, channels: int) -> nn.Module:
    """Build a denoiser with fresh weights from torch's global random state.

    Args:
        name: A key of `DENOISERS`.
        channels: Channels of the images.

    Raises:
        InvalidArgumentError: If there is no such denoiser; the message lists them all.
    """
    if name not in DENOISERS:
        raise InvalidArgumentError(f"denoiser must be one of {', '.join(DENOISERS)}, got denoiser={name!r}")
    return DENOISERS[name].build(channels)
