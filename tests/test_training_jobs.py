"""Long trainings: interrupted and resumed, selected, averaged, started from weights, taught by another model; recipes."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from certify.cli import main
from certify.errors import CertifyError, ModelError, RunMismatchError, UsageError
from certify.models import load_checkpoint, load_model
from certify.training import EpochRecord, TrainOptions, load_training_data, prepare_training, train_checkpoint
from certify.training.recipe import Recipe, find_recipe, read_recipes, recipes
from certify.training.resume import STATE_FILE, load_training
from certify.training.selection import Selection
from certify.training.teacher import PREDICTIONS_FILE, count_votes, predictions_for, with_pseudo_labels
from smoothing import Gaussian, SmoothedClassifier
from smoothing.errors import InvalidArgumentError
from smoothing.estimators import SequentialEstimator, thresholds
from smoothing.training import (
    OBJECTIVES,
    Batch,
    EpochDone,
    NoiseAugmentation,
    Trainer,
    TrainingConfig,
    TrainingError,
    make_objective,
)
from smoothing.training.averaging import WeightAverage
from smoothing.training.objective import Model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stripes(path: Path, n: int = 90, size: int = 8, classes: int = 3, seed: int = 7) -> Path:
    """8-bit images of one bright stripe each, whose place is the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = rng.integers(0, 60, (n, size, size, 1)).astype(np.uint8)
    for label in range(classes):
        images[labels == label, 2 * label : 2 * label + 2] += 180
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return stripes(tmp_path / "tiny.npz")


def options(tiny: Path, name: str = "model", **changes: Any) -> TrainOptions:
    base = TrainOptions(
        data=str(tiny),
        out=tiny.parent / name,
        architecture="mlp",
        parameters=(("sigma", 0.25),),
        epochs=5,
        batch_size=16,
        held_out=0.2,
        device="cpu",
    )
    return replace(base, **changes)


def weights_file(options: TrainOptions) -> bytes:
    return (options.out / "model.safetensors").read_bytes()


