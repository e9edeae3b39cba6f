"""The two plain chains of layers: a small convolutional network and a multi-layer perceptron.

Both are a bare `nn.Sequential`, the form that bound propagation and mixed-integer programs read directly, and that of
the networks of Salman et al. 2019 (convex relaxation barrier), whose weights load unchanged.
"""

import math

from torch import nn


def small_cnn(input_shape: tuple[int, int, int], num_classes: int) -> nn.Sequential:
    """Return conv 16 4x4/2, conv 32 4x4/2, fc 100, fc classes: 166,406 parameters for 1x28x28 and 10 classes.

    Args:
        input_shape: (channels, height, width), both sizes at least 4; each convolution halves them, rounding down.
        num_classes: Number of classes.
    """
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )


def mlp(input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Return a perceptron with two hidden layers of 100 units, for inputs of any shape.

    Args:
        input_shape: Shape of one input; it is flattened.
        num_classes: Number of classes.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), 100),
        nn.ReLU(),
        nn.Linear(100, 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )
