"""`certify train`: train a base classifier that smooths well into a checkpoint folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from certify.cli import options as o
from certify.cli.common import DataRootOption, JsonOption, QuietOption, console, err_console, print_json

_DATA_SETS = "default: by data set"


_SAME_NAME = {"arch": "architecture", "lr": "learning_rate", "unlabeled": "unlabelled"}
"""Options whose name is not that of the field of `TrainOptions`."""

_LAW = ("sigma", "scale", "half_width", "ball_radius", "k", "j", "a", "p")


def train(
    *,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="digits, mnist, fashion_mnist, cifar10, imagenet, an image folder, a .npz or a .tar (or the recipe's).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Checkpoint folder.", show_default=False)] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="Take all values from a recipe: one of --list-recipes, or FILE.toml:NAME; options given beside it win.",
            show_default=False,
        ),
    ] = None,
    list_recipes: Annotated[
        bool, typer.Option("--list-recipes", help="Show all recipes with their sources and leave.")
    ] = False,
    arch: Annotated[
        str | None,
        typer.Option(
            "--arch",
            help=f"lenet, cnn, mlp, resnet20, resnet110, wrn40-2 or resnet50 ({_DATA_SETS}).",
            show_default=False,
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option("--noise", help=f"Law of the noise: {o.law_names()} (default: gaussian).", show_default=False),
    ] = None,
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
        str | None,
        typer.Option(
            "--objective",
            help="What is minimised: gaussian (cross-entropy under noise of any law), stability, smoothadv, macer, "
            "consistency, smoothmix, cat-rs or direct (default: gaussian).",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A parameter of the objective, as in --set m=4 --set eps=1.0; a wrong one is answered with the list.",
            show_default=False,
        ),
    ] = None,
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
    optimizer: Annotated[
        str | None, typer.Option("--optimizer", help="sgd or adam (default: sgd).", show_default=False)
    ] = None,
    momentum: Annotated[
        float | None, typer.Option("--momentum", help="Momentum of SGD (default: 0.9).", show_default=False)
    ] = None,
    nesterov: Annotated[
        bool | None,
        typer.Option("--nesterov/--no-nesterov", help="Nesterov's momentum in SGD (default: on).", show_default=False),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option("--weight-decay", help="L2 penalty on all weights (default: 1e-4).", show_default=False),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            help="Course of the learning rate: onecycle, step or cosine (default: onecycle).",
            show_default=False,
        ),
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(
            "--warmup", help="onecycle: share of the steps in which the rate rises (default: 0.2).", show_default=False
        ),
    ] = None,
    decay_epochs: Annotated[
        int | None,
        typer.Option(
            "--decay-epochs",
            help="step: epochs between two drops of the rate (default: a third of all).",
            show_default=False,
        ),
    ] = None,
    decay_factor: Annotated[
        float | None,
        typer.Option("--decay-factor", help="step: factor of each drop (default: 0.1).", show_default=False),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option("--clip", help="Scale gradients longer than this down to it.", show_default=False),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            "--ema",
            help="Decay of the moving average of the weights, for instance 0.999; 0 for none (default: 0).",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            help="Start from the weights of a checkpoint folder: pre-training, then fine-tuning.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="MODEL that labels the images of --unlabeled, or whose predictions under noise cat-rs needs.",
            show_default=False,
        ),
    ] = None,
    teacher_votes: Annotated[
        int | None,
        typer.Option(
            "--teacher-votes",
            help="cat-rs: noisy copies of each image that the teacher votes on (default: 100).",
            show_default=False,
        ),
    ] = None,
    unlabeled: Annotated[
        str | None,
        typer.Option(
            "--unlabeled",
            help="Data set whose training images are added with the teacher's labels (self-training).",
            show_default=False,
        ),
    ] = None,
    pseudo_weight: Annotated[
        float | None,
        typer.Option(
            "--pseudo-weight",
            help="What a pseudo-labelled image counts; a labelled one counts 1 (default: 1).",
            show_default=False,
        ),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            "--select",
            help="Which epoch becomes the checkpoint: last, acr, or a radius (the best certified accuracy there), "
            "estimated on held-out images with few votes (default: last).",
            show_default=False,
        ),
    ] = None,
    select_every: Annotated[
        int | None,
        typer.Option("--select-every", help="Epochs between two such estimates (default: 5).", show_default=False),
    ] = None,
    select_images: Annotated[
        int | None, typer.Option("--select-images", help="Held-out images for them (default: 200).", show_default=False)
    ] = None,
    select_votes: Annotated[
        int | None,
        typer.Option("--select-votes", help="Votes for each of these images (default: 256).", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Seed of the first weights, the order and the noise (default: 0).", show_default=False
        ),
    ] = None,
    normalize: Annotated[
        str | None,
        typer.Option(
            "--normalize",
            help="First layer of the network: none, data (measured on the training images), cifar10, imagenet, or "
            "MEAN/STD with one number a channel, for instance 0.1307/0.3081 (default: none).",
            show_default=False,
        ),
    ] = None,
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
        float | None,
        typer.Option(
            "--held-out",
            help="Share of the training images that is held out to watch the training by (default: 0.05).",
            show_default=False,
        ),
    ] = None,
    data_root: DataRootOption = None,
    device: o.DeviceOption = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", help="Arithmetic of the training: fp32 or bf16 (default: fp32).", show_default=False
        ),
    ] = None,
    channels_last: o.ChannelsLastOption = True,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", help="Train by this many processes, each its share of a batch; one a GPU with cuda."
        ),
    ] = 1,
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
    `certify run OUT` needs none), train.csv, one row an epoch, and train.png.
    The state is kept in OUT/training.pt after every epoch: interrupt it and
    repeat the same line to go on, to the same weights. Test data are never
    looked at; the accuracy shown at the end is that of training images which
    were held out.

    [bold]Examples[/bold]

    certify train --data mnist --sigma 0.5 --out models/mnist-0.5

    certify train --data cifar10 --noise uniform --half-width 0.5 --normalize data --device cuda --out models/cifar-l1

    certify train --recipe mnist-smoothadv-0.5-fast --out models/mnist-smoothadv

    certify train --data cifar10 --sigma 0.5 --objective consistency --set m=2 --set weight=10 --out models/cifar-consistency

    certify train --recipe mnist-cat-rs-0.5-fast --teacher models/mnist-0.25 --out models/mnist-cat-rs
    """
    options = dict(locals())  # what was given, by name: a recipe's values take the place of the rest
    import sys

    from certify.allocator import tune_allocator
    from certify.errors import UsageError
    from certify.training import follow_training, prepare_training, train_checkpoint
    from certify.training.launch import joined, launch, launched
    from certify.training.progress import watch_training
    from certify.training.recipe import find_recipe, recipes
    from certify.training.resume import STATE_FILE
    from smoothing.training.processes import Processes

    if list_recipes:
        _list(recipes(), as_json)
        return
    if out is None:
        raise UsageError("out must be given: the checkpoint folder, as in --out models/mine")
    if processes < 1:
        raise UsageError(f"processes must be at least 1, got processes={processes}")
    if processes > 1 and not launched():
        code = launch(processes, _without_processes(sys.argv[1:]))
        if code:
            raise typer.Exit(code)
        return
    tune_allocator()
    values: dict[str, Any] = {"data": data} if recipe is None else find_recipe(recipe).values()
    given = {name: value for name, value in options.items() if value is not None}
    with joined(device) as own_device:
        given = {**given, "device": own_device}
        plan = prepare_training(_options(values, given, out=out, command=tuple(sys.argv)))
        if not Processes.current().leads:
            follow_training(plan)
            return
        if not quiet:
            _describe(err_console(), plan)
        try:
            with watch_training(quiet=quiet) as observer:
                result = train_checkpoint(
                    plan, on_event=observer.on_event, on_epoch=observer.on_epoch, on_teacher=observer.on_teacher
                )
        except KeyboardInterrupt:
            kept = (plan.out / STATE_FILE).exists()
            text = "repeat the same command to go on after the last whole epoch" if kept else "nothing was kept"
            err_console().print(f"training stopped before its end: no checkpoint in {plan.out}; {text}", soft_wrap=True)
            raise
    if as_json:
        print_json(_as_json(plan, result))
    else:
        _finish(console(), plan, result)