def interrupt_after(epoch: int) -> Any:
    def stop(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise KeyboardInterrupt

    return stop


# --- resuming ---


HARD = {
    "objective": "smoothadv",
    "settings": (("m", 2), ("steps", 2), ("warmup", 3)),
    "ema": 0.9,
    "clip": 1.0,
    "augment": "shift",
    "select": "acr",
    "select_every": 2,
    "select_images": 9,
    "select_votes": 32,
}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tiny: Path, optimizer: str) -> None:
    whole = options(tiny, "whole", optimizer=optimizer, learning_rate=0.01, **HARD)
    train_checkpoint(prepare_training(whole))
    parts = replace(whole, out=tiny.parent / "parts")
    for epoch in (1, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            train_checkpoint(prepare_training(parts), on_epoch=interrupt_after(epoch))
        assert (parts.out / STATE_FILE).exists()
        assert not (parts.out / "model.json").exists()
    epochs: list[int] = []
    result = train_checkpoint(prepare_training(parts), on_epoch=lambda record: epochs.append(record.epoch))
    assert epochs == [5]
    assert weights_file(parts) == weights_file(whole)
    assert [record.epoch for record in result.records] == [1, 2, 3, 4, 5]
    rows = [list(csv.DictReader((o.out / "train.csv").read_text().splitlines())) for o in (whole, parts)]
    for one, other in zip(*rows, strict=True):
        assert {k: v for k, v in one.items() if "second" not in k} == {
            k: v for k, v in other.items() if "second" not in k
        }
    assert sorted(path.name for path in parts.out.iterdir()) == [
        "model.json",
        "model.safetensors",
        "train.csv",
        "train.png",
    ]


def test_dropout_goes_on_where_it_was(tiny: Path) -> None:
    """The trainer by itself, with a network that draws from torch's global generator."""
    data = load_training_data(str(tiny), held_out=0.0)
    law, config = Gaussian((1, 8, 8), sigma=0.25), TrainingConfig(epochs=4, batch_size=16, learning_rate=0.05)

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3))

    whole = network()
    for _ in Trainer(whole, law, NoiseAugmentation(), config).fit(data.images, data.labels):
        pass
    first = Trainer(network(), law, NoiseAugmentation(), config)
    for event in first.fit(data.images, data.labels):
        if isinstance(event, EpochDone) and event.epoch == 1:
            break
    state = first.state_dict()
    torch.rand(7)
    resumed = network()
    second = Trainer(resumed, law, NoiseAugmentation(), config)
    second.load_state_dict(state)
    assert [e.epoch for e in second.fit(data.images, data.labels) if isinstance(e, EpochDone)] == [2, 3]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed"),
        ({"epochs": 6}, "epochs"),
        ({"objective": "direct"}, "objective"),
        ({"parameters": (("sigma", 0.5),)}, "law"),
        ({"ema": 0.5}, "ema"),
        ({"augment": "shift"}, "augmentation"),
        ({"select": "acr"}, "selection"),
    ],
)
def test_another_configuration_is_not_resumed(tiny: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(prepare_training(options(tiny)), on_epoch=interrupt_after(2))
    before = (tiny.parent / "model" / STATE_FILE).read_bytes()
    with pytest.raises(RunMismatchError, match=message) as caught:
        train_checkpoint(prepare_training(options(tiny, **changes)))
    assert "--overwrite to start anew" in str(caught.value)
    assert (tiny.parent / "model" / STATE_FILE).read_bytes() == before
    epochs: list[int] = []
    train_checkpoint(
        prepare_training(options(tiny, overwrite=True, **changes)), on_epoch=lambda record: epochs.append(record.epoch)
    )
    assert epochs[0] == 1
    assert not (tiny.parent / "model" / STATE_FILE).exists()


@pytest.mark.parametrize("damage", ["cut", "garbage", "pickle"])
def test_a_damaged_state_is_refused_and_runs_no_code(tiny: Path, damage: str) -> None:
    import pickle

    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(prepare_training(options(tiny)), on_epoch=interrupt_after(2))
    path = tiny.parent / "model" / STATE_FILE
    marker = tiny.parent / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(marker),))

    content = {"cut": path.read_bytes()[:-200], "garbage": b"x" * 100, "pickle": pickle.dumps(Evil())}[damage]
    path.write_bytes(content)
    with pytest.raises(CertifyError, match=r"training.pt is damaged .*--overwrite"):
        train_checkpoint(prepare_training(options(tiny)))
    assert not marker.exists()
    assert train_checkpoint(prepare_training(options(tiny, overwrite=True))).epoch == 5


def test_a_killed_training_loses_nothing_before_the_last_epoch(tiny: Path) -> None:
    arguments = (
        f"train --data {tiny} --arch mlp --sigma 0.25 --epochs 400 --batch-size 4 --device cpu --quiet "
        f"--held-out 0.2 --out {tiny.parent / 'killed'}"
    ).split()
    process = subprocess.Popen([sys.executable, "-m", "certify", *arguments])
    state = tiny.parent / "killed" / STATE_FILE
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = load_training(tiny.parent / "killed")
    assert saved is not None
    done = len(saved.records)
    assert done >= 1
    assert saved.trainer["epochs"] == done
    plan = prepare_training(options(tiny, "killed", epochs=400, batch_size=4, command=("certify", *arguments)))
    epochs: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(plan, on_epoch=lambda r: (epochs.append(r.epoch), interrupt_after(done + 2)(r)))  # type: ignore[func-returns-value]
    assert epochs == [done + 1, done + 2]


@dataclass(frozen=True)
class Breaking(NoiseAugmentation):
    """Noise augmentation whose loss is NaN from the third epoch on."""

    def __call__(self, model: Model, batch: Batch, law: Any, generator: torch.Generator) -> Any:
        loss, metrics = super().__call__(model, batch, law, generator)
        return loss * (math.nan if batch.epoch >= 2 else 1.0), metrics


