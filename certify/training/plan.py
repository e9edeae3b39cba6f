"""From what was asked for to a training that is fully decided and checked before it starts."""

import dataclasses
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from certify.errors import UsageError
from certify.models.architectures import build_architecture, find_architecture
from certify.models.base import LoadedModel
from certify.models.checkpoint_config import CONFIG, WEIGHTS
from certify.models.load import load_model
from certify.setup import pick_device
from certify.training.data import TrainingData, check_share, load_training_data
from certify.training.defaults import AUGMENTATIONS, defaults_for
from certify.training.normalization import parse_normalization, settle_normalization
from certify.training.selection import Selection, check_selection
from certify.training.start import Start, load_start
from certify.training.teacher import check_teacher
from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.table import make_law, try_law
from smoothing.training import CropFlip, Objective, TrainingConfig, make_objective, parse_parameters


@dataclass(frozen=True)
class TrainOptions:
    """What a user asks for; None means "as suits the data set" (`certify.training.defaults`).

    Attributes:
        data: Data set name or path; its training part is used.
        out: Checkpoint folder.
        data_root: Folder of the data sets.
        architecture: A key of `ARCHITECTURES`.
        noise: Name of the law.
        parameters: The law's parameters by name; those that are None count as not given.
        objective: A key of `smoothing.training.OBJECTIVES`.
        settings: Its parameters by name, as values or as text.
        epochs: Passes over the training set.
        batch_size: Examples in a step.
        learning_rate: Highest rate of the schedule.
        optimizer: "sgd" or "adam".
        momentum: SGD's momentum.
        nesterov: Nesterov's momentum in SGD.
        weight_decay: L2 penalty.
        schedule: "onecycle", "step" or "cosine".
        warmup: One-cycle: share of the steps in which the rate rises.
        decay_epochs: Step: epochs between two drops.
        decay_factor: Step: factor of each drop.
        clip: Largest length of a gradient, or None.
        ema: Decay of the moving average of the weights, 0 for none.
        seed: Seed of everything: the initial weights, the held-out examples, the order, the noise.
        normalize: See `parse_normalization`.
        augment: A key of `AUGMENTATIONS`.
        held_out: Share of the training examples that is held out.
        device: For instance "cpu" or "cuda"; default: CUDA where there is one.
        precision: "fp32" or "bf16".
        channels_last: NHWC memory for image batches.
        start: Checkpoint folder whose weights the training starts from (pre-training, then fine-tuning).
        unlabelled: Data set whose training images are added with pseudo-labels of the teacher.
        pseudo_weight: What a pseudo-labelled example counts.
        teacher: MODEL that gives pseudo-labels, or the predictions that an objective needs.
        teacher_votes: Noisy copies of each image that the teacher's predictions are counted from.
        select: "last", "acr" or a radius; see `certify.training.selection`.
        select_every: Epochs between two looks.
        select_images: Held-out images that are looked at.
        select_votes: Votes for each of them.
        recipe: Name of the recipe that the values came from, for the record.
        overwrite: Replace a checkpoint that is in `out` already, once the new one is there.
        command: The command line, for the record.
    """

    data: str
    out: Path
    data_root: Path | None = None
    architecture: str | None = None
    noise: str = "gaussian"
    parameters: tuple[tuple[str, float | None], ...] = ()
    objective: str = "gaussian"
    settings: tuple[tuple[str, Any], ...] = ()
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    schedule: str = "onecycle"
    warmup: float = 0.2
    decay_epochs: int | None = None
    decay_factor: float = 0.1
    clip: float | None = None
    ema: float = 0.0
    seed: int = 0
    normalize: str = "none"
    augment: str | None = None
    held_out: float = 0.05
    device: str | None = None
    precision: str = "fp32"
    channels_last: bool = True
    start: str | None = None
    unlabelled: str | None = None
    pseudo_weight: float = 1.0
    teacher: str | None = None
    teacher_votes: int = 100
    select: str = "last"
    select_every: int = 5
    select_images: int = 200
    select_votes: int = 256
    recipe: str | None = None
    overwrite: bool = False
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingPlan:
    """One training, fully decided.

    Attributes:
        options: What was asked for.
        data: The examples.
        law: The noise.
        objective: What is minimised.
        config: Length, optimiser, schedule, seed, arithmetic.
        architecture: The network's name.
        mean: Mean of each channel for the normalisation, or None.
        std: Standard deviation of each channel, or None.
        augment: Name of the augmentation.
        transform: The augmentation, or None.
        device: Where to train.
        selection: Which epoch's weights become the checkpoint.
        start: Weights to start from, or None.
        teacher: The loaded teacher, or None.
        unlabelled: Images without labels, or None.
    """

    options: TrainOptions
    data: TrainingData
    law: SmoothingDistribution
    objective: Objective
    config: TrainingConfig
    architecture: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    augment: str
    transform: CropFlip | None
    device: torch.device
    selection: Selection = field(default_factory=Selection)
    start: Start | None = None
    teacher: LoadedModel | None = None
    unlabelled: torch.Tensor | None = None

    @property
    def out(self) -> Path:
        """The checkpoint folder."""
        return self.options.out

    def build(self) -> torch.nn.Module:
        """Return the network with its initial weights: a function of the seed, or those of the start."""
        model = build_architecture(
            self.architecture,
            num_classes=self.data.source.num_classes,
            input_shape=self.data.shape,
            mean=self.mean,
            std=self.std,
            seed=self.config.seed,
        )
        if self.start is not None:
            self.start.fill(model, self.data.source.num_classes)
        return model

    def identity(self) -> dict[str, Any]:
        """Return what defines the training, JSON-ready: an interrupted one goes on only if all of it is the same."""
        config = asdict(self.config)
        del config["report_seconds"]
        teacher = None if self.teacher is None else self.teacher.digest
        unlabelled = None if self.unlabelled is None else f"{self.options.unlabelled}, {len(self.unlabelled)} images"
        content = {
            "data": self.data.source.digest(),
            "examples": len(self.data.labels),
            "held_out": len(self.data.held_out_labels),
            "num_classes": self.data.source.num_classes,
            "law": self.law.identity,
            "objective": self.objective.describe(),
            "config": config,
            "architecture": self.architecture,
            "mean": self.mean,
            "std": self.std,
            "augmentation": None if self.transform is None else asdict(self.transform),
            "start": None if self.start is None else self.start.digest,
            "teacher": teacher,
            "teacher_votes": self.options.teacher_votes if self.objective.needs_prediction else None,
            "unlabelled": unlabelled,
            "pseudo_weight": self.options.pseudo_weight if unlabelled is not None else None,
            "selection": asdict(self.selection),
        }
        same: dict[str, Any] = json.loads(json.dumps(content))  # as it comes back from disk
        return same


