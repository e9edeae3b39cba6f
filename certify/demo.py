"""The whole story on an embedded data set: train with noise, certify, report."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from certify.errors import RunMismatchError, UsageError
from certify.report import Report, write_report
from certify.rundir import RUN_FILE, Row, read_config
from certify.runner import RunPlan, execute
from certify.setup import RunOptions, prepare
from certify.training import TrainOptions, prepare_training, train_checkpoint
from certify.training.progress import TrainingObserver
from smoothing.distributions.table import make_law
from smoothing.estimators.fixed import FixedEstimator
from smoothing.noise import check_seed

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


def check_demo(settings: DemoSettings) -> None:
    """Check, before anything is trained, that the settings can certify something and that the folder is free for them.

    Raises:
        InvalidArgumentError: If a setting is out of range.
        RunMismatchError: If the folder holds a demo with other settings.
    """
    law = make_law("gaussian", (1,), sigma=settings.sigma)
    check_seed(settings.seed)
    estimator = FixedEstimator(n=settings.n)
    if estimator.best_q_upper >= 0.5:
        raise UsageError(f"n={settings.n} votes at alpha={estimator.alpha} can certify nothing; 1,000 or more is usual")
    run = settings.out / "run"
    if (run / RUN_FILE).exists():
        there = read_config(run)["identity"]
        now = {"law": law.parameters, "n": estimator.n, "seed": settings.seed}
        old = {
            "law": there.get("law", {}).get("parameters"),
            "n": there.get("estimator", {}).get("n"),
            "seed": there.get("seed"),
        }
        if old != now:
            raise RunMismatchError(f"{settings.out} holds a demo with other settings ({old}); use another --out")


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