def test_a_diverging_training_keeps_the_last_good_weights(tiny: Path) -> None:
    plan = prepare_training(options(tiny))
    text = r"the loss became nan in epoch 3 of 5.* The weights after epoch 2 are kept in .*training.pt.*--start"
    with pytest.raises(TrainingError, match=text) as caught:
        train_checkpoint(replace(plan, objective=Breaking()))
    assert (caught.value.epoch, math.isnan(caught.value.value)) == (2, True)
    saved = load_training(tiny.parent / "model")
    assert saved is not None
    assert saved.trainer["epochs"] == 2
    assert all(bool(value.isfinite().all()) for value in saved.trainer["model"].values())
    assert not (tiny.parent / "model" / "model.json").exists()
    # They can be trained on from.
    plan = prepare_training(options(tiny, "next", start=str(tiny.parent / "model"), learning_rate=0.001, epochs=1))
    for name, value in plan.build().state_dict().items():
        assert torch.equal(value, saved.trainer["model"][name])


# --- averaging, clipping, selection ---


def test_the_average_is_that_of_its_formula() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    average = WeightAverage([parameter], 0.5)
    expected = np.array([1.0, -2.0])
    for step, value in enumerate(([3.0, 0.0], [1.0, 1.0], [0.5, 2.0], [4.0, 4.0], [0.0, 0.0], [1.0, 0.0])):
        with torch.no_grad():
            parameter.copy_(torch.tensor(value))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * np.array(value)
    with average.applied():
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-6)
    assert parameter.tolist() == [1.0, 0.0]
    average.write()
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-6)


def test_gradients_are_clipped(tiny: Path) -> None:
    data = load_training_data(str(tiny), held_out=0.0)
    law = Gaussian((1, 8, 8), sigma=0.25)

    def moved(clip: float | None) -> float:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        config = TrainingConfig(
            epochs=1, batch_size=90, learning_rate=1.0, momentum=0.0, nesterov=False, weight_decay=0.0,
            schedule="step", clip=clip,
        )  # fmt: skip
        for _ in Trainer(model, law, NoiseAugmentation(), config).fit(data.images, data.labels):
            pass
        return float((torch.cat([p.detach().flatten() for p in model.parameters()]) - before).norm())

    free = moved(None)
    assert free > 0.2
    assert moved(0.1) == pytest.approx(0.1, rel=1e-4)
    assert moved(100.0) == free


