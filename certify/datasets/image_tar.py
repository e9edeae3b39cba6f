"""A tar archive of small images, one folder per class; member number = index."""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from certify.datasets.base import Dataset, ImageTransform
from certify.datasets.in_memory import ArrayDataset
from certify.datasets.pixels import decode_rgb, to_chw
from certify.errors import DatasetError

TAR_SUFFIXES = (".tar", ".tar.xz", ".tar.gz", ".tar.bz2", ".txz", ".tgz")
DECOMPRESSORS = {b"\xfd7zXZ\0": lzma.decompress, b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress}
"""Magic number -> function."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def load_image_tar(
    path: Path,
    name: str,
    split: str,
    transform: ImageTransform | None = None,
    *,
    class_names: tuple[str, ...] | None = None,
) -> Dataset:
    """Load a (compressed) tar of JPEG or PNG images into memory, decoded once.

    Member `.../<class>/<file>.jpg` number i, in the order of the archive, is input i; directories do not count. It has
    no splits of its own, so that `split` is only a label.

    Args:
        path: The archive.
        name: The path or name as the user wrote it.
        split: "test" or "train".
        transform: Resizing and cropping; applied to each request, after the decoding.
        class_names: The classes in label order; default: the names of the folders, sorted.

    Raises:
        DatasetError: If the archive is missing, truncated or damaged, holds anything else than images in class folders,
            or the images differ in size.
    """
    arrays: list[UInt8[ndarray, "3 height width"]] = []
    folders: list[str] = []
    for member, data in _members(path):
        where = f"{path}: {member}"
        folder = PurePosixPath(member).parent.name
        if not folder:
            raise DatasetError(f"{where} must lie in a folder named after its class")
        if class_names is not None and folder not in class_names:
            raise DatasetError(f"{where} must lie in a folder named {', '.join(class_names)}, got {folder}")
        array = to_chw(decode_rgb(data, where), where)
        if arrays and array.shape != arrays[0].shape:
            raise DatasetError(
                f"{where}: images in an archive must have one size (height x width), got "
                f"{array.shape[1]}x{array.shape[2]} after {arrays[0].shape[1]}x{arrays[0].shape[2]}"
            )
        arrays.append(array)
        folders.append(folder)
    if not arrays:
        raise DatasetError(f"{path}: a data set must hold at least one image, got an archive without any")
    names = class_names or tuple(sorted(set(folders)))
    rank = {folder: label for label, folder in enumerate(names)}
    return ArrayDataset(
        name=name,
        split=split,
        source=f"{path} (archive of {len(arrays)} images; decoded JPEGs are lossy)",
        class_names=names,
        images=np.stack(arrays),
        targets=np.array([rank[folder] for folder in folders], dtype=np.int64),
        grid=255,
        transform=transform,
    )


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each image, in the order of the archive.

    The archive is unpacked whole before anything is taken from it: an xz file cannot seek, and its checksum comes last.
    """
    try:
        raw = path.read_bytes()
        for magic, decompress in DECOMPRESSORS.items():
            if raw.startswith(magic):
                raw = decompress(raw)
                break
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                file = archive.extractfile(member) if member.isreg() else None
                if file is None or not member.name.lower().endswith(IMAGE_SUFFIXES):
                    raise DatasetError(
                        f"{path}: an archive must hold only {', '.join(IMAGE_SUFFIXES)}, got {member.name}"
                    )
                yield member.name, file.read()
            end = archive.offset
    except (OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise DatasetError(
            f"{path}: cannot be read as a tar archive, it may be truncated or damaged ({error})"
        ) from error
    # tarfile takes an archive that was cut off between two members, or has a damaged header, for one that ends there.
    if raw[end : end + tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
        raise DatasetError(f"{path}: the archive stops without an end mark; it is truncated or damaged, fetch it again")
