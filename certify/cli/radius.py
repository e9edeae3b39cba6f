"""`certify radius`: the certificate calculator."""

from typing import Annotated

import typer

from certify.cli import options as o
from certify.cli.common import JsonOption, console, print_json


def radius(
    noise: Annotated[
        str, typer.Option("--noise", help="Law of the noise: gaussian, laplace or uniform.", show_default=False)
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
    alpha: o.AlphaOption = 0.001,
    sigma: o.SigmaOption = None,
    scale: o.ScaleOption = None,
    half_width: o.HalfWidthOption = None,
    norm: o.NormOption = "l2",
    convert_from: o.ConvertFromOption = None,
    shape: Annotated[str, typer.Option("--shape", help="Shape of one input, for instance 3x32x32.")] = "1",
    as_json: JsonOption = False,
) -> None:
    """Compute the certified radius of a law from a probability or from votes, with the theorem behind it.

    [bold]Examples[/bold]

    certify radius --noise gaussian --sigma 0.5 --p-lower 0.99

    certify radius --noise gaussian --sigma 0.5 --norm linf --shape 3x32x32 --votes 99500/100000

    certify radius --noise uniform --sigma 0.5 --norm l1 --p-lower 0.9 --p-upper 0.04
    """
    from certify.calculator import calculate

    result = calculate(
        noise=noise,
        shape=shape,
        parameters={"sigma": sigma, "scale": scale, "half_width": half_width},
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
    out = console()
    out.print(f"radius  {result['radius_text']}  ({result['norm']}, input units, rounded down)", style="bold")
    if result["radius"] == 0.0:
        out.print("        nothing is proved: the top class has no lead (abstain)")
    out.print(f"law     {result['law']}, sigma {result['sigma']:g}, d = {result['dimension']}")
    out.print(f"from    {result['from']}")
    out.print(f"method  {result['method']}")
    out.print(f"source  {result['reference']}")
