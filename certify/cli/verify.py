"""`certify verify`: deterministic verification of a network, with certificates that an independent checker confirms."""

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

MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        help="Rungs, separated by commas: ibp, crown-ibp, same-slope, crown, pgd, alpha, lp-last, lp-all, milp. They run "
        "in this order, per input only as far as needed. With --norm l2 --radius also spectral, lipsdp, lipsdp-pairs: one "
        "global Lipschitz constant (or one per pair of classes) for all inputs.",
    ),
]
ClipOption = Annotated[
    bool | None,
    typer.Option(
        "--clip/--no-clip",
        help="Whether balls are cut by [0, 1]; a smaller set, so that certificates claim less. One must be given.",
        show_default=False,
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget",
        help="Seconds per input; with --vnnlib, for the whole file (default: no limit).",
        show_default=False,
    ),
]
JobsOption = Annotated[int, typer.Option("--jobs", help="Processes for linear programs.")]
AgainstOption = Annotated[
    str, typer.Option("--against", help="Which class is to win: label, or prediction (the network's own).")
]
StepsOption = Annotated[int, typer.Option("--steps", help="pgd: gradient steps from each start.")]
RestartsOption = Annotated[int, typer.Option("--restarts", help="pgd: random starts.")]
SdpSolverOption = Annotated[
    str | None,
    typer.Option(
        "--sdp-solver",
        help="lipsdp: cvxpy's name of a solver for semidefinite programs (default: CLARABEL up to side 100, SCS up to 600).",
        show_default=False,
    ),
]
AlphaStepsOption = Annotated[int, typer.Option("--alpha-steps", help="alpha: gradient steps.")]


