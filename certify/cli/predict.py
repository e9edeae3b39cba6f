"""`certify predict`: the smoothed prediction of new inputs."""

from pathlib import Path
from typing import Annotated

import typer

from certify.cli import options as o
from certify.cli.common import DataRootOption, JsonOption, TrustPickleOption, console, err_console, print_json


def predict(
    model: o.ModelArgument,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="Image files.", show_default=False)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="A data set instead of files; choose with --indices.", show_default=False),
    ] = None,
    indices: o.IndicesOption = None,
    noise: o.NoiseOption = None,
    sigma: o.SigmaOption = None,
    scale: o.ScaleOption = None,
    half_width: o.HalfWidthOption = None,
    ball_radius: o.BallRadiusOption = None,
    k: o.KOption = None,
    j: o.JOption = None,
    a: o.AOption = None,
    p: o.POption = None,
    n: Annotated[int, typer.Option("--n", help="Votes per input.")] = 1_000,
    alpha: o.AlphaOption = 0.001,
    seed: o.SeedOption = 0,
    split: o.SplitOption = "test",
    data_root: DataRootOption = None,
    batch_size: o.BatchOption = None,
    precision: o.PrecisionOption = "fp32",
    device: o.DeviceOption = None,
    num_classes: o.ClassesOption = None,
    architecture: o.ArchitectureOption = None,
    normalisation: o.NormalisationOption = None,
    trust_pickle: TrustPickleOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict the class of new inputs with the smoothed classifier; abstain where the votes do not prove it.

    A prediction is wrong about g(x) with probability at most alpha. It carries no radius; `certify run` gives one.

    [bold]Examples[/bold]

    certify predict models/mnist-lenet photo.png other.png

    certify predict models/mnist-lenet --data mnist --indices 0-9
    """
    from certify.allocator import tune_allocator
    from certify.prediction import predict_inputs
    from certify.setup import RunOptions

    tune_allocator()
    found, warnings = predict_inputs(
        RunOptions(
            model=model,
            data=data or "",
            data_root=data_root,
            split=split,
            noise=noise,
            parameters=o.law_parameters(
                sigma=sigma, scale=scale, half_width=half_width, ball_radius=ball_radius, k=k, j=j, a=a, p=p
            ),
            n=n,
            alpha=alpha,
            seed=seed,
            batch_size=batch_size,
            precision=precision,
            device=device,
            indices=indices,
            num_classes=num_classes,
            architecture=architecture,
            normalisation=normalisation,
            trust_pickle=trust_pickle,
        ),
        files or [],
    )
    notes = err_console()
    for warning in warnings:
        notes.print(f"[yellow]warning:[/yellow] {warning}")
    if as_json:
        print_json([{"input": item.source, "prediction": item.label, "name": item.name} for item in found])
        return
    out = console()
    for item in found:
        shown = (
            "abstain"
            if item.label is None
            else f"{item.label}" + (f" ({item.name})" if item.name != str(item.label) else "")
        )
        out.print(f"{item.source}\t{shown}")
