"""LeNet, the network of the published MNIST tables."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LeNet(nn.Module):
    """conv 20 5x5, pool, conv 50 5x5, pool, fc 500, fc classes: 431,080 parameters for 1x28x28 and 10 classes.

    Layer names are those of the published MNIST checkpoints, which use no normalisation.

    Args:
        input_shape: (channels, height, width), both sizes at least 16.
        num_classes: Number of classes.

    Reference: LeCun, Bottou, Bengio, Haffner 1998; in this form Jeong and Shin 2020 (consistency regularization).
    """

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        rows, columns = (((size - 4) // 2 - 4) // 2 for size in (height, width))
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * rows * columns, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return the scores of a batch."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        scores: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return scores
