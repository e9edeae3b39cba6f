"""`certify radius`: the certificate calculator."""

from pathlib import Path
from typing import Annotated, Any

import typer

from certify.cli import options as o
from certify.cli.common import JsonOption, console, print_json


def radius(
    noise: Annotated[
        list[str],
        typer.Option(
            "--noise",
            help=f"Law of the noise: {o.law_names()}. Parameters may follow it: exp_two:k=2:j=10. With --plot several, "
            "joined by commas or the option repeated.",
            show_default=False,
        ),
    ],
    p_lower: Annotated[
        float | None, typer.Option("--p-lower", help="Lower bound on the top class's probability.", show_default=False)
    ] = None,
    q_upper: Annotated[
        float | None,
        typer.Option(
            "--q-upper", help="Upper bound on 1 - p, where p is too close to 1 to be written.", show_default=False
        ),
    ] = None,
    p_upper: Annotated[
        float | None, typer.Option("--p-upper", help="Upper bound on the runner-up's probability.", show_default=False)
    ] = None,
    votes: Annotated[
        str | None,
        typer.Option(
            "--votes",
            help='Votes instead of a probability: "K/N", K of N for the top class, with --alpha.',
            show_default=False,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            "--alpha",
            help="With --votes: error probability of the bound on them, one-sided (default 0.001).",
            show_default=False,
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option("--sigma", help="Per-coordinate standard deviation, input units.", show_default=False),
    ] = None,
    scale: o.ScaleOption = None,
    half_width: o.HalfWidthOption = None,
    ball_radius: o.BallRadiusOption = None,
    k: o.KOption = None,
    j: o.JOption = None,
    a: o.AOption = None,
    p: o.POption = None,
    norm: o.NormOption = "l2",
    convert_from: o.ConvertFromOption = None,
    shape: Annotated[str, typer.Option("--shape", help="Shape of one input, for instance 3x32x32.")] = "1",
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="Instead of one radius, draw the radius against p for all laws named, at equal sigma, into this file "
            "(.png, .pdf or .svg).",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute the certified radius of a law from a probability or from votes, with the theorem behind it.

    The limit beside it holds for every additive noise of the same sigma: no law, however shaped, certifies more from
    this probability alone.

    [bold]Examples[/bold]

    certify radius --noise gaussian --sigma 0.5 --p-lower 0.99

    certify radius --noise gaussian --sigma 0.5 --norm linf --shape 3x32x32 --votes 99500/100000

    certify radius --noise uniform --sigma 0.5 --norm l1 --p-lower 0.9 --p-upper 0.04

    certify radius --noise gaussian,laplace,uniform --sigma 1 --norm l1 --shape 3x32x32 --plot radii.png
    """
    from certify.cache import use_cache
    from certify.calculator import calculate, parse_shape
    from certify.errors import UsageError
    from certify.laws import build_laws, parse_laws

    choices = parse_laws(noise)
    if plot is None and len(choices) > 1:
        raise UsageError(
            f"one radius is that of one law, got {', '.join(choice.text for choice in choices)}: name one, or compare "
            "them with --plot"
        )
    shared = dict(
        o.law_parameters(sigma=sigma, scale=scale, half_width=half_width, ball_radius=ball_radius, k=k, j=j, a=a, p=p)
    )
    laws = build_laws(choices, parse_shape(shape), shared)
    use_cache()
    if plot is not None:
        options = {"--p-lower": p_lower, "--q-upper": q_upper, "--p-upper": p_upper, "--votes": votes, "--alpha": alpha}
        useless = [name for name, value in {**options, "--convert-from": convert_from}.items() if value is not None]
        if useless:
            raise UsageError(f"--plot draws each law's own radius at every p: leave out {', '.join(useless)}")
        _plot(laws, norm, plot, as_json)
        return
    result = calculate(
        law=laws[0],
        norm=norm,
        convert_from=convert_from,
        p_lower=p_lower,
        q_upper=q_upper,
        p_upper=p_upper,
        votes=votes,
        alpha=alpha,
    )
    if as_json:
        print_json(result)
        return
    _print(result, laws[0])


def _print(result: dict[str, Any], law: Any) -> None:
    from certify.laws import law_text

    out = console()
    out.print(f"radius  {result['radius_text']}  ({result['norm']}, input units, rounded down)", style="bold")
    if result["radius"] == 0.0:
        out.print("        nothing is proved: the top class has no lead (abstain)")
    if result["upper_limit"] is not None:
        told = "p" if result["p_upper"] is None else "these probabilities"
        out.print(
            f"limit   {_up_text(result['upper_limit'])}  (no additive noise of this sigma certifies more from {told} "
            "alone)"
        )
    out.print(f"law     {law_text(law)}, d = {result['dimension']}")
    out.print(f"from    {result['from']}")
    out.print(f"method  {result['method']}")
    out.print(f"source  {result['reference']}")


def _plot(laws: tuple[Any, ...], norm: str, path: Path, as_json: bool) -> None:
    from certify.radius_plot import check_plot_path, radius_curves, save_radius_plot

    check_plot_path(path)
    curves = radius_curves(laws, norm)
    save_radius_plot(curves, path)
    if as_json:
        print_json({"plot": str(path), **curves.as_json()})
        return
    console().print(f"{path}: {norm} radius against p for {', '.join(law.name for law in laws)}", soft_wrap=True)


def _up_text(limit: float | str) -> str:
    """Six significant digits, never below the limit."""
    from decimal import ROUND_CEILING, Context

    return str(Context(prec=6, rounding=ROUND_CEILING).create_decimal(str(limit))) if limit != "inf" else "inf"
