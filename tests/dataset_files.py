"""Writers of tiny data sets in every format."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from certify.datasets import (
    ArrayDataset,
    Dataset,
    ImageFolderDataset,
)
from certify.datasets import cifar10 as cifar10_module
from certify.datasets.imagenet import FIRST_AND_LAST
from certify.torchvision_compat import import_torchvision

LABELS = np.array([1, 0, 2, 1, 0, 2, 2], dtype=np.uint8)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ---------------------------------------------------------------- writers of tiny files in every format


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(
    root: Path, folder: str, images: np.ndarray, labels: np.ndarray, *, zipped: bool, prefix: str = "t10k"
) -> Path:
    raw = root / folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for stem, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        content = idx_bytes(array)
        path = raw / f"{prefix}-{stem}{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)
    return raw


def image_bytes(image: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def class_members(images: np.ndarray, labels: np.ndarray, names: list[str]) -> list[tuple[str, bytes]]:
    return [
        (f"test/{names[k]}/{i:04}.png", image_bytes(x)) for i, (x, k) in enumerate(zip(images, labels, strict=True))
    ]


def write_folder(folder: Path, images: np.ndarray, labels: np.ndarray, names: list[str]) -> Path:
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        target = folder / names[label] / f"{i:04}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image_bytes(image))
    return folder


def write_batches(root: Path, images: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `cifar-10-batches-py` of a few images, and torchvision made to believe that its sums are the official ones."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    contents = {
        "test_batch": {"data": rows, "labels": [int(label) for label in labels]},
        "batches.meta": {"label_names": list(cifar10_module.CLASS_NAMES)},
    }
    sums = {}
    for name, content in contents.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
    official = import_torchvision("datasets").CIFAR10
    monkeypatch.setattr(official, "train_list", [])
    monkeypatch.setattr(official, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(
        official, "meta", {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    )


@dataclass(frozen=True)
class Built:
    name: str
    root: Path | None
    levels: np.ndarray  # the expected inputs times the grid (or 1), NCHW
    labels: np.ndarray
    grid: int | None
    num_classes: int
    kind: type[Dataset] = ArrayDataset
    source: str = ""


def wordnet_ids() -> list[str]:
    first, last = FIRST_AND_LAST
    return [first, *(f"n0{2_000_000 + i}" for i in range(998)), last]


def build_imagenet(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    x = pixels(4, 6, 5, 3)
    content = [image_bytes(image) for image in x]
    for i, wnid in enumerate(wordnet_ids()):
        folder = tmp / "imagenet" / "val" / wnid
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(content[i % 4])
    levels = x[np.arange(1000) % 4].transpose(0, 3, 1, 2)
    return Built("imagenet", tmp, levels, np.arange(1000), 255, 1000, kind=ImageFolderDataset, source="image folder")
