"""Data sets: one contract for all formats, digests, names and roots."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import (
    LABELS,
    Built,
    build_imagenet,
    class_members,
    pixels,
    write_batches,
    write_folder,
    write_idx,
    write_tar,
)

from certify.datasets import (
    DATASETS,
    ArrayDataset,
    Dataset,
    ImageFolderDataset,
    default_root,
    load_dataset,
)
from certify.datasets import cifar10 as cifar10_module
from certify.errors import CertifyError, DatasetError, UsageError

# ---------------------------------------------------------------- the table: one row per data set and format


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
