"""Runs a decided training and writes its checkpoint at the end, whole or not at all."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from certify.errors import CertifyError
from certify.files import make_folder
from certify.laws import law_text
from certify.models.base import NoiseSpec
from certify.models.checkpoint import save_checkpoint
from certify.models.checkpoint_config import CheckpointConfig
from certify.training.curve import write_curve
from certify.training.data import TrainingData
from certify.training.log import EpochRecord, TrainingLog
from certify.training.plan import TrainingPlan
from certify.training.resume import STATE_FILE, SavedTraining, check_same, drop_training, load_training, save_training
from certify.training.teacher import PREDICTIONS_FILE, Extras, predictions_for, with_pseudo_labels
from smoothing.training import EpochDone, Event, Trainer, TrainingError, accuracy
from smoothing.training.processes import Processes

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
        seconds: Wall time, evaluation and interrupted attempts included.
        epoch: The epoch whose weights these are, from 1.
        passes: Forward and backward passes over examples, in all.
    """

    out: Path
    records: tuple[EpochRecord, ...]
    clean_accuracy: float | None
    noisy_accuracy: float | None
    seconds: float
    epoch: int
    passes: int


def train_checkpoint(
    plan: TrainingPlan,
    *,
    on_event: Callable[[Event], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_teacher: Callable[[int, int], None] | None = None,
) -> TrainingResult:
    """Train, and write `model.safetensors`, `model.json`, `train.csv` and `train.png` into the plan's folder.

    After every epoch the whole state of the training goes into `training.pt`. Whatever stops it (an interruption, a
    kill, a loss that diverges), calling this again with the same plan goes on after the last whole epoch, and ends with
    the weights that an uninterrupted training would have had, bit for bit on a CPU. The checkpoint itself is written at
    the end only: until then the folder has none, or the one that it held; then `training.pt` is removed.

    Of several processes (`smoothing.training.processes`) the leading one calls this, the others `follow_training`.

    Args:
        plan: See `prepare_training`.
        on_event: Called with every event of the trainer.
        on_epoch: Called with every row of the log, after it has been written.
        on_teacher: Called with the votes of the teacher that are done, and how many there will be.

    Raises:
        TrainingError: If the loss or the weights become NaN or infinite.
        RunMismatchError: If the folder holds an interrupted training of another configuration.
        CertifyError: If the folder cannot be written, or what it holds is damaged.
    """
    processes = Processes.current()
    started = time.perf_counter()
    make_folder(plan.out)
    identity = plan.identity()
    saved = processes.tell(_unfinished(plan, identity))
    log = TrainingLog(plan.out, () if saved is None else saved.records)
    data, extras = _examples(plan, on_teacher)
    processes.wait()  # the predictions of a teacher are in the folder now
    model = plan.build()
    trainer = Trainer(model, plan.law, plan.objective, plan.config, plan.device, transform=plan.transform)
    best = None
    if saved is not None:
        trainer.load_state_dict(saved.trainer)
        best = saved.best
        started -= saved.seconds
    try:
        for event in trainer.fit(data.images, data.labels, weights=extras.weights, predictions=extras.predictions):
            if on_event is not None:
                on_event(event)
            if isinstance(event, EpochDone):
                record, best = _look(plan, trainer, event, best)
                log.add(record)
                seconds = time.perf_counter() - started
                save_training(plan.out, SavedTraining(identity, trainer.state_dict(), log.records, best, seconds))
                if on_epoch is not None:
                    on_epoch(record)
    except TrainingError as error:
        if not log.records:
            raise
        raise TrainingError(
            f"{error}. The weights after epoch {len(log.records)} are kept in {plan.out / STATE_FILE}: "
            f"--start {plan.out} trains on from them, into another folder",
            epoch=error.epoch,
            step=error.step,
            value=error.value,
        ) from error
    if best is not None:
        model.load_state_dict(best["model"])
    chosen = log.records[(best["epoch"] if best is not None else len(log.records)) - 1]
    result = TrainingResult(
        plan.out,
        log.records,
        _held_out_accuracy(plan, model, noisy=False),
        chosen.held_out_noisy_accuracy,
        time.perf_counter() - started,
        chosen.epoch,
        len(data.labels) * plan.objective.passes * plan.config.epochs,
    )
    save_checkpoint(plan.out, model, _checkpoint_config(plan, result, len(data.labels)))
    log.finish()
    write_curve(plan.out, log.records, f"{plan.objective.name}, {plan.data.source.name}, {law_text(plan.law)}")
    drop_training(plan.out)
    (plan.out / PREDICTIONS_FILE).unlink(missing_ok=True)
    return result


def follow_training(plan: TrainingPlan) -> None:
    """Train along with the leading process, from the state that it tells, and write nothing.

    Args:
        plan: The same as that of the leading process, but for the device.

    Raises:
        TrainingError: If the loss or the weights become NaN or infinite.
    """
    processes = Processes.current()
    saved: SavedTraining | None = processes.tell(None)
    processes.wait()
    data, extras = _examples(plan, None)
    trainer = Trainer(plan.build(), plan.law, plan.objective, plan.config, plan.device, transform=plan.transform)
    if saved is not None:
        trainer.load_state_dict(saved.trainer)
    for _ in trainer.fit(data.images, data.labels, weights=extras.weights, predictions=extras.predictions):
        pass


def _unfinished(plan: TrainingPlan, identity: dict[str, Any]) -> SavedTraining | None:
    """Return the interrupted training in the folder, if it is this one; with `overwrite`, another one is dropped."""
    try:
        saved = load_training(plan.out)
        if saved is not None:
            check_same(saved.identity, identity, plan.out)
    except CertifyError:
        if not plan.options.overwrite:
            raise
        drop_training(plan.out)
        return None
    return saved


def _examples(plan: TrainingPlan, on_teacher: Callable[[int, int], None] | None) -> tuple[TrainingData, Extras]:
    """Return the examples, with what the teacher adds to them."""
    options = plan.options
    if plan.teacher is not None and plan.unlabelled is not None:
        return with_pseudo_labels(plan.data, plan.unlabelled, plan.teacher, options.pseudo_weight, device=plan.device)
    if plan.teacher is not None and plan.objective.needs_prediction:
        predictions = predictions_for(
            plan.data,
            plan.teacher,
            votes=options.teacher_votes,
            seed=options.seed,
            device=plan.device,
            folder=plan.out,
            on_progress=on_teacher,
        )
        return plan.data, Extras(predictions=predictions)
    return plan.data, Extras()


def _look(
    plan: TrainingPlan, trainer: Trainer, event: EpochDone, best: dict[str, Any] | None
) -> tuple[EpochRecord, dict[str, Any] | None]:
    """Look at the weights after an epoch; return the log's row and the best epoch so far."""
    epoch, model = event.epoch + 1, trainer.model
    score = None
    with trainer.averaged():
        noisy = _held_out_accuracy(plan, model, noisy=True)
        if plan.selection.due(epoch, plan.config.epochs):
            score = plan.selection.score(model, plan.law, plan.data, seed=plan.config.seed, device=plan.device)
            if best is None or score >= best["score"]:  # of equal ones the later: it was trained for longer
                weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
                best = {"epoch": epoch, "score": score, "model": weights}
    record = EpochRecord(
        epoch=epoch,
        learning_rate=event.learning_rate,
        loss=event.loss,
        noisy_accuracy=event.noisy_accuracy,
        held_out_noisy_accuracy=noisy,
        images_per_second=event.images_per_second,
        seconds=event.seconds,
        selection_score=score,
    )
    return record, best


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


def _checkpoint_config(plan: TrainingPlan, result: TrainingResult, examples: int) -> CheckpointConfig:
    data, last, options = plan.data, result.records[result.epoch - 1], plan.options
    training: dict[str, Any] = {
        "objective": plan.objective.describe(),
        **asdict(plan.config),
        "augmentation": None if plan.transform is None else asdict(plan.transform),
        "recipe": options.recipe,
        "examples": examples,
        "pseudo_labelled": examples - len(data.labels),
        "pseudo_weight": options.pseudo_weight if plan.unlabelled is not None else None,
        "teacher": None if plan.teacher is None else {"model": plan.teacher.spec, "digest": plan.teacher.digest},
        "teacher_votes": options.teacher_votes if plan.objective.needs_prediction else None,
        "start": None if plan.start is None else {"model": plan.start.path, "digest": plan.start.digest},
        "selection": asdict(plan.selection),
        "epoch": result.epoch,
        "selection_score": last.selection_score,
        "passes": result.passes,
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
