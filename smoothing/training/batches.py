"""Examples in memory -> shuffled batches on the training device."""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from smoothing.errors import InvalidArgumentError
from smoothing.training.objective import Batch
from smoothing.training.processes import Processes
from smoothing.training.randomness import seeded_generator

Transform = Callable[[Tensor, torch.Generator], Tensor]
"""Augmentation of clean batches before any noise, such as `CropFlip`."""


def as_inputs(
    images: Float[Tensor, " n *shape"] | UInt8[Tensor, " n *shape"], device: torch.device
) -> Float[Tensor, " n *shape"]:
    """Return images as float32 inputs on `device`: 8-bit ones divided by 255, floating ones as they are."""
    moved = images.to(device, non_blocking=True)
    return moved.to(torch.float32).div_(255.0) if images.dtype == torch.uint8 else moved.to(torch.float32)


def check_examples(images: Tensor, labels: Tensor, shape: tuple[int, ...]) -> None:
    """Check that images and labels can be trained on.

    Raises:
        InvalidArgumentError: If a dtype, a shape or a label is not as it has to be.
    """
    if not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise InvalidArgumentError(f"images must be uint8 or floating, got dtype {images.dtype}")
    if tuple(images.shape[1:]) != shape:
        raise InvalidArgumentError(f"images must have the law's shape {shape}, got {tuple(images.shape[1:])}")
    if len(images) == 0:
        raise InvalidArgumentError("there must be at least one image, got none")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InvalidArgumentError(f"labels must be integers, got dtype {labels.dtype}")
    if tuple(labels.shape) != (len(images),):
        raise InvalidArgumentError(f"labels must be one per image, got {tuple(labels.shape)} for {len(images)} images")
    if int(labels.min()) < 0:
        raise InvalidArgumentError(f"labels must be class numbers from 0, got {int(labels.min())}")


def check_extras(
    count: int, weights: Tensor | None, predictions: Tensor | None, *, needed: bool, objective: str
) -> None:
    """Check what may accompany the examples.

    Raises:
        InvalidArgumentError: If weights are not one finite number of at least 0 per image, predictions not one row of
            probabilities per image, or predictions are missing that the objective needs.
    """
    if weights is not None and (
        tuple(weights.shape) != (count,) or not bool(((weights >= 0) & weights.isfinite()).all())
    ):
        raise InvalidArgumentError(
            f"weights must be {count} finite numbers of at least 0, one per image, got shape {tuple(weights.shape)}, "
            f"minimum {float(weights.min()) if weights.numel() else None}"
        )
    if predictions is None:
        if needed:
            raise InvalidArgumentError(
                f"objective {objective} needs predictions: class probabilities of every training image, got none"
            )
        return
    if predictions.dim() != 2 or len(predictions) != count:
        raise InvalidArgumentError(
            f"predictions must have one row of class probabilities per image, got {tuple(predictions.shape)}"
        )
    sums = predictions.double().sum(1)
    if not bool((predictions >= 0).all()) or not bool(((sums - 1.0).abs() < 1e-3).all()):
        raise InvalidArgumentError(
            f"predictions must be probabilities with sum 1 in every row, got sums in [{sums.min()}, {sums.max()}]"
        )


class BatchSource:
    """A training set, and its order in each epoch: a function of (seed, epoch).

    Args:
        images: [n, *shape], uint8 (0..255) or floating (input units); they stay where they are, batches are moved.
        labels: [n], class numbers.
        batch_size: Largest batch.
        device: Where batches go.
        seed: The training's seed.
        transform: Augmentation, or None.
        weights: What each example counts, [n], or None.
        predictions: Class probabilities of each example by another classifier, [n, classes], or None.
        processes: Which share of each batch is yielded here.
    """

    def __init__(
        self,
        images: Float[Tensor, " n *shape"] | UInt8[Tensor, " n *shape"],
        labels: Int[Tensor, " n"],
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
        transform: Transform | None = None,
        weights: Float[Tensor, " n"] | None = None,
        predictions: Float[Tensor, "n classes"] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self._images = images
        self._processes = processes or Processes()
        self._weights, self._predictions = weights, predictions
        self._labels = labels.to(torch.int64)
        self._device = device
        self._seed = seed
        self._transform = transform
        self.steps = math.ceil(len(images) / batch_size)
        if len(images) // self.steps < self._processes.count:
            raise InvalidArgumentError(
                f"a batch must have an example for each of {self._processes.count} processes, got batches of "
                f"{len(images) // self.steps}"
            )

    def __len__(self) -> int:
        return len(self._images)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the `steps` batches of an epoch; every example is in exactly one of them."""
        order = torch.randperm(len(self), generator=seeded_generator(torch.device("cpu"), self._seed, "order", epoch))
        generator = seeded_generator(self._device, self._seed, "transform", epoch, *self._processes.purpose)
        for batch in order.tensor_split(self.steps):
            rows = self._processes.share(batch)
            x = as_inputs(self._take(self._images, rows), self._device)
            if self._transform is not None:
                x = self._transform(x, generator)
            weight = None if self._weights is None else self._take(self._weights, rows).float()
            prediction = None if self._predictions is None else self._take(self._predictions, rows).float()
            yield Batch(x, self._take(self._labels, rows), self._move(rows), epoch, weight, prediction)

    def factor(self, rows: int, step: int) -> float:
        """Return the factor on the mean loss over `rows` rows of a step's share; 1 where the process is alone."""
        return self._processes.scale(rows, len(self) // self.steps + (step < len(self) % self.steps))

    def _take(self, of: Tensor, rows: Tensor) -> Tensor:
        return self._move(of[rows.to(of.device)])

    def _move(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda" and tensor.device.type == "cpu":
            # Only from pinned memory does a copy to the device not make the host wait.
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)
