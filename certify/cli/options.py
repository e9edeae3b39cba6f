"""Options that several commands share: model, data, law, estimator, selection."""

from pathlib import Path
from typing import Annotated

import typer

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
N0Option = Annotated[int, typer.Option("--n0", help="Votes that select the class.")]
NOption = Annotated[int, typer.Option("--n", help="Fresh votes that bound its probability.")]
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