def test_the_best_epoch_becomes_the_checkpoint(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {2: 0.3, 4: 0.9, 6: 0.5, 7: 0.9}
    seen: list[dict[str, Tensor]] = []

    def score(_self: Selection, model: nn.Module, *_args: Any, **_more: Any) -> float:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return list(scores.values())[len(seen) - 1]

    monkeypatch.setattr(Selection, "score", score)
    chosen = options(tiny, epochs=7, select="0.25", select_every=2, select_images=10)
    result = train_checkpoint(prepare_training(chosen))
    assert [(r.epoch, r.selection_score) for r in result.records if r.selection_score is not None] == list(
        scores.items()
    )
    assert result.epoch == 7  # of equal scores the later
    scores[7] = 0.1
    seen.clear()
    result = train_checkpoint(prepare_training(replace(chosen, out=tiny.parent / "second")))
    assert result.epoch == 4
    model, config = load_checkpoint(tiny.parent / "second")
    for name, value in model.state_dict().items():
        assert torch.equal(value, seen[1][name])
    assert config.training["epoch"] == 4
    assert config.training["selection_score"] == 0.9


def test_the_selection_score_is_that_of_the_certificates(tiny: Path) -> None:
    plan = prepare_training(options(tiny, epochs=3, learning_rate=0.1))
    train_checkpoint(plan)
    model, _ = load_checkpoint(plan.out)
    law, data = plan.law, plan.data
    smoothed = SmoothedClassifier(model, law, 3, batch_size=512)
    x = data.held_out_images[:10].float() / 255
    certificates = smoothed.certify(x, "l2", 16, 64, 0.01, seed=3, indices=range(10))
    right = [
        c.radius if c.prediction == y else -1.0
        for c, y in zip(certificates, data.held_out_labels.tolist(), strict=False)
    ]
    cpu = torch.device("cpu")
    acr = Selection("acr", images=10, votes=64).score(model, law, data, seed=3, device=cpu)
    assert acr == pytest.approx(sum(max(r, 0.0) for r in right) / 10)
    assert acr > 0.05
    # Sequential certification of the label, by the same votes at most: as many as fixed certifies, but for one on the edge.
    at = Selection("0.2", images=10, votes=64).score(model, law, data, seed=3, device=cpu)
    estimator = SequentialEstimator(thresholds(law, "l2", (0.2,)), alpha=0.01, cap=64)
    labels = data.held_out_labels.tolist()[:10]
    decided = smoothed.certify(x, "l2", seed=3, estimator=estimator, indices=range(10), labels=labels)
    assert at == sum(c.prediction == y and c.radius >= 0.2 for c, y in zip(decided, labels, strict=True)) / 10
    assert abs(at - sum(r >= 0.2 for r in right) / 10) <= 0.1
    assert 0 < at < 1 or min(c.votes for c in decided) < 64


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"select": "best"}, "select must be last, acr or a radius of at least 0, got select='best'"),
    ({"select": "acr", "held_out": 0.0}, "select=acr needs held-out images"),
    ({"select": "3.0"}, "256 votes certify a radius of at most"),
    ({"select": "acr", "select_every": 0}, "every must be at least 1"),
    ({"select": "acr", "select_votes": 2}, "votes must be at least 16"),
    ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
    ({"clip": 0.0}, "clip must be positive and finite"),
    ({"settings": (("m", "2"),)}, "objective gaussian takes no parameters, got m=2"),
    ({"objective": "macer", "noise": "laplace"}, "objective macer needs gaussian noise"),
    ({"objective": "cat-rs"}, "objective cat-rs needs the predictions .* --teacher MODEL"),
    ({"unlabelled": "digits"}, "unlabelled images need a teacher"),
    ({"teacher": "somewhere"}, "a teacher is of use with --unlabeled"),
    ({"teacher": "x", "unlabelled": "digits", "pseudo_weight": -1.0}, "weight of pseudo-labels must be at least 0"),
    ({"teacher": "x", "objective": "cat-rs", "teacher_votes": 0}, "teacher's votes must be at least 1"),
    ({"start": "/nowhere"}, "/nowhere does not exist"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_OPTIONS)
def test_bad_options_are_refused_before_anything_is_written(tiny: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidArgumentError, ModelError), match=message):
        prepare_training(options(tiny, **changes))
    assert not (tiny.parent / "model").exists()


# --- start and teacher ---


def test_fine_tuning_starts_from_the_weights(tiny: Path) -> None:
    first = options(tiny, "first", normalize="data")
    train_checkpoint(prepare_training(first))
    model, config = load_checkpoint(first.out)
    plan = prepare_training(options(tiny, "second", architecture=None, start=str(first.out), epochs=1))
    assert (plan.architecture, plan.mean) == ("mlp", config.mean)
    for name, value in plan.build().state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    train_checkpoint(plan)
    assert load_checkpoint(tiny.parent / "second")[1].training["start"]["model"] == str(first.out)
    # Other classes: a new last layer, the rest is kept.
    other = stripes(tiny.parent / "other.npz", classes=4)
    built = prepare_training(options(other, "third", start=str(first.out))).build().state_dict()
    same = {
        name
        for name, value in built.items()
        if torch.equal(value, model.state_dict()[name][: len(value)]) and value.shape == model.state_dict()[name].shape
    }
    different = set(built) - same
    assert len(different) == 2
    assert all(built[name].shape[0] == 4 for name in different)
    with pytest.raises(UsageError, match="the network must be that of the start, a mlp, got architecture=cnn"):
        prepare_training(options(tiny, "fourth", architecture="cnn", start=str(first.out)))


def teacher_of(tiny: Path, **changes: Any) -> str:
    chosen = options(tiny, "teacher", **{"learning_rate": 0.1, **changes})
    train_checkpoint(prepare_training(chosen))
    return str(chosen.out)