def prepare_training(options: TrainOptions) -> TrainingPlan:
    """Check what was asked for, load the data, and fill in what suits them.

    Cheap checks come first, so that a typo is not found after a minute of loading. Nothing is written.

    Raises:
        InvalidArgumentError: If an option is unknown or out of range, or the destination holds a checkpoint already.
        DatasetError: If the data cannot be loaded.
    """
    check_destination(options.out, overwrite=options.overwrite)
    objective = settle_objective(options)
    check_helpers(options, objective)
    selection = Selection(options.select, options.select_every, options.select_images, options.select_votes)
    parameters = {key: value for key, value in options.parameters if value is not None}
    trial = try_law(options.noise, **parameters)
    if trial is not None:
        objective.check_law(trial)
        check_selection(selection, trial, options.held_out)
    if options.architecture is not None:
        find_architecture(options.architecture)
    normalization = parse_normalization(options.normalize)
    check_share(options.held_out)
    if options.augment is not None and options.augment not in AUGMENTATIONS:
        raise UsageError(f"augment must be one of {', '.join(AUGMENTATIONS)}, got augment={options.augment!r}")
    device = pick_device(options.device)
    config = TrainingConfig(
        epochs=1 if options.epochs is None else options.epochs,
        batch_size=1 if options.batch_size is None else options.batch_size,
        learning_rate=1.0 if options.learning_rate is None else options.learning_rate,
        optimizer=options.optimizer,
        momentum=options.momentum,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
        schedule=options.schedule,
        warmup=options.warmup,
        decay_epochs=options.decay_epochs,
        decay_factor=options.decay_factor,
        clip=options.clip,
        ema=options.ema,
        seed=options.seed,
        precision=options.precision,
        channels_last=options.channels_last,
    )
    start = None if options.start is None else load_start(options.start)
    teacher = None if options.teacher is None else load_model(options.teacher)
    data = load_training_data(options.data, root=options.data_root, held_out=options.held_out, seed=options.seed)
    defaults = defaults_for(options.data, data.shape)
    config = dataclasses.replace(
        config,
        epochs=defaults.epochs if options.epochs is None else options.epochs,
        batch_size=defaults.batch_size if options.batch_size is None else options.batch_size,
        learning_rate=defaults.learning_rate if options.learning_rate is None else options.learning_rate,
    )
    augment = defaults.augment if options.augment is None else options.augment
    if augment != "none" and len(data.shape) != 3:
        raise UsageError(f"augment needs images (channels, height, width), got inputs of shape {data.shape}")
    architecture = options.architecture or (start.architecture if start is not None else defaults.architecture)
    numbers = settle_normalization(normalization, data)
    if start is not None and normalization is None:
        numbers = None if start.mean is None or start.std is None else (start.mean, start.std)
    if start is not None and architecture != start.architecture:
        raise UsageError(
            f"the network must be that of the start, a {start.architecture}, got architecture={architecture}"
        )
    if teacher is not None:
        check_teacher(teacher, data)
    unlabelled = None
    if options.unlabelled is not None:
        unlabelled = load_training_data(options.unlabelled, root=options.data_root, held_out=0.0).images
    law = make_law(options.noise, data.shape, **parameters)
    objective.check_law(law)
    check_selection(selection, law, options.held_out)
    plan = TrainingPlan(
        options=options,
        data=data,
        law=law,
        objective=objective,
        config=config,
        architecture=architecture,
        mean=None if numbers is None else numbers[0],
        std=None if numbers is None else numbers[1],
        augment=augment,
        transform=AUGMENTATIONS[augment],
        device=device,
        selection=selection,
        start=start,
        teacher=teacher,
        unlabelled=unlabelled,
    )
    plan.build()  # an architecture that cannot take these inputs says so here
    return plan


