"""What `certify train` does for a data set where it is not told otherwise."""

from dataclasses import dataclass

from certify.models.architectures import ARCHITECTURES
from smoothing.training import CropFlip

AUGMENTATIONS: dict[str, CropFlip | None] = {
    "none": None,
    "shift": CropFlip(padding=2, flip=False),
    "crop-flip": CropFlip(padding=4, flip=True),
}
"""By name: what happens to training images before the noise. Digits and letters must not be mirrored."""


@dataclass(frozen=True)
class Defaults:
    """A recipe for SGD with momentum 0.9 (Nesterov), weight decay 1e-4 and the one-cycle schedule.

    Attributes:
        architecture: A key of `ARCHITECTURES`.
        epochs: Passes over the training set.
        batch_size: Examples in a step.
        learning_rate: Highest rate.
        augment: A key of `AUGMENTATIONS`.
    """

    architecture: str
    epochs: int
    batch_size: int
    learning_rate: float
    augment: str = "none"


DEFAULTS: dict[str, Defaults] = {
    "digits": Defaults("cnn", epochs=40, batch_size=64, learning_rate=0.1),
    "mnist": Defaults("lenet", epochs=16, batch_size=128, learning_rate=0.05),
    "fashion_mnist": Defaults("lenet", epochs=15, batch_size=128, learning_rate=0.05, augment="shift"),
    "cifar10": Defaults("resnet20", epochs=60, batch_size=256, learning_rate=0.2, augment="crop-flip"),
}
"""By name of the data set."""


def defaults_for(data: str, shape: tuple[int, ...]) -> Defaults:
    """Return the recipe for a data set: its own, or one that suits inputs of that shape.

    Args:
        data: Name or path of the data set.
        shape: Shape of one input.
    """
    if data in DEFAULTS:
        return DEFAULTS[data]
    if len(shape) != 3:
        return Defaults("mlp", epochs=20, batch_size=128, learning_rate=0.05)
    if shape[0] == 3 and min(shape[1:]) >= 32:
        return Defaults("resnet20", epochs=60, batch_size=256, learning_rate=0.2)
    smallest = ARCHITECTURES["cnn"].smallest or 1
    return Defaults("cnn" if min(shape[1:]) >= smallest else "mlp", epochs=20, batch_size=128, learning_rate=0.05)
