"""`certify run`: certify a data set into a run folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from certify.cli import options as o
from certify.cli.common import (
    DataRootOption,
    JsonOption,
    QuietOption,
    TrustPickleOption,
    console,
    err_console,
    print_json,
)


def run(
    model: o.ModelArgument,
    data: o.DataOption,
    out: o.OutOption,
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
    seed: o.SeedOption = 0,
    split: o.SplitOption = "test",
    data_root: DataRootOption = None,
    stride: o.StrideOption = 1,
    skip: o.SkipOption = 0,
    maximum: o.MaxOption = None,
    indices: o.IndicesOption = None,
    shard: o.ShardOption = None,
    batch_size: o.BatchOption = None,
    precision: o.PrecisionOption = "fp32",
    channels_last: o.ChannelsLastOption = True,
    compile_: o.CompileOption = False,
    device: o.DeviceOption = None,
    num_classes: o.ClassesOption = None,
    architecture: o.ArchitectureOption = None,
    normalisation: o.NormalisationOption = None,
    trust_pickle: TrustPickleOption = False,
    quiet: QuietOption = False,
    preflight_: Annotated[
        bool, typer.Option("--preflight/--no-preflight", help="Measure clean accuracy and speed on 64 inputs first.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Certify a data set: one certificate per input, journalled, resumable.

    Interrupt it whenever you like (Ctrl-C, SIGTERM, a power cut) and repeat the same line to resume; the votes are the
    same as those of an undisturbed run. A repeat with other settings in the same folder is refused, with the difference.

    [bold]Examples[/bold]

    certify run models/mnist-lenet --data mnist --n 10000 --stride 20 --out runs/mnist

    certify run torchvision:resnet50 --data imagenet --noise gaussian --sigma 0.25 --stride 100 --out runs/imagenet

    certify run mypackage.mymodule:make --data my.npz --noise uniform --sigma 0.5 --norm l1 --out runs/mine
    """
    import os
    import sys

    from certify.allocator import tune_allocator
    from certify.progress import watch
    from certify.runner import execute, preflight
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
            seed=seed,
            batch_size=batch_size,
            precision=precision,
            channels_last=channels_last,
            compile=compile_,
            device=device,
            stride=stride,
            skip=skip,
            maximum=maximum,
            indices=indices,
            shard=shard,
            num_classes=num_classes,
            architecture=architecture,
            normalisation=normalisation,
            trust_pickle=trust_pickle,
            out=Path(out),
            command=tuple(sys.argv),
        ),
        dict(os.environ),
    )
    plan = prepared.plan
    notes = err_console()
    for warning in prepared.warnings:
        notes.print(f"[yellow]warning:[/yellow] {warning}")
    for note in prepared.notes:
        notes.print(note)
    if not quiet:
        describe(notes, plan)
        if preflight_:
            announce(notes, plan, preflight(plan))
    try:
        with watch(len(plan.indices), plan.votes_per_input, quiet=quiet) as observer:
            rows = execute(plan, on_votes=observer.on_votes, on_row=observer.on_row)
    except KeyboardInterrupt:
        notes.print(f"every finished input is in {plan.out}; repeat the same command to resume")
        raise
    finish(plan, rows, as_json)


def describe(out: Any, plan: Any) -> None:
    """Print what is about to be certified."""
    from certify.laws import law_text

    out.print(f"model   {plan.settings['model']} ({plan.model.description})")
    out.print(f"data    {plan.data.name}, {plan.data.split}: {len(plan.indices)} of {len(plan.data)} inputs")
    converted = "" if plan.convert_from is None else f", converted from {plan.convert_from}"
    out.print(f"noise   {law_text(plan.law)}; norm {plan.norm}{converted}")
    out.print(
        f"votes   n0 = {plan.estimator.n0:,}, n = {plan.estimator.n:,}, alpha = {plan.estimator.alpha:g} per input; "
        f"largest possible radius {plan.largest_radius():.4g}"
    )


def announce(out: Any, plan: Any, found: Any) -> None:
    """Print what the preflight measured: clean accuracy, speed, expected time."""
    from certify.progress import clock

    votes = len(plan.indices) * plan.votes_per_input
    out.print(
        f"before  clean accuracy {found.clean_accuracy:.1%} on {found.checked} inputs; about "
        f"{found.votes_per_second:,.0f} samples/s, so {clock(votes / found.votes_per_second)} for {votes:,} samples"
    )


def finish(plan: Any, rows: list[Any], as_json: bool) -> None:
    """Print the result of a run."""
    from certify.laws import law_text
    from certify.summary import summarize, summary_table

    wanted = set(plan.indices)
    result = summarize([row for row in rows if row.index in wanted], plan.largest_radius())
    if as_json:
        print_json({"out": str(plan.out), "alpha": plan.estimator.alpha, "n": plan.estimator.n, **result})
        return
    out = console()
    out.print(summary_table(result, f"{plan.data.name}, {plan.norm}, {law_text(plan.law)}"))
    if result["invalid_votes"]:
        out.print(
            f"{result['invalid_votes']:,} votes were invalid (non-finite scores or labels outside the classes); "
            "they count against every class"
        )
    shard = plan.settings["shard"]
    if shard is not None:
        out.print(
            f"This is shard {shard[0]} of {shard[1]}, a part of the run: join the parts with "
            f"certify merge {plan.out.parent.parent}"
        )
        return
    out.print(f"Certificates in {plan.out}/certificates.tsv; next: certify report {plan.out}; certify audit {plan.out}")
