"""Damaged and foreign data files, format by format; transforms."""

import bz2
import gzip
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_files import (
    LABELS,
    build_imagenet,
    class_members,
    idx_bytes,
    image_bytes,
    pixels,
    wordnet_ids,
    write_folder,
    write_idx,
    write_tar,
)
from PIL import Image

from certify.datasets import (
    ArrayDataset,
    load_dataset,
)
from certify.datasets import cifar10 as cifar10_module
from certify.errors import DatasetError, UsageError

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
