"""`certify train`: from data to checkpoint, what it prints, and what it refuses."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from certify.cli import main
from certify.datasets import DATASETS
from certify.errors import CertifyError, UsageError
from certify.models import ARCHITECTURES, load_checkpoint, load_model
from certify.training import (
    DEFAULTS,
    EpochRecord,
    TrainOptions,
    defaults_for,
    load_training_data,
    prepare_training,
    train_checkpoint,
)
from certify.training.normalization import parse_normalization, settle_normalization
from certify.training.progress import SilentTraining, TrainingBar, TrainingLines, watch_training
from smoothing import Gaussian
from smoothing.training import (
    EpochStarted,
    Event,
    NoiseAugmentation,
    StepDone,
    Trainer,
    TrainingConfig,
    accuracy,
)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Ninety 8-bit images of 1x8x8 in three classes, easy to learn."""
    rng = np.random.default_rng(7)
    labels = np.arange(90) % 3
    images = rng.integers(0, 60, (90, 8, 8, 1)).astype(np.uint8)
    for label in range(3):
        images[labels == label, 2 * label : 2 * label + 3] += 180
    np.savez(tmp_path / "tiny.npz", images=images, labels=labels)
    return tmp_path / "tiny.npz"


def options(tiny: Path, **changes: Any) -> TrainOptions:
    base = TrainOptions(
        data=str(tiny),
        out=tiny.parent / "model",
        architecture="mlp",
        parameters=(("sigma", 0.25),),
        epochs=3,
        batch_size=16,
        held_out=0.2,
        device="cpu",
    )
    return replace(base, **changes)


def arguments(tiny: Path, *more: str) -> list[str]:
    text = (
        f"train --data {tiny} --out {tiny.parent / 'model'} --arch mlp --epochs 4 --batch-size 16 --lr 0.1 --device cpu"
    )
    return [*text.split(), *more]


