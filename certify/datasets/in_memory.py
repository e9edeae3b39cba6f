"""Data sets that fit into memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from torch import Tensor

from certify.datasets.base import Dataset
from certify.datasets.pixels import apply_transform, from_chw, unit_scale
from certify.errors import DatasetError, UsageError


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ArrayDataset(Dataset):
    """Inputs held in one array: as levels 0..grid (uint8; a quarter of the memory of float32), or as float32.

    Attributes:
        images: All inputs, NCHW; uint8 where `grid` is given, else float32 in [0, 1].

    Raises:
        DatasetError: If inputs and labels differ in number.
        UsageError: If a transform is asked for inputs that are no 8-bit grey or RGB images.
    """

    images: UInt8[ndarray, "n channels height width"] | Float32[ndarray, "n channels height width"]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.targets):
            raise DatasetError(
                f"{self.name}: there must be one label per input, got {len(self.images)} inputs and "
                f"{len(self.targets)} labels"
            )
        super().__post_init__()
        # Contiguous, because the digest is of the bytes in this order.
        object.__setattr__(self, "images", np.ascontiguousarray(self.images))
        if self.transform is not None and (self.grid != 255 or self.images.shape[1] not in (1, 3)):
            raise UsageError(
                f"{self.name}: only 8-bit images with 1 or 3 channels can be resized and cropped, got shape "
                f"{self.images.shape[1:]} and {'floating-point data' if self.grid is None else f'{self.grid} levels'}"
            )

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of one input, after the transform."""
        if self.transform is None:
            return tuple(int(size) for size in self.images.shape[1:])
        return tuple(int(size) for size in self._transformed(0).shape)

    def _transformed(self, index: int) -> UInt8[ndarray, "channels height width"]:
        return apply_transform(from_chw(self.images[index]), self.transform, self.name)

    def _read(self, indices: Sequence[int]) -> Float[Tensor, " n *shape"]:
        rows = np.asarray(indices, dtype=np.int64)
        if self.grid is None:
            return torch.from_numpy(self.images[rows])
        if self.transform is None:
            return unit_scale(self.images[rows], self.grid)
        expected = self.shape
        arrays = [self._transformed(index) for index in indices]
        for index, array in zip(indices, arrays, strict=True):
            if array.shape != expected:
                raise UsageError(
                    f"{self.name}: a transform must return images of one size, got {array.shape} for input {index} and "
                    f"{expected} for input 0"
                )
        return unit_scale(np.stack(arrays), self.grid)

    def _content(self) -> Iterator[bytes | memoryview]:
        yield f"images {self.images.dtype.name} {self.images.shape} grid {self.grid}\n".encode()
        yield self.images.astype(self.images.dtype.newbyteorder("<"), copy=False).data.cast("B")
