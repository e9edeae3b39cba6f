"""The table of architectures by name, and building one of them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from certify.errors import UsageError
from certify.models.base import did_you_mean, shape_text
from certify.models.lenet import LeNet
from certify.models.normalize import Normalize
from certify.models.plain import mlp, small_cnn
from certify.models.resnet import CifarResNet
from certify.models.wide_resnet import WideResNet


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Args:
        build: (input shape, number of classes) -> the network without normalisation.
        summary: A few words for people.
        default_shape: Input shape that it is usually used with; assumed for bare weights that do not say.
        head: Name of the last layer's weight, whose first axis counts the classes.
        stem: Name of the first convolution's weight, whose second axis counts the channels; None where there is none.
        smallest: Smallest height and width; None where the input may have any shape.
        channels: The only number of channels that it takes; None where any will do.
    """

    build: Callable[[tuple[int, ...], int], nn.Module]
    summary: str
    default_shape: tuple[int, ...]
    head: str
    stem: str | None = "conv1.weight"
    smallest: int | None = 1
    channels: int | None = None


def _resnet50(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    from certify.torchvision_compat import import_torchvision

    network: nn.Module = import_torchvision("models").resnet50(weights=None, num_classes=num_classes)
    return network


ARCHITECTURES: dict[str, Architecture] = {
    "lenet": Architecture(
        lambda shape, classes: LeNet((shape[0], shape[1], shape[2]), classes),
        "LeNet of the published MNIST tables",
        (1, 28, 28),
        "fc2.weight",
        smallest=16,
    ),
    "cnn": Architecture(
        lambda shape, classes: small_cnn((shape[0], shape[1], shape[2]), classes),
        "two convolutions, two linear layers",
        (1, 28, 28),
        "7.weight",
        stem="0.weight",
        smallest=4,
    ),
    "mlp": Architecture(mlp, "two hidden layers of 100 units", (1, 28, 28), "5.weight", stem=None, smallest=None),
    "resnet20": Architecture(
        lambda shape, classes: CifarResNet(20, shape[0], classes), "CIFAR ResNet-20", (3, 32, 32), "fc.weight"
    ),
    "resnet110": Architecture(
        lambda shape, classes: CifarResNet(110, shape[0], classes), "CIFAR ResNet-110", (3, 32, 32), "fc.weight"
    ),
    "wrn40-2": Architecture(
        lambda shape, classes: WideResNet(40, 2, shape[0], classes), "Wide-ResNet-40-2", (3, 32, 32), "fc.weight"
    ),
    "resnet50": Architecture(
        _resnet50, "ResNet-50 for ImageNet, as torchvision builds it", (3, 224, 224), "fc.weight", channels=3
    ),
}


def find_architecture(name: str) -> Architecture:
    """Return the row of the table for `name`.

    Raises:
        UsageError: If there is none; the message lists them all.
    """
    if name not in ARCHITECTURES:
        hint = did_you_mean(name, ARCHITECTURES)
        raise UsageError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got architecture={name!r}{hint}")
    return ARCHITECTURES[name]


def build_architecture(
    name: str,
    *,
    num_classes: int,
    input_shape: tuple[int, ...],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """Build a network with fresh weights: `normalize` (where asked for), then `network`.

    Args:
        name: A key of `ARCHITECTURES`.
        num_classes: Number of classes, at least 2.
        input_shape: Shape of one input, (channels, height, width) for an image.
        mean: One mean a channel, input units; with `std`, or neither.
        std: One standard deviation a channel, input units.
        seed: The initial weights are a function of it; the global random state is neither used nor changed.

    Returns:
        A module in train mode that takes [batch, *input_shape] and returns scores [batch, num_classes].

    Raises:
        UsageError: If the name is unknown, or the architecture cannot take inputs of that shape.
    """
    architecture = find_architecture(name)
    if num_classes < 2:
        raise UsageError(f"num_classes must be at least 2, got num_classes={num_classes}")
    _check_shape(name, architecture, input_shape)
    if (mean is None) != (std is None):
        raise UsageError(f"mean and std go together, got mean={mean}, std={std}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if mean is not None and std is not None:
        if len(mean) != input_shape[0]:
            raise UsageError(
                f"mean and std must have one number a channel, got {len(mean)} for {input_shape[0]} channels"
            )
        layers["normalize"] = Normalize(mean, std, axes=len(input_shape))
    # Only the CPU generator is forked and seeded: torch.manual_seed would also reseed every GPU.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers["network"] = architecture.build(input_shape, num_classes)
    return nn.Sequential(layers)


def _check_shape(name: str, architecture: Architecture, shape: tuple[int, ...]) -> None:
    if not shape or any(size < 1 for size in shape):
        raise UsageError(f"input_shape must be positive sizes, got input_shape={shape}")
    if architecture.smallest is None:
        return
    if len(shape) != 3:
        raise UsageError(f"{name} takes images (channels, height, width), got input_shape={shape}")
    if min(shape[1:]) < architecture.smallest:
        smaller = [key for key, row in ARCHITECTURES.items() if row.smallest is None or row.smallest <= min(shape[1:])]
        raise UsageError(
            f"{name} needs images of at least {shape_text((architecture.smallest,) * 2)}, got {shape_text(shape[1:])}; "
            f"smaller ones are taken by {', '.join(smaller)}"
        )
    if architecture.channels not in (None, shape[0]):
        raise UsageError(f"{name} takes images of {architecture.channels} channels, got {shape[0]}")
