"""Trains a denoiser in front of frozen classifiers into a file; interrupted, it goes on after the last whole epoch."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from certify.denoising.checkpoint import FILE, DenoiserConfig, load_denoiser, other_sizes, save_denoiser
from certify.errors import CertifyError, UsageError
from certify.files import make_folder
from certify.laws import law_text
from certify.models import load_model
from certify.models.weights import on_meta
from certify.training.data import TrainingData, load_training_data
from certify.training.log import EpochRecord, TrainingLog
from certify.training.resume import SavedTraining, check_same, drop_training, load_training, save_training
from denoisers import DENOISERS, build_denoiser, sizes_of
from denoisers.training import DENOISING_OBJECTIVES, DenoisingObjective, DenoisingTask, make_denoising_objective
from smoothing.distributions.base import SmoothingDistribution
from smoothing.distributions.table import make_law
from smoothing.training import EpochDone, Event, Trainer, TrainingConfig


@dataclass(frozen=True)
class DenoiseOptions:
    """What a user asks for.

    Attributes:
        data: Data set name or path; its training part is used.
        out: Folder of the denoiser.
        classifiers: MODELs that are frozen behind it: one is the white-box case, several are surrogates.
        denoiser: A key of `denoisers.DENOISERS`.
        sizes: Depth or width by name, where they are not the table's (or, with `start`, not those of that denoiser); None
            counts as not named.
        objective: "mse", "stability" or "classification".
        mse_weight: Stability: weight of the squared error that is added.
        start: A trained denoiser to go on from ("mse, then fine-tune"); None for fresh weights.
        noise: Name of the law.
        parameters: Its parameters.
        data_root: Folder of the data sets.
        config: Length, optimiser, schedule.
        maximum: Train on at most this many images; None for all.
        device: Where to train.
        trust_pickle: Unpickle model files that need it.
        overwrite: Replace a denoiser or an unfinished training of another configuration in the folder.
        command: The command line, for the record.
    """

    data: str
    out: Path
    classifiers: tuple[str, ...] = ()
    denoiser: str = "dncnn-small"
    sizes: tuple[tuple[str, int | None], ...] = ()
    objective: str = "mse"
    mse_weight: float = 0.0
    start: Path | None = None
    noise: str = "gaussian"
    parameters: tuple[tuple[str, float | None], ...] = ()
    data_root: Path | None = None
    config: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=5, batch_size=128, optimizer="adam", learning_rate=1e-3, weight_decay=1e-4
        )
    )
    maximum: int | None = None
    device: torch.device | None = None
    trust_pickle: bool = False
    overwrite: bool = False
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class DenoisePlan:
    """A training of a denoiser, fully decided."""

    options: DenoiseOptions
    data: TrainingData
    law: SmoothingDistribution
    task: DenoisingTask
    objective: DenoisingObjective
    digests: tuple[str, ...]
    start_digest: str | None
    sizes: dict[str, int]

    @property
    def sigma(self) -> float:
        """Noise level that the denoiser is told."""
        return self.task.sigma

    @property
    def other_sizes(self) -> dict[str, int]:
        """Sizes that are not the table's."""
        return other_sizes(self.options.denoiser, self.sizes)

    @property
    def architecture(self) -> str:
        """The network in a few words."""
        return self.config({}).architecture()

    def config(self, training: dict[str, Any]) -> DenoiserConfig:
        """Return what is recorded beside the weights.

        Args:
            training: How it was trained, for people.
        """
        options = self.options
        return DenoiserConfig(
            options.denoiser,
            self.data.shape[0],
            self.law.name,
            dict(self.law.parameters),
            self.sigma,
            options.data,
            training,
            self.sizes,
        )

    def identity(self) -> dict[str, Any]:
        """Return what defines the training."""
        return {
            "data": self.options.data,
            "data_digest": self.data.source.digest(),
            "images": len(self.data.labels),
            "denoiser": self.options.denoiser,
            **({"sizes": self.other_sizes} if self.other_sizes else {}),
            "objective": self.objective.describe(),
            "classifiers": list(self.digests),
            "start": self.start_digest,
            "law": self.law.describe(),
            "config": {key: value for key, value in asdict(self.options.config).items() if key != "report_seconds"},
        }


def prepare_denoising(options: DenoiseOptions) -> DenoisePlan:
    """Check everything and load what is needed; cheap checks first.

    Raises:
        UsageError: If an option is unknown or out of range.
        ModelError: If a classifier or the denoiser to start from cannot be used.
        DatasetError: If the data cannot be loaded, or do not fit.
    """
    if options.denoiser not in DENOISERS:
        raise UsageError(f"denoiser must be one of {', '.join(DENOISERS)}, got denoiser={options.denoiser!r}")
    given = {name: value for name, value in options.sizes if value is not None}
    sizes_of(options.denoiser, given)
    if options.objective not in DENOISING_OBJECTIVES:
        raise UsageError(
            f"objective must be one of {', '.join(DENOISING_OBJECTIVES)}, got objective={options.objective!r}"
        )
    if options.mse_weight and options.objective != "stability":
        raise UsageError(f"mse_weight belongs to the objective stability, got it with {options.objective}")
    if DENOISING_OBJECTIVES[options.objective].needs_classifier and not options.classifiers:
        raise UsageError(f"the objective {options.objective} needs --classifier MODEL, once or several times")
    if options.maximum is not None and options.maximum < 1:
        raise UsageError(f"the number of images must be at least 1, got {options.maximum}")
    if (options.out / FILE).exists() and not options.overwrite:
        raise UsageError(f"{options.out} already holds a denoiser; choose another --out or give --overwrite")
    data = load_training_data(options.data, root=options.data_root, held_out=0.05, seed=options.config.seed)
    if len(data.shape) != 3:
        raise UsageError(f"denoisers take images (channels, height, width), but {options.data} has inputs {data.shape}")
    if options.maximum is not None:
        data = TrainingData(
            data.source,
            data.images[: options.maximum],
            data.labels[: options.maximum],
            data.held_out_images,
            data.held_out_labels,
        )
    law = make_law(options.noise, data.shape, **{k: v for k, v in options.parameters if v is not None})
    if law.sigma is None:
        raise UsageError(f"a denoiser is told a noise level, but {law_text(law)} has no finite standard deviation")
    models = [
        load_model(spec, num_classes=data.source.num_classes, input_shape=data.shape, trust_pickle=options.trust_pickle)
        for spec in options.classifiers
    ]
    network, start_digest, sizes = _network(options, data.shape[0], given)
    device = options.device or torch.device("cpu")
    for model in models:
        if isinstance(model.classifier, nn.Module):
            model.classifier.to(device)
    task = DenoisingTask(network, [model.classifier for model in models], law.sigma)
    extra = {"mse_weight": options.mse_weight} if options.mse_weight else {}
    objective = make_denoising_objective(options.objective, task, **extra)
    return DenoisePlan(
        options, data, law, task, objective, tuple(model.digest for model in models), start_digest, sizes
    )


