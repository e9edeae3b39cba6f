"""Residual networks for small images: CIFAR ResNet-20 and ResNet-110."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to the input.

    Where the block changes the number of channels or the size, the input passes through a 1x1 convolution with batch
    normalisation (option B of He et al. 2016); `downsample` is that shortcut, and None elsewhere.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        """Return relu(branch(x) + shortcut(x))."""
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(branch + shortcut)


class CifarResNet(nn.Module):
    """A residual network of depth 6n + 2 in three stages of 16, 32 and 64 channels.

    Depth 20 has 272,474 and depth 110 has 1,730,714 parameters for 3 channels and 10 classes. Layer names are those of
    the checkpoints of Cohen et al. 2019 and of the papers that build on them.

    Args:
        depth: Number of layers with weights, 6n + 2.
        channels: Channels of an input.
        num_classes: Number of classes.

    Reference: He, Zhang, Ren, Sun 2016, section 4.2, with projection shortcuts.
    """

    def __init__(self, depth: int, channels: int, num_classes: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return the scores of a batch."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return scores


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