def test_predictions_are_the_shares_of_the_teachers_votes(tiny: Path) -> None:
    spec = teacher_of(tiny, epochs=1, learning_rate=0.005)  # hardly trained: votes differ
    data = load_training_data(str(tiny), held_out=0.2)
    cpu = torch.device("cpu")
    teacher = load_model(spec)
    steps: list[tuple[int, int]] = []
    (tiny.parent / "out").mkdir()

    def predict(votes: int) -> Tensor:
        return predictions_for(
            data, teacher, votes=votes, seed=0, device=cpu, folder=tiny.parent / "out",
            on_progress=lambda done, total: steps.append((done, total)),
        )  # fmt: skip

    found = predict(400)
    assert steps[-1] == (400, 400)
    assert found.shape == (72, 3)
    torch.testing.assert_close(found.sum(1), torch.ones(72))
    # An independent estimate: 400 votes of each, standard deviation at most 0.025 apiece; 6 of the difference's.
    law = Gaussian((1, 8, 8), sigma=0.25)
    assert isinstance(teacher.classifier, nn.Module)
    with torch.no_grad():
        for row in range(5):
            noisy = data.images[row].float() / 255 + law.sample(400, generator=seeded(row))
            share = torch.bincount(teacher.classifier(noisy).argmax(1), minlength=3) / 400
            assert float((share - found[row]).abs().max()) < 6 * 0.025 * 2**0.5
    steps.clear()
    assert torch.equal(predict(400), found)  # read from the folder
    assert steps == []
    assert not torch.equal(predict(20), found)
    assert steps[-1] == (20, 20)


def test_cat_rs_trains_with_a_teacher_and_resumes(tiny: Path) -> None:
    spec = teacher_of(tiny)
    chosen = options(tiny, objective="cat-rs", settings=(("m", "2"), ("steps", "1")), teacher=spec, teacher_votes=9)
    train_checkpoint(prepare_training(replace(chosen, out=tiny.parent / "whole")))
    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(prepare_training(chosen), on_epoch=interrupt_after(2))
    assert (chosen.out / PREDICTIONS_FILE).exists()
    train_checkpoint(prepare_training(chosen))
    assert weights_file(chosen) == weights_file(replace(chosen, out=tiny.parent / "whole"))
    assert not (chosen.out / PREDICTIONS_FILE).exists()
    assert load_checkpoint(chosen.out)[1].training["teacher_votes"] == 9


def test_self_training_adds_pseudo_labels(tiny: Path) -> None:
    spec = teacher_of(tiny)
    unlabelled = stripes(tiny.parent / "unlabelled.npz", n=60, seed=9)
    data = load_training_data(str(tiny), held_out=0.2)
    images = load_training_data(str(unlabelled), held_out=0.0).images
    teacher = load_model(spec)
    joined, extras = with_pseudo_labels(data, images, teacher, 0.25, device=torch.device("cpu"))
    assert (len(joined.images), len(joined.labels)) == (132, 132)
    assert torch.equal(joined.images[:72], data.images)
    assert extras.weights is not None
    assert extras.weights.tolist() == [1.0] * 72 + [0.25] * 60
    assert isinstance(teacher.classifier, nn.Module)
    with torch.no_grad():
        assert torch.equal(joined.labels[72:], teacher.classifier(images.float() / 255).argmax(1))
    result = train_checkpoint(
        prepare_training(options(tiny, teacher=spec, unlabelled=str(unlabelled), pseudo_weight=0.5, epochs=2))
    )
    recorded = load_checkpoint(result.out)[1].training
    assert (recorded["examples"], recorded["pseudo_labelled"], recorded["pseudo_weight"]) == (132, 60, 0.5)
    # Weight 0 is as if they were not there, but for the size of the batches.
    with pytest.raises(UsageError, match=r"unlabelled images must have shape \(1, 8, 8\)"):
        with_pseudo_labels(data, torch.zeros(3, 1, 9, 9), teacher, 1.0, device=torch.device("cpu"))