def _network(
    options: DenoiseOptions, channels: int, given: dict[str, int]
) -> tuple[nn.Module, str | None, dict[str, int]]:
    """Return the network, the digest of the one that it goes on from, and its sizes."""
    if options.start is None:
        _check_memory(options, channels, given)
        # Weights follow from the seed; the global random state is left alone.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(options.config.seed)
            network = build_denoiser(options.denoiser, channels, given)
        return network, None, sizes_of(options.denoiser, given)
    network, config, digest = load_denoiser(options.start)
    if (config.denoiser, config.channels) != (options.denoiser, channels):
        raise UsageError(
            f"{options.start} is a {config.denoiser} for {config.channels} channels, but {options.denoiser} for {channels} "
            "is to be trained"
        )
    sizes = sizes_of(config.denoiser, config.sizes)
    for name, value in given.items():
        if sizes[name] != value:
            raise UsageError(
                f"{options.start} has {name} {sizes[name]}, got --{name} {value}: leave it out, or train anew"
            )
    return network, digest, sizes


def _check_memory(options: DenoiseOptions, channels: int, given: dict[str, int]) -> None:
    """Check that a fresh network can be trained in this machine's memory, where that is known, before any is asked for.

    Raises:
        UsageError: If its weights, gradients and Adam's two moments are larger than all of it.
    """
    with on_meta():
        weights = sum(parameter.numel() for parameter in build_denoiser(options.denoiser, channels, given).parameters())
    on_cpu = options.device is None or options.device.type == "cpu"
    needed = 4 * weights * (4 if on_cpu else 1)
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return
    if needed > there:
        known = sizes_of(options.denoiser, given)
        sizes = " and ".join(f"{name}={value:,}" for name, value in known.items())
        raise UsageError(
            f"{options.denoiser} with {sizes} has {weights:,} weights, whose training takes {needed / 2**30:,.0f} GiB, but "
            f"this machine has {there / 2**30:,.0f} GiB: lower {' or '.join(f'--{name}' for name in known)}"
        )


def train_denoiser(
    plan: DenoisePlan,
    *,
    on_event: Callable[[Event], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> Path:
    """Train, and write `denoiser.safetensors` and `train.csv` into the plan's folder; return the file.

    Raises:
        TrainingError: If the loss or the weights become NaN or infinite.
        RunMismatchError: If the folder holds an interrupted training of another configuration.
        CertifyError: If the folder cannot be written.
    """
    options = plan.options
    make_folder(options.out)
    identity = plan.identity()
    started = time.perf_counter()
    saved = _unfinished(options, identity)
    log = TrainingLog(options.out, () if saved is None else saved.records)
    trainer = Trainer(plan.task, plan.law, plan.objective, options.config, options.device)
    if saved is not None:
        trainer.load_state_dict(saved.trainer)
        started -= saved.seconds
    for event in trainer.fit(plan.data.images, plan.data.labels):
        if on_event is not None:
            on_event(event)
        if isinstance(event, EpochDone):
            record = EpochRecord(
                event.epoch + 1,
                event.learning_rate,
                event.loss,
                event.noisy_accuracy,
                None,
                event.images_per_second,
                event.seconds,
            )
            log.add(record)
            seconds = time.perf_counter() - started
            save_training(options.out, SavedTraining(identity, trainer.state_dict(), log.records, None, seconds))
            if on_epoch is not None:
                on_epoch(record)
    last = log.records[-1]
    config = plan.config(
        {
            "objective": plan.objective.describe(),
            "classifiers": list(options.classifiers),
            "start": None if options.start is None else str(options.start),
            "epochs": options.config.epochs,
            "images": len(plan.data.labels),
            "noisy_accuracy": None if last.noisy_accuracy != last.noisy_accuracy else last.noisy_accuracy,
            "seconds": round(time.perf_counter() - started, 1),
            "command": list(options.command),
        }
    )
    path = save_denoiser(options.out, plan.task.denoiser, config)
    log.finish()
    drop_training(options.out)
    return path


def _unfinished(options: DenoiseOptions, identity: dict[str, Any]) -> SavedTraining | None:
    try:
        saved = load_training(options.out)
        if saved is not None:
            check_same(saved.identity, identity, options.out)
    except CertifyError:
        if not options.overwrite:
            raise
        drop_training(options.out)
        return None
    return saved
