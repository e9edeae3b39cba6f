"""The embedded data set: 1,797 scans of handwritten digits, 8x8, that scikit-learn ships.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998. Each pixel
counts the set cells of a 4x4 block of a 32x32 bitmap, so that levels are k/16, k = 0..16.
"""

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from certify.datasets.base import Dataset, ImageTransform
from certify.datasets.in_memory import ArrayDataset

LEVELS = 16
TEST_EVERY = 5


def load_digits(split: str, transform: ImageTransform | None = None) -> Dataset:
    """Load the digits: shape (1, 8, 8), grid 16, 364 for testing and 1,433 for training.

    The split is fixed: of each class, in the order of the file, every fifth scan (the 1st, 6th, 11th, ...) is held out,
    and both parts keep the order of the file. (Every fifth scan of the file itself would hold out two classes only over
    long stretches, because the file cycles through 0..9.)

    Raises:
        UsageError: If a transform is given: 17 levels are no 8-bit image.
    """
    from sklearn import datasets  # its own loader; named so that the two are not confused

    bunch = datasets.load_digits()
    labels = bunch.target.astype(np.int64)
    chosen = np.flatnonzero(held_out(labels) == (split == "test"))
    return ArrayDataset(
        name="digits",
        split=split,
        source="scikit-learn's embedded digits (UCI, 8x8); every fifth scan of each class is held out for testing",
        class_names=tuple(str(digit) for digit in range(10)),
        images=bunch.images[chosen, None].astype(np.uint8),
        targets=labels[chosen],
        grid=LEVELS,
        transform=transform,
    )


def held_out(labels: Int64[ndarray, " n"]) -> Bool[ndarray, " n"]:
    """Return which scans are for testing: of each class the first and then every fifth, in order."""
    mask = np.zeros(len(labels), dtype=bool)
    for digit in np.unique(labels):
        mask[np.flatnonzero(labels == digit)[::TEST_EVERY]] = True
    return mask
