"""Between PIL images and 8-bit arrays."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from certify.datasets.base import ImageTransform
from certify.errors import DatasetError, UsageError


def decode_rgb(file: bytes | Path, where: str) -> Any:
    """Return the image in a file, given by its content or its path, as an RGB PIL image.

    Raises:
        DatasetError: If it is not a readable image, or has more than 8 bits per channel.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            # Pillow would clip these to 255 on the way to RGB and return a picture that is wrong without a sound.
            # Pillow opens 16-bit colour as 8-bit and drops the low byte; only its decoder's arguments tell.
            if image.mode[0] in "IF" or ";16" in str(image.tile):
                raise DatasetError(f"{where}: images must have 8 bits per channel, got PIL mode {image.mode}")
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: broken PNG
        raise DatasetError(f"{where}: not a readable image ({error})") from error


def to_chw(image: Any, where: str) -> UInt8[ndarray, "channels height width"]:
    """Return a PIL image as 8-bit CHW: one channel for grey, else three.

    Raises:
        UsageError: If it is no PIL image (a transform returned something else).
    """
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise UsageError(
            f"{where}: a transform must return a PIL image (normalisation and conversion to tensors belong inside the "
            f"model), got {type(image).__name__}"
        )
    array = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def from_chw(array: UInt8[ndarray, "channels height width"]) -> Any:
    """Return an 8-bit CHW array with one or three channels as a PIL image, grey or RGB."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0)))


def apply_transform(
    image: Any, transform: ImageTransform | None, where: str
) -> UInt8[ndarray, "channels height width"]:
    """Return the transformed PIL image as 8-bit CHW."""
    return to_chw(image if transform is None else transform(image), where)


def unit_scale(levels: UInt8[ndarray, " n *shape"], grid: int) -> Float[Tensor, " n *shape"]:
    """Return level / grid in float32, correctly rounded: the value that torchvision's ToTensor gives for grid 255."""
    return torch.from_numpy(np.ascontiguousarray(levels)).to(torch.float32).div_(grid)
