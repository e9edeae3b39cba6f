"""What `certify train` does for a data set where it is not told otherwise."""

from dataclasses import dataclass

from certify.models.architectures import ARCHITECTURES


@dataclass(frozen=True)
class Defaults:
    """A recipe for SGD with momentum 0.9 (Nesterov), weight decay 1e-4 and the one-cycle schedule.

    Attributes:
        architecture: A key of `ARCHITECTURES`.
        epochs: Passes over the training set.
        batch_size: Examples in a step.
        learning_rate: Highest rate.
        augment: Random crops and mirror images.
    """

    architecture: str
    epochs: int
    batch_size: int
    learning_rate: float
    augment: bool = False


DEFAULTS: dict[str, Defaults] = {
    "digits": Defaults("cnn", epochs=40, batch_size=64, learning_rate=0.1),
    "mnist": Defaults("lenet", epochs=10, batch_size=128, learning_rate=0.05),
    "fashion_mnist": Defaults("lenet", epochs=15, batch_size=128, learning_rate=0.05),
    "cifar10": Defaults("resnet20", epochs=60, batch_size=256, learning_rate=0.2, augment=True),
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
