"""`certify attack`: attack the smoothed classifier of a run, and hold the result against its certificates."""

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


def attack(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder.")],
    *,
    radii: Annotated[
        str | None,
        typer.Option("--radii", help="Radii of the attacks (default: 0.25,0.5,...,1.5).", show_default=False),
    ] = None,
    m: Annotated[
        int, typer.Option("--m", help="Noise samples that the attack sees; 0 attacks the base classifier.")
    ] = 32,
    steps: Annotated[int, typer.Option("--steps", help="Gradient steps of an attack.")] = 20,
    restarts: Annotated[int, typer.Option("--restarts", help="Starts; all but the first are random.")] = 1,
    n: Annotated[int, typer.Option("--n", help="Votes that judge an attacked input.")] = 1_000,
    alpha: Annotated[
        float, typer.Option("--alpha", help="Error probability over all judgements of this command together.")
    ] = 0.001,
    maximum: Annotated[int | None, typer.Option("--max", help="Attack at most this many inputs, evenly chosen.")] = 100,
    inside: Annotated[
        bool, typer.Option("--inside/--no-inside", help="Also attack each certified input at its own radius.")
    ] = True,
    seed: o.SeedOption = 0,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Where the run's model is now (same content).", show_default=False),
    ] = None,
    data_root: DataRootOption = None,
    device: o.DeviceOption = None,
    trust_pickle: TrustPickleOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Attack the smoothed classifier of a run, and hold the result against its certificates.

    Robust accuracy lies between two numbers: the certified accuracy, which is
    proved (up to alpha per input), and the accuracy under an attack, which
    only shows what this attack could not break. The attack is SmoothAdv's:
    projected gradient steps on -log of the mean softmax over m noise samples.
    The more samples and steps, the stronger; m below 16 says little.

    An input counts as broken where fresh votes significantly give it a wrong
    class. If that happens inside its certified radius, an ALARM is printed and
    the exit code is 1: a certificate would be false.

    [bold]Examples[/bold]

    certify attack runs/mnist

    certify attack runs/mnist --radii 0.5,1 --m 128 --steps 50 --max 500
    """
    from certify.allocator import tune_allocator
    from certify.attacking import AttackOptions, attack_run
    from certify.metrics import parse_radii

    tune_allocator()
    options = AttackOptions(
        folder=folder,
        radii=None if radii is None else tuple(parse_radii(radii)),
        m=m,
        steps=steps,
        restarts=restarts,
        n=n,
        alpha=alpha,
        maximum=maximum,
        inside=inside,
        seed=seed,
        model=model,
        data_root=data_root,
        device=device,
        trust_pickle=trust_pickle,
    )
    notes = err_console()

    def progress(done: int, total: int) -> None:
        notes.print(f"attacked {done}/{total}", soft_wrap=True)

    report = attack_run(options, None if quiet else _every(progress))
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)
    if report.alarms:
        raise typer.Exit(1)


def _every(progress: Any, interval: float = 10.0) -> Any:
    import time

    last = time.monotonic()

    def limited(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= interval or done == total:
            last = time.monotonic()
            progress(done, total)

    return limited


def _print(report: Any) -> None:
    from rich.table import Table

    options, out = report.options, console()
    against = f"the smoothed classifier (m = {options.m})" if options.m else "the base classifier (m = 0)"
    table = Table(
        title=f"{report.inputs} inputs, {report.norm}, attack on {against}: {options.steps} steps, "
        f"{options.restarts} start(s); judged by {options.n} votes"
    )
    for name in ("radius", "certified (lower bound)", "under attack (upper bound)", "abstained under attack"):
        table.add_column(name, justify="right")
    for result in report.results:
        shares = (result.certified, result.empirical, result.abstained)
        table.add_row(f"{result.radius:g}", *(f"{100 * share:.1f} %" for share in shares))
    out.print(table)
    if not report.alarms:
        out.print(
            f"No alarm: {report.checked} attacks inside certified radii, none significantly given another class "
            f"(alpha {options.alpha:g} over all judgements).",
            soft_wrap=True,
        )
    for alarm in report.alarms:
        out.print(
            f"[bold red]ALARM[/bold red] input {alarm.index}: certified class {alarm.certified_class} within "
            f"{alarm.certified_radius!r}, but class {alarm.found_class} at distance {alarm.distance!r}",
            soft_wrap=True,
        )