def test_a_teacher_that_refuses_an_image_gives_it_no_label(tiny: Path) -> None:
    teacher = load_model(teacher_of(tiny))

    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            scores = torch.zeros(len(x), 3)
            scores[x.flatten(1).mean(1) > 0.3] = torch.nan
            return scores

    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    counts = count_votes(replace(teacher, classifier=Silent()), images, 3, None, votes=1, device=torch.device("cpu"))
    assert counts.tolist() == [[1, 0, 0], [0, 0, 0]]


def test_teachers_of_other_classes_are_refused(tiny: Path) -> None:
    spec = teacher_of(tiny)
    other = stripes(tiny.parent / "other.npz", classes=4)
    with pytest.raises(UsageError, match=r"the teacher must have the 4 classes of .*, got 3 classes"):
        prepare_training(options(other, objective="cat-rs", teacher=spec))
    large = stripes(tiny.parent / "large.npz", size=9)
    with pytest.raises(UsageError, match=r"the teacher must take inputs of shape \(1, 9, 9\)"):
        prepare_training(options(large, objective="cat-rs", teacher=spec))
    with pytest.raises(CertifyError, match="no such file"):
        prepare_training(options(tiny, unlabelled=str(tiny.parent / "absent.npz"), teacher=spec))


# --- recipes ---


def test_every_recipe_is_complete_and_names_its_source() -> None:
    found = recipes()
    for recipe in found.values():
        assert recipe.source
        objective = make_objective(recipe.objective, **recipe.settings)
        objective.check_law(Gaussian((4,), sigma=recipe.sigma))
        names = {f.name for f in TrainingConfig.__dataclass_fields__.values()}
        TrainingConfig(**{key: value for key, value in recipe.train.items() if key in names})
    published = {
        recipe.method for recipe in found.values() if recipe.data == "mnist" and not recipe.name.endswith("fast")
    }
    assert {recipe.objective for recipe in found.values()} == set(OBJECTIVES)
    assert published >= {"gaussian", "stability", "smoothadv", "macer", "consistency", "smoothmix", "cat-rs"}
    for sigma in ("0.25", "0.5", "1"):
        for data in ("mnist", "fashion_mnist", "cifar10"):
            assert f"{data}-smoothadv-{sigma}" in found
            assert f"{data}-smoothadv-{sigma}-fast" in found


def test_published_recipes_say_what_was_published() -> None:
    recipe = find_recipe("mnist-smoothadv-0.5")
    objective = make_objective(recipe.objective, **recipe.settings)
    assert objective.describe()["parameters"] == {
        "m": 4, "attack": "pgd", "eps": 255 / 256, "steps": 10, "norm": "l2", "warmup": 10, "multi_noise": True,
        "consistency": 0.0, "entropy": 0.5,
    }  # fmt: skip
    assert recipe.train["epochs"] * objective.passes == 3960
    assert [find_recipe(f"mnist-consistency-{s}").settings["weight"] for s in ("0.25", "0.5", "1.0")] == [
        10.0,
        5.0,
        5.0,
    ]
    assert [find_recipe(f"mnist-smoothmix-{s}").settings["steps"] for s in ("0.25", "0.5", "1")] == [2, 4, 8]
    assert [find_recipe(f"cifar10-consistency-{s}").settings["weight"] for s in ("0.25", "0.5", "1")] == [
        20.0,
        10.0,
        10.0,
    ]


def test_fast_recipes_cost_at_most_a_tenth_of_the_published_ones() -> None:
    def passes(recipe: Recipe) -> int:
        epochs: int = recipe.train["epochs"]
        return epochs * make_objective(recipe.objective, **recipe.settings).passes

    for name in recipes():
        if name.startswith("mnist") and name.endswith("-fast") and "smoothadv" in name:
            assert 10 * passes(find_recipe(name)) <= passes(find_recipe(name.removesuffix("-fast"))), name


