"""CIFAR-10 from whichever of its forms is there, never from a part of it.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from certify.datasets.base import Dataset, ImageTransform
from certify.datasets.image_tar import load_image_tar
from certify.datasets.in_memory import ArrayDataset
from certify.datasets.missing import download_hint, not_found
from certify.datasets.npz import load_npz
from certify.errors import DatasetError
from certify.torchvision_compat import import_torchvision

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OFFICIAL_SIZES = {"test": 10_000, "train": 50_000}
IMAGE_SHAPE = (3, 32, 32)
TORCHVISION_FOLDER = "cifar-10-batches-py"


def load_cifar10(root: Path, split: str, transform: ImageTransform | None = None) -> Dataset:
    """Load CIFAR-10: shape (3, 32, 32), grid 255, in the official order; `source` says which form was read.

    In this order: torchvision's `cifar-10-batches-py`, `cifar10_lossless/<split>.npz`,
    `cifar10_jpeg/<split>.tar.xz` (or `.tar`; lossy). A form that is there but damaged or incomplete is an error, not a
    reason to take the next one.

    Raises:
        DatasetError: If none is there, or the one that is there is damaged or has not the official number of images.
    """
    batches = root / TORCHVISION_FOLDER
    archive = root / "cifar10_lossless" / f"{split}.npz"
    tars = [root / "cifar10_jpeg" / f"{split}.tar{suffix}" for suffix in (".xz", "")]
    if batches.is_dir():
        dataset = _from_torchvision(root, split, transform)
    elif archive.is_file():
        dataset = replace(load_npz(archive, "cifar10", split, transform), class_names=CLASS_NAMES)
    elif found := [path for path in tars if path.is_file()]:
        dataset = load_image_tar(found[0], "cifar10", split, transform, class_names=CLASS_NAMES)
    else:
        hint = download_hint("CIFAR10", root)
        if parts := sorted((root / "cifar10_lossless").glob(f"{split}_*.npz")):
            hint = f"({parts[0]} is only a part of it; give it by its path if you want just that.) {hint}"
        raise not_found("cifar10", split, [batches, archive, *tars], hint)
    if len(dataset) != OFFICIAL_SIZES[split]:
        raise DatasetError(
            f"the {split} split of cifar10 has {OFFICIAL_SIZES[split]} images, got {len(dataset)} in {dataset.source}; "
            "give the file by its path if you want just these"
        )
    if isinstance(dataset, ArrayDataset) and (dataset.images.shape[1:] != IMAGE_SHAPE or dataset.grid != 255):
        raise DatasetError(
            f"images of cifar10 are 8-bit of shape {IMAGE_SHAPE}, got {dataset.images.dtype} of shape "
            f"{dataset.images.shape[1:]} in {dataset.source}"
        )
    return dataset


def _from_torchvision(root: Path, split: str, transform: ImageTransform | None) -> Dataset:
    """Read the pickled batches through torchvision, which unpickles only what has the official md5."""
    batches = root / TORCHVISION_FOLDER
    try:
        official = import_torchvision("datasets").CIFAR10(str(root), train=split == "train", download=False)
    except RuntimeError as error:
        raise DatasetError(
            f"{batches}: a file is missing or has not the official md5, and is therefore not unpickled ({error}). "
            f"{download_hint('CIFAR10', root)}"
        ) from error
    return ArrayDataset(
        name="cifar10",
        split=split,
        source=f"{batches} (torchvision's official files)",
        class_names=CLASS_NAMES,
        images=np.asarray(official.data).transpose(0, 3, 1, 2),
        targets=np.asarray(official.targets, dtype=np.int64),
        grid=255,
        transform=transform,
    )
