"""`certify merge`: join the shards of a run."""

from pathlib import Path
from typing import Annotated

import typer

from certify.cli.common import JsonOption, console, print_json


def merge(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder that holds shards/.", show_default=False)],
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Join what is there; the result is marked as partial.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Join the parts that `certify run --shard i/n` or `certify verify --shard i/n` has written into one run folder.

    Refuses parts of different runs, and inputs that stand in two parts with different votes or claims. Can be repeated
    when more parts have come in.

    [bold]Example[/bold]

    certify run MODEL --data mnist --out runs/mnist --shard 0/2 &

    certify run MODEL --data mnist --out runs/mnist --shard 1/2; wait; certify merge runs/mnist
    """
    from certify.merging import merge_shards

    merged = merge_shards(folder, allow_partial=allow_partial)
    if as_json:
        print_json(
            {
                "out": str(folder),
                "inputs": len(merged.rows),
                "shards": len(merged.shards),
                "missing": len(merged.missing),
            }
        )
        return
    out = console()
    rows = f"inputs in {folder}/verify.csv" if merged.kind == "verify" else f"certificates in {folder}/certificates.tsv"
    out.print(f"joined {len(merged.shards)} shards: {len(merged.rows):,} {rows}")
    if merged.missing:
        out.print(f"[yellow]partial:[/yellow] {len(merged.missing):,} planned inputs are missing")
    out.print(f"next: certify {'audit' if merged.kind == 'verify' else f'report {folder}; certify audit'} {folder}")
