"""The command line: one file per command. Nothing heavy is imported before a command really runs."""

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from certify import __version__
from certify.cli import attack, audit, compare, demo, denoise, merge, plan, predict, radius, report, run, train, verify
from certify.cli.common import empty_shard_is_done

app = typer.Typer(
    name="certify",
    help=(
        "Certified robustness by randomized smoothing: train, certify, report, audit.\n\n"
        "Start with [bold]certify demo[/bold]: the whole story on an embedded data set, in about a minute. Then\n"
        "[bold]certify run MODEL --data mnist --noise gaussian --sigma 0.5 --out runs/mine[/bold] certifies a model of "
        "yours; interrupt it and repeat the same line to resume.\n\n"
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (and resumable)."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool | None) -> None:
    if value:
        typer.echo(f"certify {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = None,
) -> None:
    pass


app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("run")(empty_shard_is_done(run.run))
app.command("report")(report.report)
app.command("audit")(audit.audit)
app.command("attack")(attack.attack)
app.command("verify")(empty_shard_is_done(verify.verify))
app.command("compare")(compare.compare)
app.command("plan")(plan.plan)
app.command("merge")(merge.merge)
app.command("predict")(predict.predict)
app.command("radius")(radius.radius)
app.add_typer(denoise.app, name="denoise")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code instead of raising.

    Every error raised on purpose becomes one message on standard error: wrong usage exits with 2, a failure with 1, an
    interruption (Ctrl-C or SIGTERM) with 130. Only a defect of this program shows a traceback.
    """
    try:
        with _sigterm_like_ctrl_c():
            result = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except typer.Exit as leave:
        if leave.exit_code == 130:
            print("interrupted", file=sys.stderr)
        return leave.exit_code
    except _COMMAND_LINE_ERROR as error:
        error.show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"certify: error: {error}", file=sys.stderr)
        return code


# typer brings its own copy of click in some releases and uses the installed one in others: the base of its own errors is
# the right class either way.
_COMMAND_LINE_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def _exit_code(error: Exception) -> int | None:
    # Imported here: by the time that an error of these kinds is raised, smoothing has been imported anyway.
    from smoothing.errors import InvalidArgumentError, SmoothingError

    if isinstance(error, InvalidArgumentError):
        return 2
    if isinstance(error, SmoothingError):
        return 1
    if isinstance(error, OSError):
        # A file system that refuses is a failure of the world wherever it shows up, not a defect.
        return 1
    return None


@contextlib.contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    def interrupt(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        # A program that calls `main` has its own ways back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
