"""`.npz` files: `images`, `labels`, and optionally `exact` and `class_names`."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy import ndarray

from certify.datasets.base import Dataset, ImageTransform
from certify.datasets.checks import check_unit_range, integer_labels
from certify.datasets.in_memory import ArrayDataset
from certify.errors import DatasetError

MOST_CHANNELS = 4
"""Up to this many channels an axis is taken for the channels of an image when a layout has to be told from another."""


@dataclass(frozen=True, eq=False)
class NpzContent:
    """What a file holds, checked, in the layout of `ArrayDataset`."""

    images: UInt8[ndarray, "n channels height width"] | Float32[ndarray, "n channels height width"]
    labels: Int64[ndarray, " labels"]
    exact: Bool[ndarray, " mask"] | None
    class_names: tuple[str, ...]


def load_npz(path: Path, name: str, split: str, transform: ImageTransform | None = None) -> Dataset:
    """Load an `.npz` file by its path; it has no splits of its own, so that `split` is only a label.

    Args:
        path: File with `images` (uint8 NHWC, or NHW for grey; or float NCHW, or NHW, in [0, 1]), integer `labels`, and
            optionally `exact` (bool, one per image) and `class_names` (text, one per class; without it there are as
            many classes as the largest label says).
        name: The path as the user wrote it.
        split: "test" or "train".
        transform: Resizing and cropping of 8-bit images.

    Raises:
        DatasetError: If the file is missing or damaged, holds pickled objects, or its arrays are not as described.
    """
    content = read_npz(path)
    inexact = 0 if content.exact is None else int(np.count_nonzero(~content.exact))
    return ArrayDataset(
        name=name,
        split=split,
        source=f"{path}" + (f" ({inexact} images not bit-exact)" if inexact else ""),
        class_names=content.class_names,
        images=content.images,
        targets=content.labels,
        grid=255 if content.images.dtype == np.uint8 else None,
        exact=content.exact,
        transform=transform,
    )


def read_npz(path: Path) -> NpzContent:
    """Read and check an `.npz` file; see `load_npz`."""
    arrays = _read_arrays(path)
    labels = integer_labels(arrays["labels"], str(path))
    images = _to_nchw(arrays["images"], len(labels), path)
    if len(images) != len(labels):
        raise DatasetError(
            f"{path}: there must be one label per image, got {len(images)} images and {len(labels)} labels"
        )
    if images.size == 0:
        raise DatasetError(f"{path}: a data set must hold at least one pixel, got images of shape {images.shape}")
    if images.dtype != np.uint8:
        # Before the conversion: float32 would round 1 + 1e-9 to 1 and hide it.
        check_unit_range(torch.from_numpy(images), range(len(images)), str(path))
        images = images.astype(np.float32)
    exact = arrays.get("exact")
    if exact is not None and (exact.dtype != np.bool_ or exact.shape != labels.shape):
        raise DatasetError(
            f"{path}: 'exact' must be bool, one per image, got {exact.dtype} of shape {exact.shape} for {len(labels)}"
        )
    return NpzContent(images, labels, exact, _class_names(arrays.get("class_names"), labels, path))


def _read_arrays(path: Path) -> dict[str, ndarray]:
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)  # never: a pickle runs code
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DatasetError(f"{path}: an .npz archive with 'images' and 'labels' is needed, got a single array")
            names = list(archive.files)
            if not {"images", "labels"} <= set(names):
                raise DatasetError(
                    f"{path}: an .npz data set must hold 'images' and 'labels', got {', '.join(names) or 'nothing'}"
                )
            return {key: archive[key] for key in ("images", "labels", "exact", "class_names") if key in names}
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        hint = "pickled objects are never loaded" if "allow_pickle" in str(error) else "it may be truncated or damaged"
        raise DatasetError(f"{path}: cannot be read as .npz, {hint} ({error})") from error


def _to_nchw(images: ndarray, count: int, path: Path) -> ndarray:
    """Return images as uint8 or floating NCHW, refusing what could be meant in two ways."""
    eight_bit = images.dtype == np.uint8
    if not eight_bit and images.dtype.newbyteorder("=") not in (np.float16, np.float32, np.float64):
        raise DatasetError(f"{path}: images must be uint8 (0..255) or floating (0..1), got dtype {images.dtype}")
    if not images.dtype.isnative:
        images = images.astype(images.dtype.newbyteorder("="))
    if images.ndim == 2 and count == 1 and len(images) > 1:  # one grey image with its one label
        images = images[None]
    if images.ndim == 3:
        return images[:, None]
    rule = "images must be uint8 NHWC, or floating NCHW, or NHW for grey"
    if images.ndim != 4:
        raise DatasetError(f"{path}: {rule}, got {images.dtype} of shape {images.shape}")
    channels, others = (3, 1) if eight_bit else (1, 3)
    if images.shape[channels] > MOST_CHANNELS >= images.shape[others]:
        order = "(0, 2, 3, 1)" if eight_bit else "(0, 3, 1, 2)"
        raise DatasetError(
            f"{path}: {rule}, got {images.dtype} of shape {images.shape}, which looks like the other layout; "
            f"use images.transpose{order}"
        )
    return images.transpose(0, 3, 1, 2) if eight_bit else images


def _class_names(given: ndarray | None, labels: Int64[ndarray, " n"], path: Path) -> tuple[str, ...]:
    if given is None:
        return tuple(str(label) for label in range(int(labels.max(initial=-1)) + 1))
    if given.ndim != 1 or given.dtype.kind != "U":
        raise DatasetError(f"{path}: 'class_names' must be a list of texts, got {given.dtype} of shape {given.shape}")
    return tuple(str(name) for name in given)
