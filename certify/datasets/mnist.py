"""MNIST and Fashion-MNIST from torchvision's folders, with the IDX files plain or gzipped.

Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits"; H. Xiao, K. Rasul, R. Vollgraf,
"Fashion-MNIST", 2017. torchvision itself cannot read a folder that holds the gzipped files only.
"""

from pathlib import Path

from certify.datasets.base import Dataset, ImageTransform
from certify.datasets.checks import integer_labels
from certify.datasets.idx import read_idx
from certify.datasets.in_memory import ArrayDataset
from certify.datasets.missing import download_hint, not_found
from certify.errors import DatasetError

DIGIT_NAMES = tuple(str(digit) for digit in range(10))
FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
SIDE = 28
OFFICIAL_SIZES = {"test": 10_000, "train": 60_000}
PREFIXES = {"test": "t10k", "train": "train"}


def load_mnist(root: Path, split: str, transform: ImageTransform | None = None) -> Dataset:
    """Load `<root>/MNIST/raw/*-ubyte[.gz]`: shape (1, 28, 28), grid 255.

    Raises:
        DatasetError: If a file is missing, truncated or of another format, or counts differ.
    """
    return _load(root, split, transform, name="mnist", folder="MNIST", class_names=DIGIT_NAMES)


def load_fashion_mnist(root: Path, split: str, transform: ImageTransform | None = None) -> Dataset:
    """Load `<root>/FashionMNIST/raw/*-ubyte[.gz]`: shape (1, 28, 28), grid 255.

    Raises:
        DatasetError: If a file is missing, truncated or of another format, or counts differ.
    """
    return _load(root, split, transform, name="fashion_mnist", folder="FashionMNIST", class_names=FASHION_NAMES)


def _load(
    root: Path,
    split: str,
    transform: ImageTransform | None,
    *,
    name: str,
    folder: str,
    class_names: tuple[str, ...],
) -> Dataset:
    raw = root / folder / "raw"
    paths = []
    for stem in (f"{PREFIXES[split]}-images-idx3-ubyte", f"{PREFIXES[split]}-labels-idx1-ubyte"):
        candidates = [raw / stem, raw / f"{stem}.gz"]
        found = [path for path in candidates if path.is_file()]
        if not found:
            raise not_found(name, split, candidates, download_hint(folder, root))
        paths.append(found[0])
    images, labels = read_idx(paths[0], axes=3), read_idx(paths[1], axes=1)
    if images.shape[1:] != (SIDE, SIDE):
        raise DatasetError(f"{paths[0]}: images must be {SIDE}x{SIDE}, got {images.shape[1]}x{images.shape[2]}")
    official = OFFICIAL_SIZES[split]
    part = "" if len(images) == official else f" ({len(images)} of the official {official} images)"
    return ArrayDataset(
        name=name,
        split=split,
        source=f"{paths[0]} and {paths[1].name}{part}",
        class_names=class_names,
        images=images[:, None],
        targets=integer_labels(labels, str(paths[1])),
        grid=255,
        transform=transform,
    )
