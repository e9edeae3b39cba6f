"""The training part of a data set in memory, a share of it held out to watch the training by."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from certify.datasets import Dataset, load_dataset
from certify.errors import DatasetError, UsageError
from smoothing.training.randomness import seeded_generator

_CHUNK = 2048


@dataclass(frozen=True)
class TrainingData:
    """Examples to train on and examples to watch by, both from the training part; test data have no place here.

    Attributes:
        source: The data set that both come from.
        images: [n, *shape], uint8 where the data are 8-bit images (a quarter of the memory), else float32 in [0, 1].
        labels: [n].
        held_out_images: [m, *shape], of the same dtype; m may be 0.
        held_out_labels: [m].
    """

    source: Dataset
    images: Float[Tensor, " n *shape"] | UInt8[Tensor, " n *shape"]
    labels: Int64[Tensor, " n"]
    held_out_images: Float[Tensor, " m *shape"] | UInt8[Tensor, " m *shape"]
    held_out_labels: Int64[Tensor, " m"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.images.shape[1:])

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel over the examples to train on, input units."""
        channels = self.shape[0]
        total, squares = torch.zeros(2, channels, dtype=torch.float64)
        for first in range(0, len(self.images), _CHUNK):
            chunk = self.images[first : first + _CHUNK].double()
            values = (chunk / 255.0 if self.images.dtype == torch.uint8 else chunk).reshape(len(chunk), channels, -1)
            total += values.sum((0, 2))
            squares += values.square().sum((0, 2))
        count = self.images.numel() / channels
        mean = total / count
        # Differences of large sums may fall below zero by rounding; the floor turns that into "constant channel".
        std = (squares / count - mean.square()).clamp_min(0.0).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())


def load_training_data(name: str, *, root: Path | None = None, held_out: float = 0.05, seed: int = 0) -> TrainingData:
    """Load the training part of a data set into memory and hold a random share of it out.

    Args:
        name: Data set name or path.
        root: Folder of the data sets.
        held_out: Share to hold out, in [0, 0.5]; rounded to whole examples, at least one where it is not 0.
        seed: Which examples are held out is a function of it and of their number.

    Raises:
        UsageError: If the share is out of range or the data set is unknown.
        DatasetError: If the data are missing or damaged, differ in size, or are too few to be divided.
    """
    check_share(held_out)
    data = load_dataset(name, root=root, split="train")
    data.require_shape()
    images = torch.cat(
        [_read(data, range(first, min(first + _CHUNK, len(data)))) for first in range(0, len(data), _CHUNK)]
    )
    labels = torch.from_numpy(data.labels(range(len(data))).copy())
    count = max(round(held_out * len(data)), 1) if held_out > 0 else 0
    if count >= len(data):
        raise DatasetError(
            f"{name}: there must be an example left to train on, got {len(data)} of which {count} is held out"
        )
    order = torch.randperm(len(data), generator=seeded_generator(torch.device("cpu"), seed, "held out"))
    chosen, rest = order[:count].sort().values, order[count:].sort().values
    return TrainingData(data, images[rest], labels[rest], images[chosen], labels[chosen])


def check_share(held_out: float) -> None:
    """Raise `UsageError` unless `held_out` is a share that may be held out."""
    if not 0 <= held_out <= 0.5:
        raise UsageError(f"the share to hold out must be in [0, 0.5], got held_out={held_out}")


def _read(data: Dataset, indices: range) -> Tensor:
    x = data.inputs(indices)
    # Inputs are k / 255 rounded to float32, so that rounding the product finds k again, exactly.
    return x.mul(255.0).round_().to(torch.uint8) if data.grid == 255 else x
