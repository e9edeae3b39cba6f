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
    estimator: o.EstimatorOption = "fixed",
    n: o.NOption = None,
    n0: o.N0Option = None,
    radii: o.RadiiOption = None,
    cap: o.CapOption = None,
    free: o.FreeOption = None,
    method: o.MethodOption = None,
    futility: o.FutilityOption = None,
    beta: o.BetaOption = None,
    pilot: o.PilotOption = None,
    loss: o.LossOption = None,
    runner_up: o.RunnerUpOption = None,
    alpha: o.AlphaOption = 0.001,
    noise_version: o.NoiseVersionOption = "auto",
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
    denoiser: o.DenoiserOption = None,
    trust_pickle: TrustPickleOption = False,
    adapter: o.AdapterOption = None,
    service: o.ServiceOption = None,
    label_map: o.LabelMapOption = None,
    class_names: o.ClassNamesOption = None,
    concurrency: o.ConcurrencyOption = None,
    rate: o.RateOption = None,
    patience: o.PatienceOption = None,
    timeout: o.TimeoutOption = None,
    max_queries: o.MaxQueriesOption = None,
    max_cost: o.MaxCostOption = None,
    price: o.PriceOption = None,
    price_date: o.PriceDateOption = None,
    canaries: o.CanariesOption = None,
    random_service: o.RandomServiceOption = False,
    record: o.RecordOption = None,
    from_record: o.FromRecordOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Service: do not ask before money is spent.")] = False,
    quiet: QuietOption = False,
    preflight_: o.PreflightOption = None,
    as_json: JsonOption = False,
) -> None:
    """Certify a data set: one certificate per input, journalled, resumable.

    Interrupt it whenever you like (Ctrl-C, SIGTERM, a power cut) and repeat the same line to resume; the votes are the
    same as those of an undisturbed run. A repeat with other settings in the same folder is refused, with the difference;
    more votes (anytime) or further radii of the same grid (sequential, anytime) continue a run where that is sound.

    Results are certified, refuted, undecided or abstained. In certificates.tsv an input without a proved class has predict
    -1 (abstained), -2 (undecided: the votes did not suffice) or -3 (refuted: the smallest radius is not reached).

    [bold]Examples[/bold]

    certify run models/mnist-lenet --data mnist --n 10000 --stride 20 --out runs/mnist

    certify run models/mnist-lenet --data mnist --estimator sequential --radii 0,0.5,1 --out runs/curve

    certify run torchvision:resnet50 --data imagenet --noise gaussian --sigma 0.25 --stride 100 --out runs/imagenet

    certify run https://api.example.com --adapter http-json --service file=api.toml --data my.npz --noise gaussian
    --sigma 0.25 --n 1000 --max-queries 20000 --out runs/api

    certify run mypackage.mymodule:make --data my.npz --noise uniform --sigma 0.5 --norm l1 --out runs/mine
    """
    import os
    import sys

    from certify.allocator import tune_allocator
    from certify.class_hint import check_class_count, class_hint
    from certify.errors import CertifyError
    from certify.progress import watch
    from certify.redaction import redact_argument
    from certify.runner import execute, preflight
    from certify.setup import RunOptions, prepare

    tune_allocator()
    policy, n0_votes, n_votes = o.estimator_options(
        estimator,
        n0,
        n,
        radii=radii,
        cap=cap,
        free=free,
        method=method,
        futility=futility,
        beta=beta,
        pilot=pilot,
        precision=loss,
        runner_up=runner_up,
    )
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
            n0=n0_votes,
            n=n_votes,
            alpha=alpha,
            estimator=policy,
            noise_version=noise_version,
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
            service=o.service_options(
                model,
                adapter=adapter,
                service=service,
                label_map=label_map,
                class_names=class_names,
                concurrency=concurrency,
                rate=rate,
                patience=patience,
                timeout=timeout,
                max_queries=max_queries,
                max_cost=max_cost,
                price=price,
                price_date=price_date,
                canaries=canaries,
                random_service=random_service,
                preflight=preflight_,
                record=record,
                from_record=from_record,
            ),
            denoiser=denoiser,
            trust_pickle=trust_pickle,
            out=Path(out),
            command=tuple(map(redact_argument, sys.argv)),
        ),
        dict(os.environ),
    )
    plan = prepared.plan
    with class_hint(plan.model.num_classes, num_classes):
        check_class_count(plan)
    notes = err_console()
    for warning in prepared.warnings:
        notes.print(f"[yellow]warning:[/yellow] {warning}")
    for note in prepared.notes:
        notes.print(note)
    if plan.service is not None:
        if plan.service.options.from_record is None:
            from certify.blackbox.secrets import require_variables

            require_variables(plan.service.adapter.variables)  # before people are asked whether to pay
        plan.service.remarks.listener = lambda text: notes.print(f"[yellow]warning:[/yellow] {text}")
        plan.service.remarks.teller = None if quiet else lambda text: notes.print(text, markup=False)
    if not quiet:
        describe(notes, plan)
        if preflight_ is not False and plan.service is None:
            with class_hint(plan.model.num_classes, num_classes):
                announce(notes, plan, preflight(plan))
    if plan.service is not None and plan.service.options.from_record is None:
        confirm_spending(notes, plan, yes=yes)
    figures = str if plan.service is None else plan.service.remarks.progress
    try:
        with (
            watch(
                len(plan.indices), plan.votes_per_input, quiet=quiet, decides=plan.grid is not None, figures=figures
            ) as observer,
            class_hint(plan.model.num_classes, num_classes),
        ):
            rows = execute(
                plan,
                on_votes=observer.on_votes,
                on_row=observer.on_row,
                on_curve=observer.on_curve if plan.grid is not None else None,
            )
    except KeyboardInterrupt:
        notes.print(
            f"every finished input is in {plan.out}, and the votes of others; repeat the same command to resume"
        )
        raise
    except CertifyError as error:
        rows = _left_by_budget(plan, error)
    finish(plan, rows, as_json)


