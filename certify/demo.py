"""The whole story on an embedded data set: train with noise, certify, report."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from certify.report import Report, write_report
from certify.rundir import Row
from certify.runner import RunPlan, execute
from certify.setup import RunOptions, prepare
from certify.training import TrainOptions, prepare_training, train_checkpoint
from certify.training.progress import TrainingObserver

DATA = "digits"
INPUTS = 150
"""Held-out images that are certified; at least 100, so that the table means something."""


@dataclass(frozen=True)
class DemoSettings:
    """What the demo does.

    Attributes:
        out: Folder for model, run and report.
        sigma: Standard deviation of the Gaussian noise.
        n: Estimation votes per image.
        seed: Seed of training and noise.
        device: Where to run; default: CUDA where there is one.
    """

    out: Path
    sigma: float = 0.25
    n: int = 10_000
    seed: int = 0
    device: str | None = None


def train_demo(settings: DemoSettings, observer: TrainingObserver) -> Path:
    """Train the small classifier on the training part of `digits`; return its checkpoint folder.

    Raises:
        CertifyError: If the folder cannot be written.
    """
    plan = prepare_training(
        TrainOptions(
            data=DATA,
            out=settings.out / "model",
            parameters=(("sigma", settings.sigma),),
            seed=settings.seed,
            device=settings.device,
            overwrite=True,
            command=("certify", "demo"),
        )
    )
    train_checkpoint(plan, on_event=observer.on_event, on_epoch=observer.on_epoch)
    return plan.out


def plan_demo(settings: DemoSettings) -> RunPlan:
    """Return the run over the held-out images, with the checkpoint that `train_demo` made."""
    options = RunOptions(
        model=str(settings.out / "model"),
        data=DATA,
        n=settings.n,
        seed=settings.seed,
        device=settings.device,
        maximum=INPUTS,
        out=settings.out / "run",
        command=("certify", "demo"),
    )
    return prepare(options, {}).plan


def certify_demo(
    plan: RunPlan, settings: DemoSettings, on_votes: Callable[[int], None], on_row: Callable[[Row], None]
) -> Report:
    """Certify, and write the report; return it."""
    execute(plan, on_votes=on_votes, on_row=on_row)
    return write_report(plan.out, settings.out / "report")
