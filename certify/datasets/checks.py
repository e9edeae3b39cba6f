"""What every data set has to satisfy before a certificate may speak about it."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from certify.errors import DatasetError

MAX_CLASSES = 100_000
"""A label above this is taken for something that is no class index (an identifier, a hash)."""


def check_unit_range(x: Float[Tensor, " n *shape"], indices: Sequence[int], where: str) -> None:
    """Refuse inputs outside [0, 1]: radii are stated in these units, and the noise is scaled for them.

    Args:
        x: Inputs, any floating dtype.
        indices: Index of each of the `n` inputs, for the message.
        where: What is being read, for the message.

    Raises:
        DatasetError: If a value is below 0, above 1, NaN or infinite; names the range found, the first such input and
            the mend.
    """
    if x.numel() == 0:
        return
    low, high = (float(value) for value in torch.aminmax(x))
    if low >= 0.0 and high <= 1.0:  # false for NaN, which aminmax hands on
        return
    inside = ((x >= 0) & (x <= 1)).flatten(1).all(1)
    first = indices[int((~inside).nonzero()[0])]
    finite = x[torch.isfinite(x)]
    span = (
        "no finite value"
        if finite.numel() == 0
        else f"values from {float(finite.min()):.9g} to {float(finite.max()):.9g}"
    )
    if finite.numel() < x.numel():
        bad = "NaN" if bool(torch.isnan(x).any()) else "infinite values"
        raise DatasetError(
            f"{where}: inputs must be in [0, 1], got {bad} (and {span}), first in input {first}: "
            "repair or remove these inputs"
        )
    raise DatasetError(f"{where}: inputs must be in [0, 1], got {span}, first in input {first}: {_mend(low, high)}")


def _mend(low: float, high: float) -> str:
    if low >= -1e-3 and high <= 1.0 + 1e-3:
        return "this looks like rounding; clip them to [0, 1]"
    if low < 0.0:
        return (
            "if they were normalised, undo it (x * std + mean), because normalisation belongs inside the model, after "
            "the noise; if they were scaled to [-1, 1], take (x + 1) / 2"
        )
    if high <= 255.0:
        return "divide by 255 (or store 8-bit images as uint8)"
    if high <= 65535.0:
        return "divide by 65535 if these are 16-bit images"
    return "scale them to [0, 1]"


def integer_labels(labels: ndarray, where: str) -> Int64[ndarray, " n"]:
    """Return class labels as int64, refusing whatever is not a list of class indices.

    Args:
        labels: Labels as read, any dtype; a single number counts as a list of one.
        where: What is being read, for the message.

    Raises:
        DatasetError: If they are not integers, have more than one axis, are negative or beyond `MAX_CLASSES`.
    """
    labels = np.atleast_1d(labels)
    if labels.ndim != 1:
        mend = "; take argmax over the last axis if they are one-hot" if labels.shape[-1] > 1 else "; flatten them"
        raise DatasetError(f"{where}: labels must have one axis, got shape {labels.shape}{mend}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DatasetError(f"{where}: labels must be integers, got dtype {labels.dtype}")
    if labels.size and not (int(labels.min()) >= 0 and int(labels.max()) < MAX_CLASSES):
        raise DatasetError(
            f"{where}: labels must be class indices 0, 1, 2, ..., got labels from {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int64)


def check_labels(labels: Int64[ndarray, " n"], num_classes: int, where: str) -> None:
    """Refuse labels outside 0..num_classes-1; names the first and its index.

    Raises:
        DatasetError: If there is one.
    """
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        raise DatasetError(
            f"{where}: labels must be in 0..{num_classes - 1} ({num_classes} classes), got label "
            f"{labels[outside[0]]} at index {outside[0]} ({outside.size} such labels)"
        )
