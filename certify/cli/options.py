"""Options that several commands share: model, data, law, estimator, selection."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from certify.estimators import EstimatorOptions

LAW_PARAMETERS = {
    "gaussian": (),
    "laplace": ("scale",),
    "uniform": ("half_width",),
    "uniform_ball": ("ball_radius",),
    "exp_inf": ("scale", "k", "j"),
    "exp_two": ("scale", "k", "j"),
    "exp_one": ("scale", "k"),
    "exp_p": ("scale", "p"),
    "pow_inf": ("scale", "a"),
    "pow_two": ("scale", "k", "a"),
    "pareto": ("scale", "a"),
}
"""The laws and what they take beside sigma, for help pages, which import nothing heavy; a test compares them with the
table of laws."""


def law_names() -> str:
    """Return the names of all laws as text: "a, b or c"."""
    return _one_of(list(LAW_PARAMETERS))


def _takers(parameter: str) -> str:
    return _one_of([name for name, takes in LAW_PARAMETERS.items() if parameter in takes])


def _one_of(names: list[str]) -> str:
    return " or ".join(text for text in (", ".join(names[:-1]), *names[-1:]) if text)


def law_parameters(**given: float | None) -> tuple[tuple[str, float], ...]:
    """Collect the options that are parameters of a law: those that were given, by name.

    Which of them a law takes is the law's own business: it refuses the others with the list of what it takes.
    """
    return tuple((name, value) for name, value in given.items() if value is not None)


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Checkpoint folder or file, package.module:factory, torchvision:NAME, timm:NAME, hf:NAME or onnx:FILE.",
        show_default=False,
    ),
]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits, mnist, fashion_mnist, cifar10, imagenet, an image folder, a .npz or a .tar.",
        show_default=False,
    ),
]
SplitOption = Annotated[str, typer.Option("--split", help="Which part of the data: test or train.")]
NoiseOption = Annotated[
    str | None,
    typer.Option("--noise", help=f"Law of the noise: {law_names()} (default: the model's).", show_default=False),
]
SigmaOption = Annotated[
    float | None,
    typer.Option(
        "--sigma",
        help="Per-coordinate standard deviation, pixels in [0, 1] (default: the model's).",
        show_default=False,
    ),
]
ScaleOption = Annotated[
    float | None,
    typer.Option("--scale", help=f"Scale of {_takers('scale')} noise, instead of --sigma.", show_default=False),
]
HalfWidthOption = Annotated[
    float | None,
    typer.Option(
        "--half-width", help=f"Half-width of {_takers('half_width')} noise, instead of --sigma.", show_default=False
    ),
]
BallRadiusOption = Annotated[
    float | None,
    typer.Option(
        "--ball-radius", help=f"Radius of {_takers('ball_radius')} noise, instead of --sigma.", show_default=False
    ),
]
KOption = Annotated[
    float | None, typer.Option("--k", help=f"Shape parameter of {_takers('k')} noise.", show_default=False)
]
JOption = Annotated[
    float | None, typer.Option("--j", help=f"Shape parameter of {_takers('j')} noise.", show_default=False)
]
AOption = Annotated[
    float | None, typer.Option("--a", help=f"Shape parameter of {_takers('a')} noise.", show_default=False)
]
POption = Annotated[
    float | None, typer.Option("--p", help=f"Shape parameter of {_takers('p')} noise.", show_default=False)
]
NormOption = Annotated[str, typer.Option("--norm", help="Norm of the certified radius: l1, l2 or linf.")]
ConvertFromOption = Annotated[
    str | None,
    typer.Option(
        "--convert-from",
        help="Prove the radius in this norm and convert it to --norm (weaker than a radius of the law's own).",
        show_default=False,
    ),
]
N0Option = Annotated[
    int | None, typer.Option("--n0", help="fixed: votes that select the class (default 100).", show_default=False)
]
NOption = Annotated[
    int | None,
    typer.Option("--n", help="fixed: fresh votes that bound its probability (default 100,000).", show_default=False),
]
EstimatorOption = Annotated[
    str,
    typer.Option(
        "--estimator",
        help="Policy over votes: fixed (n0 + n votes for every input, as published), sequential (decides a grid of radii "
        "with as few votes as it takes), anytime (the same without a cap: may be given more votes later), planned (a pilot "
        "names n).",
    ),
]
RadiiOption = Annotated[
    str | None,
    typer.Option(
        "--radii",
        help="sequential, anytime: radii to decide, such as 0,0.25,0.5 (default: steps of 0.25 up to what the cap can "
        "reach).",
        show_default=False,
    ),
]
CapOption = Annotated[
    str | None,
    typer.Option(
        "--cap",
        help='sequential, anytime, planned: votes per input at most (default 100,000); anytime also takes "none".',
        show_default=False,
    ),
]
FreeOption = Annotated[
    bool | None,
    typer.Option(
        "--free/--label-directed",
        help="sequential, anytime, planned: certify the class that the votes name, or test the label itself, which needs "
        "fewer votes (default: label-directed).",
        show_default=False,
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="sequential: boundaries by gse (exact group-sequential) or zmix (calibrated mixture).",
        show_default=False,
    ),
]
FutilityOption = Annotated[
    float | None,
    typer.Option(
        "--futility",
        help="sequential: give a radius up where the predictive probability of certifying it by the cap is below this; "
        "costs certificates, never soundness.",
        show_default=False,
    ),
]
BetaOption = Annotated[
    float | None,
    typer.Option("--beta", help="sequential, anytime: error probability of refutations.", show_default=False),
]
PilotOption = Annotated[
    int | None, typer.Option("--pilot", help="planned: votes of the pilot (default 1,000).", show_default=False)
]
LossOption = Annotated[
    float | None,
    typer.Option(
        "--loss",
        help="planned: share of the radius that may be lost against the cap (default 0.05).",
        show_default=False,
    ),
]
RunnerUpOption = Annotated[
    bool | None,
    typer.Option(
        "--runner-up",
        help="fixed: bound the runner-up too, at a tenth of alpha, for a radius from both classes; may certify a class "
        "with less than half of the votes.",
        show_default=False,
    ),
]
NoiseVersionOption = Annotated[
    str,
    typer.Option(
        "--noise-version",
        help="philox-int-v1 (integer noise, for data on a grid and gaussian, laplace or uniform noise: no gap between "
        "theorem and machine), torch-block-v1 (floating point, for everything), or auto: the folder's, else the former "
        "where it is possible.",
    ),
]
AlphaOption = Annotated[float, typer.Option("--alpha", help="Error probability per input, one-sided.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the noise.")]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", help="Rows of every forward pass (default: 256 on CPUs, 1024 on GPUs).", show_default=False
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option("--precision", help="fp32, bf16 or fp16; the certificate is for the classifier at this precision."),
]
ChannelsLastOption = Annotated[
    bool,
    typer.Option(
        "--channels-last/--no-channels-last", help="NHWC memory for image batches: up to twice as fast on CPUs."
    ),
]
CompileOption = Annotated[
    bool, typer.Option("--compile/--no-compile", help="Run the classifier through torch.compile.")
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N (default: cuda where there is one).", show_default=False),
]
ClassesOption = Annotated[
    int | None,
    typer.Option("--num-classes", help="Number of classes, for models that do not say.", show_default=False),
]
ArchitectureOption = Annotated[
    str | None,
    typer.Option(
        "--architecture", help="Architecture of a plain state dict, for instance resnet110.", show_default=False
    ),
]
NormalisationOption = Annotated[
    str | None,
    typer.Option(
        "--normalisation",
        help="Normalisation of weights that come without one: none, cifar10, cifar10-centre, imagenet, ...",
        show_default=False,
    ),
]
DenoiserOption = Annotated[
    str | None,
    typer.Option(
        "--denoiser",
        help="Put a denoiser before the model: folder of a trained one (certify denoise train), or classical:NAME.",
        show_default=False,
    ),
]
StrideOption = Annotated[int, typer.Option("--stride", help="Take every k-th input.")]
SkipOption = Annotated[int, typer.Option("--skip", help="Leave out the first inputs.")]
MaxOption = Annotated[int | None, typer.Option("--max", help="Take at most this many inputs.", show_default=False)]
IndicesOption = Annotated[
    str | None,
    typer.Option("--indices", help='Take these inputs, for instance "0,5,10-20,100-200:10".', show_default=False),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="Do part i of n (i from 0): every n-th of the chosen inputs, in OUT/shards/i-of-n; `auto` reads RANK and "
        "WORLD_SIZE or SLURM's variables. Join the parts with `certify merge OUT`.",
        show_default=False,
    ),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Run folder.", show_default=False)]


def estimator_options(name: str, n0: int | None, n: int | None, **given: Any) -> tuple["EstimatorOptions", int, int]:
    """Return the estimator that was asked for, with n0 and n.

    Raises:
        UsageError: If n0 or n was given to an estimator that takes neither.
    """
    from certify.errors import UsageError
    from certify.estimators import EstimatorOptions

    if name != "fixed" and (n0 is not None or n is not None):
        raise UsageError(
            f"--n0 and --n are for --estimator fixed, got {'--n0' if n is None else '--n'} with --estimator {name}; "
            "--cap is the largest number of votes there"
        )
    return EstimatorOptions(name, **given), 100 if n0 is None else n0, 100_000 if n is None else n


AdapterOption = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        help="MODEL is an address: how it is asked. oip (default), http-json, openai-chat, hf-endpoint or rekognition; or "
        "the path of an ONNX file: onnxruntime, in this process.",
        show_default=False,
    ),
]
ServiceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--service",
        help="Service: an option of the adapter, as in --service model=resnet; a wrong one is answered with the list.",
        show_default=False,
    ),
]
LabelMapOption = Annotated[
    Path | None,
    typer.Option("--label-map", help="Service: CSV file of label,class; other labels are invalid.", show_default=False),
]
ClassNamesOption = Annotated[
    str | None,
    typer.Option("--class-names", help="Service: names of the classes, comma separated, in order.", show_default=False),
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        help="Service: calls in flight (default 8); also what a kill may pay twice.",
        show_default=False,
    ),
]
RateOption = Annotated[
    float | None, typer.Option("--rate", help="Service: calls a second at most.", show_default=False)
]
PatienceOption = Annotated[
    float | None,
    typer.Option(
        "--patience",
        help="Service: seconds until a question without any answer counts as invalid (default 300).",
        show_default=False,
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        help="Service: seconds to wait for the answer to a call (default 60). A call that takes longer has given no answer "
        "and is made again; the service may bill both, and both count against a budget.",
        show_default=False,
    ),
]
MaxQueriesOption = Annotated[
    int | None,
    typer.Option(
        "--max-queries",
        help="Service: images to send, at most, answered or not: votes, the question before them, clean and known images "
        "(per --shard).",
        show_default=False,
    ),
]
MaxCostOption = Annotated[
    float | None, typer.Option("--max-cost", help="Service: money to spend, at most, likewise.", show_default=False)
]
PriceOption = Annotated[
    float | None,
    typer.Option("--price-per-1000", help="Service: price of 1,000 images, in any currency.", show_default=False),
]
PriceDateOption = Annotated[
    str | None, typer.Option("--price-date", help="Service: day of that price, as in 2026-11-27.", show_default=False)
]
CanariesOption = Annotated[
    int | None,
    typer.Option(
        "--canaries",
        help="Service: known images asked about before, during (every 10 min) and after, which show that it has changed "
        "(default: 5 where it reports no version and the budget has room for them, else none).",
        show_default=False,
    ),
]
PreflightOption = Annotated[
    bool | None,
    typer.Option(
        "--preflight/--no-preflight",
        help="Look at up to 64 inputs without noise first: clean accuracy, and speed on this machine. A service is asked "
        "about them where that costs nothing or the budget covers it beside the run; where its answers have nothing to do "
        "with the labels, the run stops before any votes.",
        show_default=False,
    ),
]
RandomServiceOption = Annotated[
    bool, typer.Option("--random-service", help="Service: it answers at random by design, so canaries are off.")
]
RecordOption = Annotated[
    Path | None, typer.Option("--record", help="Service: write all answers to this log.", show_default=False)
]
FromRecordOption = Annotated[
    Path | None,
    typer.Option(
        "--from-record", help="Certify from a log of answers, offline, instead of asking.", show_default=False
    ),
]


def service_options(
    model: str,
    *,
    adapter: str | None,
    service: list[str] | None,
    label_map: Path | None,
    class_names: str | None,
    concurrency: int | None,
    rate: float | None,
    patience: float | None,
    timeout: float | None,
    max_queries: int | None,
    max_cost: float | None,
    price: float | None,
    price_date: str | None,
    canaries: int | None,
    random_service: bool,
    preflight: bool | None,
    record: Path | None,
    from_record: Path | None,
) -> Any:
    """Return how a service is asked, where the model is one or one of the options was given; else None.

    Raises:
        UsageError: If a value is out of range, a package is missing, or the model is no service.
    """
    from certify.errors import UsageError

    asked = {
        "--adapter": adapter,
        "--service": service,
        "--label-map": label_map,
        "--class-names": class_names,
        "--concurrency": concurrency,
        "--rate": rate,
        "--patience": patience,
        "--timeout": timeout,
        "--max-queries": max_queries,
        "--max-cost": max_cost,
        "--price-per-1000": price,
        "--price-date": price_date,
        "--canaries": canaries,
        "--random-service": random_service or None,
        "--record": record,
    }
    given = [flag for flag, value in asked.items() if value is not None]
    in_process = adapter == "onnxruntime"  # setup.IN_PROCESS, whose import would load torch for a typo
    if not model.startswith(("http://", "https://")) and from_record is None and not in_process:
        if not given:
            return None
        raise UsageError(
            f"{', '.join(given)}: for a prediction service alone, whose address MODEL must then be (https://...; "
            f"with --adapter onnxruntime the path of an ONNX file), got MODEL={model}"
        )
    try:
        from certify.blackbox.budget import Budget
        from certify.blackbox.caller import CallSettings
        from certify.blackbox.spec import ServiceOptions
    except ImportError as error:
        raise UsageError(f"prediction services need {error.name}: pip install 'wulff[api]'") from None
    calls: dict[str, Any] = {"concurrency": concurrency, "patience": patience, "timeout": timeout}
    return ServiceOptions(
        adapter=adapter or "oip",
        options=tuple(service or ()),
        label_map=label_map,
        class_names=None if class_names is None else tuple(name.strip() for name in class_names.split(",")),
        calls=CallSettings(per_second=rate, **{key: value for key, value in calls.items() if value is not None}),
        budget=Budget(max_queries, max_cost, price, price_date),
        canaries=canaries,
        is_random=random_service,
        preflight=preflight,
        record=record,
        from_record=from_record,
    )
