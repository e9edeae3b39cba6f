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
    preflight_: o.PreflightOption = None,
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
    from certify.errors import UsageError
    from certify.planning import forecast, forecast_table
    from certify.runner import preflight
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
                record=None,
                from_record=None,
            ),
            denoiser=denoiser,
            trust_pickle=trust_pickle,
            out=Path("unused"),
        ),
        dict(os.environ),
    )
    if prepared.plan.service is not None:
        from certify.blackbox.forecast import forecast_text, service_forecast

        found = service_forecast(prepared.plan)
        if as_json:
            print_json({**found, "warnings": list(prepared.warnings)})
        else:
            for warning in prepared.warnings:
                console().print(f"[yellow]warning:[/yellow] {warning}")
            for line in forecast_text(found):
                console().print(line)
        return
    if preflight_ is False:
        raise UsageError("plan measures speed and clean accuracy on this machine: --no-preflight is for services alone")
    measured = preflight(prepared.plan)
    rows = forecast(prepared.plan, measured.votes_per_second, keep_radii=radii is not None)
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
    out.print(forecast_table(rows, prepared.plan))