def test_train_writes_a_checkpoint_that_loads(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tiny.parent / "model"
    assert main(arguments(tiny, "--sigma", "0.25", "--normalize", "data", "--held-out", "0.2")) == 0
    printed = capsys.readouterr()
    assert f"certify run {out} --data {tiny} --out runs/model" in printed.out
    assert "on 18 held-out images" in printed.out
    assert "epoch 4/4 · loss" in printed.err
    assert sorted(path.name for path in out.iterdir()) == ["model.json", "model.safetensors", "train.csv", "train.png"]

    model = load_model(str(out))
    assert model.noise is not None
    assert (model.noise.name, model.noise.parameters) == ("gaussian", {"sigma": 0.25})
    assert (model.num_classes, model.input_shape) == (3, (1, 8, 8))
    data = load_training_data(str(tiny), held_out=0.2)
    _, config = load_checkpoint(out)
    assert (config.mean, config.std) == data.channel_statistics()
    assert config.training["examples"] == 72
    assert config.training["held_out"]["examples"] == 18
    assert isinstance(model.classifier, nn.Module)
    clean = accuracy(model.classifier, data.held_out_images, data.held_out_labels)
    assert clean == config.training["held_out"]["clean_accuracy"] > 0.9

    with (out / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[-1]["loss"]) == config.training["loss"] < float(rows[0]["loss"])
    assert float(rows[-1]["held_out_noisy_accuracy"]) == config.training["held_out"]["noisy_accuracy"] > 0.8


def test_json_is_the_only_thing_on_standard_output(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = (
        "--noise",
        "uniform",
        "--half-width",
        "0.4",
        "--held-out",
        "0",
        "--json",
        "--quiet",
        "--augment",
        "crop-flip",
    )
    assert main(arguments(tiny, *more)) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    result = json.loads(printed.out)
    assert result["noise"]["parameters"] == {"half_width": 0.4}
    assert result["held_out_noisy_accuracy"] is None
    assert len(result["epochs"]) == 4
    assert "--norm l1" in result["next"]
    assert load_checkpoint(tiny.parent / "model")[1].training["augmentation"] == {"padding": 4, "flip": True}


def test_the_same_seed_gives_the_same_checkpoint(tiny: Path) -> None:
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_checkpoint(prepare_training(options(tiny, out=tiny.parent / name, seed=seed)))
        files.append((tiny.parent / name / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


BAD_COMMANDS = [
    (["--sigma", "0"], "sigma must be positive and finite, got sigma=0.0"),
    (["--sigma", "nan"], "sigma must be positive and finite, got sigma=nan"),
    ([], "gaussian needs sigma, got none"),
    (["--noise", "cauchy", "--sigma", "1"], "got noise='cauchy'"),
    (["--sigma", "1", "--scale", "1"], "gaussian noise takes sigma, got scale=1.0"),
    (["--sigma", "1", "--arch", "alexnet"], "architecture must be one of lenet, cnn, mlp"),
    (["--sigma", "1", "--arch", "lenet"], "lenet needs images of at least 16x16"),
    (["--sigma", "1", "--objective", "macr"], "objective must be one of gaussian"),
    (["--sigma", "1", "--schedule", "linear"], "schedule must be one of onecycle, step, cosine"),
    (["--sigma", "1", "--optimizer", "lion"], "optimizer must be one of sgd, adam"),
    (["--sigma", "1", "--epochs", "0"], "epochs must be an integer of at least 1, got epochs=0"),
    (["--sigma", "1", "--lr", "-0.1"], "learning_rate must be positive and finite, got learning_rate=-0.1"),
    (["--sigma", "1", "--normalize", "mnist"], "normalize must be one of data, none"),
    (["--sigma", "1", "--normalize", "0.1,0.2/1,1"], "mean and std must have one number a channel, got 2 for 1"),
    (["--sigma", "1", "--held-out", "0.9"], "the share to hold out must be in [0, 0.5], got held_out=0.9"),
    (["--sigma", "1", "--device", "tpu"], "device must be cpu, cuda or cuda:N, got device='tpu'"),
    (["--sigma", "1", "--data", "minst"], "data must be one of digits, mnist"),
]


@pytest.mark.parametrize(("more", "message"), BAD_COMMANDS)
def test_bad_usage_exits_with_2_and_writes_nothing(
    tiny: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tiny, *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tiny.parent / "model").exists()


def test_a_checkpoint_is_replaced_only_when_that_is_asked_for(tiny: Path) -> None:
    plan = prepare_training(options(tiny))
    train_checkpoint(plan)
    before = {path.name: path.read_bytes() for path in plan.out.iterdir()}
    with pytest.raises(UsageError, match=r"holds a checkpoint already \(model.json, model.safetensors\).*--overwrite"):
        prepare_training(options(tiny))
    train_checkpoint(prepare_training(options(tiny, overwrite=True, seed=5)))
    after = {path.name: path.read_bytes() for path in plan.out.iterdir()}
    assert sorted(before) == sorted(after)
    assert all(before[name] != after[name] for name in before)


@pytest.mark.parametrize("existing", [False, True])
def test_an_interruption_leaves_no_half_checkpoint(tiny: Path, existing: bool) -> None:
    out = tiny.parent / "model"
    if existing:
        train_checkpoint(prepare_training(options(tiny)))
    before = {path.name: path.read_bytes() for path in out.iterdir()} if existing else {}
    records: list[EpochRecord] = []

    def interrupt(record: EpochRecord) -> None:
        records.append(record)
        if record.epoch == 2:
            raise KeyboardInterrupt

    plan = prepare_training(options(tiny, overwrite=existing, seed=5))
    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(plan, on_epoch=interrupt)
    partial = list(csv.DictReader((out / "train.csv.partial").read_text().splitlines()))
    assert [float(row["loss"]) for row in partial] == [record.loss for record in records]
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(kept) - set(before) == {"train.csv.partial", "training.pt"}
    assert {name: kept[name] for name in before} == before
    assert len(train_checkpoint(plan).records) == 3  # and the same plan goes on
    assert sorted(path.name for path in out.iterdir()) == ["model.json", "model.safetensors", "train.csv", "train.png"]


def test_a_diverging_training_exits_with_1_and_leaves_no_checkpoint(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tiny, "--sigma", "0.25", "--lr", "1e30", "--warmup", "0")) == 1
    assert "training diverged" in capsys.readouterr().err
    assert not (tiny.parent / "model" / "model.json").exists()


def test_a_destination_that_cannot_be_written_is_found_before_training(tiny: Path) -> None:
    blocked = tiny.parent / "file"
    blocked.write_text("")
    plan = prepare_training(options(tiny, out=blocked))
    events: list[Event] = []
    with pytest.raises(CertifyError, match="cannot create the folder"):
        train_checkpoint(plan, on_event=events.append)
    assert events == []


def test_training_data_are_packed_and_divided_without_loss(tiny: Path) -> None:
    with np.load(tiny) as file:
        images, labels = file["images"].transpose(0, 3, 1, 2), file["labels"]
    data = load_training_data(str(tiny), held_out=0.1)
    assert data.images.dtype == torch.uint8
    everything = torch.cat([data.images, data.held_out_images]).flatten(1).numpy()
    keys = torch.cat([data.labels, data.held_out_labels]).numpy()
    assert len(data.held_out_labels) == 9
    order, reference = np.lexsort(everything.T), np.lexsort(images.reshape(90, -1).T)
    assert np.array_equal(everything[order], images.reshape(90, -1)[reference])
    assert np.array_equal(keys[order], labels[reference])
    again, other = load_training_data(str(tiny), held_out=0.1), load_training_data(str(tiny), held_out=0.1, seed=1)
    assert torch.equal(data.held_out_images, again.held_out_images)
    assert not torch.equal(data.held_out_images, other.held_out_images)
    assert len(load_training_data(str(tiny), held_out=0.0).labels) == 90


def test_normalization(tiny: Path) -> None:
    assert parse_normalization("none") is None
    assert parse_normalization("0.1,0.2,0.3/1,2,3") == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    data = load_training_data(str(tiny))
    assert settle_normalization(parse_normalization("none"), data) is None
    found = settle_normalization(parse_normalization("data"), data)
    assert found is not None
    pixels = data.images.double().numpy() / 255
    np.testing.assert_allclose(found, ([pixels.mean()], [pixels.std()]), rtol=1e-10)
    np.savez(tiny.parent / "flat.npz", images=np.full((10, 8, 8, 1), 100, np.uint8), labels=np.arange(10) % 2)
    with pytest.raises(UsageError, match="needs a positive standard deviation in every channel"):
        settle_normalization("data", load_training_data(str(tiny.parent / "flat.npz")))


def test_defaults_suit_every_data_set() -> None:
    assert set(DEFAULTS) <= set(DATASETS)
    for defaults in DEFAULTS.values():
        assert defaults.architecture in ARCHITECTURES
        TrainingConfig(defaults.epochs, defaults.batch_size, learning_rate=defaults.learning_rate)
    assert (DEFAULTS["mnist"].architecture, DEFAULTS["mnist"].augment) == ("lenet", "none")
    assert [name for name, defaults in DEFAULTS.items() if defaults.augment == "crop-flip"] == ["cifar10"]
    shapes = {(3, 32, 32): "resnet20", (1, 8, 8): "cnn", (1, 2, 9): "mlp", (30,): "mlp", (3, 16, 16): "cnn"}
    assert {shape: defaults_for("my.npz", shape).architecture for shape in shapes} == shapes


def test_progress_fits_where_it_goes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"loss": 0.5, "noisy_accuracy": 0.75}
    events = [EpochStarted(1, 4, 10, 100), StepDone(1, 0.5, 0.75, 1234.0, 0.1, metrics, 5, 10, 50)]
    record = EpochRecord(2, 0.1, 0.5, 0.75, 0.8, 1234.0, 1.0)
    with watch_training(quiet=True) as observer:
        assert isinstance(observer, SilentTraining)
        observer.on_event(events[0])
        observer.on_epoch(record)
    assert capsys.readouterr().err == ""
    lines = TrainingLines(interval=0.0)
    for event in events:
        lines.on_event(event)
    lines.on_epoch(record)
    step, epoch = capsys.readouterr().err.splitlines()
    assert step.startswith("epoch 2/4 · step 5/10 · loss 0.500 · noisy 75.0% · 1,234 images/s · ")
    assert step.endswith(" left")
    assert epoch.startswith("epoch 2/4 · loss 0.500 · noisy accuracy 75.0% (held out 80.0%) · 1,234 images/s")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with watch_training() as observer:
        assert isinstance(observer, TrainingBar)
        for event in events:
            observer.on_event(event)
        assert observer.totals.done == 150
        assert observer.totals.total == 400


def test_digits_are_learnt_under_noise_in_seconds() -> None:
    data = load_training_data("digits", held_out=0.2)
    from certify.models import build_architecture

    model = build_architecture("mlp", num_classes=10, input_shape=(1, 8, 8))
    law = Gaussian((1, 8, 8), sigma=0.25)
    config = TrainingConfig(epochs=20, batch_size=64, learning_rate=0.1)
    list(Trainer(model, law, NoiseAugmentation(), config).fit(data.images, data.labels))
    assert accuracy(model, data.held_out_images, data.held_out_labels, law, copies=10) > 0.9
