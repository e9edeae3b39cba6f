"""MemNet: memory blocks of residual units, each of which may look back at all earlier ones."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from smoothing.errors import InvalidArgumentError


class MemNet(nn.Module):
    """D(x) = x + network(x), with memory blocks that keep what earlier blocks found.

    Every layer is pre-activated: batch normalisation, ReLU, convolution. A memory block runs `residual_blocks` residual
    units, and a 1x1 convolution gates their outputs together with those of all earlier memory blocks. Denoised smoothing
    uses 3 memory blocks of 6 units with 64 channels, every unit with weights of its own (Tai et al. share them within a
    block). The network is blind: it ignores the `sigma` that it is told.

    Args:
        channels: Channels of the image.
        width: Channels inside.
        memory_blocks: Number of memory blocks.
        residual_blocks: Residual units in each.

    Raises:
        InvalidArgumentError: If an argument is below 1.

    Reference: Tai, Yang, Liu, Xu 2017, "MemNet: A Persistent Memory Network for Image Restoration"; Salman et al. 2020,
    appendix.
    """

    def __init__(self, channels: int = 3, width: int = 64, memory_blocks: int = 3, residual_blocks: int = 6) -> None:
        super().__init__()
        given = {
            "channels": channels,
            "width": width,
            "memory_blocks": memory_blocks,
            "residual_blocks": residual_blocks,
        }
        for key, value in given.items():
            if value < 1:
                raise InvalidArgumentError(f"{key} must be at least 1, got {key}={value}")
        self.extract = _PreActivated(channels, width)
        self.memory = nn.ModuleList(
            _MemoryBlock(width, residual_blocks, earlier + 1) for earlier in range(memory_blocks)
        )
        self.reconstruct = _PreActivated(width, channels)

    def forward(
        self, x: Float[Tensor, "batch channel height width"], sigma: float | int = 0.0
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the estimate of the clean image, not clipped; `sigma` is not used."""
        remembered = [self.extract(x)]
        for block in self.memory:
            remembered.append(block(remembered))
        estimate: Tensor = x + self.reconstruct(remembered[-1])
        return estimate


class _PreActivated(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.relu(self.norm(x)))
        return result


class _ResidualUnit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _PreActivated(width, width)
        self.second = _PreActivated(width, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.second(self.first(x))
        return result


class _MemoryBlock(nn.Module):
    """`units` residual units after one another, then the gate over their outputs and `earlier` remembered ones."""

    def __init__(self, width: int, units: int, earlier: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(_ResidualUnit(width) for _ in range(units))
        self.gate = _PreActivated((units + earlier) * width, width, kernel=1)

    def forward(self, remembered: list[Tensor]) -> Tensor:
        outputs = []
        x = remembered[-1]
        for unit in self.units:
            x = unit(x)
            outputs.append(x)
        result: Tensor = self.gate(torch.cat([*outputs, *remembered], 1))
        return result
