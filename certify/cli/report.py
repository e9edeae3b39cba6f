"""`certify report`: tables, pictures and a page from run folders and published logs."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from certify.cli.common import JsonOption, console, err_console, print_json


class TableFormat(StrEnum):
    """Forms of the table on standard output."""

    markdown = "markdown"
    csv = "csv"
    latex = "latex"


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Run folders, or published logs (idx, label, predict, radius, correct, time)."
        ),
    ],
    radii: Annotated[
        str | None,
        typer.Option(
            help="Radii of the table, such as 0,0.25,0.5. Default: 0, 0.25, ... up to the largest.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write to. Default: the run folder for one run, else ./certify-report.", show_default=False
        ),
    ] = None,
    form: Annotated[
        TableFormat | None,
        typer.Option("--format", help="Print the table in this form and nothing else.", show_default=False),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare each source with the first, on the inputs that both have.")
    ] = False,
    envelope: Annotated[
        bool, typer.Option("--envelope", help="Also draw the best of all sources at each radius (not one classifier).")
    ] = False,
    limit: Annotated[
        bool,
        typer.Option(
            "--limit",
            help="Also draw, for each run, what no additive noise of its sigma could exceed with the same bounds on p.",
        ),
    ] = False,
    html: Annotated[bool, typer.Option("--html/--no-html", help="Write report.html.")] = True,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Name of a source in tables and plots; once per source, in order.", show_default=False),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Report certified accuracy by radius, ACR and abstention of one or several runs.

    Reads run folders and the tab-separated logs of published codes alike, and
    sets them side by side. Certified accuracy at r is the share of the
    inputs of a run with the right class and a certified radius of at least r;
    where these are a selection from the data set, that is stated. Intervals are
    over the inputs; alpha, the probability that a certificate is false, is
    stated apart, per input and over all inputs.

    Writes table.md, table.csv, table.tex, certified_accuracy.png and .pdf, and
    report.html: one offline file with tables, pictures, and single inputs,
    failures first. An unfinished run is reported as a part, marked everywhere.

    [bold]Examples[/bold]

    certify report runs/mnist

    certify report runs/a runs/b --compare --radii 0,0.5,1 --out reports/ab

    certify report logs/sigma_0.25.tsv logs/sigma_0.50.tsv --envelope --format latex
    """
    from certify.metrics import parse_radii
    from certify.report.write import write_report

    result = write_report(
        runs,
        out,
        radii=None if radii is None else parse_radii(radii),
        names=name or (),
        compare=compare,
        envelope=envelope,
        limit=limit,
        html=html,
    )
    for notice in result.notices:
        err_console().print(f"note: {notice}", style="yellow", markup=False)
    if json_output:
        print_json(result.to_dict())
        return
    if form is not None:
        texts = {TableFormat.markdown: result.to_markdown, TableFormat.csv: result.table.to_csv}
        sys.stdout.write(texts.get(form, result.table.to_latex)())
    elif sys.stdout.isatty():
        from certify.report.terminal import print_report

        print_report(console(), result)
    else:
        sys.stdout.write(result.to_markdown())
    target = console() if form is None else err_console()
    target.print("\nwritten:" if form is None else "written:")
    for path in result.files:
        target.print(f"  {path}", markup=False, soft_wrap=True)