def test_a_recipe_from_the_command_line_and_what_overrides_it(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tiny.parent / "mine.toml"
    mine.write_text(
        f"""
        data = ["{tiny}"]
        sigmas = [0.25]
        source = "a test"
        [train]
        architecture = "mlp"
        epochs = 3
        batch_size = 16
        learning_rate = 0.05
        held_out = 0.1
        [methods.plain]
        objective = "gaussian"
        [methods.pair]
        objective = "consistency"
        settings = {{ m = 3, weight = 2.0 }}
        sigma."0.25".settings = {{ entropy = 0.1 }}
        """
    )

    def run(*more: str) -> dict[str, Any]:
        out = tiny.parent / f"out{len(list(tiny.parent.iterdir()))}"
        name = f"{mine}:{tiny}-pair-0.25"
        assert main(["train", "--recipe", name, "--out", str(out), "--json", "--quiet", "--device", "cpu", *more]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    plain = run()
    assert plain["objective"]["parameters"] == {"m": 3, "weight": 2.0, "entropy": 0.1}
    assert (plain["config"]["epochs"], plain["config"]["learning_rate"], plain["held_out"]) == (3, 0.05, 9)
    assert plain["passes"] == 81 * 3 * 3
    assert plain["noise"]["parameters"] == {"sigma": 0.25}
    changed = run("--epochs", "1", "--set", "m=2", "--sigma", "0.5", "--lr", "0.01", "--ema", "0.5")
    assert changed["objective"]["parameters"] == {"m": 2, "weight": 2.0, "entropy": 0.1}
    assert (changed["config"]["epochs"], changed["config"]["learning_rate"], changed["config"]["ema"]) == (1, 0.01, 0.5)
    assert changed["noise"]["parameters"] == {"sigma": 0.5}
    other = run("--objective", "direct", "--set", "m=2", "--epochs", "1")
    assert other["objective"] == {"name": "direct", "parameters": {"m": 2}}

    plainly = ["--data", str(tiny), "--sigma", "0.5"]
    base = ["train", "--out", str(tiny.parent / "bad")]
    for arguments, message in (
        (["--recipe", "mnist-smoothad-0.5"], "did you mean 'mnist-smoothadv-0.5'"),
        (["--recipe", str(mine)], "name one of them as"),
        (["--recipe", f"{mine}:x"], "got 'x'"),
        (["--recipe", str(tiny.parent / "absent.toml")], "cannot read the recipes"),
        (["--sigma", "0.5"], "data must be given"),
        ([*plainly, "--set", "m"], "--set must be KEY=VALUE"),
        (
            [*plainly, "--objective", "smoothadv", "--set", "k=1"],
            "objective smoothadv takes m=4",
        ),
        (
            [*plainly, "--objective", "smoothadv", "--set", "m=0"],
            "m must be an integer of at least 1",
        ),
    ):
        assert main([*base, *arguments]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert main(["train", "--data", str(tiny), "--sigma", "1"]) == 2
    assert "out must be given" in capsys.readouterr().err
    assert main(["train", "--list-recipes"]) == 0
    assert "mnist-smoothadv-0.5-fast  smoothadv(m=2" in capsys.readouterr().out


HEAD = 'data = ["a"]\nsigmas = [1]\nsource = "s"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "is not a TOML file"),
        ("data = []", "must hold data, sigmas"),
        (HEAD + "[methods.m]\n", "must hold data"),
        (
            HEAD + '[train]\nepoch = 3\n[methods.m]\nobjective = "gaussian"\n',
            "got epoch",
        ),
        (
            HEAD + '[methods.m]\nobjective = "gaussian"\nsettings = {m = 1}\n',
            "no parameters",
        ),
    ],
)
def test_recipe_files_are_checked(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        read_recipes(text, "file.toml")


def test_training_errors_name_epoch_and_value(tiny: Path) -> None:
    plan = prepare_training(options(tiny, learning_rate=1e30, warmup=0.0))
    with pytest.raises(TrainingError, match=r"training diverged: .* became (nan|inf|-inf) in epoch \d of 5") as caught:
        train_checkpoint(plan)
    assert not np.isfinite(caught.value.value)
