"""`certify plan`: time and reachable radius before a run."""

from pathlib import Path

from certify.cli import options as o
from certify.cli.common import DataRootOption, JsonOption, TrustPickleOption, console, print_json


def plan(
    model: o.ModelArgument,
    data: o.DataOption,
    noise: o.NoiseOption = None,
    sigma: o.SigmaOption = None,
    scale: o.ScaleOption = None,
    half_width: o.HalfWidthOption = None,
    ball_radius: o.BallRadiusOption = None,
    k: o.KOption = None,
    j: o.JOption = None,
    a: o.AOption = None,
    p: o.POption = None,
    norm: o.NormOption = "l2",
    convert_from: o.ConvertFromOption = None,
    n: o.NOption = 100_000,
    n0: o.N0Option = 100,
    alpha: o.AlphaOption = 0.001,
    split: o.SplitOption = "test",
    data_root: DataRootOption = None,
    stride: o.StrideOption = 1,
    skip: o.SkipOption = 0,
    maximum: o.MaxOption = None,
    indices: o.IndicesOption = None,
    batch_size: o.BatchOption = None,
    precision: o.PrecisionOption = "fp32",
    channels_last: o.ChannelsLastOption = True,
    compile_: o.CompileOption = False,
    device: o.DeviceOption = None,
    num_classes: o.ClassesOption = None,
    architecture: o.ArchitectureOption = None,
    normalisation: o.NormalisationOption = None,
    trust_pickle: TrustPickleOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would cost and could reach, without certifying anything.

    Measures speed and clean accuracy on this machine, and lists for several n the time and the largest radius that n
    votes and alpha can prove (all votes agreeing): no number of inputs makes up for an n that is too small.

    [bold]Example[/bold]

    certify plan models/mnist-lenet --data mnist --stride 20
    """
    import os

    from certify.allocator import tune_allocator
    from certify.planning import forecast, forecast_table
    from certify.runner import preflight
    from certify.setup import RunOptions, prepare

    tune_allocator()
    prepared = prepare(
        RunOptions(
            model=model,
            data=data,
            data_root=data_root,
            split=split,
            noise=noise,
            parameters=o.law_parameters(
                sigma=sigma, scale=scale, half_width=half_width, ball_radius=ball_radius, k=k, j=j, a=a, p=p
            ),
            norm=norm,
            convert_from=convert_from,
            n0=n0,
            n=n,
            alpha=alpha,
            batch_size=batch_size,
            precision=precision,
            channels_last=channels_last,
            compile=compile_,
            device=device,
            stride=stride,
            skip=skip,
            maximum=maximum,
            indices=indices,
            num_classes=num_classes,
            architecture=architecture,
            normalisation=normalisation,
            trust_pickle=trust_pickle,
            out=Path("unused"),
        ),
        dict(os.environ),
    )
    measured = preflight(prepared.plan)
    rows = forecast(prepared.plan, measured.votes_per_second)
    if as_json:
        print_json(
            {
                "inputs": len(prepared.plan.indices),
                "clean_accuracy": measured.clean_accuracy,
                "clean_accuracy_inputs": measured.checked,
                "samples_per_second": measured.votes_per_second,
                "warnings": list(prepared.warnings),
                "choices": rows,
            }
        )
        return
    out = console()
    for warning in prepared.warnings:
        out.print(f"[yellow]warning:[/yellow] {warning}")
    out.print(
        f"{len(prepared.plan.indices):,} inputs of {prepared.plan.data.name}; clean accuracy "
        f"{measured.clean_accuracy:.1%} on {measured.checked}; {measured.votes_per_second:,.0f} samples/s on "
        f"{prepared.plan.device}"
    )
    out.print(forecast_table(rows, n))