def _options(values: dict[str, Any], given: dict[str, Any], *, out: Path, command: tuple[str, ...]) -> Any:
    """Return what is asked for: the recipe's values (or only the data set), and over them what was given as options."""
    from dataclasses import fields

    from certify.errors import UsageError
    from certify.training import TrainOptions

    known = {field.name for field in fields(TrainOptions)}
    merged = {**values}
    for name, value in given.items():
        field = _SAME_NAME.get(name, name)
        if field in known and name != "settings":
            merged[field] = value
    law = o.law_parameters(**{name: given.get(name) for name in _LAW})
    if law or "noise" in given:
        merged["parameters"] = law
    if merged.get("objective") != values.get("objective"):
        merged["settings"] = ()  # those of another objective
    merged["settings"] = tuple({**dict(merged.get("settings", ())), **_settings(given.get("settings") or [])}.items())
    if merged.get("data") is None:
        raise UsageError("data must be given, as in --data mnist, or a --recipe that names it")
    return TrainOptions(**{**merged, "out": out, "command": command})


def _without_processes(arguments: list[str]) -> list[str]:
    """Return a command line without `--processes N` or `--processes=N`."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument == "--processes":
            skip = not skip and argument == "--processes"
        elif not argument.startswith("--processes="):
            kept.append(argument)
    return kept


def _settings(texts: list[str]) -> dict[str, str]:
    from certify.errors import UsageError

    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key or key in found:
            raise UsageError(f"--set must be KEY=VALUE, each key once, got --set {text}")
        found[key] = value
    return found


def _list(recipes: Any, as_json: bool) -> None:
    from certify.training.recipe import describe_recipe

    if as_json:
        print_json({name: {**recipe.values(), "source": recipe.source} for name, recipe in recipes.items()})
        return
    for name, recipe in recipes.items():
        console().print(f"{name}  {describe_recipe(recipe)}  [{recipe.source}]", soft_wrap=True, markup=False)


def _describe(out: Any, plan: Any) -> None:
    from certify.laws import law_text

    config, data = plan.config, plan.data
    normalized = "none" if plan.mean is None else f"mean {_numbers(plan.mean)}, std {_numbers(plan.std)}"
    augmented = "" if plan.transform is None else f"; augmentation: {plan.augment}"
    lines = (
        f"data    {data.source.name}: {len(data.labels):,} images, {len(data.held_out_labels):,} more held out",
        f"model   {plan.architecture}, normalisation: {normalized}{augmented}",
        f"noise   {law_text(plan.law)}; objective {plan.objective.name}{_parameters(plan.objective)}, "
        f"{plan.objective.passes} passes a step",
        f"recipe  {config.epochs} epochs, batch size {config.batch_size}, {config.optimizer}, learning rate "
        f"{config.learning_rate:g} ({config.schedule}), seed {config.seed}, on {plan.device}, {config.precision}",
    )
    for line in lines:
        out.print(line, soft_wrap=True, markup=False)


def _finish(out: Any, plan: Any, result: Any) -> None:
    from certify.progress import clock

    last = result.records[result.epoch - 1]
    held_out = ""
    if result.noisy_accuracy is not None:
        held_out = (
            f", {result.noisy_accuracy:.1%} on {len(plan.data.held_out_labels):,} held-out images "
            f"({result.clean_accuracy:.1%} without noise)"
        )
    lines = (
        f"Trained {len(result.records)} epochs in {clock(result.seconds)}{_chosen(result)}; accuracy under noise: "
        f"{last.noisy_accuracy:.1%} on training images{held_out}",
        f"Checkpoint in {result.out}; next:",
        f"  {next_command(plan)}",
    )
    for line in lines:  # not wrapped: a command is there to be copied
        out.print(line, soft_wrap=True, markup=False)


def _chosen(result: Any) -> str:
    score = result.records[result.epoch - 1].selection_score
    return "" if score is None else f", epoch {result.epoch} chosen (score {score:.3f} on held-out images)"


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
        "noisy_accuracy": result.records[result.epoch - 1].noisy_accuracy,
        "held_out_noisy_accuracy": result.noisy_accuracy,
        "held_out_clean_accuracy": result.clean_accuracy,
        "seconds": result.seconds,
        "passes": result.passes,
        "epoch": result.epoch,
        "recipe": plan.options.recipe,
        "epochs": [asdict(record) for record in result.records],
        "next": next_command(plan),
    }


def _parameters(objective: Any) -> str:
    parameters = objective.describe()["parameters"]
    return f" ({', '.join(f'{key}={value}' for key, value in parameters.items())})" if parameters else ""


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
