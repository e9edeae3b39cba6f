"""`certify demo`: the whole story in about a minute."""

from pathlib import Path
from typing import Annotated

import typer

from certify.cli import options as o
from certify.cli.common import JsonOption, QuietOption, console, err_console, print_json


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for model, run and report.")] = Path("certify-demo"),
    sigma: Annotated[float, typer.Option("--sigma", help="Standard deviation of the noise.")] = 0.25,
    n: Annotated[int, typer.Option("--n", help="Estimation votes per image.")] = 10_000,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a small classifier with noise, certify held-out images, and write table and picture.

    Uses the 1,797 scans of handwritten digits that come with scikit-learn: nothing is downloaded. What it prints are real
    certificates: within each radius (l2, pixels in [0, 1]) no perturbation can change the smoothed classifier's answer,
    up to the stated error probability.

    [bold]Example[/bold]

    certify demo && certify audit certify-demo/run --replay 3
    """
    from certify.allocator import tune_allocator
    from certify.demo import DemoSettings, certify_demo, check_demo, plan_demo, train_demo
    from certify.progress import watch
    from certify.training.progress import watch_training

    tune_allocator()
    settings = DemoSettings(out, sigma, n, seed, device)
    check_demo(settings)
    notes = err_console()
    if not quiet:
        notes.print(f"[1/3] training a small network on digits with Gaussian noise, sigma {sigma:g}")
    with watch_training(quiet=quiet) as training:
        train_demo(settings, training)
    plan = plan_demo(settings)
    if not quiet:
        notes.print(
            f"[2/3] certifying {len(plan.indices)} held-out images, {plan.votes_per_input:,} votes each, "
            f"alpha {plan.estimator.alpha:g}"
        )
    with watch(len(plan.indices), plan.votes_per_input, quiet=quiet) as observer:
        report = certify_demo(plan, settings, observer.on_votes, observer.on_row)
    if as_json:
        print_json({"out": str(out), **report.to_dict()})
        return
    if not quiet:
        notes.print("[3/3] done")
    from certify.report.terminal import print_report

    result = console()
    print_report(result, report)
    result.print(f"certificates  {plan.out / 'certificates.tsv'}")
    result.print(f"table         {settings.out / 'report' / 'table.md'}, table.csv, table.tex")
    result.print(f"picture       {settings.out / 'report' / 'certified_accuracy.png'}, certified_accuracy.pdf")
    result.print(f"page          {settings.out / 'report' / 'report.html'}")
    result.print(f"next          certify audit {plan.out} --replay 3")
