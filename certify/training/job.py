"""Runs a decided training and writes its checkpoint at the end, whole or not at all."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from certify.files import make_folder
from certify.models.base import NoiseSpec
from certify.models.checkpoint import save_checkpoint
from certify.models.checkpoint_config import CheckpointConfig
from certify.training.log import EpochRecord, TrainingLog
from certify.training.plan import TrainingPlan
from smoothing.training import EpochDone, Event, Trainer, accuracy

_EVALUATIONS = 2000
"""Noisy copies that the held-out accuracy is measured on, at least: few held-out examples get several copies each."""


@dataclass(frozen=True)
class TrainingResult:
    """What came out of a training.

    Attributes:
        out: The checkpoint folder.
        records: One row an epoch.
        clean_accuracy: Of the held-out examples, without noise; None where none are held out.
        noisy_accuracy: Of noisy copies of the held-out examples; None where none are held out.
        seconds: Wall time, evaluation included.
    """

    out: Path
    records: tuple[EpochRecord, ...]
    clean_accuracy: float | None
    noisy_accuracy: float | None
    seconds: float


def train_checkpoint(
    plan: TrainingPlan,
    *,
    on_event: Callable[[Event], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> TrainingResult:
    """Train, and write `model.safetensors`, `model.json` and `train.csv` into the plan's folder.

    The checkpoint is written at the end only. Whatever stops the training before (an interruption, a loss that
    diverges) leaves the folder without a checkpoint, or with the one that it held, and a partial log.

    Args:
        plan: See `prepare_training`.
        on_event: Called with every event of the trainer.
        on_epoch: Called with every row of the log, after it has been written.

    Raises:
        TrainingError: If the loss or the weights become NaN or infinite.
        CertifyError: If the folder cannot be written.
    """
    started = time.perf_counter()
    make_folder(plan.out)
    log = TrainingLog(plan.out)
    model = plan.build()
    trainer = Trainer(model, plan.law, plan.objective, plan.config, plan.device, transform=plan.transform)
    for event in trainer.fit(plan.data.images, plan.data.labels):
        if on_event is not None:
            on_event(event)
        if isinstance(event, EpochDone):
            record = EpochRecord(
                epoch=event.epoch + 1,
                learning_rate=event.learning_rate,
                loss=event.loss,
                noisy_accuracy=event.noisy_accuracy,
                held_out_noisy_accuracy=_held_out_accuracy(plan, model, noisy=True),
                images_per_second=event.images_per_second,
                seconds=event.seconds,
            )
            log.add(record)
            if on_epoch is not None:
                on_epoch(record)
    result = TrainingResult(
        plan.out,
        log.records,
        _held_out_accuracy(plan, model, noisy=False),
        log.records[-1].held_out_noisy_accuracy,
        time.perf_counter() - started,
    )
    save_checkpoint(plan.out, model, _checkpoint_config(plan, result))
    log.finish()
    return result


def _held_out_accuracy(plan: TrainingPlan, model: torch.nn.Module, *, noisy: bool) -> float | None:
    images = plan.data.held_out_images
    if len(images) == 0:
        return None
    return accuracy(
        model,
        images,
        plan.data.held_out_labels,
        plan.law if noisy else None,
        copies=min(-(-_EVALUATIONS // len(images)), 32),
        seed=plan.config.seed,
        precision=plan.config.precision,
        channels_last=plan.config.channels_last,
        device=plan.device,
    )


def _checkpoint_config(plan: TrainingPlan, result: TrainingResult) -> CheckpointConfig:
    data, last = plan.data, result.records[-1]
    training: dict[str, Any] = {
        "objective": plan.objective.describe(),
        **asdict(plan.config),
        "augmentation": None if plan.transform is None else asdict(plan.transform),
        "examples": len(data.labels),
        "data_source": data.source.source,
        "data_digest": data.source.digest(),
        "loss": last.loss,
        "noisy_accuracy": last.noisy_accuracy,
        "held_out": {
            "examples": len(data.held_out_labels),
            "clean_accuracy": result.clean_accuracy,
            "noisy_accuracy": result.noisy_accuracy,
        },
        "seconds": result.seconds,
        "device": str(plan.device),
        "torch_version": torch.__version__,
        "threads": torch.get_num_threads(),
        "command": list(plan.options.command),
    }
    return CheckpointConfig(
        architecture=plan.architecture,
        num_classes=data.source.num_classes,
        input_shape=data.shape,
        mean=plan.mean,
        std=plan.std,
        data=data.source.name,
        noise=NoiseSpec(plan.law.name, plan.law.parameters),
        training=training,
        class_names=data.source.class_names,
    )
