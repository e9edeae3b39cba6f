"""`certify compare`: deterministic verification and randomized smoothing on the same inputs, in one norm."""

from pathlib import Path
from typing import Annotated, Any

import typer

from certify.cli import options as o
from certify.cli import verify as v
from certify.cli.common import (
    DataRootOption,
    JsonOption,
    QuietOption,
    TrustPickleOption,
    console,
    err_console,
    print_json,
)

_SHOWN = 40
"""Inputs on the screen; compare.csv has them all."""


def compare(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL | RUN RUN...",
            help="A model, which is verified and smoothed; or finished folders of certify verify and certify run.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results; with MODEL also for the runs.")
    ] = Path("certify-compare"),
    norm: Annotated[
        str | None,
        typer.Option(
            "--norm",
            help="Norm of the comparison; radii of runs in another one are converted inward.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="MODEL: data set, as in certify run.", show_default=False)
    ] = None,
    smoothed: Annotated[
        str | None,
        typer.Option("--smoothed", help="MODEL: the network to smooth, if it is another one.", show_default=False),
    ] = None,
    eps: Annotated[
        float | None, typer.Option("--eps", help="MODEL: largest radius that is verified.", show_default=False)
    ] = None,
    method: v.MethodOption = "crown,pgd,alpha",
    clip: v.ClipOption = None,
    budget: v.BudgetOption = None,
    steps: v.StepsOption = 100,
    restarts: v.RestartsOption = 10,
    alpha_steps: v.AlphaStepsOption = 20,
    jobs: v.JobsOption = 1,
    noise: o.NoiseOption = None,
    sigma: o.SigmaOption = None,
    convert_from: o.ConvertFromOption = None,
    n0: o.N0Option = 100,
    n: o.NOption = 10_000,
    alpha: o.AlphaOption = 0.001,
    seed: o.SeedOption = 0,
    attack: Annotated[
        bool, typer.Option("--attack/--no-attack", help="Attack each smoothed classifier, for the gap on its side.")
    ] = True,
    attack_steps: Annotated[int, typer.Option("--attack-steps", help="Gradient steps of the attack on g.")] = 20,
    m: Annotated[int, typer.Option("--m", help="Noise samples that the attack on g sees.")] = 32,
    split: o.SplitOption = "test",
    data_root: DataRootOption = None,
    stride: o.StrideOption = 1,
    skip: o.SkipOption = 0,
    maximum: o.MaxOption = None,
    indices: o.IndicesOption = None,
    device: o.DeviceOption = None,
    num_classes: o.ClassesOption = None,
    architecture: o.ArchitectureOption = None,
    normalisation: o.NormalisationOption = None,
    trust_pickle: TrustPickleOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put deterministic verification and randomized smoothing side by side: same inputs, one norm.

    Both predictions (f and the smoothed g are two classifiers), both certified radii, what each guarantee is, each
    classifier's own attack, and the gap. Wrong, abstained, undecided and refuted count with radius 0. Different inputs or
    norms are refused; conversions between norms only go inward (to inscribed balls) and are flagged. A clipped ball is a
    smaller set: the clip flag is in every row.

    With MODEL both runs go to OUT/verify and OUT/smoothing, journalled and resumable. Exit code 1 means that an attack
    contradicts a certificate.

    [bold]Examples[/bold]

    certify compare models/mlp --data mnist --norm l2 --eps 2 --no-clip --sigma 0.25 --stride 1000 --out runs/both

    certify compare runs/smoothing runs/verify --out runs/compared
    """
    from certify.allocator import tune_allocator
    from certify.comparison.pictures import draw_curves, draw_scatter
    from certify.comparison.report import summarize, write_comparison
    from certify.comparison.rules import align, require_networks, require_runs
    from certify.comparison.sides import read_side
    from certify.comparison.smoothed_attack import NAME, SmoothedAttack
    from certify.rundir import RUN_FILE
    from smoothing.threat import Norm

    tune_allocator()
    chosen = None if norm is None else Norm.parse(norm)
    arguments = dict(locals())
    runs = [Path(target) for target in targets]
    # No form of MODEL but a path is without a colon.
    if len(runs) > 1 or (":" not in targets[0] and not runs[0].exists()):
        require_runs(runs)
    elif not (runs[0] / RUN_FILE).is_file():
        runs = _make_runs(arguments)
    sides = align([read_side(run) for run in runs], chosen)
    if attack:
        require_networks(sides)
        attacker = SmoothedAttack(attack_steps, m, alpha=alpha, seed=seed, device=device, trust_pickle=trust_pickle)
        limit = 3 * max((p.radius for side in sides for p in side.points.values()), default=0.0)
        limit = max([limit, *(p.attack_radius or 0.0 for side in sides for p in side.points.values())])
        notes = err_console()
        for place, side in enumerate(sides):
            if side.kind == "smoothing" and limit > 0:
                if not quiet:
                    notes.print(f"attacking g of {side.folder}, within {side.norm} radius {limit:.4g}", markup=False)
                sides[place] = side.with_attacks(attacker.distances(side, limit), NAME)
    summary = summarize(sides)
    write_comparison(out, sides, summary)
    pictures = [draw_curves(out, sides), draw_scatter(out, sides)]
    if as_json:
        print_json({"out": str(out), "pictures": [str(path) for path in pictures], **summary})
    else:
        _print(sides, summary, out)
    if summary["alarms"]:
        raise typer.Exit(1)


def _make_runs(asked: dict[str, Any]) -> list[Path]:
    """Verify and smooth one model (or two) on the same inputs, into OUT/verify and OUT/smoothing."""
    import os
    import sys

    from certify.cli.run import describe as describe_smoothing
    from certify.errors import UsageError
    from certify.progress import watch
    from certify.runner import execute
    from certify.setup import RunOptions
    from certify.setup import prepare as prepare_smoothing
    from certify.verification.methods import MethodOptions, parse_methods
    from certify.verification.progress import watch as watch_verification
    from certify.verification.runner import execute as execute_verification
    from certify.verification.setup import VerifyOptions, prepare

    (model,) = asked["targets"]
    for name in ("data", "norm", "eps"):
        if asked[name] is None:
            raise UsageError(f"compare MODEL needs --data, --norm, --eps and --clip or --no-clip, got no --{name}")
    shared = (
        "data",
        "data_root",
        "split",
        "norm",
        "stride",
        "skip",
        "maximum",
        "indices",
        "device",
        "num_classes",
        "architecture",
        "normalisation",
        "trust_pickle",
    )
    common = {name: asked[name] for name in shared} | {"command": tuple(sys.argv)}
    out, quiet = asked["out"], asked["quiet"]
    methods = MethodOptions(
        parse_methods(asked["method"]), asked["steps"], asked["restarts"], asked["alpha_steps"], asked["seed"]
    )
    plan = prepare(
        VerifyOptions(
            out=out / "verify",
            methods=methods,
            model=model,
            eps=asked["eps"],
            clip=asked["clip"],
            search=True,
            budget=asked["budget"],
            jobs=asked["jobs"],
            **common,
        )
    )
    prepared = prepare_smoothing(
        RunOptions(
            model=asked["smoothed"] or model,
            noise=asked["noise"] or ("gaussian" if asked["sigma"] is not None else None),
            parameters=() if asked["sigma"] is None else (("sigma", asked["sigma"]),),
            convert_from=asked["convert_from"],
            n0=asked["n0"],
            n=asked["n"],
            alpha=asked["alpha"],
            seed=asked["seed"],
            out=out / "smoothing",
            **common,
        ),
        dict(os.environ),
    )
    notes = err_console()
    for warning in prepared.warnings:
        notes.print(f"[yellow]warning:[/yellow] {warning}")
    if not quiet:
        v.describe(notes, plan)
    with watch_verification(len(plan.indices), v.finished(plan), quiet=quiet) as on_row:
        execute_verification(plan, on_row=on_row)
    if not quiet:
        describe_smoothing(notes, prepared.plan)
    with watch(len(prepared.plan.indices), prepared.plan.votes_per_input, quiet=quiet) as observer:
        execute(prepared.plan, on_votes=observer.on_votes, on_row=observer.on_row)
    return [plan.out, prepared.plan.out]


def _print(sides: list[Any], summary: dict[str, Any], out_folder: Path) -> None:
    out = console()
    out.print(_inputs_table(sides))
    if len(sides[0].points) > _SHOWN:
        out.print(f"... and {len(sides[0].points) - _SHOWN} more in {out_folder}/compare.csv", markup=False)
    out.print(_summary_table(summary))
    larger = summary["larger_radius"]
    out.print(
        f"Larger radius: {sides[0].name} on {larger['first']} inputs, {sides[1].name} on {larger['second']}, equal on "
        f"{larger['equal']}; same prediction on {summary['same_prediction']} of {len(sides[0].points)}.",
        markup=False,
    )
    for note in summary["notes"]:
        out.print(f"note: {note}", markup=False)
    for alarm in summary["alarms"]:
        out.print(f"[bold red]ALARM[/bold red] {alarm}", soft_wrap=True)
    out.print(f"Rows, figures and pictures in {out_folder}: compare.csv, compare.json, compare-*.png", markup=False)


def _inputs_table(sides: list[Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"{sides[0].norm} radii, input by input", title_justify="left")
    table.add_column("input", justify="right")
    table.add_column("label", justify="right")
    for side in sides:
        for name in ("says", "certified", "attacked"):
            table.add_column(f"{side.name}\n{name}", justify="right")
    for index in sorted(sides[0].points)[:_SHOWN]:
        cells = [str(index), str(sides[0].points[index].label)]
        for side in sides:
            point = side.points[index]
            attack = "" if point.attack_radius is None else f"{point.attack_radius:.4f}"
            says = str(point.predict) if point.predict >= 0 else point.status
            cells += [says, f"{point.radius:.4f}", attack]
        table.add_row(*cells)
    return table


def _summary_table(summary: dict[str, Any]) -> Any:
    from rich.table import Table

    decides = any(side["undecided"] is not None for side in summary["sides"])
    none = "wrong, abstained, undecided and refuted" if decides else "wrong and abstained"
    table = Table(title=f"All inputs ({none}: radius 0)", title_justify="left")
    table.add_column("")
    for side in summary["sides"]:
        table.add_column(side["name"], justify="right")

    def row(name: str, value: Any) -> None:
        table.add_row(name, *(value(side) for side in summary["sides"]))

    row("classifier", lambda s: s["classifier"])
    row("guarantee", lambda s: s["guarantee"])
    row("alpha per input / over all", lambda s: f"{s['alpha_per_input']:g} / {s['alpha_over_all_inputs']:g}")
    row("set", lambda s: f"{s['norm']}, {s['clip']}")
    row("converted from", lambda s: s["converted_from"] or "-")
    row("accuracy", lambda s: f"{100 * s['accuracy']:.1f} %")
    row("abstained", lambda s: f"{100 * s['abstained']:.1f} %")
    for reason in ("undecided", "refuted") if decides else ():
        row(reason, lambda s, key=reason: "-" if s[key] is None else f"{100 * s[key]:.1f} %")
    row("mean certified radius", lambda s: f"{s['mean_radius']:.4f}")
    row("mean gap to its own attack", lambda s: "-" if s["mean_gap"] is None else f"{s['mean_gap']:.4f}")
    row("seconds per input", lambda s: f"{s['seconds_per_input']:.3f}")
    for radius in summary["sides"][0]["certified_accuracy"]:
        row(f"certified at r={radius}", lambda s, r=radius: f"{100 * s['certified_accuracy'][r]:.1f} %")
    return table
