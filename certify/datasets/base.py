"""The interface of every data set: numbered inputs in [0, 1] with labels, and a digest of what they are."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from certify.datasets.checks import check_labels, check_unit_range
from certify.errors import DatasetError, UsageError

ImageTransform = Callable[[Any], Any]
"""From one PIL image to another: the resizing and cropping of a model's configuration, which go before the noise."""

SPLITS = ("test", "train")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Dataset(ABC):
    """Numbered inputs in [0, 1] with their labels; an index means the same input wherever and whenever it is read.

    A concrete data set says where its pixels come from (`_read`), what one input looks like (`shape`) and which bytes
    define it (`_content`); the rest is here.

    Attributes:
        name: The name on the command line, or the path as it was given.
        split: "test" or "train".
        source: Which files were read, in words; where the data are incomplete or lossy it says so.
        class_names: One name per class, in label order.
        targets: All labels, int64.
        grid: Inputs are multiples of 1/grid (255 for 8-bit images); None for floating-point data.
        exact: False where the input is known not to be the original bit for bit; None if nothing is known.
        transform: Applied to each image before it becomes an input; None for none.

    Raises:
        DatasetError: If the data set is empty, or a label is outside the classes.
    """

    name: str
    split: str
    source: str
    class_names: tuple[str, ...]
    targets: Int64[ndarray, " labels"]
    grid: int | None
    exact: Bool[ndarray, " mask"] | None = None
    transform: ImageTransform | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UsageError(f"split must be one of {', '.join(SPLITS)}, got split={self.split!r}")
        if len(self.targets) == 0:
            raise DatasetError(f"{self.name}: a data set must hold at least one input, got none in {self.source}")
        check_labels(self.targets, self.num_classes, self.name)
        if self.exact is not None and len(self.exact) != len(self.targets):
            raise DatasetError(
                f"{self.name}: the mask 'exact' must have one entry per input, got {len(self.exact)} for {len(self)}"
            )

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...] | None:
        """(C, H, W) of one input; None where inputs differ in size."""

    @abstractmethod
    def _read(self, indices: Sequence[int]) -> Float[Tensor, " n *shape"]:
        """Return the inputs at valid, non-empty `indices`, float32 on the CPU."""

    @abstractmethod
    def _content(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes that define the inputs, in an order that depends on nothing else."""

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.split}, {len(self)} inputs, {self.num_classes} classes)"

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    def inputs(self, indices: Sequence[int]) -> Float[Tensor, " n *shape"]:
        """Return the inputs at `indices`, float32 on the CPU, in [0, 1], one row per index.

        Raises:
            UsageError: If an index is outside 0..len-1.
            DatasetError: If a file cannot be read, inputs differ in size, or a value is outside [0, 1].
        """
        self._check_indices(indices)
        if not indices:
            return torch.zeros((0, *self.require_shape()))
        x = self._read(indices)
        check_unit_range(x, indices, self.name)
        return x

    def labels(self, indices: Sequence[int]) -> Int64[ndarray, " n"]:
        """Return the labels at `indices`.

        Raises:
            UsageError: If an index is outside 0..len-1.
        """
        self._check_indices(indices)
        return self.targets[np.asarray(indices, dtype=np.int64)]

    def digest(self) -> str:
        """Return a sha256 (hex) of what the data set holds: the inputs before `transform`, and all labels.

        Names, paths and the way of storage have no part in it, except that image folders are identified by the
        names and sizes of their files, because reading all of ImageNet for each run would take longer than the run.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256()
        for piece in self._content():
            sha.update(piece)
        sha.update(f"labels {len(self)}\n".encode())
        sha.update(self.targets.astype("<i8").tobytes())
        return sha.hexdigest()

    def require_shape(self) -> tuple[int, ...]:
        """Return `shape`, or raise a DatasetError where inputs differ in size."""
        if self.shape is None:
            raise DatasetError(
                f"{self.name}: inputs must have one size, got several; resize them, or use a model whose configuration "
                "says how inputs are resized and cropped"
            )
        return self.shape

    def check_classes(self, num_classes: int) -> None:
        """Refuse labels that a classifier with `num_classes` classes could never return.

        Raises:
            DatasetError: If a label is `num_classes` or above.
        """
        check_labels(self.targets, num_classes, self.name)

    def describe(self) -> dict[str, Any]:
        """Return the data set as JSON-ready data, for the record of a run."""
        return {
            "name": self.name,
            "split": self.split,
            "size": len(self),
            "shape": None if self.shape is None else list(self.shape),
            "num_classes": self.num_classes,
            "grid": self.grid,
            "source": self.source,
            "digest": self.digest(),
        }

    def _check_indices(self, indices: Sequence[int]) -> None:
        for index in indices:
            if not 0 <= index < len(self):
                raise UsageError(f"{self.name}: an index must be in 0..{len(self) - 1}, got {index}")
