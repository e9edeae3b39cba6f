"""Every data set and format: the common contract by table, then what each must refuse, then the real data."""

import bz2
import gzip
import hashlib
import io
import pickle
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from certify.datasets import (
    DATASETS,
    ArrayDataset,
    Dataset,
    ImageFolderDataset,
    default_root,
    load_dataset,
    parse_shard,
    select_indices,
)
from certify.datasets import cifar10 as cifar10_module
from certify.datasets.imagenet import FIRST_AND_LAST
from certify.errors import CertifyError, DatasetError, UsageError
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


# ---------------------------------------------------------------- the table: one row per data set and format


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


def build_digits(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    seen: dict[int, int] = {}
    chosen = []
    for i, digit in enumerate(bunch.target):  # the documented split, written down in another way
        if seen.setdefault(int(digit), 0) % 5 == 0:
            chosen.append(i)
        seen[int(digit)] += 1
    return Built("digits", None, bunch.images[chosen][:, None], bunch.target[chosen], 16, 10, source="scikit-learn")


def build_mnist(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    x = pixels(7, 28, 28)
    write_idx(tmp, "MNIST", x, LABELS, zipped=False)
    return Built("mnist", tmp, x[:, None], LABELS, 255, 10, source="7 of the official 10000 images")


def build_fashion(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    x = pixels(7, 28, 28)
    write_idx(tmp, "FashionMNIST", x, LABELS, zipped=True)
    return Built("fashion_mnist", tmp, x[:, None], LABELS, 255, 10, source="ubyte.gz")


def build_cifar_batches(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    x = pixels(7, 32, 32, 3)
    write_batches(tmp, x, LABELS, monkeypatch)
    monkeypatch.setitem(cifar10_module.OFFICIAL_SIZES, "test", 7)
    # Preferred to the other forms, which are there too and hold something else.
    (tmp / "cifar10_lossless").mkdir()
    np.savez(tmp / "cifar10_lossless" / "test.npz", images=255 - x, labels=LABELS)
    return Built("cifar10", tmp, x.transpose(0, 3, 1, 2), LABELS, 255, 10, source="cifar-10-batches-py")


def build_cifar_npz(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    x = pixels(7, 32, 32, 3)
    (tmp / "cifar10_lossless").mkdir()
    np.savez(tmp / "cifar10_lossless" / "test.npz", images=x, labels=LABELS, exact=np.arange(7) != 3)
    monkeypatch.setitem(cifar10_module.OFFICIAL_SIZES, "test", 7)
    write_tar(tmp / "cifar10_jpeg" / "test.tar.xz", class_members(255 - x, LABELS, list(cifar10_module.CLASS_NAMES)))
    return Built("cifar10", tmp, x.transpose(0, 3, 1, 2), LABELS, 255, 10, source="1 images not bit-exact")


def build_cifar_tar(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    x = pixels(7, 32, 32, 3)
    write_tar(tmp / "cifar10_jpeg" / "test.tar.xz", class_members(x, LABELS, list(cifar10_module.CLASS_NAMES)))
    monkeypatch.setitem(cifar10_module.OFFICIAL_SIZES, "test", 7)
    return Built("cifar10", tmp, x.transpose(0, 3, 1, 2), LABELS, 255, 10, source="lossy")


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


def build_folder(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    x = pixels(7, 6, 5, 3)
    folder = write_folder(tmp / "pets", x, LABELS, ["cat", "dog", "fish"])
    order = np.argsort(LABELS, kind="stable")
    return Built(str(folder), None, x[order].transpose(0, 3, 1, 2), LABELS[order], 255, 3, kind=ImageFolderDataset)


def build_npz_bytes(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    x = pixels(7, 6, 5, 3)
    np.savez(tmp / "x.npz", images=x, labels=LABELS, class_names=np.array(["a", "b", "c", "d"]))
    return Built(str(tmp / "x.npz"), None, x.transpose(0, 3, 1, 2), LABELS, 255, 4)


def build_npz_grey(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    x = pixels(7, 6, 5)
    np.savez_compressed(tmp / "x.npz", images=x, labels=LABELS.astype(np.int32))
    return Built(str(tmp / "x.npz"), None, x[:, None], LABELS, 255, 3)


def build_npz_float(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    x = np.random.default_rng(0).random((7, 3, 6, 5))
    x[0, 0, 0, :2] = 0.0, 1.0
    np.savez(tmp / "x.npz", images=x.astype(">f8"), labels=LABELS.astype(np.int64))
    return Built(str(tmp / "x.npz"), None, x, LABELS, None, 3)


def build_tar(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    x = pixels(7, 6, 5, 3)
    path = write_tar(tmp / "x.tar", class_members(x, LABELS, ["cat", "dog", "fish"]))
    return Built(str(path), None, x.transpose(0, 3, 1, 2), LABELS, 255, 3, source="archive of 7 images")


TABLE: dict[str, Callable[[Path, pytest.MonkeyPatch], Built]] = {
    "digits": build_digits,
    "mnist": build_mnist,
    "fashion_mnist": build_fashion,
    "cifar10": build_cifar_batches,
    "cifar10 npz": build_cifar_npz,
    "cifar10 tar": build_cifar_tar,
    "imagenet": build_imagenet,
    "folder": build_folder,
    "npz bytes": build_npz_bytes,
    "npz grey": build_npz_grey,
    "npz float": build_npz_float,
    "tar": build_tar,
}


@pytest.mark.parametrize("build", TABLE.values(), ids=TABLE)
def test_contract(build: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(tmp_path, monkeypatch)
    dataset = load_dataset(built.name, root=built.root)
    size = len(built.labels)
    assert type(dataset) is built.kind
    assert (dataset.name, dataset.split, len(dataset)) == (built.name, "test", size)
    assert dataset.shape == built.levels.shape[1:]
    assert dataset.num_classes == len(dataset.class_names) == built.num_classes
    assert dataset.grid == built.grid
    assert built.source in dataset.source

    indices = [size - 1, 0, 3, 0]
    x = dataset.inputs(indices)
    assert x.dtype == torch.float32
    assert x.device.type == "cpu"
    expected = torch.from_numpy(built.levels[indices].astype(np.float32)) / (built.grid or 1)
    assert torch.equal(x, expected)  # float32 division is correctly rounded: one right answer
    everything = dataset.inputs(range(size))
    assert torch.equal(everything, torch.from_numpy(built.levels.astype(np.float32)) / (built.grid or 1))

    labels = dataset.labels(indices)
    assert labels.dtype == np.int64
    assert labels.tolist() == built.labels[indices].tolist()
    assert dataset.labels(range(size)).tolist() == built.labels.tolist()

    assert dataset.inputs([]).shape == (0, *built.levels.shape[1:])
    assert dataset.labels([]).shape == (0,)
    for bad in (size, -1):
        for read in (dataset.inputs, dataset.labels):
            with pytest.raises(UsageError, match=rf"index must be in 0\.\.{size - 1}, got {bad}"):
                read([0, bad])

    assert len(dataset.digest()) == 64
    assert load_dataset(built.name, root=built.root).digest() == dataset.digest()
    description = dataset.describe()
    assert description["digest"] == dataset.digest()
    assert description["shape"] == list(built.levels.shape[1:])


def test_every_name_and_class_is_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(DATASETS) <= set(TABLE)

    def concrete(kind: type[Dataset]) -> set[type[Dataset]]:
        below = set().union(*(concrete(child) for child in kind.__subclasses__()))
        return below | (set() if kind.__abstractmethods__ else {kind})

    mine = {kind for kind in concrete(Dataset) if kind.__module__.startswith("certify.")}
    assert mine == {ArrayDataset, ImageFolderDataset}


# ---------------------------------------------------------------- digests


def test_digest_sees_each_pixel_and_label_but_not_the_file_format(tmp_path: Path) -> None:
    x = pixels(7, 6, 5, 3)
    np.savez(tmp_path / "a.npz", images=x, labels=LABELS)
    np.savez_compressed(tmp_path / "b.npz", images=x, labels=LABELS.astype(np.int64), other=np.zeros(3))
    changed = x.copy()
    changed[6, 5, 4, 2] ^= 1
    np.savez(tmp_path / "pixel.npz", images=changed, labels=LABELS)
    np.savez(tmp_path / "label.npz", images=x, labels=np.roll(LABELS, 1))
    np.savez(tmp_path / "order.npz", images=x[::-1], labels=LABELS)
    members = class_members(x, LABELS, ["cat", "dog", "fish"])
    write_tar(tmp_path / "c.tar.xz", members)
    digest = {path.name: load_dataset(str(path)).digest() for path in tmp_path.iterdir()}
    assert digest["a.npz"] == digest["b.npz"] == digest["c.tar.xz"]
    assert len({digest["a.npz"], digest["pixel.npz"], digest["label.npz"], digest["order.npz"]}) == 4


def test_digest_of_digits_is_what_it_always_was() -> None:
    # Part of the identity of runs: a change here makes every older run folder refuse to resume.
    assert load_dataset("digits").digest() == "258fb5767d835ed6262dce1334e94912c743df17188ad7675e6cca79092deded"
    assert load_dataset("digits", split="train").digest() == (
        "44ba6d42e88a71b1bcf47f9ee597492c77a3ca315156b03e583f91172aba9145"
    )


def test_digest_of_a_folder_sees_names_and_sizes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", pixels(7, 6, 5, 3), LABELS, ["cat", "dog", "fish"])
    before = load_dataset(str(folder)).digest()
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert load_dataset(str(moved)).digest() == before
    file = moved / "cat" / "0001.png"
    renamed = file.rename(file.with_name("0001b.png"))
    other = load_dataset(str(moved)).digest()
    assert other != before
    renamed.write_bytes(renamed.read_bytes() + b"\0")
    assert load_dataset(str(moved)).digest() not in (before, other)


def test_digest_of_a_folder_names_a_file_that_vanished(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", pixels(7, 6, 5, 3), LABELS, ["cat", "dog", "fish"])
    dataset = load_dataset(str(folder))
    (folder / "cat" / "0001.png").unlink()
    with pytest.raises(DatasetError, match=r"0001\.png: cannot be read"):
        dataset.digest()


# ---------------------------------------------------------------- digits


def test_digits_split_is_disjoint_complete_and_balanced() -> None:
    from sklearn.datasets import load_digits

    test, train = load_dataset("digits"), load_dataset("digits", split="train")
    assert (len(test), len(train)) == (364, 1433)
    assert np.bincount(test.targets).min() >= 35
    together = torch.cat([test.inputs(range(364)), train.inputs(range(1433))]) * 16
    rows = sorted(map(tuple, together.flatten(1).int().tolist()))
    assert rows == sorted(map(tuple, load_digits().data.astype(int).tolist()))


# ---------------------------------------------------------------- names, paths, roots


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("mnsit", "mnist"), ("CIFAR-10", "cifar10"), ("fashion-mnist", "fashion_mnist"), ("Imagenet", "imagenet")],
)
def test_unknown_name_lists_names_and_suggests(name: str, suggestion: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean {suggestion}") as caught:
        load_dataset(name)
    message = str(caught.value)
    assert all(known in message for known in DATASETS)
    assert ".npz" in message
    assert ".tar" in message
    assert "image folder" in message
    assert repr(name) in message


def test_name_like_nothing_gets_no_suggestion() -> None:
    for name in ("qqq", ""):
        with pytest.raises(UsageError) as caught:
            load_dataset(name)
        assert "did you mean" not in str(caught.value)


def test_missing_path_and_unsupported_file(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing.npz"), "nothing.npz", str(tmp_path / "nothing")):
        with pytest.raises(DatasetError, match="no such file or folder"):
            load_dataset(name)
    (tmp_path / "x.pkl").write_bytes(b"")
    with pytest.raises(UsageError, match=r"must end in \.npz or \.tar"):
        load_dataset(str(tmp_path / "x.pkl"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnist", r"python -c .*MNIST\('.*', download=True\)"),
        ("fashion_mnist", r"FashionMNIST\('"),
        ("cifar10", r"CIFAR10\('"),
        ("imagenet", "image-net.org"),
    ],
)
def test_missing_data_say_where_and_what_to_do(name: str, hint: str, tmp_path: Path) -> None:
    for split in ("test", "train"):
        with pytest.raises(DatasetError, match=hint) as caught:
            load_dataset(name, root=tmp_path, split=split)
        message = str(caught.value)
        assert f"{name} ({split} split) was not found: looked for {tmp_path}" in message
        assert "--data-root" in message


def test_unknown_split() -> None:
    with pytest.raises(UsageError, match="split must be one of test, train, got split='val'"):
        load_dataset("digits", split="val")


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CERTIFY_DATA", raising=False)
    assert default_root() == Path("data")
    monkeypatch.setenv("CERTIFY_DATA", str(tmp_path))
    assert default_root() == tmp_path
    write_idx(tmp_path, "MNIST", pixels(7, 28, 28), LABELS, zipped=True)
    assert len(load_dataset("mnist")) == 7


def test_folder_divided_by_splits(tmp_path: Path) -> None:
    x = pixels(7, 6, 5, 3)
    np.savez(tmp_path / "train.npz", images=x, labels=LABELS)
    np.savez(tmp_path / "train_first5000.npz", images=x[:1], labels=LABELS[:1])
    assert len(load_dataset(str(tmp_path), split="train")) == 7
    with pytest.raises(DatasetError, match=r"has no test split .* got train\.npz, train_first5000\.npz"):
        load_dataset(str(tmp_path))
    write_tar(tmp_path / "test.tar.xz", class_members(x[:3], LABELS[:3], ["cat", "dog", "fish"]))
    assert len(load_dataset(str(tmp_path))) == 3

    folders = tmp_path / "folders"
    write_folder(folders / "train", x, LABELS, ["cat", "dog", "fish"])
    with pytest.raises(DatasetError, match=r"has no test split \(test or val"):
        load_dataset(str(folders))
    write_folder(folders / "val", x[:3], LABELS[:3], ["cat", "dog", "fish"])
    assert len(load_dataset(str(folders), split="train")) == 7
    assert len(load_dataset(str(folders))) == 3
    write_folder(folders, x[:1], LABELS[:1] * 0, ["other"])  # now they are three classes, not two splits
    assert load_dataset(str(folders)).class_names == ("other", "train", "val")


# ---------------------------------------------------------------- IDX


def damage(kind: str, raw: Path) -> None:
    images, labels = raw / "t10k-images-idx3-ubyte.gz", raw / "t10k-labels-idx1-ubyte.gz"
    content = gzip.decompress(images.read_bytes())
    if kind == "truncated gzip":
        images.write_bytes(images.read_bytes()[:-20])
    elif kind == "not gzip":
        images.write_bytes(content)
    elif kind == "truncated data":
        images.write_bytes(gzip.compress(content[:-1]))
    elif kind == "trailing data":
        images.write_bytes(gzip.compress(content + b"\0"))
    elif kind == "no header":
        images.write_bytes(gzip.compress(content[:10]))
    elif kind == "swapped files":
        images.write_bytes(labels.read_bytes())
    elif kind == "wrong type":
        images.write_bytes(gzip.compress(b"\0\0\x0d" + content[3:]))
    elif kind == "wrong side":
        images.write_bytes(gzip.compress(idx_bytes(pixels(7, 27, 28))))
    elif kind == "wrong count":
        labels.write_bytes(gzip.compress(idx_bytes(LABELS[:-1])))
    elif kind == "wrong label":
        labels.write_bytes(gzip.compress(idx_bytes(np.where(LABELS == 2, 10, LABELS).astype(np.uint8))))
    elif kind == "empty":
        images.write_bytes(gzip.compress(idx_bytes(pixels(0, 28, 28))))
        labels.write_bytes(gzip.compress(idx_bytes(LABELS[:0])))
    elif kind == "no labels":
        labels.unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated gzip", r"images-idx3-ubyte\.gz: cannot be read, it may be truncated"),
        ("not gzip", r"cannot be read, it may be truncated \(Not a gzipped file"),
        ("truncated data", "announces 7 x 28 x 28 = 5488 bytes, got 5487; the file is truncated"),
        ("trailing data", "announces 7 x 28 x 28 = 5488 bytes, got 5489"),
        ("no header", "header with 3 axes has 16 bytes, got 10"),
        ("swapped files", "header with 3 axes has 16 bytes, got 15"),
        ("wrong type", "magic number must be 2051, got 3331"),
        ("wrong side", "images must be 28x28, got 27x28"),
        ("wrong count", "one label per input, got 7 inputs and 6 labels"),
        ("wrong label", r"labels must be in 0\.\.9 \(10 classes\), got label 10 at index 2 \(3 such labels\)"),
        ("empty", "must hold at least one input"),
        ("no labels", r"looked for .*t10k-labels-idx1-ubyte, .*t10k-labels-idx1-ubyte\.gz"),
    ],
)
def test_damaged_idx(kind: str, message: str, tmp_path: Path) -> None:
    damage(kind, write_idx(tmp_path, "MNIST", pixels(7, 28, 28), LABELS, zipped=True))
    with pytest.raises(DatasetError, match=message):
        load_dataset("mnist", root=tmp_path)


def test_splits_of_mnist_are_different_files(tmp_path: Path) -> None:
    write_idx(tmp_path, "MNIST", pixels(7, 28, 28), LABELS, zipped=True)
    write_idx(tmp_path, "MNIST", pixels(3, 28, 28), LABELS[:3], zipped=False, prefix="train")
    assert len(load_dataset("mnist", root=tmp_path)) == 7
    train = load_dataset("mnist", root=tmp_path, split="train")
    assert (len(train), train.split) == (3, "train")


# ---------------------------------------------------------------- npz

UNIT = np.random.default_rng(1).random((7, 3, 6, 5)).astype(np.float32)


def with_value(value: float) -> np.ndarray:
    x = UNIT.astype(np.float64)
    x[4, 1, 2, 3] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": UNIT * 255}, r"\[0, 1\], got values from .* to 25\d\..*, first in input 0: divide by 255"),
        ({"images": UNIT * 65535}, "divide by 65535"),
        ({"images": UNIT * 1e6}, r"scale them to \[0, 1\]"),
        ({"images": (UNIT - 0.5) / 0.25}, r"from -1\..* to 1\..*normalisation belongs inside the model"),
        ({"images": with_value(np.nan)}, r"got NaN \(and values from .*first in input 4: repair or remove"),
        ({"images": with_value(-np.inf)}, "got infinite values .*first in input 4"),
        ({"images": np.full_like(UNIT, np.nan)}, r"got NaN \(and no finite value\), first in input 0"),
        ({"images": with_value(1 + 1e-9)}, r"first in input 4: this looks like rounding; clip them"),
        ({"images": with_value(-1e-9)}, "first in input 4: this looks like rounding"),
        ({"images": UNIT.transpose(0, 2, 3, 1)}, r"looks like the other layout; use images.transpose\(0, 3, 1, 2\)"),
        ({"images": pixels(7, 3, 6, 5)}, r"uint8 of shape \(7, 3, 6, 5\), .*images.transpose\(0, 2, 3, 1\)"),
        ({"images": pixels(7, 6, 5, 3).astype(np.int64)}, "images must be uint8 .* got dtype int64"),
        ({"images": pixels(7, 90)}, r"got uint8 of shape \(7, 90\)"),
        ({"images": pixels(1, 7, 6, 5, 3)}, "images must be uint8 NHWC"),
        ({"images": pixels(7, 0, 5, 3)}, "at least one pixel"),
        ({"images": pixels(0, 6, 5, 3), "labels": LABELS[:0]}, "at least one pixel"),
        ({"images": pixels(6, 6, 5, 3)}, "one label per image, got 6 images and 7 labels"),
        ({"labels": LABELS.astype(float)}, "labels must be integers, got dtype float64"),
        ({"labels": LABELS == 1}, "labels must be integers, got dtype bool"),
        ({"labels": np.eye(3, dtype=int)[LABELS]}, r"one axis, got shape \(7, 3\); take argmax"),
        ({"labels": LABELS[:, None]}, r"one axis, got shape \(7, 1\); flatten"),
        ({"labels": LABELS.astype(int) - 1}, "class indices 0, 1, 2, ..., got labels from -1 to 1"),
        ({"labels": LABELS.astype(np.uint64) + np.uint64(2**63)}, "class indices"),
        ({"class_names": np.array(["a", "b"])}, r"labels must be in 0\.\.1 \(2 classes\), got label 2 at index 2"),
        ({"class_names": np.array([1, 2, 3])}, "'class_names' must be a list of texts"),
        ({"exact": np.ones(6, dtype=bool)}, "'exact' must be bool, one per image"),
        ({"exact": np.ones(7)}, "'exact' must be bool, one per image, got float64"),
    ],
)
def test_refused_npz(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **({"images": pixels(7, 6, 5, 3), "labels": LABELS} | arrays))
    with pytest.raises(DatasetError, match=message):
        load_dataset(str(tmp_path / "x.npz"))


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_nothing_is_unpickled_from_npz(tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "sprung")] * 7, dtype=object)
    np.savez(tmp_path / "labels.npz", images=pixels(7, 6, 5, 3), labels=trap)
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    for name in ("labels.npz", "bare.npz"):
        with pytest.raises(DatasetError, match="pickled objects are never loaded"):
            load_dataset(str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


def test_damaged_npz(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", images=pixels(7, 6, 5, 3), labels=LABELS)
    content = (tmp_path / "x.npz").read_bytes()
    middle = len(content) // 2
    for name, damaged in {
        "short": content[:middle],
        "empty": b"",
        "flipped": content[: middle // 2] + bytes([content[middle // 2] ^ 0xFF]) + content[middle // 2 + 1 :],
    }.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=f"{name}.npz: cannot be read as .npz, it may be truncated or damaged"):
            load_dataset(str(path))
    np.savez(tmp_path / "other.npz", x=LABELS)
    with pytest.raises(DatasetError, match="must hold 'images' and 'labels', got x"):
        load_dataset(str(tmp_path / "other.npz"))
    with (tmp_path / "single.npz").open("wb") as stream:
        np.save(stream, LABELS)
    with pytest.raises(DatasetError, match="got a single array"):
        load_dataset(str(tmp_path / "single.npz"))


def test_npz_extras(tmp_path: Path) -> None:
    exact = np.arange(7) != 2
    np.savez(tmp_path / "x.npz", images=pixels(7, 6, 5, 3), labels=LABELS, exact=exact)
    dataset = load_dataset(str(tmp_path / "x.npz"))
    assert dataset.exact is not None
    assert dataset.exact.tolist() == exact.tolist()
    assert "1 images not bit-exact" in dataset.source
    assert dataset.class_names == ("0", "1", "2")
    dataset.check_classes(3)
    with pytest.raises(DatasetError, match=r"labels must be in 0\.\.1 \(2 classes\), got label 2 at index 2"):
        dataset.check_classes(2)

    np.savez(tmp_path / "one.npz", images=pixels(6, 5), labels=np.uint8(3))
    one = load_dataset(str(tmp_path / "one.npz"))
    assert (one.shape, one.labels([0]).tolist(), one.num_classes) == ((1, 6, 5), [3], 4)


def test_range_is_checked_at_each_reading_too() -> None:
    for images, grid in ((UNIT * 2, None), (np.full((7, 1, 2, 2), 17, dtype=np.uint8), 16)):
        dataset = ArrayDataset(
            name="mine",
            split="test",
            source="memory",
            class_names=("a", "b", "c"),
            targets=LABELS.astype(np.int64),
            images=images,
            grid=grid,
        )
        with pytest.raises(DatasetError, match=r"mine: inputs must be in \[0, 1\], .*first in input 5"):
            dataset.inputs([5])


# ---------------------------------------------------------------- tar


def test_tar_of_jpegs_in_archive_order(tmp_path: Path) -> None:
    colours = np.array([[200, 30, 60], [10, 240, 90], [0, 0, 0]], dtype=np.uint8)
    images = np.broadcast_to(colours[:, None, None], (3, 8, 8, 3))
    members = [
        (f"train/{name}/{i}.jpg", image_bytes(image, "JPEG"))
        for i, (name, image) in enumerate(zip(["b", "a", "b"], images, strict=True))
    ]
    members.append(("a/grey.jpeg", image_bytes(np.full((8, 8), 77, dtype=np.uint8), "JPEG")))
    dataset = load_dataset(str(write_tar(tmp_path / "x.tar", members)))
    assert dataset.class_names == ("a", "b")
    assert dataset.targets.tolist() == [1, 0, 1, 0]
    means = dataset.inputs(range(4)).mean((2, 3)) * 255
    assert torch.allclose(means, torch.tensor([*colours.tolist(), [77] * 3], dtype=torch.float32), atol=2.5)


def test_tar_with_folder_entries(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        folder = write_folder(tmp_path / "pets", pixels(7, 6, 5, 3), LABELS, ["cat", "dog", "fish"])
        archive.add(folder, "pets")
    dataset = load_dataset(str(tmp_path / "x.tar.gz"))
    assert len(dataset) == 7
    assert dataset.class_names == ("cat", "dog", "fish")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("cat/readme.txt", b"hello"), r"must hold only \.jpg, \.jpeg, \.png, got cat/readme\.txt"),
        (("cat/broken.jpg", b"no image"), r"cat/broken\.jpg: not a readable image"),
        (("cat/broken.png", image_bytes(pixels(6, 5, 3))[:-30]), r"cat/broken\.png: not a readable image"),
        (("loose.png", image_bytes(pixels(6, 5, 3))), "loose.png must lie in a folder named after its class"),
        (("cat/large.png", image_bytes(pixels(7, 5, 3))), r"cat/large\.png: .*got 7x5 after 6x5"),
        (("cat/deep.png", image_bytes(np.full((6, 5), 40_000, dtype=np.uint16))), "8 bits per channel, got PIL mode I"),
    ],
)
def test_refused_members(extra: tuple[str, bytes], message: str, tmp_path: Path) -> None:
    members = class_members(pixels(7, 6, 5, 3), LABELS, ["cat", "dog", "fish"])
    path = write_tar(tmp_path / "x.tar", [*members, extra])
    with pytest.raises(DatasetError, match=message):
        load_dataset(str(path))


def test_damaged_tar(tmp_path: Path) -> None:
    members = class_members(pixels(7, 6, 5, 3), LABELS, ["cat", "dog", "fish"])
    plain = write_tar(tmp_path / "whole.tar", members).read_bytes()
    packed = write_tar(tmp_path / "whole.tar.xz", members).read_bytes()
    record = 512 + 512  # header and padded content of one member
    for name, content in {
        "inside.tar": plain[: 3 * record - 700],
        "between.tar": plain[: 3 * record],  # tarfile by itself takes this for an archive of three
        "cut.tar.xz": packed[: len(packed) // 2],
        "end.tar.xz": packed[:-8],
        "flip.tar.xz": packed[: len(packed) // 2]
        + bytes([packed[len(packed) // 2] ^ 1])
        + packed[len(packed) // 2 + 1 :],
        "header.tar": plain[: 3 * record] + b"x" + plain[3 * record + 1 :],
        "recompressed.tar.gz": gzip.compress(plain[: 3 * record]),
        "short.tar.bz2": bz2.compress(plain)[:-4],
        "noise.tar": b"x" * 2048,
        "empty.tar": b"",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=f"{name}: .*truncated"):
            load_dataset(str(path))
    with pytest.raises(DatasetError, match="at least one image"):
        load_dataset(str(write_tar(tmp_path / "nothing.tar", [])))
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        info = tarfile.TarInfo("cat/0.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DatasetError, match=r"must hold only .* got cat/0\.png"):
        load_dataset(str(tmp_path / "link.tar"))


# ---------------------------------------------------------------- cifar10


def test_damaged_batches_are_refused_and_not_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    # The other form is there and whole, and must not be taken in silence.
    (tmp_path / "cifar10_lossless").mkdir()
    np.savez(tmp_path / "cifar10_lossless" / "test.npz", images=pixels(7, 32, 32, 3), labels=LABELS)
    with pytest.raises(DatasetError, match=r"cifar-10-batches-py: .*official md5.*CIFAR10\('"):
        load_dataset("cifar10", root=tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_part_of_cifar10_never_stands_for_the_whole(tmp_path: Path) -> None:
    x = pixels(7, 32, 32, 3)
    (tmp_path / "cifar10_lossless").mkdir()
    for name in ("test", "train_first5000"):
        np.savez(tmp_path / "cifar10_lossless" / f"{name}.npz", images=x, labels=LABELS)
    with pytest.raises(DatasetError, match=r"test split of cifar10 has 10000 images, got 7 .*by its path"):
        load_dataset("cifar10", root=tmp_path)
    with pytest.raises(DatasetError, match=r"was not found: .*train_first5000\.npz is only a part of it"):
        load_dataset("cifar10", root=tmp_path, split="train")
    write_tar(tmp_path / "cifar10_jpeg" / "train.tar.xz", class_members(x, LABELS, list(cifar10_module.CLASS_NAMES)))
    with pytest.raises(DatasetError, match=r"train split of cifar10 has 50000 images, got 7 in .*train\.tar\.xz"):
        load_dataset("cifar10", root=tmp_path, split="train")


def test_foreign_content_under_the_name_of_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cifar10_module.OFFICIAL_SIZES, "test", 7)
    (tmp_path / "cifar10_lossless").mkdir()
    npz = tmp_path / "cifar10_lossless" / "test.npz"
    for arrays, message in [
        ({"images": pixels(7, 32, 32, 3), "labels": LABELS + 8}, r"labels must be in 0\.\.9"),
        (
            {"images": pixels(7, 28, 28, 3), "labels": LABELS},
            r"of shape \(3, 32, 32\), got uint8 of shape \(3, 28, 28\)",
        ),
        ({"images": np.zeros((7, 3, 32, 32)), "labels": LABELS}, "8-bit .* got float32"),
    ]:
        np.savez(npz, **arrays)
        with pytest.raises(DatasetError, match=message):
            load_dataset("cifar10", root=tmp_path)
    npz.unlink()
    write_tar(
        tmp_path / "cifar10_jpeg" / "test.tar", class_members(pixels(7, 32, 32, 3), LABELS, ["cat", "dog", "fish"])
    )
    with pytest.raises(DatasetError, match=r"folder named airplane, .*, got fish"):
        load_dataset("cifar10", root=tmp_path)


# ---------------------------------------------------------------- folders and imagenet


def test_folder_with_images_of_several_sizes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", pixels(3, 6, 5, 3), LABELS[:3], ["cat", "dog", "fish"])
    (folder / "dog" / "tall.png").write_bytes(image_bytes(pixels(9, 5, 3)))
    dataset = load_dataset(str(folder))
    assert dataset.shape is None
    assert dataset.describe()["shape"] is None
    assert dataset.inputs([0]).shape == (1, 3, 6, 5)
    with pytest.raises(DatasetError, match=r"one size .*\(3, 9, 5\) in dog/tall\.png and \(3, 6, 5\) in cat/0001\.png"):
        dataset.inputs([0, 2])
    with pytest.raises(DatasetError, match="inputs must have one size"):
        dataset.require_shape()
    resized = load_dataset(str(folder), transform=lambda image: image.resize((4, 3)))
    assert resized.shape == (3, 3, 4)
    assert resized.inputs(range(4)).shape == (4, 3, 3, 4)


def test_folder_problems(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(image_bytes(pixels(6, 5, 3)))
    with pytest.raises(DatasetError, match="one subfolder of images per class"):
        load_dataset(str(tmp_path / "flat"))
    folder = write_folder(tmp_path / "pets", pixels(3, 6, 5, 3), LABELS[:3], ["cat", "dog", "fish"])
    (folder / "empty").mkdir()
    with pytest.raises(DatasetError, match="Found no valid file for the classes empty"):
        load_dataset(str(folder))
    (folder / "empty").rmdir()
    (folder / "cat" / "0001.png").write_bytes(b"no image")
    broken = load_dataset(str(folder))
    for read in (lambda: broken.inputs([0]), lambda: broken.shape):
        with pytest.raises(DatasetError, match=r"cat/0001\.png: not a readable image"):
            read()


def test_imagenet_names_and_foreign_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_imagenet(tmp_path, monkeypatch)
    dataset = load_dataset("imagenet", root=tmp_path)
    assert (dataset.class_names[0], dataset.class_names[-1]) == ("tench", "toilet tissue")
    some = tmp_path / "imagenet" / "val" / wordnet_ids()[500]
    (some / "a.png").unlink()
    some.rmdir()
    with pytest.raises(DatasetError, match=r"1000 class folders from n01440764 to n15075141, got 999 .*by its path"):
        load_dataset("imagenet", root=tmp_path)


# ---------------------------------------------------------------- transforms


def test_transform_of_images_in_memory(tmp_path: Path) -> None:
    for shape, mode in (((7, 6, 5, 3), "RGB"), ((7, 6, 5), "L")):
        x = pixels(*shape)
        np.savez(tmp_path / "x.npz", images=x, labels=LABELS)
        plain = load_dataset(str(tmp_path / "x.npz"))
        modes = []

        def flip(image: Image.Image, modes: list[str] = modes) -> Image.Image:
            modes.append(image.mode)
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop((0, 0, 4, 6))

        dataset = load_dataset(str(tmp_path / "x.npz"), transform=flip)
        assert dataset.shape == (plain.require_shape()[0], 6, 4)
        assert torch.equal(dataset.inputs([6, 1]), plain.inputs([6, 1]).flip(3)[..., :4])
        assert set(modes) == {mode}
        assert dataset.digest() == plain.digest()


def test_transforms_that_cannot_be(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=pixels(7, 6, 5, 3), labels=LABELS)
    np.savez(tmp_path / "f.npz", images=UNIT, labels=LABELS)
    with pytest.raises(UsageError, match=r"must return a PIL image .*inside the model.*, got Tensor"):
        load_dataset(str(tmp_path / "x.npz"), transform=lambda image: torch.zeros(3, 6, 5)).inputs([0])
    sizes = iter([(4, 4), (4, 4), (5, 4)])
    with pytest.raises(UsageError, match=r"images of one size, got \(3, 4, 5\) for input 2"):
        load_dataset(str(tmp_path / "x.npz"), transform=lambda image: image.resize(next(sizes))).inputs([1, 2])
    for name, what in (("digits", "16 levels"), (str(tmp_path / "f.npz"), "floating-point data")):
        with pytest.raises(UsageError, match=f"only 8-bit images .* and {what}"):
            load_dataset(name, transform=lambda image: image)


# ---------------------------------------------------------------- selection


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, list(range(10))),
        ({"stride": 4}, [0, 4, 8]),
        ({"stride": 4, "skip": 1}, [1, 5, 9]),
        ({"skip": 7}, [7, 8, 9]),
        ({"stride": 3, "maximum": 2}, [0, 3]),
        ({"maximum": 99}, list(range(10))),
        ({"indices": "7, 0,3-5"}, [0, 3, 4, 5, 7]),
        ({"indices": "0-9:4,8,8,4-4"}, [0, 4, 8]),
        ({"indices": "1-8:2", "stride": 2, "maximum": 2}, [1, 5]),
        ({"shard": (1, 3)}, [1, 4, 7]),
        ({"indices": "2,4,6", "shard": (2, 3)}, [6]),
        ({"indices": "2", "shard": (1, 2)}, []),
    ],
)
def test_select_indices(arguments: dict[str, Any], expected: list[int]) -> None:
    assert select_indices(10, **arguments) == expected


def test_shards_are_a_partition_of_the_selection() -> None:
    for n in (1, 2, 3, 7, 60):
        parts = [select_indices(1000, stride=20, skip=3, maximum=40, shard=(i, n)) for i in range(n)]
        assert sorted(i for part in parts for i in part) == select_indices(1000, stride=20, skip=3, maximum=40)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 0}, "stride must be at least 1, got stride=0"),
        ({"skip": -1}, "skip must be at least 0, got skip=-1"),
        ({"skip": 10}, "skip must be less than the number of inputs, 10, got skip=10"),
        ({"maximum": 0}, "max must be at least 1, got max=0"),
        ({"indices": "1,x"}, "got 'x' in '1,x'"),
        ({"indices": "1,,2"}, "got '' in '1,,2'"),
        ({"indices": ""}, "got '' in ''"),
        ({"indices": "-3"}, "got '-3'"),
        ({"indices": "1-2:3:4"}, "got '1-2:3:4'"),
        ({"indices": "1:3"}, "got '1:3'"),
        ({"indices": "٣"}, "got '٣'"),
        ({"indices": "5-3"}, "must go upwards, got '5-3'"),
        ({"indices": "3-5:0"}, "step of a range of indices must be at least 1, got '3-5:0'"),
        ({"indices": "3,10"}, r"must be in 0\.\.9 \(the data set has 10 inputs\), got index 10"),
        ({"indices": "0-1000000000000"}, "got index 1000000000000"),
        ({"shard": (3, 3)}, r"i must be in 0\.\.2, got shard=3/3"),
        ({"shard": (-1, 3)}, r"i must be in 0\.\.2, got shard=-1/3"),
        ({"shard": (0, 0)}, "number of shards must be at least 1"),
    ],
)
def test_select_indices_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select_indices(10, **arguments)


def test_select_from_nothing() -> None:
    with pytest.raises(UsageError, match="at least one input"):
        select_indices(0)


ARRAY = {"SLURM_ARRAY_TASK_ID": "30", "SLURM_ARRAY_TASK_COUNT": "4"}


@pytest.mark.parametrize(
    ("text", "environ", "expected", "said"),
    [
        ("2/8", {"RANK": "5", "WORLD_SIZE": "6"}, (2, 8), "shard 2/8 (counted from 0)"),
        ("0/1", {}, (0, 1), "shard 0/1"),
        ("auto", {"RANK": "5", "WORLD_SIZE": "6", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (5, 6), "RANK=5"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
         (3, 4), "SLURM_ARRAY_TASK_ID=3 and SLURM_ARRAY_TASK_COUNT=4"),
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_MIN": "27"}, (3, 4), "SLURM_ARRAY_TASK_MIN=27"),
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "10"}, (2, 4), "STEP=10"),
        ("auto", {"RANK": "1", "SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, (2, 4), "SLURM_PROCID=2 and SLURM_NTASKS=4"),
    ],
)  # fmt: skip
def test_parse_shard(text: str, environ: dict[str, str], expected: tuple[int, int], said: str) -> None:
    i, n, explanation = parse_shard(text, environ)
    assert (i, n) == expected
    assert said in explanation


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        ("8/8", {}, r"counted from 0, so that i must be in 0\.\.7, got shard=8/8"),
        ("0/0", {}, "at least 1"),
        ("1", {}, 'shard must be "i/n" .* or "auto", got shard=\'1\''),
        ("-1/8", {}, "got shard='-1/8'"),
        ("auto", {}, "RANK and WORLD_SIZE, or SLURM_ARRAY_TASK_ID .* got none of them; write i/n"),
        ("auto", {"RANK": "1"}, "got only RANK"),
        ("auto", {"RANK": "one", "WORLD_SIZE": "2"}, "RANK must be a whole number .*got RANK='one'"),
        ("auto", {"RANK": "2", "WORLD_SIZE": "2"}, r"0\.\.1, got shard=2/2 from RANK=2 and WORLD_SIZE=2"),
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_MIN": "31"}, "evenly numbered job array"),
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "10"}, "evenly numbered job array"),
        ("auto", ARRAY, r"i must be in 0\.\.3, got shard=30/4"),
    ],
)
def test_parse_shard_refuses(text: str, environ: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_shard(text, environ)


# ---------------------------------------------------------------- the rest


def test_errors_have_the_right_kind() -> None:
    assert issubclass(DatasetError, CertifyError)
    assert not issubclass(DatasetError, UsageError)


def test_heavy_libraries_are_imported_only_when_used() -> None:
    code = "import sys, certify.datasets; print(*{'torchvision', 'sklearn', 'PIL', 'matplotlib'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == ""


# ---------------------------------------------------------------- real data


@pytest.mark.shared
def test_real_mnist(shared_dir: Path) -> None:
    test = load_dataset("mnist", root=shared_dir / "data")
    assert test.labels(range(10)).tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(test.targets).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert "official" not in test.source
    # The known mean of the official test images, 0.1325.
    assert abs(float(test.inputs(range(10_000)).mean()) - 0.13251) < 1e-4
    train = load_dataset("mnist", root=shared_dir / "data", split="train")
    assert len(train) == 60_000
    assert train.labels(range(10)).tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


@pytest.mark.shared
def test_real_cifar10_against_the_published_logs_and_its_jpegs(shared_dir: Path) -> None:
    data = shared_dir / "data"
    test = load_dataset("cifar10", root=data)
    assert test.digest() == load_dataset(str(data / "cifar10_lossless" / "test.npz")).digest()
    assert test.exact is not None
    assert np.flatnonzero(~test.exact)[:3].tolist() == [722, 1259, 1369]
    logs = sorted((data / "published_certify_logs" / "cohen2019_cifar10_resnet110").glob("*.tsv"))
    assert len(logs) == 4
    for log in logs:
        rows = [line.split("\t")[:2] for line in log.read_text().splitlines()[1:]]
        assert len(rows) == 500
        indices, labels = ([int(row[column]) for row in rows] for column in (0, 1))
        assert test.labels(indices).tolist() == labels

    sdp = data / "cifar10_lossless_200" / "sdp_cifar10.npz"
    with np.load(sdp) as archive:
        rows = archive["test_index"].tolist()
    assert torch.equal(load_dataset(str(sdp)).inputs(range(200)), test.inputs(rows))

    jpeg = load_dataset(str(data / "cifar10_jpeg" / "test.tar.xz"))
    assert jpeg.targets.tolist() == test.targets.tolist()
    assert jpeg.class_names == test.class_names
    error = (jpeg.inputs(range(50)) - test.inputs(range(50))).abs().mean((1, 2, 3))
    assert 0 < float(error.mean()) < 10 / 255
    assert float((jpeg.inputs(range(50)) - test.inputs(range(1, 51))).abs().mean()) > 30 / 255  # another image is far
