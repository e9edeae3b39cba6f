"""`certify audit`: derive every certificate of a run again from its recorded votes, and replay some of the votes."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.cli.common import (
    DataRootOption,
    JsonOption,
    QuietOption,
    TrustPickleOption,
    console,
    err_console,
    print_json,
)

if TYPE_CHECKING:
    from certify.audit.auditing import AuditReport
    from certify.audit.findings import Mismatch
    from certify.audit.ranges import SampleRange
    from certify.audit.replaying import ReplayOptions, ReplayReport

_SHOWN = 40
"""Rows of a table on the screen; --json has them all."""


def audit(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder, or the folder of one shard.")],
    *,
    count: Annotated[
        int | None,
        typer.Option(
            "--replay", metavar="K", help="Draw the votes of K inputs again, evenly chosen.", show_default=False
        ),
    ] = None,
    indices: Annotated[
        str | None,
        typer.Option("--indices", help='Draw the votes of these inputs again, e.g. "3,17,20-25".', show_default=False),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(
            "--samples",
            metavar="[PHASE:]START:STOP",
            help='Replay: draw these samples only, e.g. "estimate:5000:6000" (6000 is not part of them).',
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Replay: where the run's model is now (same content).", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Replay: where the run's data are now (same content).", show_default=False),
    ] = None,
    data_root: DataRootOption = None,
    trust_pickle: TrustPickleOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Derive every certificate of a run again from its recorded votes.

    For people who do not want to take this program's word: an independent path, in exact arithmetic (rational numbers
    and mpmath), reads the journal itself and checks votes, predictions, confidence bounds, radii, abstentions and the
    exports against each other and against run.json. Every mismatch is listed with its row.

    [bold]--replay K[/bold] goes further: after comparing the digests of model, data and inputs, it draws the noise of K
    inputs again from the recorded seed, and compares the votes. Votes that the last bits decide (near-ties) are listed;
    only they may differ. Floating-point noise (torch-block-v1) is the same only on the recorded kind of device (GPU: the
    same model) with the recorded version of torch; integer noise (philox-int-v1) is the same everywhere.

    With [bold]--samples START:STOP[/bold] only these samples are drawn again, of every phase in which the input has votes
    there, or of the phase that is named (select, estimate, pilot); samples beyond the recorded ones are left out. The
    journal holds the counts of each look, a prefix, so that what can be compared depends on the range: between two
    consecutive looks that are both inside of it the counts must be equal; of a part of such an interval, no class may have
    more votes than the whole interval has, which can contradict the record but not confirm it. Counts and sha256 of the
    votes and of the noisy copies are printed, to be compared with another replay, on another kind of device too.

    A verification run (certify verify) has no votes: its bounds are evaluated again from their recorded slopes, its
    counterexamples by the network; what rests on a solver's word alone is listed apart.

    Exit code 0: everything follows from the votes. 1: something does not, or cannot be checked.

    [bold]Examples[/bold]

    certify audit runs/mine

    certify audit runs/mine --replay 5

    certify audit runs/mine --indices 3,17 --model checkpoints/copy --data-root /data --json

    certify audit runs/mine --indices 3 --samples estimate:90000:100000
    """
    from certify.audit.auditing import audit_folder
    from certify.audit.folder import is_run_of
    from certify.errors import UsageError

    if is_run_of(folder, "verify"):
        from certify.cli.audit_verify import audit_verify

        if count is not None or indices is not None or samples is not None:
            raise UsageError("a verification run has no votes to replay: leave --replay, --indices and --samples out")
        audit_verify(folder, model=model, data=data, data_root=data_root, trust_pickle=trust_pickle, as_json=json)
        return
    if count is not None and count < 1:
        raise UsageError(f"--replay must be at least 1, got K={count}")
    if count is not None and indices is not None:
        raise UsageError("--replay K chooses K inputs and --indices names them: give one of them, got both")
    wants_replay = count is not None or indices is not None
    if not wants_replay and (model is not None or data is not None):
        raise UsageError("--model and --data are for a replay: give --replay K or --indices with them")
    if not wants_replay and samples is not None:
        raise UsageError("--samples is for a replay: give --replay K or --indices with it")
    if wants_replay and _is_of_service(folder):
        raise UsageError(
            "votes of a service cannot be drawn again without asking (and paying); audit recounts its recorded answers: "
            "leave --replay, --indices and --samples out"
        )
    from certify.audit.ranges import parse_samples

    part = None if samples is None else parse_samples(samples)
    report = audit_folder(folder)
    replayed = None
    if wants_replay:
        from certify.audit.replaying import ReplayOptions

        chosen = _choose(report, count, indices)
        replayed = _replay(report, chosen, ReplayOptions(model, data, data_root, trust_pickle), part, quiet)
    mismatches = [*report.mismatches, *(replayed.mismatches if replayed else ())]
    if json:
        print_json(
            {
                **report.to_dict(),
                "replay": None if replayed is None else replayed.to_dict(),
                "passed": not mismatches,
            }
        )
    else:
        _print_report(report, replayed, mismatches)
    if mismatches:
        raise typer.Exit(1)


