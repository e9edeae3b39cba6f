"""Checkpoints: the native folder, the published `.pth.tar` files, and pickles that must not run."""

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.errors import ModelError, UsageError
from certify.models import (
    CheckpointConfig,
    LoadedModel,
    NoiseSpec,
    build_architecture,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from certify.models.checkpoint import architecture_digest
from certify.models.normalize import CIFAR10_MEAN, CIFAR10_STD, IMAGENET_MEAN, IMAGENET_STD

CONFIG = CheckpointConfig(
    architecture="cnn",
    num_classes=10,
    input_shape=(1, 8, 8),
    mean=(0.3,),
    std=(0.25,),
    data="digits",
    noise=NoiseSpec("gaussian", {"sigma": 0.5}),
    training={"recipe": "noise", "epochs": 3, "final": {"loss": float("nan"), "accuracy": 0.97}},
    class_names=tuple("0123456789"),
)


def build(config: CheckpointConfig = CONFIG, seed: int = 0) -> nn.Module:
    model = build_architecture(
        config.architecture,
        num_classes=config.num_classes,
        input_shape=config.input_shape,
        mean=config.mean,
        std=config.std,
        seed=seed,
    )
    for module in model.modules():  # batch-norm statistics that are not the identity
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            channels = torch.linspace(0, 1, len(module.running_mean))
            module.running_mean.copy_(0.1 * channels)
            module.running_var.copy_(0.5 + channels)
    return model.eval()


def batch(shape: tuple[int, ...], n: int = 3) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(5))


def scores(model: LoadedModel | nn.Module, x: Tensor) -> Tensor:
    classifier = model.classifier if isinstance(model, LoadedModel) else model
    with torch.inference_mode():
        return classifier(x)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model", build(), CONFIG)
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["lenet", "cnn", "mlp", "resnet20", "wrn40-2"])
def test_round_trip_is_exact(tmp_path: Path, name: str) -> None:
    shape = (3, 16, 16)
    config = CheckpointConfig(name, 7, shape, CIFAR10_MEAN, CIFAR10_STD)
    model = build(config, seed=4)
    save_checkpoint(tmp_path, model, config)
    loaded = load_model(str(tmp_path))
    assert torch.equal(scores(loaded, batch(shape)), scores(model, batch(shape)))
    assert loaded.digest == architecture_digest(model, name, 7, shape)
    assert isinstance(loaded.classifier, nn.Module)
    assert not loaded.classifier.training
    assert (loaded.num_classes, loaded.input_shape) == (7, shape)


def test_what_a_checkpoint_tells(folder: Path) -> None:
    loaded = load_model(str(folder))
    assert loaded.noise == NoiseSpec("gaussian", {"sigma": 0.5})
    assert loaded.noise.sigma == 0.5
    assert (loaded.data, loaded.class_names, loaded.transform) == ("digits", tuple("0123456789"), None)
    assert loaded.description == (
        "cnn (22,406 parameters), inputs 1x8x8, 10 classes, trained on digits with gaussian noise (sigma=0.5)"
    )
    _, config = load_checkpoint(folder)
    assert config.training["epochs"] == 3
    assert config.training["final"] == {"loss": "nan", "accuracy": 0.97}
    assert (config.mean, config.std) == ((0.3,), (0.25,))
    content = json.loads((folder / "model.json").read_text())
    assert content["sigma"] == 0.5
    assert content["version"] == CONFIG.version
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    # the two files themselves name the same model
    assert {load_model(str(folder / name)).digest for name in ("model.json", "model.safetensors")} == {loaded.digest}


def test_the_digest_sees_every_weight(tmp_path: Path) -> None:
    digests = set()
    for change in ("none", "weight", "mean"):
        config = CONFIG if change != "mean" else CheckpointConfig("cnn", 10, (1, 8, 8), (0.30001,), (0.25,))
        model = build(config)
        if change == "weight":
            bias = model.get_parameter("network.7.bias")
            bias.data[3] = torch.nextafter(bias.data[3], torch.tensor(1.0))
        save_checkpoint(tmp_path / change, model, config)
        digests.add(load_model(str(tmp_path / change)).digest)
    assert len(digests) == 3


