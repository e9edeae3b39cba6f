"""Wide residual networks for small images: WRN-40-2."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PreactivationBlock(nn.Module):
    """Batch normalisation and ReLU before each of two 3x3 convolutions, added to the input.

    Where the number of channels changes, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut: nn.Conv2d | None = None
        if inputs != outputs:
            self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        """Return branch(x) + shortcut(x), not activated."""
        activated = F.relu(self.bn1(x))
        branch: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return branch + (x if self.convShortcut is None else self.convShortcut(activated))


class Stage(nn.Module):
    """A chain of blocks under the name `layer`, as published checkpoints of these networks have it."""

    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int) -> None:
        super().__init__()
        first = PreactivationBlock(inputs, outputs, stride)
        self.layer = nn.Sequential(first, *(PreactivationBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        """Return what the last block gives."""
        features: Tensor = self.layer(x)
        return features


class WideResNet(nn.Module):
    """A wide residual network of depth 6n + 4; WRN-40-2 has 2,243,546 parameters for 3 channels and 10 classes.

    Args:
        depth: Number of layers, 6n + 4.
        widen: Factor on the widths 16, 32, 64.
        channels: Channels of an input.
        num_classes: Number of classes.

    Reference: Zagoruyko and Komodakis 2016, without dropout.
    """

    def __init__(self, depth: int, widen: int, channels: int, num_classes: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        narrow, middle, wide = 16 * widen, 32 * widen, 64 * widen
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = Stage(16, narrow, blocks, stride=1)
        self.block2 = Stage(narrow, middle, blocks, stride=2)
        self.block3 = Stage(middle, wide, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(wide)
        self.fc = nn.Linear(wide, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return the scores of a batch."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = F.relu(self.bn1(x))
        scores: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return scores
