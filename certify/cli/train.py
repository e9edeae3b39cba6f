"""`certify train`: train a base classifier that smooths well into a checkpoint folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from certify.cli import options as o
from certify.cli.common import DataRootOption, JsonOption, QuietOption, console, err_console, print_json

_DATA_SETS = "default: by data set"


def train(
    *,
    data: o.DataOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint folder.", show_default=False)],
    arch: Annotated[
        str | None,
        typer.Option(
            "--arch",
            help=f"lenet, cnn, mlp, resnet20, resnet110, wrn40-2 or resnet50 ({_DATA_SETS}).",
            show_default=False,
        ),
    ] = None,
    noise: Annotated[str, typer.Option("--noise", help=f"Law of the noise: {o.law_names()}.")] = "gaussian",
    sigma: Annotated[
        float | None,
        typer.Option("--sigma", help="Per-coordinate standard deviation, pixels in [0, 1].", show_default=False),
    ] = None,
    scale: o.ScaleOption = None,
    half_width: o.HalfWidthOption = None,
    ball_radius: o.BallRadiusOption = None,
    k: o.KOption = None,
    j: o.JOption = None,
    a: o.AOption = None,
    p: o.POption = None,
    objective: Annotated[
        str,
        typer.Option("--objective", help="What is minimised: gaussian (cross-entropy under noise of any law)."),
    ] = "gaussian",
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", help=f"Passes over the training set ({_DATA_SETS}).", show_default=False),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", help=f"Examples in a step ({_DATA_SETS}).", show_default=False),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", help=f"Highest learning rate of the schedule ({_DATA_SETS}).", show_default=False),
    ] = None,
    optimizer: Annotated[str, typer.Option("--optimizer", help="sgd or adam.")] = "sgd",
    momentum: Annotated[float, typer.Option("--momentum", help="Momentum of SGD.")] = 0.9,
    nesterov: Annotated[bool, typer.Option("--nesterov/--no-nesterov", help="Nesterov's momentum in SGD.")] = True,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="L2 penalty on all weights.")] = 1e-4,
    schedule: Annotated[
        str, typer.Option("--schedule", help="Course of the learning rate: onecycle, step or cosine.")
    ] = "onecycle",
    warmup: Annotated[
        float, typer.Option("--warmup", help="onecycle: share of the steps in which the rate rises.")
    ] = 0.2,
    decay_epochs: Annotated[
        int | None,
        typer.Option(
            "--decay-epochs",
            help="step: epochs between two drops of the rate (default: a third of all).",
            show_default=False,
        ),
    ] = None,
    decay_factor: Annotated[float, typer.Option("--decay-factor", help="step: factor of each drop.")] = 0.1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the first weights, the order and the noise.")] = 0,
    normalize: Annotated[
        str,
        typer.Option(
            "--normalize",
            help="First layer of the network: none, data (measured on the training images), cifar10, imagenet, or "
            "MEAN/STD with one number a channel, for instance 0.1307/0.3081.",
        ),
    ] = "none",
    augment: Annotated[
        str | None,
        typer.Option(
            "--augment",
            help="none, shift (random shifts of up to 2 pixels) or crop-flip (shifts of up to 4 pixels and mirror images) "
            "(default: shift for mnist and fashion_mnist, crop-flip for cifar10).",
            show_default=False,
        ),
    ] = None,
    held_out: Annotated[
        float,
        typer.Option("--held-out", help="Share of the training images that is held out to watch the training by."),
    ] = 0.05,
    data_root: DataRootOption = None,
    device: o.DeviceOption = None,
    precision: Annotated[str, typer.Option("--precision", help="Arithmetic of the training: fp32 or bf16.")] = "fp32",
    channels_last: o.ChannelsLastOption = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the checkpoint in OUT, once the new one is trained.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a base classifier that smooths well, into a checkpoint folder.

    A smoothed classifier is only as good as its base classifier under noise:
    train with the law and the sigma that you want to certify with. The
    defaults give good networks quickly: LeNet on mnist, a small CNN on digits,
    ResNet-20 on cifar10; SGD with a one-cycle schedule.

    OUT gets model.safetensors, model.json (it records the noise, so that
    `certify run OUT` needs none) and train.csv, one row an epoch. The
    checkpoint is written at the end: an interrupted training leaves none. Test
    data are never looked at; the accuracy shown at the end is that of training
    images which were held out.

    [bold]Examples[/bold]

    certify train --data mnist --sigma 0.5 --out models/mnist-0.5

    certify train --data cifar10 --noise uniform --half-width 0.5 --normalize data --device cuda --out models/cifar-l1

    certify train --data mnist --sigma 0.5 --epochs 90 --batch-size 256 --lr 0.01 --no-nesterov --schedule step -o models/published
    """  # noqa: E501
    import sys

    from certify.allocator import tune_allocator
    from certify.training import TrainOptions, prepare_training, train_checkpoint
    from certify.training.progress import watch_training

    tune_allocator()
    plan = prepare_training(
        TrainOptions(
            data=data,
            out=out,
            data_root=data_root,
            architecture=arch,
            noise=noise,
            parameters=o.law_parameters(
                sigma=sigma, scale=scale, half_width=half_width, ball_radius=ball_radius, k=k, j=j, a=a, p=p
            ),
            objective=objective,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=lr,
            optimizer=optimizer,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup=warmup,
            decay_epochs=decay_epochs,
            decay_factor=decay_factor,
            seed=seed,
            normalize=normalize,
            augment=augment,
            held_out=held_out,
            device=device,
            precision=precision,
            channels_last=channels_last,
            overwrite=overwrite,
            command=tuple(sys.argv),
        )
    )
    if not quiet:
        _describe(err_console(), plan)
    try:
        with watch_training(quiet=quiet) as observer:
            result = train_checkpoint(plan, on_event=observer.on_event, on_epoch=observer.on_epoch)
    except KeyboardInterrupt:
        err_console().print(f"training stopped before its end: no checkpoint was written to {plan.out}", soft_wrap=True)
        raise
    if as_json:
        print_json(_as_json(plan, result))
    else:
        _finish(console(), plan, result)


