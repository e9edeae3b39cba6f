"""Folders of images, one subfolder per class, decoded only when asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from certify.datasets.base import Dataset, ImageTransform
from certify.datasets.pixels import apply_transform, decode_rgb, unit_scale
from certify.errors import DatasetError
from certify.torchvision_compat import import_torchvision


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ImageFolderDataset(Dataset):
    """RGB images on disk; each request decodes its files anew, so that memory does not grow with the data set.

    Attributes:
        folder: The folder that holds the class folders.
        files: One path per input, relative to `folder`, with forward slashes.
    """

    folder: Path
    files: tuple[str, ...]

    @cached_property
    def shape(self) -> tuple[int, ...] | None:
        """(3, H, W) of one input.

        With a transform that of the first input; without, the headers of all files are compared (until two differ).
        """
        if self.transform is not None:
            return tuple(int(size) for size in self._decode(0).shape)
        from PIL import Image

        sizes: set[tuple[int, int]] = set()
        for file in self.files:
            try:
                with Image.open(self.folder / file) as image:
                    sizes.add(image.size)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise DatasetError(f"{self.folder / file}: not a readable image ({error})") from error
            if len(sizes) > 1:
                return None
        ((width, height),) = sizes
        return (3, height, width)

    def _decode(self, index: int) -> UInt8[ndarray, "channels height width"]:
        path = self.folder / self.files[index]
        return apply_transform(decode_rgb(path, str(path)), self.transform, str(path))

    def _read(self, indices: Sequence[int]) -> Float[Tensor, " n *shape"]:
        arrays = [self._decode(index) for index in indices]
        for index, array in zip(indices, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise DatasetError(
                    f"{self.folder}: images must have one size (channels, height, width), got {array.shape} in "
                    f"{self.files[index]} and {arrays[0].shape} in {self.files[indices[0]]}; resize them, or use "
                    "a model whose configuration says how inputs are resized and cropped"
                )
        return unit_scale(np.stack(arrays), 255)

    def _content(self) -> Iterator[bytes | memoryview]:
        yield f"files {len(self)}\n".encode()
        for file in self.files:
            try:
                size = (self.folder / file).stat().st_size
            except OSError as error:
                raise DatasetError(f"{self.folder / file}: cannot be read ({error})") from error
            yield f"{file}\0{size}\n".encode("utf-8", "surrogateescape")  # file names need not be valid text


def load_image_folder(
    folder: Path, name: str, split: str, transform: ImageTransform | None = None
) -> ImageFolderDataset:
    """Load a folder with one subfolder per class, as torchvision's ImageFolder orders it (classes and files sorted).

    Args:
        folder: The folder that holds the class folders.
        name: The path or name as the user wrote it.
        split: "test" or "train"; only a label here.
        transform: Resizing and cropping; without it all images must have one size.

    Raises:
        DatasetError: If it has no class folders, or a class folder without images.
    """
    try:
        listing = import_torchvision("datasets").ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{folder}: an image folder must hold one subfolder of images per class ({error}); for a data set in "
            "torchvision's layout give its name and --data-root"
        ) from error
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error})") from error
    return ImageFolderDataset(
        name=name,
        split=split,
        source=f"{folder} (image folder)",
        class_names=tuple(listing.classes),
        targets=np.asarray(listing.targets, dtype=np.int64),
        grid=255,
        transform=transform,
        folder=folder,
        files=tuple(Path(path).relative_to(folder).as_posix() for path, _ in listing.samples),
    )
