"""What the commands share: consoles, JSON output, options that several commands take."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

JsonOption = Annotated[bool, typer.Option("--json", help="Print one machine-readable JSON object instead of text.")]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root", help="Folder of the data sets (default: $CERTIFY_DATA, else ./data).", show_default=False
    ),
]
TrustPickleOption = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Unpickle model files that need it. A pickle can run any code: only for files of your own.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results and errors.")]


def console() -> "Console":
    """Return a console for results, on standard output; wide where it goes to a file, so that no table is cut."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def err_console() -> "Console":
    """Return a console for progress and notes, on standard error; lines of a log are not broken."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 1_000)


def print_json(data: Any) -> None:
    """Print one JSON object on standard output and nothing else."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def empty_shard_is_done(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that is done, with a note, where its shard gets no input: a job array may have more jobs than inputs.

    A selection that leaves no input at all stays wrong usage.
    """

    @wraps(command)
    def run(*values: Any, **options: Any) -> None:
        try:
            command(*values, **options)
        except Exception as error:
            # Imported here: by the time that it is raised, data sets have been imported anyway.
            from certify.datasets.selection import EmptyShardError

            if not isinstance(error, EmptyShardError):
                raise
            err_console().print(str(error), markup=False)
            if options.get("as_json"):
                print_json({"inputs": 0, "note": str(error)})

    return run