def _describe(out: Any, plan: Any) -> None:
    from certify.laws import law_text

    config, data = plan.config, plan.data
    normalized = "none" if plan.mean is None else f"mean {_numbers(plan.mean)}, std {_numbers(plan.std)}"
    augmented = "" if plan.transform is None else f"; augmentation: {plan.augment}"
    lines = (
        f"data    {data.source.name}: {len(data.labels):,} images, {len(data.held_out_labels):,} more held out",
        f"model   {plan.architecture}, normalisation: {normalized}{augmented}",
        f"noise   {law_text(plan.law)}; objective {plan.objective.name}",
        f"recipe  {config.epochs} epochs, batch size {config.batch_size}, {config.optimizer}, learning rate "
        f"{config.learning_rate:g} ({config.schedule}), seed {config.seed}, on {plan.device}, {config.precision}",
    )
    for line in lines:
        out.print(line, soft_wrap=True, markup=False)


def _finish(out: Any, plan: Any, result: Any) -> None:
    from certify.progress import clock

    last = result.records[-1]
    held_out = ""
    if result.noisy_accuracy is not None:
        held_out = (
            f", {result.noisy_accuracy:.1%} on {len(plan.data.held_out_labels):,} held-out images "
            f"({result.clean_accuracy:.1%} without noise)"
        )
    lines = (
        f"Trained {len(result.records)} epochs in {clock(result.seconds)}; accuracy under noise: "
        f"{last.noisy_accuracy:.1%} on training images{held_out}",
        f"Checkpoint in {result.out}; next:",
        f"  {next_command(plan)}",
    )
    for line in lines:  # not wrapped: a command is there to be copied
        out.print(line, soft_wrap=True, markup=False)


def next_command(plan: Any) -> str:
    """Return the command that certifies what was trained, in the norm that suits the law."""
    import shlex

    from certify.laws import best_norm
    from smoothing.threat import Norm

    options = plan.options
    words = ["certify", "run", str(plan.out), "--data", options.data]
    if options.data_root is not None:
        words += ["--data-root", str(options.data_root)]
    norm = best_norm(plan.law)
    if norm is not Norm.L2:
        words += ["--norm", str(norm)]
    words += ["--out", str(Path("runs") / plan.out.resolve().name)]
    return shlex.join(words)


def _as_json(plan: Any, result: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "out": str(result.out),
        "data": plan.data.source.name,
        "examples": len(plan.data.labels),
        "held_out": len(plan.data.held_out_labels),
        "architecture": plan.architecture,
        "noise": plan.law.describe(),
        "objective": plan.objective.describe(),
        "config": asdict(plan.config),
        "noisy_accuracy": result.records[-1].noisy_accuracy,
        "held_out_noisy_accuracy": result.noisy_accuracy,
        "held_out_clean_accuracy": result.clean_accuracy,
        "seconds": result.seconds,
        "epochs": [asdict(record) for record in result.records],
        "next": next_command(plan),
    }


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