def verify(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Checkpoint folder or file, package.module:factory, torchvision:NAME or onnx:FILE.",
            show_default=False,
        ),
    ] = None,
    *,
    out: o.OutOption,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="digits, mnist, cifar10, an image folder, a .npz, ... as in certify run.", show_default=False
        ),
    ] = None,
    norm: Annotated[
        str | None, typer.Option("--norm", help="Norm of the balls: linf, l2 or l1.", show_default=False)
    ] = None,
    eps: Annotated[
        float | None,
        typer.Option(
            "--eps", help="Radius of the balls, pixels in [0, 1]; with --radius, the largest one.", show_default=False
        ),
    ] = None,
    method: MethodOption = "ibp,crown,pgd,alpha",
    clip: ClipOption = None,
    radius: Annotated[
        bool, typer.Option("--radius", help="Search for the largest certified radius, per input and method.")
    ] = False,
    pure: Annotated[
        bool,
        typer.Option(
            "--pure",
            help="Every method alone, as published: no box intersected with another method's, nothing handed on, no input "
            "left out. Reproduces columns of published tables; the ladder's bounds are never worse.",
        ),
    ] = False,
    onnx: Annotated[
        Path | None, typer.Option("--onnx", help="Network of a VNN-LIB property.", show_default=False)
    ] = None,
    vnnlib: Annotated[Path | None, typer.Option("--vnnlib", help="VNN-LIB property.", show_default=False)] = None,
    budget: BudgetOption = None,
    against: AgainstOption = "label",
    steps: StepsOption = 100,
    restarts: RestartsOption = 10,
    alpha_steps: AlphaStepsOption = 20,
    sdp_solver: SdpSolverOption = None,
    seed: Annotated[int, typer.Option("--seed", help="pgd: seed of the random starts.")] = 0,
    jobs: JobsOption = 1,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", help="Inputs at once (default: 16, or 1 with linear programs).", show_default=False
        ),
    ] = None,
    split: o.SplitOption = "test",
    data_root: DataRootOption = None,
    stride: o.StrideOption = 1,
    skip: o.SkipOption = 0,
    maximum: o.MaxOption = None,
    indices: o.IndicesOption = None,
    shard: o.ShardOption = None,
    device: o.DeviceOption = None,
    num_classes: o.ClassesOption = None,
    architecture: o.ArchitectureOption = None,
    normalisation: o.NormalisationOption = None,
    denoiser: o.DenoiserOption = None,
    trust_pickle: TrustPickleOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Prove, or refute, that a network's answer does not change in a ball; or decide a VNN-LIB property.

    Every proof but MILP's is recorded with its slopes, and counts only after a small independent checker (float64,
    rounded outwards) has confirmed it; certify audit does that again. A Lipschitz constant is recorded with its multipliers,
    and counts once a factorisation in float64 proves it. MILP rests on its solver's word, and is listed apart.
    Counterexamples count once the original network, in its own precision, confirms them. Interrupt it whenever you like
    and repeat the same line to resume; a repeat with other settings in the same folder is refused.

    [bold]Examples[/bold]

    certify verify models/mlp --data mnist --norm linf --eps 0.02 --clip --method ibp,crown,alpha,pgd --out runs/v

    certify verify models/mlp --data mnist --norm l2 --eps 2 --radius --no-clip --stride 100 --out runs/radii

    certify verify models/mlp --data mnist --norm l2 --eps 2 --radius --no-clip --method spectral,lipsdp,crown --out runs/l2

    certify verify --onnx net.onnx --vnnlib prop.vnnlib --method crown,pgd,lp-all,milp --budget 60 --out runs/prop
    """
    import os
    import sys

    from certify.verification.methods import MethodOptions, parse_methods
    from certify.verification.progress import watch
    from certify.verification.runner import execute
    from certify.verification.setup import VerifyOptions, prepare

    plan = prepare(
        VerifyOptions(
            out=out,
            methods=MethodOptions(parse_methods(method), steps, restarts, alpha_steps, seed, pure, sdp_solver),
            model=model,
            data=data,
            norm=norm,
            eps=eps,
            clip=clip,
            search=radius,
            onnx=onnx,
            vnnlib=vnnlib,
            against=against,
            budget=budget,
            batch=batch_size,
            jobs=jobs,
            data_root=data_root,
            split=split,
            stride=stride,
            skip=skip,
            maximum=maximum,
            indices=indices,
            device=device,
            num_classes=num_classes,
            architecture=architecture,
            normalisation=normalisation,
            trust_pickle=trust_pickle,
            command=tuple(sys.argv),
            shard=shard,
            denoiser=denoiser,
            environ=dict(os.environ),
        )
    )
    notes = err_console()
    if not quiet:
        describe(notes, plan)
    try:
        with watch(len(plan.indices), finished(plan), quiet=quiet) as on_row:
            rows = execute(plan, on_row=on_row)
    except KeyboardInterrupt:
        notes.print(f"every finished input is in {plan.out}; repeat the same command to resume")
        raise
    finish(plan, rows, as_json)


def finished(plan: Any) -> int:
    """How many of the planned inputs an earlier call has finished."""
    from certify.errors import JournalError
    from certify.journal import FILE_NAME, Journal
    from certify.verification.plan import KIND

    if not (plan.out / FILE_NAME).is_file():
        return 0
    try:
        with Journal(plan.out, kind=KIND) as journal:
            return len({entry.index for entry in journal.entries()} & set(plan.indices))
    except JournalError:
        return 0  # whoever opens it for writing will say what is wrong


def describe(out: Any, plan: Any) -> None:
    """Print what is about to be verified."""
    from certify.verification.exports import clip_text

    network = plan.network
    out.print(f"network  {network.spec} ({network.description})", markup=False)
    if plan.is_file:
        out.print(f"file     {plan.settings['vnnlib']}: {len(plan.indices)} box(es)", markup=False)
    else:
        data, wins = plan.subject.data, plan.subject.against
        shard = plan.settings["shard"]
        part = "" if shard is None else f"; shard {shard[0]}/{shard[1]} (counted from 0)"
        out.print(f"data     {data.name}, {data.split}: {len(plan.indices)} of {len(data)} inputs{part}", markup=False)
        looked = "largest radius looked at" if plan.search else "radius"
        clip = clip_text(plan.subject.clip)
        out.print(
            f"sets     {plan.subject.norm} balls, {looked} {plan.eps:g}, {clip}; the {wins} is to win", markup=False
        )
    limit = "" if plan.budget is None else f"; {plan.budget:g} s {'for the file' if plan.is_file else 'per input'}"
    limit += "; pure: every method alone, as published" if plan.methods.pure else ""
    out.print(f"methods  {', '.join(plan.methods.ordered)}{limit}", markup=False)


def finish(plan: Any, rows: list[Any], as_json: bool) -> None:
    """Print the result."""
    from certify.verification.summary import summarize

    wanted = set(plan.indices)
    chosen = [row for row in rows if row.index in wanted]
    result = summarize(plan.config(), chosen)
    notes = list(dict.fromkeys(note for row in chosen for note in row.notes))
    if as_json:
        print_json({"out": str(plan.out), "methods": list(plan.methods.ordered), **result, "notes": notes})
        return
    out = console()
    for note in notes:
        out.print(f"note: {note}", markup=False)
    if plan.is_file:
        out.print(f"{result['verdict']} (rests on {result['rests_on']}; {result['seconds']:.2f} s)", markup=False)
    else:
        if plan.methods.pure:
            out.print(
                "pure: every method alone, as published; no box was intersected with another method's", markup=False
            )
        out.print(_table(plan, result))
        _print_bounds(out, plan, result)
    shard = plan.settings["shard"]
    if shard is not None:
        out.print(
            f"This is shard {shard[0]} of {shard[1]}, a part of the run: join the parts with "
            f"certify merge {plan.out.parent.parent}",
            markup=False,
        )
        return
    out.print(f"Rows in {plan.out}/verify.csv; next: certify audit {plan.out}", markup=False)


def _table(plan: Any, result: dict[str, Any]) -> Any:
    from rich.table import Table

    from certify.verification.exports import clip_text
    from certify.verification.summary import STATUSES

    sets = f"{plan.subject.norm}, {'up to ' if plan.search else ''}eps {plan.eps:g}, {clip_text(plan.subject.clip)}"
    from rich.text import Text

    table = Table(title=Text(f"{plan.subject.data.name}: {sets}"), title_justify="left")
    names = ["inputs", *(status for status in STATUSES if result[status] or status == "verified"), "seconds"]
    for name in names:
        table.add_column(name, justify="right")
    table.add_row(*(f"{result[name]:.1f}" if name == "seconds" else f"{result[name]:,}" for name in names))
    return table


def _print_bounds(out: Any, plan: Any, result: dict[str, Any]) -> None:
    if plan.search:
        out.print("mean certified radius (0 where wrong or not proved), by method:")
        for name, mean in result.get("mean_radius", {}).items():
            out.print(f"  {name:<12}{mean:.6g}{'   (rests on the solver)' if name == 'milp' else ''}")
        return
    if not result["inputs"]:
        return
    out.print(_error_table(plan, result))
    low, high = 100 * result["error_lower_bound"], 100 * result["error_upper_bound"]
    out.print(f"robust error between {low:.2f} % (attacks) and {high:.2f} % (checked certificates)")
    if result["verified_by_solver_only"]:
        out.print(
            f"at most {100 * result['error_upper_bound_with_solver']:.2f} % if the solver's word for "
            f"{result['verified_by_solver_only']} more inputs is believed"
        )
    decided = ", ".join(f"{name} {count}" for name, count in result["verified_by"].items())
    out.print(f"verified by: {decided}; bounds in {plan.out}/robust_error.csv", markup=False)


def _error_table(plan: Any, result: dict[str, Any]) -> Any:
    """Robust error from both sides: counterexamples below, what is not proved above, method by method."""
    from rich.table import Table
    from rich.text import Text

    kind = "each method alone" if plan.methods.pure else "each rung with those before it"
    title = f"Robust error: lower <= true <= upper, over {result['inputs']:,} inputs ({kind})"
    table = Table(title=Text(title), title_justify="left")
    for name, justify in (("bound", "left"), ("method", "left"), ("inputs", "right"), ("share", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("rests on")
    for line in result["robust_error"]:
        sign = "true >=" if line["side"] == "lower" else "true <="
        share = f"{100 * line['share']:.2f} %"
        table.add_row(sign, line["method"], f"{line['count']:,}", share, Text(line["rests_on"]))
    return table