def settle_objective(options: TrainOptions) -> Objective:
    """Return the objective with its parameters.

    Raises:
        InvalidArgumentError: If the objective or a parameter is unknown, or a value is out of range.
    """
    texts = {key: value for key, value in options.settings if isinstance(value, str)}
    values = {key: value for key, value in options.settings if not isinstance(value, str)}
    return make_objective(options.objective, **values, **parse_parameters(options.objective, texts))


def check_helpers(options: TrainOptions, objective: Objective) -> None:
    """Check that teacher and unlabelled images are there where they are needed, and only there.

    Raises:
        UsageError: If they are not, or the weight of pseudo-labels or the number of votes is out of range.
    """
    if objective.needs_prediction and options.teacher is None:
        raise UsageError(
            f"objective {objective.name} needs the predictions of a classifier that was trained with gaussian noise: "
            "give it as --teacher MODEL"
        )
    if options.unlabelled is not None and options.teacher is None:
        raise UsageError("unlabelled images need a teacher to label them: give it as --teacher MODEL")
    if options.unlabelled is not None and objective.needs_prediction:
        raise UsageError(f"objective {objective.name} cannot be combined with unlabelled images")
    if options.teacher is not None and options.unlabelled is None and not objective.needs_prediction:
        raise UsageError(
            f"a teacher is of use with --unlabeled or with an objective that needs predictions, got teacher="
            f"{options.teacher!r} with objective {objective.name} and no unlabelled images"
        )
    if not 0 <= options.pseudo_weight < float("inf"):
        raise UsageError(
            f"the weight of pseudo-labels must be at least 0 and finite, got pseudo_weight={options.pseudo_weight}"
        )
    if options.teacher_votes < 1:
        raise UsageError(f"the teacher's votes must be at least 1, got teacher_votes={options.teacher_votes}")


def check_destination(out: Path, *, overwrite: bool) -> None:
    """Refuse a destination that holds a checkpoint already, unless it is to be overwritten.

    Raises:
        UsageError: If it does.
    """
    found = [name for name in (CONFIG, WEIGHTS) if (out / name).exists()]
    if found and not overwrite:
        raise UsageError(
            f"{out} holds a checkpoint already ({', '.join(found)}): choose another --out, or give --overwrite to "
            "replace it once the new one is trained"
        )