def _is_of_service(folder: Path) -> bool:
    """Return whether a run folder says that its votes came from a prediction service."""
    import json

    try:
        return json.loads((folder / "run.json").read_text())["identity"].get("service") is not None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # what is wrong with the folder, the audit says


def _choose(report: "AuditReport", count: int | None, indices: str | None) -> list[int]:
    from certify.audit.replaying import choose_evenly
    from certify.datasets.selection import select_indices
    from certify.errors import UsageError

    done = {row.index for row in report.run.rows}
    if indices is None:
        return choose_evenly(sorted(done), count or 1)
    chosen = select_indices(max(done) + 1, indices=indices)
    absent = [index for index in chosen if index not in done]
    if absent:
        raise UsageError(f"--indices must name inputs with a certificate in {report.run.folder}, got {absent[0]}")
    return chosen


def _replay(
    report: "AuditReport", chosen: list[int], options: "ReplayOptions", samples: "SampleRange | None", quiet: bool
) -> "ReplayReport":
    from certify.allocator import tune_allocator
    from certify.audit.replaying import replay
    from certify.errors import UsageError

    tune_allocator()
    wanted = set(chosen)
    looks = [(row.index, look) for row in report.run.rows if row.index in wanted for look in row.looks]
    # A look is a prefix: the last one of a phase contains the others.
    last = {(index, str(look.phase)): look.n for index, look in looks if isinstance(look.n, int)}
    votes = sum(last.values())
    if samples is not None:
        parts = [part for (_, phase), n in last.items() if (part := samples.within(phase, n)) is not None]
        votes = sum(stop - start for start, stop in parts)
        if not parts:
            recorded = ", ".join(f"{n} of {phase} for input {index}" for (index, phase), n in [*last.items()][:4])
            raise UsageError(
                f"--samples must be among the recorded samples ({recorded}{', ...' if len(last) > 4 else ''}), got none "
                f"from {samples.start} on{f' in phase {samples.phase}' if samples.phase else ''}"
            )
    with _watch(votes, quiet) as on_votes:
        return replay(report.run, report.spec, chosen, options, on_votes=on_votes, samples=samples)