def _left_by_budget(plan: Any, error: Exception) -> list[Any]:
    """Return the finished inputs of a run on a service whose budget has ended it; raise every other error again."""
    if plan.service is None:
        raise error
    from certify.blackbox.budget import BudgetSpentError
    from certify.blackbox.running import finished_rows

    if not isinstance(error, BudgetSpentError):
        raise error
    return finished_rows(plan)


def describe(out: Any, plan: Any) -> None:
    """Print what is about to be certified."""
    from certify.laws import law_text

    out.print(f"model   {plan.settings['model']} ({plan.model.description})")
    out.print(f"data    {plan.data.name}, {plan.data.split}: {len(plan.indices)} of {len(plan.data)} inputs")
    converted = "" if plan.convert_from is None else f", converted from {plan.convert_from}"
    out.print(f"noise   {law_text(plan.law)}; norm {plan.norm}{converted}")
    slack = plan.noise_source().probability_slack
    allowed = f", which may be off by {slack:.2g} in probability: taken into account" if slack else ""
    out.print(f"drawn   {plan.noise['version']}{allowed}")
    out.print(
        f"votes   {policy_text(plan)}, alpha = {plan.estimator.alpha:g} per input; largest possible radius "
        f"{plan.largest_radius():.4g}"
    )


def confirm_spending(out: Any, plan: Any, *, yes: bool) -> None:
    """Print what a run on a service will ask and cost, and where it costs money, ask whether that is meant.

    Raises:
        typer.Exit: If it is not.
    """
    from certify.blackbox.forecast import forecast_text, service_forecast

    for line in forecast_text(service_forecast(plan)):
        out.print(line)
    if (
        plan.service.options.budget.paid
        and not yes
        and not typer.confirm("Spend it (--yes skips this question)?", err=True)
    ):
        raise typer.Exit(130)


def policy_text(plan: Any) -> str:
    """Return the estimator in words."""
    settings = plan.estimator.describe()
    if settings["name"] == "fixed":
        rival = ", runner-up bounded" if settings.get("runner_up") else ""
        return f"n0 = {settings['n0']:,}, n = {settings['n']:,}{rival}"
    most = "no cap" if plan.votes_per_input is None else f"at most {plan.votes_per_input:,} per input"
    mode = "tests the label" if settings["mode"] == "label" else "certifies the class that the votes name"
    grid = "" if plan.grid is None else f", radii {', '.join(f'{r:g}' for r in plan.grid)}"
    return f"{settings['name']}, {mode}, {most}{grid}"


