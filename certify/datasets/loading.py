"""From the text after `--data` to a data set: a table of names, and paths."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from certify.datasets.base import SPLITS, Dataset, ImageTransform
from certify.datasets.cifar10 import load_cifar10
from certify.datasets.digits import load_digits
from certify.datasets.image_folder import load_image_folder
from certify.datasets.image_tar import TAR_SUFFIXES, load_image_tar
from certify.datasets.imagenet import load_imagenet
from certify.datasets.mnist import load_fashion_mnist, load_mnist
from certify.datasets.npz import load_npz
from certify.errors import DatasetError, UsageError

Loader = Callable[[Path, str, ImageTransform | None], Dataset]

DATASETS: dict[str, Loader] = {
    "digits": lambda root, split, transform: load_digits(split, transform),  # embedded: has no root
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "imagenet": load_imagenet,
}
"""Names on the command line -> loader(root, split, transform). A new data set is one file, one import and one row."""

SPLIT_NAMES = {"test": ("test", "val"), "train": ("train",)}
"""How a folder may call its part for each split."""


def default_root() -> Path:
    """Return where data lie when nobody says: `$CERTIFY_DATA`, else `./data`, torchvision's habit."""
    return Path(os.environ.get("CERTIFY_DATA") or "data").expanduser()


def load_dataset(
    name: str,
    *,
    root: str | Path | None = None,
    split: str = "test",
    transform: ImageTransform | None = None,
) -> Dataset:
    """Load a data set by its name or its path.

    Args:
        name: A key of `DATASETS`; or the path of an `.npz` file (`certify.datasets.npz`), of a `.tar[.xz]` of images
            (`certify.datasets.image_tar`), of a folder of class folders (`certify.datasets.image_folder`), or of a
            folder that holds these for each split (`test.npz`, `test.tar.xz`, `test/` or `val/`; `train...`). A name
            comes before a folder of the same name, which is then to be written `./name`.
        root: Where named data lie; default: `default_root()`.
        split: "test" or "train". A single file or folder has no splits and is what it is under both.
        transform: From PIL image to PIL image, applied to each 8-bit image before it becomes an input.

    Raises:
        UsageError: If the name is unknown, or the split is.
        DatasetError: If the data are missing, damaged, or hold values that are not allowed.

    Example:
        >>> load_dataset("digits").shape
        (1, 8, 8)
    """
    if split not in SPLITS:
        raise UsageError(f"split must be one of {', '.join(SPLITS)}, got split={split!r}")
    if name in DATASETS:
        return DATASETS[name](default_root() if root is None else Path(root).expanduser(), split, transform)
    path = Path(name).expanduser()
    if name and path.exists():
        return _load_path(path, name, split, transform)
    if path.name != name or path.suffix:
        raise DatasetError(f"{name}: no such file or folder (data sets known by name: {', '.join(DATASETS)})")
    raise UsageError(
        f"data must be one of {', '.join(DATASETS)}, or the path of an image folder, an .npz file or a .tar of images, "
        f"got data={name!r}{_suggestion(name)}"
    )


def _load_path(path: Path, name: str, split: str, transform: ImageTransform | None) -> Dataset:
    if path.is_dir():
        path = _part_for_split(path, split)
    if path.is_dir():
        return load_image_folder(path, name, split, transform)
    if path.name.lower().endswith(".npz"):
        return load_npz(path, name, split, transform)
    if path.name.lower().endswith(TAR_SUFFIXES):
        return load_image_tar(path, name, split, transform)
    raise UsageError(f"a data file must end in .npz or {', '.join(TAR_SUFFIXES)}, got {name}")


def _part_for_split(folder: Path, split: str) -> Path:
    """Return the file or subfolder for `split`, if the folder is divided by splits; else the folder itself."""
    try:
        entries = sorted(entry.name for entry in folder.iterdir())
        subfolders = {entry for entry in entries if (folder / entry).is_dir()}
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error})") from error
    known = [part for parts in SPLIT_NAMES.values() for part in parts]
    suffixes = (".npz", *TAR_SUFFIXES)
    for part in SPLIT_NAMES[split]:
        for suffix in suffixes:
            if f"{part}{suffix}" in entries:
                return folder / f"{part}{suffix}"
    divided = bool(subfolders) and subfolders <= set(known)
    for part in SPLIT_NAMES[split]:
        if divided and part in subfolders:
            return folder / part
    if divided or any(f"{part}{suffix}" in entries for part in known for suffix in suffixes):
        raise DatasetError(
            f"{folder}: has no {split} split ({' or '.join(SPLIT_NAMES[split])}, as .npz, .tar.xz or folder), "
            f"got {', '.join(entries)}"
        )
    return folder


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name.lower().replace("-", "_"), list(DATASETS), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
