"""The IDX format of the MNIST family, plain or gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from certify.errors import DatasetError

UINT8_CODE = 0x08


def read_idx(path: Path, axes: int) -> UInt8[ndarray, "..."]:
    """Read an IDX file of unsigned bytes.

    Two zero bytes, one for the element type (8: unsigned byte), one for the number of axes; the size of each axis as a
    32-bit big-endian integer; then the elements, last axis fastest. (The "magic numbers" 2049 and 2051 of the MNIST
    page are these four bytes for one and three axes.)

    Args:
        path: File, gzipped if its name ends in ".gz".
        axes: Number of axes that it must have.

    Returns:
        Array with `axes` axes.

    Raises:
        DatasetError: If the file cannot be read, has another magic number, or another length than its header says.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read, it may be truncated ({error}); fetch it again") from error
    header = 4 + 4 * axes
    expected = UINT8_CODE * 256 + axes
    magic = int.from_bytes(raw[:4], "big")
    if len(raw) < header:
        raise DatasetError(f"{path}: an IDX header with {axes} axes has {header} bytes, got {len(raw)}; fetch it again")
    if magic != expected:
        raise DatasetError(
            f"{path}: the IDX magic number must be {expected}, got {magic}; this is another kind of file"
        )
    shape = [int.from_bytes(raw[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes)]
    if len(raw) != header + math.prod(shape):
        raise DatasetError(
            f"{path}: the header announces {' x '.join(map(str, shape))} = {math.prod(shape)} bytes, got "
            f"{len(raw) - header}; the file is truncated or damaged, fetch it again"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