def announce(out: Any, plan: Any, found: Any) -> None:
    """Print what the preflight measured: clean accuracy, speed, expected time."""
    from certify.progress import clock

    measured = (
        f"before  clean accuracy {found.clean_accuracy:.1%} on {found.checked} inputs; about "
        f"{found.votes_per_second:,.0f} samples/s"
    )
    if plan.votes_per_input is None:
        out.print(f"{measured}; no cap on the samples")
        return
    votes = len(plan.indices) * plan.votes_per_input
    most = "" if plan.estimator.name == "fixed" else "at most "
    out.print(f"{measured}, so {most}{clock(votes / found.votes_per_second)} for {most}{votes:,} samples")


def _service_result(plan: Any, ended: str | None) -> dict[str, Any]:
    """Return what the JSON of a run on a service says beside its figures; nothing for other runs."""
    if plan.service is None:
        return {}
    from certify.rundir import read_config

    return {
        "inputs_planned": len(plan.indices),
        "warnings": list(plan.service.remarks.texts),
        "ended_by_budget": ended,
        "queries": _account(plan),
        "preflight": read_config(plan.out)["settings"]["service"].get("preflight"),
    }


def _account(plan: Any) -> dict[str, int] | None:
    """Return what was sent to the service, over all starts of the run; None where the answers come from a log."""
    if plan.service.options.from_record is not None:
        return None
    from certify.blackbox.running import account_of

    return account_of(plan)


def finish(plan: Any, rows: list[Any], as_json: bool) -> None:
    """Print the result of a run."""
    from certify.laws import law_text
    from certify.summary import summarize, summary_table

    wanted = set(plan.indices)
    rows = [row for row in rows if row.index in wanted]
    ended = None
    if plan.service is not None:
        from certify.blackbox.budget import BudgetError
        from certify.blackbox.running import budget_remark

        ended = budget_remark(plan, len(rows))
        if ended is not None and not rows:
            raise BudgetError(ended)
    result = summarize(rows, plan.largest_radius(), plan.grid)
    if as_json:
        n = getattr(plan.estimator, "n", plan.votes_per_input)
        print_json(
            {
                "out": str(plan.out),
                "estimator": plan.estimator.name,
                "alpha": plan.estimator.alpha,
                "n": n,
                "noise_version": plan.noise["version"],
                **result,
                **_service_result(plan, ended),
            }
        )
        return
    out = console()
    out.print(summary_table(result, f"{plan.data.name}, {plan.norm}, {law_text(plan.law)}"))
    if plan.estimator.name != "fixed":
        most = plan.votes_per_input
        saved = "" if most is None else f", {1 - result['votes'] / (most * result['inputs']):.1%} fewer than the cap"
        out.print(f"{result['votes']:,} votes, {result['votes'] / result['inputs']:,.0f} per input{saved}")
    if plan.grid is not None:
        out.print("ACR is a lower sum: every input counts with the largest radius of the grid that was certified")
    if result["invalid_votes"]:
        what = "non-finite scores or labels outside the classes"
        if plan.service is not None:
            what = "refusals, unreadable answers, labels outside the mapping, retries that ran out, or void inputs"
        out.print(f"{result['invalid_votes']:,} votes were invalid ({what}); they count against every class")
    account = None if plan.service is None else _account(plan)
    if account is not None:
        lost = (
            f"; {account['unanswered']:,} were sent without an answer and may be on the bill: they count against a budget"
            if account["unanswered"]
            else ""
        )
        out.print(
            f"{account['sent']:,} images sent in all, {account['answered']:,} answered ({account['votes']:,} votes, "
            f"{account['preflight']:,} for clean accuracy, {account['questions']:,} other questions){lost}"
        )
    if ended is not None:
        out.print(ended)
    shard = plan.settings["shard"]
    if shard is not None:
        out.print(
            f"This is shard {shard[0]} of {shard[1]}, a part of the run: join the parts with "
            f"certify merge {plan.out.parent.parent}"
        )
        return
    out.print(f"Certificates in {plan.out}/certificates.tsv; next: certify report {plan.out}; certify audit {plan.out}")