@contextmanager
def _watch(votes: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yield what is told about replayed votes: a bar on a terminal, else a plain line every few seconds."""
    notes = err_console()
    if quiet:
        yield lambda step: None
        return
    if not notes.is_terminal:
        yield _LineLog(votes)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("replay"), BarColumn(), TaskProgressColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=notes) as progress:
        task = progress.add_task("", total=votes)
        yield lambda step: progress.update(task, advance=step)


class _LineLog:
    """One plain line on standard error every few seconds, for logs."""

    def __init__(self, votes: int, interval: float = 10.0) -> None:
        self._votes, self._interval = votes, interval
        self._done = 0
        self._next = time.monotonic() + interval

    def __call__(self, step: int) -> None:
        self._done += step
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._interval
            print(f"replayed {self._done:,} of {self._votes:,} votes", file=sys.stderr, flush=True)


def _print_report(report: "AuditReport", replayed: "ReplayReport | None", mismatches: "list[Mismatch]") -> None:
    out = console()
    if mismatches:
        print_mismatches(mismatches)
    for note in report.notes:
        out.print(f"note: {note}", markup=False)
    compared = f" (and in {', '.join(report.exports)})" if report.exports else ""
    if replayed is not None:
        _print_replay(replayed)
    verdict = f"mismatches: {len(mismatches)}" if mismatches else "no mismatch"
    everywhere = min(1.0, report.spec.alpha * report.checked)
    out.print(
        f"{report.checked} certificates checked in {report.run.folder}{compared}, against {report.checker}: {verdict}.",
        markup=False,
    )
    out.print(f"alpha = {report.spec.alpha:g} per input; over all {report.checked} inputs, at most {everywhere:g}.")


def print_mismatches(mismatches: "list[Mismatch]") -> None:
    """Print a table of mismatches."""
    from rich.table import Table
    from rich.text import Text

    table = Table("input", "where", "rule", "recorded", "derived again", title="Mismatches", title_justify="left")
    for mismatch in mismatches[:_SHOWN]:
        index = "run" if mismatch.index is None else str(mismatch.index)
        cells = (index, mismatch.where, mismatch.rule, mismatch.recorded, mismatch.derived)
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    out = console()
    out.print(table)
    if len(mismatches) > _SHOWN:
        out.print(f"... and {len(mismatches) - _SHOWN} more (--json lists all)")


def _print_replay(replayed: "ReplayReport") -> None:
    out = console()
    if replayed.ranges:
        _print_ranges(replayed)
    else:
        equal = sum(look.verdict == "equal" for look in replayed.looks)
        turned = sum(look.verdict == "near-ties" for look in replayed.looks)
        ties = sum(len(look.near_ties) for look in replayed.looks)
        out.print(
            f"Replayed {replayed.votes:,} votes of {len(replayed.indices)} inputs: {equal} of {len(replayed.looks)} looks "
            f"equal vote for vote, {turned} differ within near-ties; near-ties: {ties}."
        )
    found = [(look.index, look.phase, tie) for look in replayed.looks for tie in look.near_ties]
    found += [(part.index, part.phase, tie) for part in replayed.ranges for tie in part.near_ties]
    for index, phase, tie in found[:_SHOWN]:
        out.print(
            f"  near-tie: input {index}, {phase} sample {tie.sample}: class {tie.best} before {tie.second} "
            f"by {tie.margin:.3g} (largest score {tie.scale:.3g})"
        )
    if len(found) > _SHOWN:
        out.print(f"  ... and {len(found) - _SHOWN} more (--json lists all)")


def _print_ranges(replayed: "ReplayReport") -> None:
    out = console()
    pieces = [piece for part in replayed.ranges for piece in part.pieces]
    whole = [piece.verdict for piece in pieces if piece.piece.whole]
    others = [piece.verdict for piece in pieces if not piece.piece.whole]
    ties = sum(len(part.near_ties) for part in replayed.ranges)
    out.print(
        f"Replayed {replayed.votes:,} votes of {len({part.index for part in replayed.ranges})} inputs: between looks, "
        f"{whole.count('equal')} of {len(whole)} intervals equal, {whole.count('near-ties')} differ within near-ties; of "
        f"{len(others)} parts of intervals, {others.count('possible')} do not contradict the record; near-ties: {ties}."
    )
    for part in replayed.ranges[:_SHOWN]:
        text = (
            f"  input {part.index}, {part.phase} samples {part.start}:{part.stop}: counts {list(part.counted)}\n"
            f"    votes {part.votes_sha256}\n    noisy copies {part.copies_sha256}"
        )
        out.print(text, markup=False)
    if len(replayed.ranges) > _SHOWN:
        out.print(f"  ... and {len(replayed.ranges) - _SHOWN} more (--json lists all)")
