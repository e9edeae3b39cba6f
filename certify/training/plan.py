"""From what was asked for to a training that is fully decided and checked before it starts."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from certify.errors import UsageError
from certify.models.architectures import build_architecture, find_architecture
from certify.models.checkpoint_config import CONFIG, WEIGHTS
from certify.setup import pick_device
from certify.training.data import TrainingData, check_share, load_training_data
from certify.training.defaults import AUGMENTATIONS, defaults_for
from certify.training.normalization import parse_normalization, settle_normalization
from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.table import make_law, try_law
from smoothing.training import CropFlip, Objective, TrainingConfig, make_objective


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
        seed: Seed of everything: the initial weights, the held-out examples, the order, the noise.
        normalize: See `parse_normalization`.
        augment: A key of `AUGMENTATIONS`.
        held_out: Share of the training examples that is held out.
        device: For instance "cpu" or "cuda"; default: CUDA where there is one.
        precision: "fp32" or "bf16".
        channels_last: NHWC memory for image batches.
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
    seed: int = 0
    normalize: str = "none"
    augment: str | None = None
    held_out: float = 0.05
    device: str | None = None
    precision: str = "fp32"
    channels_last: bool = True
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

    @property
    def out(self) -> Path:
        """The checkpoint folder."""
        return self.options.out

    def build(self) -> torch.nn.Module:
        """Return the network with its initial weights, a function of the seed."""
        return build_architecture(
            self.architecture,
            num_classes=self.data.source.num_classes,
            input_shape=self.data.shape,
            mean=self.mean,
            std=self.std,
            seed=self.config.seed,
        )


def prepare_training(options: TrainOptions) -> TrainingPlan:
    """Check what was asked for, load the data, and fill in what suits them.

    Cheap checks come first, so that a typo is not found after a minute of loading. Nothing is written.

    Raises:
        InvalidArgumentError: If an option is unknown or out of range, or the destination holds a checkpoint already.
        DatasetError: If the data cannot be loaded.
    """
    check_destination(options.out, overwrite=options.overwrite)
    objective = make_objective(options.objective)
    parameters = {key: value for key, value in options.parameters if value is not None}
    try_law(options.noise, **parameters)
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
        seed=options.seed,
        precision=options.precision,
        channels_last=options.channels_last,
    )
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
    numbers = settle_normalization(normalization, data)
    plan = TrainingPlan(
        options=options,
        data=data,
        law=make_law(options.noise, data.shape, **parameters),
        objective=objective,
        config=config,
        architecture=options.architecture or defaults.architecture,
        mean=None if numbers is None else numbers[0],
        std=None if numbers is None else numbers[1],
        augment=augment,
        transform=AUGMENTATIONS[augment],
        device=device,
    )
    plan.build()  # an architecture that cannot take these inputs says so here
    return plan


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