def edit(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps({k: v for k, v in content.items() if v != "REMOVE"}))


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def rewrite(folder: Path, change: str) -> None:
    """Replace the weights by others and record their sha256, so that only the names and shapes can give them away."""
    import hashlib

    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    if change == "missing":
        del tensors["network.7.bias"]
    elif change == "unexpected":
        tensors["network.9.bias"] = torch.zeros(2)
    else:
        tensors["network.7.bias"] = torch.zeros(11)
    data = safetensors.torch.save(tensors)
    (folder / "model.safetensors").write_bytes(data)
    edit(folder, sha256=hashlib.sha256(data).hexdigest())


DAMAGE = {
    "no json": (lambda f: (f / "model.json").unlink(), r"has no model\.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"has no model\.safetensors"),
    "truncated weights": (lambda f: cut(f / "model.safetensors", 0.7), "truncated or was changed.*sha256 must be"),
    "empty weights": (lambda f: cut(f / "model.safetensors", 0), r"sha256 must be .* \(0 bytes\)"),
    "one bit": (lambda f: flip(f / "model.safetensors"), "truncated or was changed.*sha256 must be"),
    "truncated json": (lambda f: cut(f / "model.json", 0.5), "not valid JSON"),
    "not text": (lambda f: (f / "model.json").write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
    "a list": (lambda f: (f / "model.json").write_text("[1]"), "schema_version 1, got None"),
    "newer schema": (lambda f: edit(f, schema_version=2), "schema_version 1, got 2"),
    "member gone": (lambda f: edit(f, noise="REMOVE"), "must have the member 'noise'"),
    "wrong kind": (lambda f: edit(f, input_shape="1x8x8"), "input_shape is not what it has to be"),
    "bad noise": (lambda f: edit(f, noise={"name": "gaussian"}), "noise is not what it has to be"),
    "other sigma": (lambda f: edit(f, sigma=0.25), "sigma is not what it has to be, got sigma=0.25"),
    "other mean": (lambda f: edit(f, normalisation={"mean": [0.2], "std": [0.25]}), "mean is recorded as"),
    "no mean": (lambda f: edit(f, normalisation=None), r"2 unexpected: normalize\.mean, normalize\.std"),
    "other architecture": (
        lambda f: edit(f, architecture="mlp"),
        r"does not fit the architecture.*missing: network\.1",
    ),
    "no architecture": (lambda f: edit(f, architecture="cnm"), "did you mean 'cnn'"),
    "other shape": (
        lambda f: edit(f, input_shape=[1, 16, 16]),
        r"network\.5\.weight \(100, 128\) instead of \(100, 512\)",
    ),
    "impossible shape": (lambda f: edit(f, input_shape=[1, 2, 2]), "cannot be built: cnn needs images of at least 4x4"),
    "class names": (lambda f: edit(f, class_names=["a"]), "must name 10 classes, got 1"),
    "tensor missing": (lambda f: rewrite(f, "missing"), r"1 missing: network\.7\.bias"),
    "tensor unexpected": (lambda f: rewrite(f, "unexpected"), r"1 unexpected: network\.9\.bias"),
    "tensor shape": (lambda f: rewrite(f, "shape"), r"network\.7\.bias \(11,\) instead of \(10,\)"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_noticed(folder: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    damage(folder)
    with pytest.raises(ModelError, match=message):
        load_model(str(folder))


def test_the_same_sha256_does_not_make_garbage_a_checkpoint(folder: Path) -> None:
    import hashlib

    (folder / "model.safetensors").write_bytes(b"garbage")
    edit(folder, sha256=hashlib.sha256(b"garbage").hexdigest())
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_model(str(folder))


@pytest.mark.parametrize("step", range(4))
def test_an_interrupted_save_leaves_the_old_or_the_new(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    old, new = build(), build(seed=1)
    calls = 0

    def stop_at(real: object) -> object:
        def call(*args: object) -> None:
            nonlocal calls
            if calls == step:
                raise KeyboardInterrupt  # nothing tidies up after a kill either
            calls += 1
            real(*args)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stop_at(os.fsync))
        patch.setattr(os, "replace", stop_at(os.replace))
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(folder, new, CONFIG)
    expected = new if step == 3 else old  # steps: weights written, json written, json named | weights named
    x = batch((1, 8, 8))
    assert torch.equal(scores(load_model(str(folder)), x), scores(expected, x))
    save_checkpoint(folder, new, CONFIG)
    assert torch.equal(scores(load_model(str(folder)), x), scores(new, x))
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_a_full_disk_leaves_the_old(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_model(str(folder)).digest

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match=r"cannot write the checkpoint folder.*No space left"):
        save_checkpoint(folder, build(seed=1), CONFIG)
    assert load_model(str(folder)).digest == before
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot write the checkpoint folder"):
        save_checkpoint(tmp_path / "file" / "model", build(), CONFIG)


def test_save_refuses_another_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be the cnn that the configuration describes.*missing: normalize\.mean"):
        save_checkpoint(tmp_path, nn.Linear(2, 2), CONFIG)
    other = CheckpointConfig("cnn", 10, (1, 8, 8), (0.5,), (0.25,))
    with pytest.raises(UsageError, match=r"mean is recorded as \(0\.5,\)"):
        save_checkpoint(tmp_path, build(), other)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------- published checkpoints


class Centre(nn.Module):
    """A first layer as the published codes have it: its constants are plain attributes, absent from the state dict."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.means, self.sds = (torch.tensor(v).reshape(-1, 1, 1) for v in (mean, std))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.means) / self.sds


def resnet20() -> nn.Module:
    return build(CheckpointConfig("resnet20", 10, (3, 32, 32))).get_submodule("network")


ONES = (1.0, 1.0, 1.0)
# name: (what the author saved, from the network; further arguments of load_model; mean and std that it computes with)
CONVENTIONS = {
    "cohen": (lambda net: nn.Sequential(Centre(CIFAR10_MEAN, CIFAR10_STD), net), {}, (CIFAR10_MEAN, CIFAR10_STD)),
    "salman": (
        lambda net: nn.Sequential(Centre(CIFAR10_MEAN, ONES), net),
        {"normalisation": "cifar10-centre"},
        (CIFAR10_MEAN, ONES),
    ),
    "parallel inside": (
        lambda net: nn.Sequential(Centre(CIFAR10_MEAN, CIFAR10_STD), nn.DataParallel(net)),
        {},
        (CIFAR10_MEAN, CIFAR10_STD),
    ),
    "parallel outside": (
        lambda net: nn.DataParallel(nn.Sequential(Centre(CIFAR10_MEAN, CIFAR10_STD), net)),
        {},
        (CIFAR10_MEAN, CIFAR10_STD),
    ),
    "bare": (lambda net: net, {}, ((0.0, 0.0, 0.0), ONES)),
    "bare parallel": (nn.DataParallel, {"normalisation": "imagenet"}, (IMAGENET_MEAN, IMAGENET_STD)),
    "ours": (
        lambda net: nn.Sequential(
            OrderedDict(
                normalize=build(CheckpointConfig("cnn", 2, (3, 8, 8), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))[0], network=net
            )  # type: ignore[index]
        ),
        {},
        ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)),
    ),
}


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_published_checkpoints(tmp_path: Path, convention: str, legacy: bool) -> None:
    wrap, options, (mean, std) = CONVENTIONS[convention]
    network = resnet20()
    saved = wrap(network)
    optimizer = torch.optim.SGD(saved.parameters(), lr=0.1, momentum=0.9)
    saved(batch((3, 32, 32))).sum().backward()
    optimizer.step()
    content = {
        "epoch": 90,
        "arch": "cifar_resnet20",
        "state_dict": saved.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    loaded = load_model(str(path), **options)
    x = batch((3, 32, 32))
    expected = network((x - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1))
    assert torch.equal(scores(loaded, x), expected)
    assert (loaded.num_classes, loaded.input_shape, loaded.data) == (10, (3, 32, 32), "cifar10")
    assert "resnet20 (272,474 parameters)" in loaded.description
    assert ("assumed" in loaded.description) == (not options and convention not in ("bare", "ours"))


def test_a_converted_checkpoint_keeps_its_digest(tmp_path: Path) -> None:
    config = CheckpointConfig("resnet20", 10, (3, 32, 32), CIFAR10_MEAN, CIFAR10_STD)
    model = build(config)
    state = {
        f"1.{key.removeprefix('network.')}": v for key, v in model.state_dict().items() if key.startswith("network.")
    }
    torch.save({"arch": "cifar_resnet20", "state_dict": state}, tmp_path / "a.pth.tar")
    save_checkpoint(tmp_path / "b", model, config)
    assert load_model(str(tmp_path / "a.pth.tar")).digest == load_model(str(tmp_path / "b")).digest
    for path in ("a.pth.tar", "b"):
        assert load_model(str(tmp_path / path), num_classes=10).num_classes == 10
        with pytest.raises(UsageError, match=r"must be what the model itself states, 10 for .*, got num_classes=7"):
            load_model(str(tmp_path / path), num_classes=7)


@pytest.mark.parametrize(
    ("name", "shape", "classes"), [("lenet", (1, 28, 28), 10), ("mlp", (1, 28, 28), 4), ("resnet20", (1, 32, 32), 5)]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_plain_weights_with_an_architecture(
    tmp_path: Path, name: str, shape: tuple[int, ...], classes: int, suffix: str
) -> None:
    network = build(CheckpointConfig(name, classes, shape)).get_submodule("network")
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(network.state_dict(), path)
    else:
        safetensors.torch.save_file(network.state_dict(), path)
    with pytest.raises(UsageError, match=r"give (its architecture|it) with --architecture"):
        load_model(str(path))
    loaded = load_model(str(path), architecture=name)
    assert torch.equal(scores(loaded, batch(shape)), scores(network, batch(shape)))
    assert (loaded.num_classes, loaded.input_shape, loaded.data) == (classes, shape, None)
    assert "no normalisation" in loaded.description


def test_files_without_batch_counters(tmp_path: Path) -> None:
    network = resnet20()
    state = {f"1.{key}": value for key, value in network.state_dict().items() if "num_batches" not in key}
    torch.save({"arch": "cifar_resnet20", "state_dict": state}, tmp_path / "old.pth.tar")
    loaded = load_model(str(tmp_path / "old.pth.tar"), normalisation="none")
    assert torch.equal(scores(loaded, batch((3, 32, 32))), scores(network, batch((3, 32, 32))))


def test_a_real_network_classifies_real_digits(shared_dir: Path) -> None:
    import numpy as np

    folder = shared_dir / "models" / "lp_barrier"
    images = torch.from_numpy(np.load(folder / "ten_test_images.npy"))
    labels = np.load(folder / "ten_test_labels.npz")["labels"]
    for name in ("cnn_small_NOR", "MLP_2_100_NOR"):
        architecture = "cnn" if name.startswith("cnn") else "mlp"
        loaded = load_model(str(folder / f"mnist_{name}.safetensors"), architecture=architecture)
        assert scores(loaded, images).argmax(1).tolist() == labels.tolist()


def test_what_a_published_file_may_not_be(tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    cases = [
        (
            {"arch": "cifar_dncnn", "state_dict": {"a": torch.zeros(1)}},
            {},
            ModelError,
            "names the architecture 'cifar_dncnn'",
        ),
        (
            {"arch": "cifar_resnet20", "state_dict": {"1.conv1.weight": torch.zeros(1)}},
            {},
            ModelError,
            r"missing: network\.",
        ),
        ({"epoch": 3}, {}, ModelError, "must hold a state dict"),
        ({}, {}, ModelError, "must hold a state dict"),
        ([1, 2], {}, ModelError, "must hold a state dict.*got list"),
        ({"a": torch.zeros(1)}, {"architecture": "lenett"}, UsageError, "did you mean 'lenet'"),
        (
            {"fc.weight": torch.zeros(10, 64)},
            {"architecture": "resnet20", "normalisation": "cifar"},
            UsageError,
            "mean 'cifar10'",
        ),
    ]
    for content, options, kind, message in cases:
        torch.save(content, path)
        with pytest.raises(kind, match=message):
            load_model(str(path), **options)
    network = build(CheckpointConfig("cnn", 10, (1, 8, 8))).get_submodule("network")
    torch.save(network.state_dict(), path)
    with pytest.raises(ModelError, match=r"taken as cnn for inputs 1x28x28.*\(100, 128\) instead of \(100, 1568\)"):
        load_model(str(path), architecture="cnn")
    assert load_model(str(path), architecture="cnn", input_shape=(1, 8, 8)).num_classes == 10


# ------------------------------------------------------------------------------------------------------------- pickles


class Malicious:
    """Unpickling it makes a folder: what an attacker would do is only a longer command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("way", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("suffix", [".pth.tar", ".pt"])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, way: str, suffix: str) -> None:
    target, path = tmp_path / "ran", tmp_path / f"evil{suffix}"
    content = {"arch": "cifar_resnet20", "state_dict": {}, "extra": Malicious(target)}
    if way == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(ModelError) as caught:
        load_model(str(path))
    assert not target.exists()
    asked = ("is a pickle that asks for", "posix.mkdir") if way != "pickle" else ()  # torch stops before it gets there
    for part in (*asked, "--trust-pickle", "runs whatever code it contains"):
        assert part in str(caught.value)
    # the test can fail: with trust, the same file does run
    if way == "zip":
        with pytest.raises(ModelError):
            load_model(str(path), trust_pickle=True)
        assert target.exists()


def test_a_pickled_module_needs_trust(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).train()
    path = tmp_path / "whole.pt"
    torch.save(module, path)
    with pytest.raises(ModelError, match=r"asks for torch\.nn\.modules.*--trust-pickle"):
        load_model(str(path))
    loaded = load_model(str(path), trust_pickle=True, num_classes=3, input_shape=(1, 2, 2))
    assert isinstance(loaded.classifier, nn.Module)
    assert not loaded.classifier.training
    assert torch.equal(
        scores(loaded, batch((1, 2, 2))), F.linear(batch((1, 2, 2)).flatten(1), module[1].weight, module[1].bias)
    )
    assert (loaded.num_classes, loaded.input_shape) == (3, (1, 2, 2))
    assert loaded.digest == load_model(str(path), trust_pickle=True).digest
    torch.save(nn.Sequential(nn.Flatten(), module[1], nn.LeakyReLU(0.5)), path)
    slope = load_model(str(path), trust_pickle=True).digest
    torch.save(nn.Sequential(nn.Flatten(), module[1], nn.LeakyReLU(0.25)), path)
    assert loaded.digest != slope != load_model(str(path), trust_pickle=True).digest


@pytest.mark.parametrize("trust", [False, True])
def test_damaged_files(tmp_path: Path, trust: bool) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    legacy = path.read_bytes()
    for data in (b"", b"hello", whole[:100], whole[:-100], legacy[:40], legacy[:-100]):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="damaged or truncated"):
            load_model(str(path), trust_pickle=trust)
